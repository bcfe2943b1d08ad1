"""Which places - (partition, offset, row) - the files of a few units hold: each once, and which offsets hold none.

Units whose offsets overlap are looked at together (a replay stands beside the export whose records it reads again).
Their offsets are counted through, partition after partition: a *span* is that numbering, and a *key* a number of it and
a row. Keys are gathered for a piece of the span at a time, so memory does not grow with the unit: files are read again
for each piece, three columns of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sink.parquet.lake import LakeFile
from sink.verify.ranges import Range, common, union, without

Int64s = npt.NDArray[np.int64]

PIECE_ROWS: Final = 2_000_000  # keys at once; up to twice that, some 200 MB while they are sorted
ROW_BITS: Final = 24
"""Rows of a record are numbered below 2**24; the decoder makes at most 100,000."""
MAX_NAMED: Final = 100  # places named one by one, of one kind in one group of units; the others are counted
PLACE_COLUMNS: Final = ("_partition", "_offset", "_row")


class FileTroubleError(Exception):
    """A file cannot be read to its end, though it has a footer; the message says why. `path` is below the lake."""

    def __init__(self, path: str, error: Exception) -> None:
        super().__init__((str(error).splitlines() or [repr(error)])[0][:300])
        self.path = path


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive offsets of a partition, and the number of the first."""

    partition: int
    first: int
    next: int
    start: int


class Span:
    """Offsets of some partitions, counted through."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.size = 0
        self._stretches = stretches
        self._by_partition: dict[int, list[Stretch]] = {}
        for stretch in stretches:
            self._by_partition.setdefault(stretch.partition, []).append(stretch)
            self.size += stretch.next - stretch.first

    @classmethod
    def of(cls, vectors: Sequence[Mapping[int, Range]], left_out: Mapping[int, Sequence[Range]] | None = None) -> Span:
        """The span of all offsets that the vectors have, and of what is between.

        `left_out` are long ranges that no record ever had, as a log that was restored goes on far beyond its end.
        """
        hull: dict[int, Range] = {}
        for vector in vectors:
            for partition, (first, following) in vector.items():
                low, high = hull.get(partition, (first, following))
                hull[partition] = (min(low, first), max(high, following))
        stretches: list[Stretch] = []
        start = 0
        for partition, range_ in sorted(hull.items()):
            for first, following in without(union([range_]), (left_out or {}).get(partition, [])):
                stretches.append(Stretch(partition, first, following, start))
                start += following - first
        return cls(stretches)

    @property
    def ranges(self) -> dict[int, list[Range]]:
        """The offsets by partition."""
        return {p: [(one.first, one.next) for one in found] for p, found in self._by_partition.items()}

    def locate(self, partitions: Int64s, offsets: Int64s, rows: Int64s) -> tuple[npt.NDArray[np.bool_], Int64s]:
        """(which places are in the span, the numbers of all places; those of the others mean nothing)."""
        inside = np.zeros(len(partitions), np.bool_)
        numbers = np.zeros(len(partitions), np.int64)
        for one in self._stretches:
            chosen = (partitions == one.partition) & (offsets >= one.first) & (offsets < one.next)
            numbers[chosen] = offsets[chosen] - (one.first - one.start)
            inside |= chosen
        return inside & (rows >= 0) & (rows < 1 << ROW_BITS), numbers

    def stretches(self, partition: int) -> Sequence[Stretch]:
        """Those of a partition, in order."""
        return self._by_partition.get(partition, ())

    def place(self, number: int) -> tuple[int, int]:
        """(partition, offset) of a number."""
        for one in self._stretches:
            if one.start <= number < one.start + one.next - one.first:
                return one.partition, one.first + number - one.start
        raise ValueError(f"{number} is not in the span")

    def by_partition(self, ranges: Sequence[Range]) -> dict[int, list[Range]]:
        """Ranges of numbers as ranges of offsets."""
        found: dict[int, list[Range]] = {}
        for one in self._stretches:
            shift = one.first - one.start
            cut = common(ranges, [(one.start, one.start + one.next - one.first)])
            if cut:
                found.setdefault(one.partition, []).extend((low + shift, high + shift) for low, high in cut)
        return found


@dataclass(slots=True)
class Places:
    """What was found. `missing` are offsets without any row, by partition. `doubled` and `holes` name the first few.

    A doubled row stands twice: (partition, offset, row, one file, the other). A hole is a row that is missing before
    others of its record: (partition, offset, rows that are there, rows there should be).
    """

    missing: dict[int, list[Range]] = field(default_factory=dict)
    doubled: list[tuple[int, int, int, str, str]] = field(default_factory=list)
    doubled_count: int = 0
    holes: list[tuple[int, int, int, int]] = field(default_factory=list)
    holes_count: int = 0


class PlaceCheck:
    """One group of files."""

    def __init__(self, lake: Path, files: Sequence[LakeFile], span: Span, *, piece_rows: int = PIECE_ROWS) -> None:
        self._lake = lake
        self._files = files
        self._span = span
        self._piece_rows = piece_rows
        self._found = Places()
        self._missing: list[Range] = []

    def run(self) -> Places:
        """Read the place columns of all files as often as it takes. Raises FileTroubleError."""
        rows = sum(file.rows for file in self._files)
        pieces = max(1, -(-rows // self._piece_rows))
        step = max(1, -(-self._span.size // pieces))
        for low in range(0, self._span.size, step):
            self._piece(low, min(low + step, self._span.size))
        self._found.missing = self._span.by_partition(union(self._missing))
        return self._found

    def _piece(self, low: int, high: int) -> None:
        """Check the offsets with low <= number < high; a piece that turns out too large is taken in halves."""
        gathered = self._gather(low, high)
        if gathered is None:
            middle = (low + high) // 2
            self._piece(low, middle)
            self._piece(middle, high)
            return
        keys, owners = gathered
        order = np.argsort(keys, kind="stable")
        keys, owners = keys[order], owners[order]
        self._look_for_doubles(keys, owners)
        keys = np.unique(keys)
        numbers = keys >> ROW_BITS
        present, starts = np.unique(numbers, return_index=True)
        self._look_for_holes(keys, present, starts)
        self._missing += _absent(present, low, high)

    def _gather(self, low: int, high: int) -> tuple[Int64s, npt.NDArray[np.int32]] | None:
        """Keys of a piece and the number of the file of each; None when they are too many to be held at once."""
        keys: list[Int64s] = []
        owners: list[npt.NDArray[np.int32]] = []
        count = 0
        for index, file in enumerate(self._files):
            for partitions, offsets, rows in read_places(self._lake, file.path):
                inside, numbers = self._span.locate(partitions, offsets, rows)
                chosen = inside & (numbers >= low) & (numbers < high)
                found = numbers[chosen] << ROW_BITS | rows[chosen]
                keys.append(found)
                owners.append(np.full(len(found), index, np.int32))
                count += len(found)
                if count > 2 * self._piece_rows and high - low > 1:
                    return None
        if not keys:
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        return np.concatenate(keys), np.concatenate(owners)

    def _look_for_doubles(self, keys: Int64s, owners: npt.NDArray[np.int32]) -> None:
        again = np.flatnonzero(keys[1:] == keys[:-1])
        self._found.doubled_count += len(again)
        for index in again[: MAX_NAMED - len(self._found.doubled)].tolist():
            partition, offset = self._span.place(int(keys[index]) >> ROW_BITS)
            paths = [self._files[int(owners[at])].path for at in (index, index + 1)]
            row = int(keys[index]) & (1 << ROW_BITS) - 1
            self._found.doubled.append((partition, offset, row, paths[0], paths[1]))

    def _look_for_holes(self, keys: Int64s, present: Int64s, starts: npt.NDArray[np.intp]) -> None:
        """Rows of a record are numbered from 0 on: the last one says how many there are."""
        if not len(present):
            return
        ends = np.append(starts[1:], len(keys))
        there = ends - starts
        wanted = (keys[ends - 1] & (1 << ROW_BITS) - 1) + 1
        holes = np.flatnonzero(there != wanted)
        self._found.holes_count += len(holes)
        for index in holes[: MAX_NAMED - len(self._found.holes)].tolist():
            partition, offset = self._span.place(int(present[index]))
            self._found.holes.append((partition, offset, int(there[index]), int(wanted[index])))


def _absent(present: Int64s, low: int, high: int) -> Iterator[Range]:
    """Ranges of low <= number < high that sorted numbers leave out."""
    edges = np.concatenate([[low - 1], present, [high]])
    for index in np.flatnonzero(np.diff(edges) > 1).tolist():
        yield int(edges[index]) + 1, int(edges[index + 1])


def read_places(lake: Path, path: str) -> Iterator[tuple[Int64s, Int64s, Int64s]]:
    """Partitions, offsets and rows of a file, a piece at a time. Raises FileTroubleError."""
    try:
        with pq.ParquetFile(lake / path) as file:
            for batch in file.iter_batches(batch_size=1 << 17, columns=list(PLACE_COLUMNS)):
                yield place_arrays(batch)
    except (OSError, pa.ArrowException) as error:
        raise FileTroubleError(path, error) from error


def place_arrays(batch: pa.RecordBatch) -> tuple[Int64s, Int64s, Int64s]:
    """The three columns of a batch, as 64-bit numbers; a null, which none of ours may be, counts as -1."""
    partitions, offsets, rows = (
        batch.column(name).cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False) for name in PLACE_COLUMNS
    )
    return partitions, offsets, rows
