"""The registry's writer, in the process that writes the log.

Rows stand in the log's state table `devices.registry`. Every change goes through `RegistryStore.write`: it is judged
against the rows as they are and committed before the next one is looked at, so that of two editors who read the same
version one is refused. The console and the command line ask for it over the local channel (`registry_write`).

Revisions count the registry's changes, and never come twice: the newest stands in a row of its own, in the same commit
as the rows that got it. An entry's version is the revision of its last change.

Others follow through a feed (`registry_feed`): what has changed since a revision, in order, page by page; from 0 on it
is the whole registry. What was removed stands in the feed as a key without a row, until the feed is tidied up or the
process ends; who asks from before that is told to begin anew.

Bounds: `max_devices` entries, `MAX_TOTAL_BYTES` of them, `MAX_CHANGES` a write, a page of the feed as large as the loop
may be held up by; the feed holds at most twice as many keys as there are entries, and `_SPARE_KEYS`.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from commitlog.base import NewRecord, Position, TableChange
from core.channel import Handler
from core.errors import BadRequestError, OutdatedError
from devices.registry_entry import (
    REVISION_KEY,
    TABLE,
    RegistryEntry,
    RegistryRow,
    device_of_key,
    entry_from_json,
    revision_of,
    row_key,
    row_value,
)
from wire.device_id import device_id_fault

ABSENT: Final = 0
"""Expect that there is no entry."""
PRESENT: Final = -1
"""Expect that there is one, of whatever version."""

MAX_CHANGES: Final = 100  # a commit of an import: judged in about a millisecond of the loop
MAX_TOTAL_BYTES: Final = 64 << 20  # as stored; each process keeps it once or twice. 100,000 entries of 600 bytes
_PAGE_ROWS: Final = 500  # a page is packed in about a millisecond
_PAGE_BYTES: Final = 512 << 10
_SPARE_KEYS: Final = 10_000
_SLICE_KEYS: Final = 5_000  # a millisecond


class StateLog(Protocol):
    """What the store needs of the log."""

    def rows_now(self, table: str) -> Mapping[str, Any]:
        """See `Appender.rows_now`."""
        ...

    async def append(self, records: Sequence[NewRecord], changes: Sequence[TableChange] = ()) -> Sequence[Position]:
        """See `Log.append`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An entry to be set, or removed when None; `expected`: the version it must have now, `ABSENT`, `PRESENT`, or None.

    None: whatever is there.
    """

    device: bytes
    expected: int | None
    entry: RegistryEntry | None


class RegistryStore:
    """Judges and commits changes, and says what has changed. One in a process, on its event loop."""

    def __init__(self, log: StateLog, *, max_devices: int) -> None:
        """Reads the revisions of all rows once: some 0.1 s for 100,000."""
        self._log = log
        self._max_devices = max_devices
        self._lock = asyncio.Lock()
        self._writing: set[asyncio.Task[list[int]]] = set()
        rows = log.rows_now(TABLE)
        held = sorted((revision_of(value), key) for key, value in rows.items() if key != REVISION_KEY)
        self._size_bytes = sum(_size(rows[key]) for _, key in held)
        self.bad_rows = sum(not revision for revision, _ in held)
        """Rows that could not be read at the start; each goes when its device is set anew."""
        # The feed: revisions, never decreasing, and beside each the key that it changed.
        self._revisions = array("q", (revision for revision, _ in held if revision))
        self._keys = [key for revision, key in held if revision]
        noted = rows.get(REVISION_KEY)
        self.revision: int = max(noted if isinstance(noted, int) else 0, self._revisions[-1] if self._keys else 0)
        self._begins_at = self.revision  # what was removed before is not in the feed

    async def write(self, changes: Sequence[Change]) -> list[int]:
        """Commit all changes, or none; returns the versions, which are 0 for what was removed.

        Raises OutdatedError where a version is not the expected one, BadRequestError where a bound is passed,
        UnavailableError when the log cannot accept now. Goes on to its end when the caller is cancelled.
        """
        task = asyncio.create_task(self._write(changes), name="registry write")
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[list[int]]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # taken: it was the caller's, who may be gone

    async def _write(self, changes: Sequence[Change]) -> list[int]:
        async with self._lock:
            self._judge(changes)
            rows = self._log.rows_now(TABLE)
            revisions = range(self.revision + 1, self.revision + 1 + len(changes))
            table: list[TableChange] = []
            size_bytes = self._size_bytes
            for change, revision in zip(changes, revisions, strict=True):
                key = row_key(change.device)
                value = None if change.entry is None else row_value(RegistryRow(revision=revision, entry=change.entry))
                size_bytes += _size(value) - _size(rows.get(key))
                table.append(TableChange(table=TABLE, key=key, value=value))
            self._judge_size(size_bytes)
            newest = TableChange(table=TABLE, key=REVISION_KEY, value=revisions[-1])
            await self._log.append([], [*table, newest])
            self._size_bytes = size_bytes
            self._revisions.extend(revisions)
            self._keys.extend(change.key for change in table)
            self.revision = revisions[-1]
            await self._tidy()
            return [revision if change.entry else 0 for change, revision in zip(changes, revisions, strict=True)]

    def _judge(self, changes: Sequence[Change]) -> None:
        if not 1 <= len(changes) <= MAX_CHANGES:
            raise BadRequestError(f"{len(changes)} changes in one write", mend=f"send 1 to {MAX_CHANGES}")
        if len({change.device for change in changes}) != len(changes):
            raise BadRequestError("a device stands twice in one write", mend="send its changes one after the other")
        rows = self._log.rows_now(TABLE)
        new = 0
        for change in changes:
            present = revision_of(rows.get(row_key(change.device)))
            if not _as_expected(change.expected, present):
                raise _outdated(change, present)
            new += (change.entry is not None) - (present > 0)
        if new > 0 and len(rows) - (REVISION_KEY in rows) + new > self._max_devices:
            raise BadRequestError(
                f"the registry would hold more than {self._max_devices} devices",
                where="http.max_devices",
                mend="remove entries of devices that are gone, or raise the limit",
            )

    def _judge_size(self, size_bytes: int) -> None:
        if size_bytes > max(self._size_bytes, MAX_TOTAL_BYTES):
            raise BadRequestError(
                f"the registry would hold {size_bytes} bytes, the limit is {MAX_TOTAL_BYTES}",
                mend="shorten notes, or remove entries of devices that are gone",
            )

    async def _tidy(self) -> None:
        """Forget superseded and removed keys of the feed, once they are most of it; in slices, for the loop's sake.

        Under the lock: nothing is written meanwhile, and the feed goes on as it is until the end.
        """
        rows = self._log.rows_now(TABLE)
        if len(self._keys) <= 2 * len(rows) + _SPARE_KEYS:
            return
        count = len(self._keys)
        slices = [range(first, min(first + _SLICE_KEYS, count)) for first in range(0, count, _SLICE_KEYS)]
        last: dict[str, int] = {}
        for places in slices:
            last.update((self._keys[place], place) for place in places)
            await asyncio.sleep(0)
        kept: list[int] = []
        for places in slices:
            kept += [place for place in places if last[self._keys[place]] == place and self._keys[place] in rows]
            await asyncio.sleep(0)
        self._revisions = array("q", (self._revisions[place] for place in kept))
        self._keys = [self._keys[place] for place in kept]
        self._begins_at = self.revision

    def feed(self, since: int, known: int) -> dict[str, Any]:
        """A page of what has changed after revision `since`, for one who has learned of every removal after `known`.

        `known` is `since` for who has everything up to there; for who reads the whole registry from 0 on, it is the
        `revision` that the first page told: what was removed earlier is in no page.
        `rows`: `[device, row or nil]`, in order of revision; a row may be newer than its place. `next`: where to go on;
        at `revision` there is no more. `anew`: what the asker has is of no use, the page begins at 0.
        """
        anew = since > self.revision or (since > 0 and known < self._begins_at)
        first = bisect_right(self._revisions, 0 if anew else max(0, since))
        table = self._log.rows_now(TABLE)
        rows: list[tuple[bytes, bytes | None]] = []
        size_bytes = 0
        for index in range(first, min(first + _PAGE_ROWS, len(self._keys))):
            value = table.get(self._keys[index])
            rows.append((device_of_key(self._keys[index]), value))
            size_bytes += _size(value)
            if size_bytes > _PAGE_BYTES:
                break
        end = first + len(rows)
        following = self.revision if end == len(self._keys) else self._revisions[end - 1]
        return {"revision": self.revision, "anew": anew, "rows": rows, "next": following}

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows as stored."""
        return self._size_bytes


def _as_expected(expected: int | None, present: int) -> bool:
    return expected is None or expected == present or (expected == PRESENT and present > 0)


def _outdated(change: Change, present: int) -> OutdatedError:
    device = change.device.decode("utf-8", "backslashreplace")[:100]
    if change.expected == ABSENT:
        what = f"there is an entry of {device!r}, of version {present}"
    elif not present:
        what = f"there is no entry of {device!r} any more"
    else:
        what = f"the entry of {device!r} has version {present}, not {change.expected}: somebody else has changed it"
    return OutdatedError(what, mend="read it again, and apply the change to what is there now")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, bytes) else 0


def registry_handlers(store: RegistryStore) -> dict[str, Handler]:
    """The channel verbs by which other processes write and follow."""

    async def write(args: Mapping[str, Any]) -> Any:
        return await store.write([_change(*row) for row in args["changes"]])

    async def feed(args: Mapping[str, Any]) -> Any:
        since, known = args["since"], args["known"]
        if not isinstance(since, int) or not isinstance(known, int):
            raise TypeError("since and known are numbers")
        return store.feed(since, known)

    return {"registry_write": _checked("registry_write", write), "registry_feed": _checked("registry_feed", feed)}


def _change(device: Any, expected: Any, body: Any) -> Change:
    if not isinstance(device, bytes) or not isinstance(expected, int | None) or not isinstance(body, bytes | None):
        raise TypeError("a change is a device, a version or nil, and an entry as JSON or nil")
    if device_id_fault(device.decode()) is not None:
        raise BadRequestError(f"no device can be called {device[:100]!r}", mend="1 to 256 bytes of UTF-8")
    return Change(device=device, expected=expected, entry=None if body is None else entry_from_json(body))


def _checked(verb: str, handler: Callable[[Mapping[str, Any]], Awaitable[Any]]) -> Handler:
    async def checked(args: Mapping[str, Any]) -> Any:
        try:
            return await handler(args)
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequestError(f"{verb} does not take these arguments: {error!r}", where="local channel") from error

    return checked
