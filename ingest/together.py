"""A bound for what all connections of a listener hold together, looked at by its sweep: a slice of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

C = TypeVar("C")


class Together(Generic[C]):
    """How many bytes the connections of each slice hold, and who has to go where that is too much."""

    def __init__(self, slices: int, size_of: Callable[[C], int]) -> None:
        """`size_of` says what one connection holds, in bytes."""
        self._size_of = size_of
        self._sizes_bytes = [0] * slices

    @property
    def size_bytes(self) -> int:
        """What all hold, each slice as it was when it was looked at last."""
        return sum(self._sizes_bytes)

    def excess(self, index: int, connections: Iterable[C], limit_bytes: int) -> Iterator[C]:
        """Count a slice anew; of its connections, those with the most, until all slices are within the limit."""
        by_size = [(self._size_of(connection), connection) for connection in connections]
        self._sizes_bytes[index] = sum(size_bytes for size_bytes, _ in by_size)
        if self.size_bytes <= limit_bytes:
            return
        for size_bytes, connection in sorted(by_size, key=lambda pair: pair[0], reverse=True):
            if not size_bytes or self.size_bytes <= limit_bytes:
                return
            self._sizes_bytes[index] -= size_bytes
            yield connection
