"""Lines of a raw TCP stream: bytes in, whole lines out. No I/O.

A line ends with LF; one CR before it belongs to the ending. Lines are numbered from 1 per connection, empty ones and
too long ones included, so both sides count alike. A line may have `max_line_size_bytes` before its LF (a CR counts);
a longer one is reported at the byte that proves it and then skipped up to its LF without being kept.
"""

from __future__ import annotations

from collections.abc import Sequence


class LineFramer:
    """Cuts one connection's bytes into lines.

        for number, line in enumerate(framer.split(data), framer.first_number): ...

    `first_number` is the number of the first line that the last `split` returned.
    """

    __slots__ = ("_max_line_size_bytes", "_next_number", "_partial", "_skipping", "first_number")

    def __init__(self, max_line_size_bytes: int) -> None:
        if max_line_size_bytes < 1:
            raise ValueError("max_line_size_bytes is at least 1")
        self._max_line_size_bytes = max_line_size_bytes
        self._partial = bytearray()
        self._skipping = False
        self._next_number = 1
        self.first_number = 1

    @property
    def unfinished_size_bytes(self) -> int:
        """Bytes kept of a line whose end has not come; at the end of the stream they are a line cut off."""
        return len(self._partial)

    def split(self, data: bytes) -> Sequence[bytes | None]:
        """The lines that `data` completes, without their endings; None stands for one that is too long."""
        self.first_number = self._next_number
        lines: Sequence[bytes | None]
        if self._skipping or self._partial or len(data) > self._max_line_size_bytes:
            lines = self._split_carefully(data)
        else:
            whole = data.split(b"\n")
            if tail := whole.pop():
                self._partial += tail
            lines = _without_cr(whole) if b"\r" in data else whole
        self._next_number += len(lines)
        return lines

    def _split_carefully(self, data: bytes) -> list[bytes | None]:
        """`split` for a chunk that goes on with a line, or in which a line may be too long."""
        lines: list[bytes | None] = []
        limit = self._max_line_size_bytes
        *whole, tail = data.split(b"\n")
        for piece in whole:
            if self._skipping:
                self._skipping = False
            elif len(self._partial) + len(piece) > limit:
                lines.append(None)
            else:
                lines += _without_cr([b"".join((self._partial, piece)) if self._partial else piece])
            self._partial.clear()
        if self._skipping:
            return lines
        if len(self._partial) + len(tail) > limit:
            lines.append(None)
            self._partial.clear()
            self._skipping = True
        else:
            self._partial += tail
        return lines


def _without_cr(lines: list[bytes]) -> list[bytes]:
    return [line[:-1] if line.endswith(b"\r") else line for line in lines]
