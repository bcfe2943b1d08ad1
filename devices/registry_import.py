"""Importing a file into the registry: judged as a whole, written in commits of a bounded size.

1. Every row is read and judged. One that cannot be taken, and nothing is written.
2. Each row is put onto the entry that is there: columns that the file has are set (an empty cell empties), others stay.
   What would not change is left out.
3. The rest is committed in the order of the file, `MAX_CHANGES` devices at a time.

A crash between commits leaves the first of them done, each device's entry whole, and the rest as it was. Importing the
same file again does what is missing: what was done is left out in step 2. Where somebody else changes an entry between
steps 2 and 3, the row is put onto the changed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from core.errors import BadRequestError, HeadraceError, OutdatedError, UnavailableError
from devices.registry import RegistryView
from devices.registry_client import MAX_TRIES, RegistryClient
from devices.registry_csv import MAX_ERRORS, CellError, CsvError, CsvRow
from devices.registry_entry import RegistryEntry, packed
from devices.registry_store import ABSENT, MAX_CHANGES, Change

MAX_IMPORT_BYTES: Final = 32 << 20  # 100,000 rows of 300 bytes; it is held in memory while it is judged
_COMMIT_BYTES: Final = 128 << 10  # fits the smallest journal that settings allow


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did, or would do: rows in the file, and what became of their devices' entries."""

    rows: int
    created: int
    changed: int
    unchanged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A row that changes something, and the change."""

    row: CsvRow
    change: Change
    size_bytes: int


def plan(view: RegistryView, rows: Sequence[CsvRow], *, max_devices: int) -> tuple[Imported, list[Planned]]:
    """What rows change, against the view as it is. Raises CsvError, BadRequestError or UnavailableError."""
    view.check()
    planned: list[Planned] = []
    errors: list[CellError] = []
    for row in rows:
        try:
            one = _planned(view, row)
        except HeadraceError as error:
            errors.append(CellError(where=f"row {row.number}", what=error.what))
            continue
        if one is not None:
            planned.append(one)
    if errors:
        raise CsvError(errors[:MAX_ERRORS], len(errors))
    created = sum(one.change.expected == ABSENT for one in planned)
    if view.devices + created > max_devices:
        raise BadRequestError(
            f"the registry would hold {view.devices + created} devices, the limit is {max_devices}: nothing written",
            where="http.max_devices",
            mend="remove entries of devices that are gone, or raise the limit",
        )
    counts = Imported(
        rows=len(rows), created=created, changed=len(planned) - created, unchanged=len(rows) - len(planned)
    )
    return counts, planned


def _planned(view: RegistryView, row: CsvRow) -> Planned | None:
    """The change of a row, None where it changes nothing. An entry that is there already is worth no new one."""
    old = view.get(row.device)
    before = RegistryEntry() if old is None else old.entry
    entry = msgspec.structs.replace(before, **row.fields)
    if old is not None and entry == before:
        return None
    expected = ABSENT if old is None else old.revision
    change = Change(device=row.device, expected=expected, entry=entry)
    return Planned(row=row, change=change, size_bytes=len(packed(entry)))


async def carry_out(client: RegistryClient, planned: Sequence[Planned]) -> None:
    """Commit what was planned. Raises UnavailableError, which says how far it came."""
    done = 0
    for part in _parts(planned):
        try:
            await _commit(client, [one.row for one in part], [one.change for one in part])
        except HeadraceError as error:
            raise UnavailableError(
                f"{done} of {len(planned)} entries were written, then: {error.what}",
                where=error.where or "device registry",
                mend=f"import the same file again, it does what is missing. {error.mend}".strip(),
            ) from error
        done += len(part)


async def _commit(client: RegistryClient, rows: Sequence[CsvRow], changes: Sequence[Change]) -> None:
    for _ in range(MAX_TRIES):
        if not changes:
            return
        try:
            await client.write(changes)
        except OutdatedError:  # the view has what is there now
            again = (_planned(client.view, row) for row in rows)
            changes = [one.change for one in again if one is not None]
        else:
            return
    raise UnavailableError("others change the same entries all the time", where="device registry", mend="try again")


def _parts(planned: Iterable[Planned]) -> Iterator[list[Planned]]:
    """Pieces for one commit each."""
    part: list[Planned] = []
    size_bytes = 0
    for one in planned:
        if part and (len(part) == MAX_CHANGES or size_bytes + one.size_bytes > _COMMIT_BYTES):
            yield part
            part, size_bytes = [], 0
        part.append(one)
        size_bytes += one.size_bytes
    if part:
        yield part
