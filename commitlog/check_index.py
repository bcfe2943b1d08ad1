"""Whether the two indexes of a segment are what its batches make them.

The writing rule is deterministic (`commitlog/index.py`), so an `.index` is compared entry by entry with the one that
the batches give. A `.timeindex` has the same timestamps whoever wrote it; its offsets may name any place where that
timestamp was the newest, since recovery goes on in a segment without reading it again, and for the same reason the
closing entry may be missing: both answer every question rightly.
"""

from __future__ import annotations

from typing import Final

from commitlog.index import INDEX_INTERVAL_BYTES, OFFSET_ENTRY, TIME_ENTRY, offset_entries, time_entries


class IndexCheck:
    """Takes a segment's batches in order; `problems` then names at most one mistake of each index."""

    def __init__(self, base_offset: int, offset_data: bytes | None, time_data: bytes | None) -> None:
        """The bytes of `.index` and `.timeindex`, None where the file is missing."""
        self._base = base_offset
        self._offsets = offset_entries(offset_data or b"")
        self._times = time_entries(time_data or b"")
        self._torn = len(offset_data or b"") % OFFSET_ENTRY.size, len(time_data or b"") % TIME_ENTRY.size
        self._offset_problem = _MISSING if offset_data is None else ""
        self._time_problem = _MISSING if time_data is None else ""
        self._entry_at = 0
        self._seen_offsets = self._seen_times = 0
        self._newest_ms = self._written_ms = -1
        self._newest_first = self._newest_last = base_offset

    @property
    def entries(self) -> int:
        """Entries compared so far."""
        return self._seen_offsets + self._seen_times

    def batch(self, position: int, first_offset: int, last_offset: int, max_timestamp_ms: int) -> None:
        """The next batch of the segment."""
        if max_timestamp_ms > self._newest_ms:
            self._newest_ms, self._newest_first = max_timestamp_ms, first_offset
        self._newest_last = last_offset
        if position - self._entry_at > INDEX_INTERVAL_BYTES:
            self._entry_at = position
            self._expect_offset(last_offset - self._base, position)
            if self._newest_ms > self._written_ms:
                self._expect_time()

    def finish(self, *, complete: bool) -> None:
        """After the last batch. `complete`: nothing more is being written, so there may be no further entries."""
        if not complete:
            return
        if not self._offset_problem and len(self._offsets) > self._seen_offsets:
            self._offset_problem = f"{len(self._offsets) - self._seen_offsets} entries too many"
        left = self._times[self._seen_times :]
        if not self._time_problem and left and not (len(left) == 1 and self._names_newest(left[0])):
            self._time_problem = f"entry {self._seen_times} is wrong, or too many"
        for at, torn in enumerate(self._torn):
            if torn and not (self._offset_problem, self._time_problem)[at]:
                self._note(at, f"{torn} bytes at its end are no entry")

    @property
    def problems(self) -> tuple[str, str]:
        """What is wrong with `.index` and with `.timeindex`; empty where nothing is."""
        return self._offset_problem, self._time_problem

    def _note(self, at: int, problem: str) -> None:
        if at == 0:
            self._offset_problem = problem
        else:
            self._time_problem = problem

    def _expect_offset(self, relative: int, position: int) -> None:
        at, self._seen_offsets = self._seen_offsets, self._seen_offsets + 1
        if self._offset_problem:
            return
        if at >= len(self._offsets):
            self._offset_problem = f"it ends after {at} entries, before the batch at byte {position}"
        elif self._offsets[at] != (relative, position):
            self._offset_problem = f"entry {at} says {self._offsets[at]}, the log says {(relative, position)}"

    def _expect_time(self) -> None:
        at, self._seen_times = self._seen_times, self._seen_times + 1
        self._written_ms = self._newest_ms
        if self._time_problem:
            return
        if at >= len(self._times):
            self._time_problem = f"it ends after {at} entries, before the timestamp {self._newest_ms}"
        elif not self._names_newest(self._times[at]):
            self._time_problem = (
                f"entry {at} says {self._times[at]}, the log says {(self._newest_ms, self._newest_last - self._base)}"
            )

    def _names_newest(self, entry: tuple[int, int]) -> bool:
        timestamp_ms, relative = entry
        return timestamp_ms == self._newest_ms and self._newest_first <= self._base + relative <= self._newest_last


_MISSING: Final = "it is missing"
