"""The registry as other processes use it: written over the local channel, followed into a `RegistryView`.

`RegistryClient.follow` keeps the view up to date, a look every `FOLLOW_S`; a change of one's own is in the view when
the call returns. While the edge is away the view stays as it is, and writing raises UnavailableError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import structlog

from core.errors import HeadraceError, NotFoundError, OutdatedError, UnavailableError
from core.logs import LimitedLog
from devices.registry import RegistryView
from devices.registry_entry import RegistryEntry, RegistryRow, packed, patched, row_from_value
from devices.registry_store import ABSENT, PRESENT, Change

FOLLOW_S: Final = 2.0  # how late a change made elsewhere may be seen; a look costs the edge some microseconds
MAX_TRIES: Final = 5  # against others who change the same entry; more than one is already rare


class Ask(Protocol):
    """Calls a verb of the edge."""

    def __call__(self, verb: str, **args: Any) -> Awaitable[Any]:
        """The verb's result. Raises HeadraceError."""
        ...


class RegistryClient:
    """Writes to the registry, and keeps a view of it. On one event loop."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._lines = LimitedLog(structlog.get_logger("headrace.registry"))
        self.view = RegistryView()
        self.bad_rows = 0
        """Rows met that cannot be read."""
        self.failed_looks = 0
        """Looks that failed: the edge was away."""

    async def catch_up(self) -> None:
        """Take everything that was committed before the call into the view. Raises UnavailableError."""
        async with self._lock:
            since = self.view.revision if self.view.loaded else 0
            page = await self._page(since, since)
            if self.view.loaded and not page["anew"]:
                while True:
                    self.view.apply(self._rows(page), page["next"])
                    if page["next"] == page["revision"]:
                        return
                    page = await self._page(page["next"], page["next"])
                    if page["anew"]:
                        break
            await self._load(page)

    async def _load(self, page: dict[str, Any]) -> None:
        """Read the whole registry, from its first page on, and put it in the view's place at once."""
        rows: dict[bytes, RegistryRow | None] = {}
        begun_at = page["revision"]
        while True:
            rows.update(self._rows(page))
            if page["next"] == page["revision"]:
                break
            page = await self._page(page["next"], begun_at)
            if page["anew"]:
                rows.clear()
                begun_at = page["revision"]
        self.view.replace(rows.items(), page["revision"])

    async def _page(self, since: int, known: int) -> dict[str, Any]:
        page: dict[str, Any] = await self._ask("registry_feed", since=since, known=known)
        return page

    def _rows(self, page: dict[str, Any]) -> list[tuple[bytes, RegistryRow | None]]:
        rows = []
        for device, value in page["rows"]:
            row = None if value is None else row_from_value(value)
            self.bad_rows += value is not None and row is None
            rows.append((device, row))
        return rows

    async def follow(self, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Catch up again and again, until cancelled. An edge that is away is waited for."""
        while True:
            try:
                await self.catch_up()
            except HeadraceError as error:
                self.failed_looks += 1
                self._lines.warning("device registry not followed", what=error.what, where=error.where, mend=error.mend)
            await pause(FOLLOW_S)

    async def write(self, changes: Sequence[Change]) -> list[int]:
        """See `RegistryStore.write`; the changes are in the view then, and after an OutdatedError what was in the way.

        An UnavailableError leaves open whether they were carried out.
        """
        rows = [(one.device, one.expected, None if one.entry is None else packed(one.entry)) for one in changes]
        try:
            versions: list[int] = await self._ask("registry_write", changes=rows)
        except OutdatedError:
            await self.catch_up()
            raise
        await self.catch_up()
        return versions

    async def put(self, device: bytes, entry: RegistryEntry, expected: int | None) -> RegistryRow:
        """Set an entry; returns it with its version."""
        (version,) = await self.write([Change(device=device, expected=expected, entry=entry)])
        return RegistryRow(revision=version, entry=entry)

    async def patch(self, device: bytes, patch: dict[str, Any], expected: int | None = None) -> RegistryRow:
        """Apply a JSON merge patch to an entry, an empty one where there is none; returns it with its version.

        Without an expected version what others change meanwhile is kept: the patch is applied again to that.
        """
        await self.catch_up()
        for _ in range(MAX_TRIES):
            row = self.view.get(device)
            entry = patched(RegistryEntry() if row is None else row.entry, patch)
            if expected is not None:
                check_expected(device, expected, row)
            try:
                return await self.put(device, entry, ABSENT if row is None else row.revision)
            except OutdatedError:
                if expected is not None and expected != PRESENT:
                    raise
        raise UnavailableError(
            f"others changed the entry {MAX_TRIES} times meanwhile", where="device registry", mend="try again"
        )

    async def remove(self, device: bytes, expected: int | None = None) -> None:
        """Remove an entry. Raises NotFoundError where there is none."""
        await self.catch_up()
        row = self.view.get(device)
        if row is None:
            raise no_entry(device)
        await self.write([Change(device=device, expected=PRESENT if expected is None else expected, entry=None)])


def check_expected(device: bytes, expected: int, row: RegistryRow | None) -> None:
    """Raise OutdatedError unless the entry is of that version (`PRESENT`: of any)."""
    present = 0 if row is None else row.revision
    if present != expected and not (expected == PRESENT and present):
        name = device.decode("utf-8", "backslashreplace")[:100]
        what = f"the entry of {name!r} has version {present}, not {expected}" if present else f"{name!r} has no entry"
        raise OutdatedError(what, mend="read it again, and apply the change to what is there now")


def no_entry(device: bytes) -> NotFoundError:
    """What is said of a device without an entry."""
    name = device.decode("utf-8", "backslashreplace")[:300]
    return NotFoundError(f"the registry has no entry of {name!r}", mend="PUT or PATCH makes one")
