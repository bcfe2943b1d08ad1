"""The registry as CSV (RFC 4180), for spreadsheets: one row a device, one column a field.

Written: UTF-8, commas, every column of `COLUMNS`. Read: UTF-8 with or without a byte order mark; commas, semicolons or
tabs (spreadsheets write what their locale says); the columns in any order, and any of them but `device` missing.

Cells: tags as `press;hall-4`, units as `temperature=°C;pressure=bar` (the last `=` counts), the interval as `10s`.

A spreadsheet calculates a cell that begins with `=`, `+`, `-`, `@`, a tab or a line end, and what a device's id or
name says must not be calculated. So an apostrophe is put before such a text, and before one that has apostrophes and
then such a character; reading takes one off again. What is written and read is therefore the same, always. Numbers are
written as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.errors import BadRequestError, HeadraceError
from core.units import format_duration_ms, parse_duration_ms
from devices.registry import Registered
from devices.registry_entry import RegistryEntry, device_key, entry_from_fields

COLUMNS: Final = (
    "device",
    "name",
    "tags",
    "location",
    "latitude",
    "longitude",
    "expected_interval",
    "units",
    "notes",
)
MAX_ERRORS: Final = 100  # told one by one; further ones are counted
MAX_CELL_CHARS: Final = 32 << 10  # beyond any field's bound
_BOTH: Final = {"latitude", "longitude"}
_DELIMITERS: Final = (",", ";", "\t")
_CALCULATED: Final = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_PROTECTED: Final = re.compile(r"'+[=+\-@\t\r\n＝＋－＠]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvRow:
    """A row as read: `number` as a spreadsheet counts (the header is 1), the fields that its columns set."""

    number: int
    device: bytes
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellError:
    """What is wrong where: `row 7, column tags`."""

    where: str
    what: str


class CsvError(HeadraceError):
    """A file with rows that cannot be taken: `errors` are the first of `count`."""

    code = "bad-csv"
    http_status = 422

    def __init__(self, errors: Sequence[CellError], count: int) -> None:
        first = errors[0]
        more = f", and {count - 1} more" if count > 1 else ""
        super().__init__(
            f"{first.what}{more}; nothing was written",
            where=first.where,
            mend="correct the rows and send them all again",
        )
        self.errors = tuple(errors)
        self.count = count


class _Errors:
    """Collects errors, the first of them in full."""

    def __init__(self) -> None:
        self.found: list[CellError] = []
        self.count = 0

    def add(self, where: str, what: str) -> None:
        self.count += 1
        if len(self.found) < MAX_ERRORS:
            self.found.append(CellError(where=where, what=what))


# -- writing


def csv_lines(entries: Iterable[Registered]) -> Iterator[str]:
    """Rows of entries as CSV text, without the header."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    for one in entries:
        writer.writerow(_cells(one.device, one.row.entry))
        yield out.getvalue()
        out.seek(0)
        out.truncate()


def csv_header() -> str:
    """The first line."""
    return ",".join(COLUMNS) + "\r\n"


def _cells(device: bytes, entry: RegistryEntry) -> list[str]:
    position, interval_ms = entry.position, entry.expected_interval_ms
    return [
        _protected(device.decode()),
        _protected(entry.name),
        _protected(";".join(entry.tags)),
        _protected(entry.location),
        "" if position is None else repr(position.latitude),
        "" if position is None else repr(position.longitude),
        "" if interval_ms is None else format_duration_ms(interval_ms),
        _protected(";".join(f"{path}={unit}" for path, unit in entry.units.items())),
        _protected(entry.notes),
    ]


def _protected(text: str) -> str:
    return f"'{text}" if _CALCULATED.match(text) else text


def _plain(cell: str) -> str:
    return cell[1:] if _PROTECTED.match(cell) else cell


# -- reading


def read_csv(body: bytes, *, max_rows: int) -> list[CsvRow]:
    """The rows of a file. Raises CsvError with every row that cannot be taken, BadRequestError for what is no CSV."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise BadRequestError(
            "the file is not UTF-8", where=f"line {line}", mend="save it as CSV UTF-8, as spreadsheets call it"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    errors = _Errors()
    rows: dict[bytes, CsvRow] = {}
    try:
        columns = _columns(next(reader, []))
        for number, cells in enumerate(reader, 2):
            if any(cells):
                _take(rows, number, columns, cells, errors)
            if len(rows) > max_rows:
                raise BadRequestError(f"more than {max_rows} rows", where="http.max_devices", mend="send fewer rows")
    except csv.Error as error:
        raise BadRequestError(f"this is no CSV: {error}", where=f"line {reader.line_num}") from None
    if errors.count:
        raise CsvError(errors.found, errors.count)
    return list(rows.values())


def _delimiter(text: str) -> str:
    """What separates the columns: the character that stands in the first line most often."""
    head = text[:4096].splitlines()[:1] or [""]
    return max(_DELIMITERS, key=head[0].count)


def _columns(header: Sequence[str]) -> list[str]:
    columns = [name.strip().lower() for name in header]
    unknown = [name for name in columns if name not in COLUMNS]
    mend = f"the first line names columns: {', '.join(COLUMNS)}"
    if unknown:
        raise BadRequestError(f"there is no column {unknown[0][:80]!r}", where="row 1", mend=mend)
    if len(set(columns)) != len(columns):
        raise BadRequestError("a column stands twice", where="row 1", mend=mend)
    if "device" not in columns:
        raise BadRequestError("the column `device` is missing", where="row 1", mend=mend)
    if len(_BOTH & set(columns)) == 1:
        raise BadRequestError("latitude and longitude belong together", where="row 1", mend=mend)
    return columns


def _take(
    rows: dict[bytes, CsvRow], number: int, columns: Sequence[str], cells: Sequence[str], errors: _Errors
) -> None:
    if len(cells) != len(columns):
        errors.add(f"row {number}", f"{len(cells)} cells, the first line has {len(columns)}")
        return
    row = dict(zip(columns, cells, strict=True))
    for column, cell in row.items():
        if len(cell) > MAX_CELL_CHARS:
            errors.add(f"row {number}, column {column}", f"more than {MAX_CELL_CHARS} characters")
            return
    try:
        device = device_key(_plain(row.pop("device")))
    except HeadraceError as error:
        errors.add(f"row {number}, column device", error.what)
        return
    if device in rows:
        errors.add(f"row {number}, column device", f"the device stands in row {rows[device].number}, too")
        return
    fields = _fields(number, row, errors)
    if fields is not None:
        rows[device] = CsvRow(number=number, device=device, fields=fields)


def _fields(number: int, row: Mapping[str, str], errors: _Errors) -> dict[str, Any] | None:
    """The values of the cells as an entry has them; None where one is wrong."""
    fields: dict[str, Any] = {}
    before = errors.count
    for column, cell in row.items():
        if column in _BOTH:
            continue
        name, read = _READ[column]
        try:
            value = read(_plain(cell) if column != "expected_interval" else cell.strip())
            fields[name] = getattr(entry_from_fields({name: value}), name)
        except (HeadraceError, ValueError) as error:
            errors.add(f"row {number}, column {column}", error.what if isinstance(error, HeadraceError) else str(error))
    if set(row) >= _BOTH:
        try:
            position = _position(row["latitude"].strip(), row["longitude"].strip())
            fields["position"] = entry_from_fields({"position": position}).position
        except (HeadraceError, ValueError) as error:
            what = error.what if isinstance(error, HeadraceError) else str(error)
            errors.add(f"row {number}, columns latitude and longitude", what)
    return fields if errors.count == before else None


def _text(cell: str) -> str:
    return cell


def _tags(cell: str) -> list[str]:
    return [tag for part in cell.split(";") if (tag := part.strip())]


def _interval(cell: str) -> int | None:
    return parse_duration_ms(cell) if cell else None


def _units(cell: str) -> dict[str, str]:
    units: dict[str, str] = {}
    for part in cell.split(";"):
        if not part.strip():
            continue
        path, equals, unit = part.rpartition("=")
        if not equals:
            raise ValueError(f"{part.strip()[:80]!r} is no field and unit, such as temperature=°C")
        if path.strip() in units:
            raise ValueError(f"the field {path.strip()[:80]!r} stands twice")
        units[path.strip()] = unit.strip()
    return units


def _position(latitude: str, longitude: str) -> dict[str, float] | None:
    if not latitude and not longitude:
        return None
    if not latitude or not longitude:
        raise ValueError("one of them is empty")
    return {"latitude": _degrees(latitude), "longitude": _degrees(longitude)}


def _degrees(cell: str) -> float:
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        raise ValueError(f"{cell[:80]!r} is no number of degrees, such as 48.137") from None


_READ: Final[Mapping[str, tuple[str, Any]]] = {
    "name": ("name", _text),
    "tags": ("tags", _tags),
    "location": ("location", _text),
    "expected_interval": ("expected_interval_ms", _interval),
    "units": ("units", _units),
    "notes": ("notes", _text),
}
