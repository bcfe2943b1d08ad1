"""What of a topic is on disk: its segments, partition by partition. What retention decides from, and consoles show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from commitlog.segment import SUFFIXES, bases_in, segment_path
from commitlog.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSpan:
    """A segment: where it begins, where the next one does, and what its three files take."""

    base_offset: int
    next_offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionHolding:
    """What the log holds of a partition, its segments in order. The newest one is never deleted."""

    partition: int
    log_start: int
    segments: tuple[SegmentSpan, ...]

    @property
    def size_bytes(self) -> int:
        """What all of it takes on disk."""
        return sum(segment.size_bytes for segment in self.segments)

    def leaving(self, before_offset: int) -> tuple[SegmentSpan, ...]:
        """The segments that `delete_segments` would delete for that offset: those that end before it."""
        return tuple(segment for segment in self.segments[:-1] if segment.next_offset <= before_offset)


def partition_holding(
    storage: Storage, directory: Path, *, partition: int, log_start: int, next_offset: int
) -> PartitionHolding:
    """Look at a partition's directory. Raises OSError."""
    sizes = storage.sizes(directory)
    bases = bases_in(sorted(sizes))
    return PartitionHolding(
        partition=partition,
        log_start=log_start,
        segments=tuple(
            SegmentSpan(base_offset=base, next_offset=following, size_bytes=_size(sizes, directory, base))
            for base, following in pairwise([*bases, next_offset])
        ),
    )


def _size(sizes: Mapping[str, int], directory: Path, base: int) -> int:
    return sum(sizes.get(segment_path(directory, base, suffix).name, 0) for suffix in SUFFIXES)


def stored_bytes(storage: Storage, directory: Path) -> int:
    """What the segments of a partition take on disk. Raises OSError."""
    return sum(size for name, size in storage.sizes(directory).items() if name.endswith(SUFFIXES))
