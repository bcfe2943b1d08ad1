"""What has been appended and is in no commit yet, counted by what it will take in the journal.

No commit may outgrow the journal, whatever listeners think that their records weigh. So the open end is counted by true
sizes, and *cut* before it holds more than one commit may: what was appended before a cut is a piece by itself, and a
later commit of its own if the two do not fit one entry. A cut falls between any two records, but never inside what has
to be atomic (`whole`). Waiters are cut with their records: nobody is answered before all of his records are durable.

Why no commit can be too large. Let J be the journal's size, C `checkpoint_bytes`, and E the longest entry allowed,
`LogSettings.commit_limit_bytes`, which is at most (J - C) / 2:

1. A partition counts its journal batch before the first record goes into it, with `quota_bytes` (or the record's size,
   if that is more), and the batch takes no more than that: what would not fit any more begins another one. So the
   count is an upper bound of the entry at any moment, without a sum being kept for each record.
2. Before the count would pass E - E/16, a cut is made. A single batch or record beyond that is refused. What is
   appended as a whole makes its cut beforehand; its callers keep it below half of `pending_bytes`, at most J/8. The
   sixteenth is for the entry's frame and the windows that are closed with it, carried out as far as they fit.
3. Pieces are put together while their true sizes fit; so no entry is longer than E.
4. An entry that waits for room gets it. A flush goes with every commit that brings the journal's used part to C, and
   a flush that leaves C or more unreleased ends in a checkpoint; so before each commit all but C will be released
   without its doing. At most one end of a lap is skipped, because an entry did not fit it: less than E. And
   C + E + E <= J.

Flushes end where commits end: a cut therefore closes the segment batches too, also those of partitions that have only
committed records in them, since a batch cannot be flushed in part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from commitlog.durability import Durability
from commitlog.journal import BATCH_SECTION, Change
from commitlog.partition import NEW_BATCH_BYTES, Partition, TakenBatch
from commitlog.settings import LogSettings
from core.errors import BadRequestError

_QUOTAS: Final = 64  # batches that begin in one piece at least, before it is cut
# Calls of `reserve` that one record may follow: for queues (again, where that has made a cut), what is retained, a
# packet id.
_RESERVERS: Final = 4
_LEAST_QUOTA_BYTES: Final = 512  # below that, the frames of the batches would take more room than the records


@dataclass(slots=True)
class _Piece:
    """What was appended between two cuts, with the segment batches up to its end."""

    batches: list[TakenBatch] = field(default_factory=list)
    segment_batches: list[TakenBatch] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    levels: list[Durability | None] = field(default_factory=list)
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What goes into a commit. `levels`: its partitions' own.

    `size_bytes`: in the journal, at most. `pieces`: cut pieces in it. `rest`: more was appended, and waits.
    """

    batches: Sequence[TakenBatch]
    changes: list[Change]
    levels: Sequence[Durability | None]
    size_bytes: int
    pieces: int
    rest: bool


class OpenCommit:
    """See the module. Used on the event loop only."""

    def __init__(self, settings: LogSettings, on_cut: Callable[[], None]) -> None:
        """`on_cut` is called at each cut: the piece waits for its commit, and listeners are to stop."""
        limit_bytes = settings.commit_limit_bytes
        self.quota_bytes = _LEAST_QUOTA_BYTES
        self._limit_bytes = limit_bytes - limit_bytes // 16
        self._left_bytes = self._limit_bytes
        self._on_cut = on_cut
        self._whole = False
        self._pieces: deque[_Piece] = deque()  # few: at each cut listeners stop
        self._opened: dict[Partition, None] = {}  # sets that keep their order: the same run twice writes the same
        self._unflushed: dict[Partition, None] = {}
        self._ready: list[TakenBatch] = []
        self._changes: list[Change] = []
        self._changes_bytes = 0
        self._preparers: list[Callable[[], None]] = []
        self._reserved_last: deque[int] = deque(maxlen=_RESERVERS)

    @property
    def empty(self) -> bool:
        """Whether nothing waits for a commit."""
        return not (self._pieces or self._opened or self._changes)

    def share(self, partitions: int) -> None:
        """There are so many partitions: a record in each is no reason to cut."""
        self.quota_bytes = max(_LEAST_QUOTA_BYTES, self._limit_bytes // max(_QUOTAS, 2 * partitions))

    def opens(self, partition: Partition, size_bytes: int) -> None:
        """A partition begins a journal batch of at most so many bytes. Raises BadRequestError for what no commit holds.

        Everything appended before may be cut off, this partition's batches included.
        """
        if size_bytes > self._left_bytes and not self._whole:
            if size_bytes > self._limit_bytes:
                raise BadRequestError(
                    f"{size_bytes} bytes in one record, a commit holds {self._limit_bytes}",
                    mend="raise log.journal_size",
                )
            self._cut_before_record()
        self._left_bytes -= size_bytes
        self._opened[partition] = None

    def change(self, change: Change) -> None:
        """Put a table change in. It has to be counted: see `whole` and `reserve`."""
        self._changes.append(change)

    def change_counted(self, change: Change, size_bytes: int) -> None:
        """Put a table change of at most so many bytes in, counted; what was appended before may be cut off."""
        self.reserve(size_bytes)
        self._changes.append(change)

    def reserve(self, size_bytes: int) -> None:
        """Count changes of at most so many bytes that are still to come, at the latest from `prepare_by`.

        They belong to the record that is appended next, and stay counted where that record makes a cut. What was
        appended before may be cut off. Raises BadRequestError for what no commit holds.
        """
        if size_bytes > self._left_bytes and not self._whole:
            if size_bytes > self._limit_bytes:
                raise BadRequestError(
                    f"{size_bytes} bytes in changes of tables, a commit holds {self._limit_bytes}",
                    mend="raise log.journal_size",
                )
            self._cut_before_record()
        self._left_bytes -= size_bytes
        self._changes_bytes += size_bytes
        self._reserved_last.append(size_bytes)

    def prepare_by(self, prepare: Callable[[], None]) -> None:
        """Have `prepare()` called each time before the open end is closed, by a cut or by a commit.

        Changes that it puts in belong to what is closed, and have to be counted already.
        """
        self._preparers.append(prepare)

    @contextmanager
    def whole(self, records: int, size_bytes: int, changes_bytes: int = 0) -> Iterator[None]:
        """No cut falls inside: what is appended there, at most so many bytes in as many records, is one commit's.

        `changes_bytes` is what the table changes take, at most.
        """
        size_bytes += records * NEW_BATCH_BYTES + changes_bytes
        if size_bytes > self._left_bytes and not self.empty:
            self._cut()
        self._left_bytes -= size_bytes  # records are counted a second time as they come, which does no harm
        self._changes_bytes += changes_bytes
        self._whole = True
        try:
            yield
        finally:
            self._whole = False

    def take(self) -> Taken:
        """As much as one commit may hold, from the oldest on. The usual case is everything."""
        taken, pieces = _Piece(), 0
        while self._pieces and (not pieces or taken.size_bytes + self._pieces[0].size_bytes <= self._limit_bytes):
            _join(taken, self._pieces.popleft())
            pieces += 1
        open_bytes = self._limit_bytes - self._left_bytes
        rest = bool(self._pieces) or (pieces > 0 and taken.size_bytes + open_bytes > self._limit_bytes)
        self._ready += taken.segment_batches
        if not rest:
            self._unflushed.update(self._opened)
            _join(taken, self._close())
        return Taken(
            batches=taken.batches,
            changes=taken.changes,
            levels=taken.levels,
            size_bytes=taken.size_bytes,
            pieces=pieces,
            rest=rest,
        )

    # -- segments

    @property
    def unflushed(self) -> bool:
        """Whether a flush would find anything."""
        return bool(self._unflushed or self._ready)

    def flush_wanted(self, flush_bytes: int) -> bool:
        """Whether so much of one partition waits, or what a cut has closed."""
        return bool(self._ready) or any(p.segment_batch_bytes >= flush_bytes for p in self._unflushed)

    def take_segment_batches(self) -> list[TakenBatch]:
        """Everything that was taken and is in no flush yet. Only right together with `take`, or while it is `empty`."""
        batches, self._ready = self._ready, []
        for partition in self._unflushed:
            batches += partition.take_segment_batches()
        self._unflushed.clear()
        return batches

    # -- cutting

    def _cut_before_record(self) -> None:
        """Cut; what was reserved for the record to come is counted again, for its changes come with it.

        Which reservations are its own is not known. The last few are at least those: more is counted than comes.
        """
        self._cut()
        reserved_bytes = sum(self._reserved_last)
        self._left_bytes -= reserved_bytes
        self._changes_bytes += reserved_bytes

    def _cut(self) -> None:
        self._unflushed.update(self._opened)
        piece = self._close()
        for partition in self._unflushed:
            piece.segment_batches += partition.take_segment_batches()
        self._unflushed.clear()
        self._pieces.append(piece)
        self._on_cut()

    def _close(self) -> _Piece:
        for prepare in self._preparers:
            prepare()
        batches = [taken for partition in self._opened for taken in partition.take_journal_batches()]
        piece = _Piece(
            batches=batches,
            changes=self._changes,
            levels=[partition.durability for partition in self._opened],
            size_bytes=sum([taken.size_bytes + BATCH_SECTION.size for taken in batches]) + self._changes_bytes,
        )
        self._opened.clear()
        self._changes, self._changes_bytes = [], 0
        self._left_bytes = self._limit_bytes
        return piece


def _join(taken: _Piece, piece: _Piece) -> None:
    taken.batches += piece.batches
    taken.segment_batches += piece.segment_batches
    taken.changes += piece.changes
    taken.levels += piece.levels
    taken.size_bytes += piece.size_bytes
