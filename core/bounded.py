"""A list that does not grow for ever: the first so many of what is found, and how many there were."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

MAX_KEPT: Final = 1_000
"""What comes after is counted: a disk or a lake full of holes must not fill the memory too."""


@dataclass(slots=True)
class Bounded(Generic[_T]):
    """Keeps the first `MAX_KEPT` and counts the others."""

    kept: list[_T] = field(default_factory=list)
    count: int = 0

    def add(self, one: _T) -> None:
        """Take one more."""
        self.count += 1
        if len(self.kept) < MAX_KEPT:
            self.kept.append(one)

    def take(self, other: Bounded[_T]) -> None:
        """Take all of another."""
        for one in other.kept:
            self.add(one)
        self.count += other.count - len(other.kept)
