"""Raw TCP: one JSON object a line; lines are numbered per connection from 1 and answered in line order.

`OK n` says that every line up to n is decided and the accepted ones are on disk, `ERR n reason` that line n was
refused and is not stored. Only an OK makes a reading acked: the lines before an ERR may still wait for the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from devices.simulator.link import Link, PeerError, Timing
from devices.simulator.outbox import Outbox, Pending

MAX_ANSWER_BYTES: Final = 4096  # an answer is a number and a reason; one that does not end is not an answer
_REFUSED: Final = 0  # stands in for the sequence number of a line that was refused


class TcpLink(Link):
    """A device's connection to the raw TCP listener."""

    def __init__(self, outbox: Outbox, timing: Timing, on_progress: Callable[[], None]) -> None:
        super().__init__(outbox, timing, on_progress)
        self._undecided: deque[int] = deque()  # sequence numbers by line, from line `_first_line` on
        self._first_line = 1
        self._rest = b""

    def _greet(self) -> None:
        self._up()

    def _encode(self, pending: Pending, *, again: bool) -> bytes:
        self._undecided.append(pending.seq)
        return pending.body + b"\n"

    def _receive(self, data: bytes) -> None:
        *answers, self._rest = (self._rest + data).split(b"\n")
        for answer in answers:
            self._answered(answer.decode("utf-8", "replace").rstrip("\r"))
        if len(self._rest) > MAX_ANSWER_BYTES:
            raise PeerError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")

    def _answered(self, answer: str) -> None:
        word, _, rest = answer.partition(" ")
        number, _, reason = rest.partition(" ")
        if word not in ("OK", "ERR") or not number.isascii() or not number.isdecimal() or len(number) > 18:
            raise PeerError(f"not an answer: {answer[:80]!r}")
        line = int(number)
        if not 0 < line < self._first_line + len(self._undecided):
            raise PeerError(f"an answer to line {line}, which was not sent")
        if word == "OK":
            self._accepted(line)
        else:
            self._refused(line, reason)

    def _accepted(self, line: int) -> None:
        while self._first_line <= line:
            seq = self._undecided.popleft()
            self._first_line += 1
            if seq != _REFUSED:
                self._outbox.ack(seq)

    def _refused(self, line: int, reason: str) -> None:
        index = line - self._first_line
        if index < 0 or self._undecided[index] == _REFUSED:
            raise PeerError(f"line {line} is refused after it was decided")
        self._outbox.refuse(self._undecided[index], reason)
        self._undecided[index] = _REFUSED
        while self._undecided and self._undecided[0] == _REFUSED:  # a box that only refuses must not grow the queue
            self._undecided.popleft()
            self._first_line += 1
