"""What people say of a device: the registry's entry, its bounds, and its form as a row of the log's state table.

An entry is small by design: it is kept in memory by two processes, once for each device. Every bound stands beside its
reason. Absent and empty are the same: a field that nobody set is left out.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import quote, unquote_to_bytes

import msgspec
from msgspec import Meta, Struct

from core.errors import BadRequestError, NotFoundError
from wire.device_id import device_id_fault

TABLE: Final = "devices.registry"
REVISION_KEY: Final = "!revision"
"""The row of the newest revision. No device's key looks like it: see `row_key`."""

MAX_NAME_CHARS: Final = 128  # a line in a table
MAX_TAGS: Final = 16  # what a person still reads; each is an index entry in memory
MAX_TAG_CHARS: Final = 64
MAX_LOCATION_CHARS: Final = 256  # a postal address
MAX_UNITS: Final = 64  # fields of a reading that people name; a machine with more has a schema ([[topics.fields]])
MAX_PATH_CHARS: Final = 128
MAX_UNIT_CHARS: Final = 32
MAX_NOTES_CHARS: Final = 2000  # a page; what is longer belongs into a document
MIN_INTERVAL_MS: Final = 100  # below that, silence is shorter than a reconnect
MAX_INTERVAL_MS: Final = 31 * 86_400_000  # a meter read once a month
MAX_ENTRY_BYTES: Final = 16 << 10  # as JSON: notes in any script, and units, but not all bounds used to the full

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_NOTES: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_FORMULA_START: Final = ("=", "+", "-", "@")  # a spreadsheet would calculate what begins so

# For the description alone: the checks below say what is wrong in words.
_LINE_SCHEMA: Final = {"pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
_TAG_SCHEMA: Final = {
    "pattern": r"^[^\s\x00-\x1f\x7f-\x9f,;=+\-@]([^\x00-\x1f\x7f-\x9f,;]*[^\s\x00-\x1f\x7f-\x9f,;])?$"
}
_PATH_SCHEMA: Final = {"pattern": r"^[^\s\x00-\x1f\x7f-\x9f;=+\-@]([^\x00-\x1f\x7f-\x9f;]*[^\s\x00-\x1f\x7f-\x9f;])?$"}
_UNIT_SCHEMA: Final = {"pattern": r"^[^\s\x00-\x1f\x7f-\x9f;=]([^\x00-\x1f\x7f-\x9f;=]*[^\s\x00-\x1f\x7f-\x9f;=])?$"}
_NOTES_SCHEMA: Final = {"pattern": r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"}

Tag = Annotated[str, Meta(min_length=1, max_length=MAX_TAG_CHARS, examples=["hall-4"], extra_json_schema=_TAG_SCHEMA)]


class RegistryPosition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a device is, in degrees of WGS 84."""

    latitude: Annotated[float, Meta(ge=-90, le=90, examples=[48.137])]
    longitude: Annotated[float, Meta(ge=-180, le=180, examples=[11.575])]


class RegistryEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What people say of a device; fields that are left out are empty. At most 16 KB as JSON."""

    name: Annotated[
        str,
        Meta(
            max_length=MAX_NAME_CHARS,
            description="Display name: one line.",
            examples=["Press 17"],
            extra_json_schema=_LINE_SCHEMA,
        ),
    ] = ""
    tags: Annotated[
        tuple[Tag, ...],
        Meta(
            max_length=MAX_TAGS,
            description="Each once; without commas, semicolons and control characters, spaces at the ends, and none of "
            "`= + - @` in front.",
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    location: Annotated[
        str,
        Meta(max_length=MAX_LOCATION_CHARS, description="Where it stands: one line.", extra_json_schema=_LINE_SCHEMA),
    ] = ""
    position: RegistryPosition | None = None
    expected_interval_ms: Annotated[
        Annotated[int, Meta(ge=MIN_INTERVAL_MS, le=MAX_INTERVAL_MS)] | None,
        Meta(description="Milliseconds between two readings; null: not told.", examples=[10_000]),
    ] = None
    units: Annotated[
        dict[
            Annotated[str, Meta(min_length=1, max_length=MAX_PATH_CHARS, extra_json_schema=_PATH_SCHEMA)],
            Annotated[str, Meta(min_length=1, max_length=MAX_UNIT_CHARS, extra_json_schema=_UNIT_SCHEMA)],
        ],
        Meta(
            max_length=MAX_UNITS,
            description="Unit by field, such as `motor.temp`. One line each, without semicolons; a unit has no `=`.",
            examples=[{"temperature": "°C"}],
        ),
    ] = {}
    notes: Annotated[
        str, Meta(max_length=MAX_NOTES_CHARS, description="Free text.", extra_json_schema=_NOTES_SCHEMA)
    ] = ""

    def __post_init__(self) -> None:
        """What the bounds above cannot say. Raises ValueError, which says it."""
        for field in ("name", "location"):
            _one_line(getattr(self, field), field)
        for tag in self.tags:
            _tag(tag)
        if len(set(self.tags)) != len(self.tags):
            raise ValueError("tags: each may stand once")
        for path, unit in self.units.items():
            _unit(path, unit)
        if _CONTROL_IN_NOTES.search(self.notes):
            raise ValueError("notes: contains a control character other than tab and line end")


def _one_line(text: str, field: str) -> None:
    if _CONTROL.search(text):
        raise ValueError(f"{field}: contains a control character; it is one line")


def _tag(tag: str) -> None:
    _one_line(tag, f"tags: {tag[:80]!r}")
    if tag != tag.strip():
        raise ValueError(f"tags: {tag[:80]!r} has a space at an end")
    _listed(tag, f"tags: {tag[:80]!r}")
    if "," in tag:
        raise ValueError(f"tags: {tag[:80]!r} contains a comma")


def _unit(path: str, unit: str) -> None:
    where = f"units: {path[:80]!r}"
    for text in (path, unit):
        _one_line(text, where)
        if text != text.strip():
            raise ValueError(f"{where} has a space at an end, or its unit has")
        if ";" in text:
            raise ValueError(f"{where}: a field and its unit contain no semicolon")
    _listed(path, where)
    if "=" in unit:
        raise ValueError(f"{where}: a unit contains no `=`")


def _listed(text: str, where: str) -> None:
    if text.startswith(_FORMULA_START):
        raise ValueError(f"{where} begins with one of {' '.join(_FORMULA_START)}, which spreadsheets calculate")
    if ";" in text:
        raise ValueError(f"{where} contains a semicolon")


_decode_any: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def entry_from_json(body: bytes) -> RegistryEntry:
    """The entry in a JSON text. Raises BadRequestError, which says what is wrong where."""
    try:
        fields = _decode_any(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise refused(error) from None
    return entry_from_fields(fields)


def entry_from_fields(fields: Any) -> RegistryEntry:
    """The entry of plain values. Raises BadRequestError."""
    interval_ms = fields.get("expected_interval_ms") if isinstance(fields, dict) else None
    if isinstance(interval_ms, float) and interval_ms.is_integer():
        fields = {**fields, "expected_interval_ms": int(interval_ms)}  # 1000.0 is an integer in JSON Schema
    try:
        entry = msgspec.convert(fields, RegistryEntry)
        packed(entry)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise refused(error) from None
    return entry


def patch_from_json(body: bytes) -> dict[str, Any]:
    """A JSON merge patch (RFC 7396) of an entry: an object. Raises BadRequestError."""
    try:
        patch = _decode_any(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise refused(error) from None
    if not isinstance(patch, dict):
        raise BadRequestError("a merge patch of an entry is a JSON object", mend='such as {"name": "Press 17"}')
    return patch


def patched(entry: RegistryEntry, patch: dict[str, Any]) -> RegistryEntry:
    """The entry with a merge patch applied (RFC 7396 2). Raises BadRequestError for what comes out wrong."""
    try:
        merged = _merge(msgspec.to_builtins(entry), patch)
    except RecursionError as error:
        raise refused(error) from None
    return entry_from_fields(merged)


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def packed(entry: RegistryEntry) -> bytes:
    """The entry as JSON. Raises BadRequestError for one over `MAX_ENTRY_BYTES`."""
    body = _encode(entry)
    if len(body) > MAX_ENTRY_BYTES:
        raise BadRequestError(
            f"the entry has {len(body)} bytes as JSON, the limit is {MAX_ENTRY_BYTES}",
            mend="shorten notes or units",
        )
    return body


def refused(error: Exception) -> BadRequestError:
    """What msgspec found, in the one shape: its path (`$.tags[2]`) stands in the text."""
    text = str(error).splitlines()[0][:400] if str(error) else repr(error)
    return BadRequestError(f"this is no entry of the registry: {text}", mend="docs/registry.md has fields and bounds")


# -- rows of the state table


class RegistryRow(Struct, frozen=True, kw_only=True):
    """A row: the entry, and the registry's revision when it was written, which is the entry's version."""

    revision: int
    entry: RegistryEntry


class _Revision(Struct, frozen=True):
    revision: int


_decode_row: Final = msgspec.json.Decoder(RegistryRow).decode
_decode_revision: Final = msgspec.json.Decoder(_Revision).decode


def row_value(row: RegistryRow) -> bytes:
    """The row as it is stored: JSON, a quarter of the memory that a map of values takes."""
    return _encode(row)


def row_from_value(value: Any) -> RegistryRow | None:
    """The row; None for a value that is none (damaged, or of another version)."""
    try:
        return _decode_row(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError):
        return None


def revision_of(value: Any) -> int:
    """The revision of a stored row, without reading the rest; 0 for what is none."""
    try:
        return _decode_revision(value).revision
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError):
        return 0


def row_key(device: bytes) -> str:
    """A device id as a key of the table: percent-encoded, as in a URL's path. At most 768 characters."""
    return quote(device, safe="")


def device_of_key(key: str) -> bytes:
    """The inverse of `row_key`."""
    return unquote_to_bytes(key)


def device_key(device: str) -> bytes:
    """A device id in bytes. Raises NotFoundError for what no device can be called."""
    fault = device_id_fault(device)
    if fault is not None:
        raise NotFoundError(f"no device can be called {device[:100]!r}: {fault}", mend="1 to 256 bytes of UTF-8")
    return device.encode()
