"""What one device has made and what became of it: the book that the report is copied from.

Rules, whatever the network does:

* A reading gets its sequence number when it is made; numbers start at 1 and leave nothing out.
* From then on it is pending until the box acknowledges or refuses it; nothing else takes it out. So at any time
  sent = acked + refused + pending, and the three do not overlap.
* A reading that was due while there was no room is not made. It is counted as skipped and takes no number.
* Sending a pending reading again is a resend, on whichever connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from devices.simulator.ranges import Ranges, SeqSet

MAX_PENDING_SPAN: Final = 65_535  # MQTT packet ids are seq modulo 65,535: pending ones must differ [MQTT-2.3.1-2]
MAX_FRAGMENTS: Final = 10_000  # ranges and refusals remembered of one device: about 1 MB; the book stays exact
MAX_REASON_CHARS: Final = 200  # of a refusal; the rest is cut off


@dataclass(slots=True, kw_only=True)
class Pending:
    """A reading that the box has not decided yet: its number, its JSON, and how often it went out."""

    seq: int
    body: bytes
    attempts: int = 0


class Outbox:
    """The pending readings of one device in order, and the fate of the others."""

    def __init__(self, max_unacked: int) -> None:
        self.sent = 0
        self.skipped = 0
        self.resends = 0
        self.refused: dict[int, str] = {}
        self._max_unacked = max_unacked
        self._pending: dict[int, Pending] = {}
        self._acked = SeqSet()
        self._resent = SeqSet()

    @property
    def has_room(self) -> bool:
        """Whether another reading may be made: few enough are pending, and the book can hold its fate."""
        return (
            len(self._pending) < self._max_unacked
            and self.sent + 1 - self.oldest < MAX_PENDING_SPAN
            and self._acked.fragments + len(self.refused) < MAX_FRAGMENTS
            and self._resent.fragments < MAX_FRAGMENTS
        )

    @property
    def oldest(self) -> int:
        """The oldest pending number; the next one to be made if nothing is pending."""
        return next(iter(self._pending), self.sent + 1)

    @property
    def decided(self) -> int:
        """How many readings are acked or refused."""
        return self.sent - len(self._pending)

    @property
    def empty(self) -> bool:
        """Whether every reading made is decided."""
        return not self._pending

    def put(self, body: bytes) -> Pending:
        """Enter the next reading; its number is `sent` afterwards."""
        self.sent += 1
        pending = Pending(seq=self.sent, body=body)
        self._pending[pending.seq] = pending
        return pending

    def skip(self, count: int = 1) -> None:
        """Count readings that were due and not made."""
        self.skipped += count

    def pending(self) -> Iterator[Pending]:
        """Pending readings in the order they were made; nothing may be decided while this is iterated."""
        return iter(self._pending.values())

    def going_out(self, pending: Pending) -> bool:
        """Note that `pending` is handed to a connection now. True if it had been before: a resend."""
        pending.attempts += 1
        if pending.attempts == 1:
            return False
        self.resends += 1
        self._resent.add(pending.seq)
        return True

    def ack(self, seq: int) -> bool:
        """The box has `seq` on disk. False if it was not pending (decided before, or never sent)."""
        if not self._take(seq):
            return False
        self._acked.add(seq)
        return True

    def refuse(self, seq: int, reason: str) -> bool:
        """The box refused `seq` for good. False if it was not pending."""
        if not self._take(seq):
            return False
        self.refused[seq] = reason[:MAX_REASON_CHARS]
        return True

    def acked_ranges(self) -> Ranges:
        """Numbers the box acknowledged."""
        return self._acked.ranges()

    def resent_ranges(self) -> Ranges:
        """Numbers that went out more than once."""
        return self._resent.ranges()

    def pending_ranges(self) -> Ranges:
        """Numbers that are not decided."""
        return SeqSet(self._pending).ranges()

    def _take(self, seq: int) -> bool:
        pending = self._pending.get(seq)
        if pending is None or pending.attempts == 0:
            return False
        del self._pending[seq]
        return True
