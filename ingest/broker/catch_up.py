"""A subscriber that is behind is served from the log.

Its queue says which records it has still to get (`ingest.broker.queue`). Those committed a moment ago may be in
`Recent`; the others are read from segments, in a thread, one slice of one partition at a time, and taken out of it on
the loop for at most `SLICE_S` before others have their turn. A subscriber that takes nothing costs nothing: reading
goes on when its connection and its receive maximum have room again.

How many sessions hold slices at once is bounded; the others wait in line, and one that has had its turn stands at the
end of it again. One that takes nothing while others wait gives its slices back: its client may never read again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Final

from commitlog.base import LogReader, Record, Slice
from commitlog.gaps import EXPIRED
from core.errors import HeadraceError
from core.logs import LimitedLog
from core.threads import Worker
from ingest.broker.session import MqttSession

SLICE_S: Final = 0.001  # of the loop's time at a stretch: everybody's acknowledgements wait that long at most
PAUSE_S: Final = 0.002  # before the next one: at most a third of the loop's time goes to those who catch up
MAX_READING: Final = 16  # sessions that hold slices at once, some 2 MB each with eight partitions
_SLICE_BYTES: Final = 64 << 10  # as stored; about one batch
_TURN_ITEMS: Final = 20_000  # after so many messages a session lets others have its slices
_NOT_YET_S: Final = 0.02  # a record may be in its segment only at the next flush
IDLE_S: Final = 0.25  # who has taken nothing for so long while others wait: a client that answers at all is quicker


_Resume = Callable[[MqttSession], None]


class GoneError(HeadraceError):
    """A record that a session should get is not in the log any more. `expired`: the log no longer goes back so far."""

    code = "mqtt.gone"

    def __init__(self, what: str, *, expired: bool) -> None:
        super().__init__(what)
        self.expired = expired


@dataclass(slots=True)
class _Cursor:
    """A slice of one partition on its way through: it can tell of `first_offset` <= offset < `next_offset`.

    `first_offset` moves as records are passed. A queue may name an offset before it: what a member of a shared
    subscription has left comes behind newer messages.
    """

    records: Iterator[Record]
    ahead: Record | None
    first_offset: int
    next_offset: int
    expired_below: int


class CatchUp:
    """Reads for all sessions that are behind. Used on the event loop, but for `_read`."""

    def __init__(self, worker: Worker, open_reader: Callable[[], LogReader], lines: LimitedLog) -> None:
        """`open_reader` is called in the worker's thread, once."""
        self._lines = lines
        self._worker = worker
        self._open_reader = open_reader
        self._reader: LogReader | None = None
        self._loop = asyncio.get_running_loop()
        self._cursors: dict[MqttSession, dict[tuple[str, int], _Cursor]] = {}
        self._reading: dict[MqttSession, object] = {}  # who waits for a read, and which one: an older one is nobody's
        self._waiting: OrderedDict[MqttSession, _Resume] = OrderedDict()
        self._taken: dict[MqttSession, int] = {}
        self._active_s: dict[MqttSession, float] = {}
        self._admitting = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self.slices = 0

    def record(self, session: MqttSession, topic: str, partition: int, offset: int, resume: _Resume) -> Record | None:
        """The record at that place, or None: then `resume(session)` is called when it is worth asking again.

        Quick for the records of a session in the order of their offsets. Raises GoneError.
        """
        cursors = self._cursors.get(session)
        if cursors is None:
            if len(self._cursors) >= MAX_READING:
                self._wait(session, resume)
                return None
            self._waiting.pop(session, None)
            cursors = self._cursors[session] = {}
            self._taken[session] = 0
        elif self._taken[session] >= _TURN_ITEMS and self._waiting:
            self.leave(session)
            self._wait(session, resume)
            return None
        self._active_s[session] = self._loop.time()
        cursor = cursors.get((topic, partition))
        if cursor is not None and offset >= cursor.first_offset:
            found = _advance(cursor, offset)
            if found is not None:
                self._taken[session] += 1
                return found
            if offset < cursor.next_offset:
                raise GoneError(
                    f"offset {offset} of {topic}-{partition} is not in the log", expired=offset < cursor.expired_below
                )
        self._request(session, topic, partition, offset, resume)
        return None

    def leave(self, session: MqttSession) -> None:
        """The session has caught up, or its connection is gone."""
        self._waiting.pop(session, None)
        self._reading.pop(session, None)
        self._taken.pop(session, None)
        self._active_s.pop(session, None)
        if self._cursors.pop(session, None) is not None:
            self._admit_soon()

    async def close(self) -> None:
        """Read nothing more."""
        self._cursors.clear()
        self._waiting.clear()
        self._reading.clear()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        await self._worker.run(self._close_reader)
        await self._worker.close()

    # -- in the loop

    def _wait(self, session: MqttSession, resume: _Resume) -> None:
        self._waiting.setdefault(session, resume)
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(IDLE_S, self._end_idle)

    def _admit_soon(self) -> None:
        if self._waiting and not self._admitting:
            self._admitting = True
            self._loop.call_soon(self._admit)

    def _admit(self) -> None:
        """Let the next one in line try; it may have no use for the room, and then the one behind it has."""
        self._admitting = False
        if self._waiting and len(self._cursors) < MAX_READING:
            session, resume = self._waiting.popitem(last=False)
            self._admit_soon()
            resume(session)

    def _end_idle(self) -> None:
        """Those who hold slices and take nothing from them stand in nobody's way."""
        self._idle_timer = None
        if not self._waiting:
            return
        idle_since_s = self._loop.time() - IDLE_S
        for session in [one for one, active_s in self._active_s.items() if active_s <= idle_since_s]:
            if session not in self._reading:  # when its client takes something again it asks again
                self.leave(session)
        self._idle_timer = self._loop.call_later(IDLE_S, self._end_idle)

    def _request(self, session: MqttSession, topic: str, partition: int, offset: int, resume: _Resume) -> None:
        if session in self._reading:
            return  # one read of a session at a time
        request = self._reading[session] = object()
        self._worker.submit(
            lambda: self._read(topic, partition, offset),
            lambda result: self._arrived(session, request, resume, topic, partition, offset, result),
        )

    def _arrived(
        self,
        session: MqttSession,
        request: object,
        resume: _Resume,
        topic: str,
        partition: int,
        offset: int,
        result: Slice | OSError | HeadraceError,
    ) -> None:
        if self._reading.get(session) is not request:
            return  # it has left meanwhile, and may have come again: its queue then begins anew
        if isinstance(result, Slice):
            self.slices += 1
            if result.next_offset > offset:
                del self._reading[session]
                self._cursors[session][topic, partition] = _Cursor(
                    iter(result.records), None, offset, result.next_offset, _expired(result)
                )
                resume(session)
                return
        else:
            self._lines.warning(
                "subscriber waits",
                what=f"the log cannot be read: {result}",
                where=f"{topic}-{partition} at offset {offset}",
                mend="it is tried again until it can be",
            )
        # At the end of what is readable (or the disk does not answer): the next flush brings it.
        self._loop.call_later(_NOT_YET_S, self._again, session, request, resume)

    def _again(self, session: MqttSession, request: object, resume: _Resume) -> None:
        if self._reading.get(session) is request:
            del self._reading[session]
            resume(session)

    # -- in the thread

    def _read(self, topic: str, partition: int, offset: int) -> Slice | OSError | HeadraceError:
        """What is read, or what was wrong: an exception would end the thread for everybody."""
        try:
            if self._reader is None:
                self._reader = self._open_reader()
            return self._reader.read(topic, partition, offset, max_bytes=_SLICE_BYTES)
        except (OSError, HeadraceError) as error:
            return error

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()


def _advance(cursor: _Cursor, offset: int) -> Record | None:
    """The record at an offset, if the slice has it; records before it are passed."""
    cursor.first_offset = offset
    record = cursor.ahead
    while record is None or record.offset < offset:
        record = next(cursor.records, None)
        if record is None:
            cursor.ahead = None
            return None
    cursor.ahead = record
    return record if record.offset == offset else None


def _expired(found: Slice) -> int:
    """Up to which offset the log no longer holds anything, as far as a slice tells."""
    return max((gap.next for gap in found.gaps if gap.reason == EXPIRED), default=0)


class Budget:
    """How much of the loop's time one stretch of work may still take."""

    __slots__ = ("_end_s", "_steps")

    def __init__(self, seconds: float = SLICE_S) -> None:
        self._end_s = monotonic() + seconds
        self._steps = 0

    @property
    def spent(self) -> bool:
        """Looked at once a message; the clock is read at every sixteenth."""
        self._steps += 1
        return not self._steps & 15 and monotonic() > self._end_s
