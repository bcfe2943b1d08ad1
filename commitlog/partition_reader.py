"""Walking the segment files of one partition from outside, batch by batch.

What is on disk is judged here: a batch is handed on when its header makes sense, its place agrees with its neighbours
and its CRC is right. What lies between such batches becomes a gap. A segment that is deleted under the walk was renamed
first, so what is open stays readable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commitlog.base import Gap
from commitlog.batch import BatchHeader, RawBatch, check_crc
from commitlog.gaps import DAMAGED, MISSING
from commitlog.index import offset_entries, time_entries
from commitlog.placing import checked_position, header_at, placed_data, placed_header
from commitlog.resync import next_batch_after
from commitlog.segment import INDEX_SUFFIX, TIMEINDEX_SUFFIX, base_offsets, segment_path
from commitlog.storage import Storage, StorageFile, read_whole


@dataclass(slots=True)
class _Cursor:
    """Where the last read of a partition ended: the next one goes on there without a look at the index.

    `exact`: the batch before ends, or the segment begins, with `offset` at `position`.
    """

    base_offset: int
    file: StorageFile
    offset: int
    position: int
    exact: bool = False


class PartitionReader:
    """See the module. Holds at most one file open, the segment where the last walk ended."""

    def __init__(self, storage: Storage, directory: Path) -> None:
        self._storage = storage
        self._directory = directory
        self._cursor: _Cursor | None = None

    def next_batch(self, offset: int, high: int, gaps: list[Gap]) -> RawBatch | None:
        """The first whole batch that ends at or after `offset`; damaged stretches on the way go to `gaps`.

        None when nothing readable is there (yet): the map of a dead writer may promise more than its files hold.
        """
        cursor = self._cursor_at(offset)
        while cursor is not None:
            header = self._header_at(cursor)
            data = b"" if header is None else placed_data(cursor.file, cursor.position, header)
            if header is None or len(data) < header.size_bytes:
                if not self._skip_damage(cursor, offset, high, gaps):
                    cursor = self._following(cursor, offset, high, gaps)
                continue
            if header.base_offset >= high:  # not published yet; or, where a segment follows, a wrong offset
                cursor = self._following(cursor, offset, high, gaps)
                continue
            if not check_crc(data, header):  # then nothing that its header says is to be believed
                if not self._skip_damage(cursor, offset, high, gaps):
                    cursor = self._following(cursor, offset, high, gaps)
                continue
            cursor.position += header.size_bytes
            cursor.offset, cursor.exact = header.last_offset + 1, True
            if header.last_offset >= offset:
                return RawBatch(header, data)
        return None

    def why_nothing_follows(self) -> str:
        """Where the last walk ended with nothing: why no file holds a whole batch there; empty where one may come."""
        bases = self.bases()
        if self._cursor is None:
            return "" if bases else MISSING
        if bases[-1:] != [self._cursor.base_offset]:
            return ""
        return _what_stands_at(self._cursor)

    def bases(self) -> Sequence[int]:
        """Base offsets of the segments there are, ascending."""
        return base_offsets(self._storage, self._directory)

    def times(self, base: int) -> Sequence[tuple[int, int]]:
        """The time index of a segment; empty when there is none."""
        return time_entries(self._index(base, TIMEINDEX_SUFFIX))

    def close(self) -> None:
        """Close the file that is open."""
        if self._cursor is not None:
            self._cursor.file.close()
            self._cursor = None

    def _skip_damage(self, cursor: _Cursor, offset: int, high: int, gaps: list[Gap]) -> bool:
        """Go to the next whole batch of the segment, over bytes that are none; False where there is none."""
        position = next_batch_after(cursor.file, cursor.position, cursor.base_offset, high)
        header = None if position is None else header_at(cursor.file, position)
        if position is None or header is None:
            return False
        first = max(cursor.offset, offset)
        if header.base_offset > first:
            gaps.append(Gap(first=first, next=header.base_offset, reason=DAMAGED))
        cursor.position, cursor.offset, cursor.exact = position, header.base_offset, False
        return True

    def _header_at(self, cursor: _Cursor) -> BatchHeader | None:
        """The header at the cursor; None at the end of the segment, or where its bytes make no sense."""
        header = header_at(cursor.file, cursor.position)
        if header is None or header.base_offset == cursor.offset or not cursor.exact:
            return header
        return placed_header(header, cursor.offset, header_at(cursor.file, cursor.position + header.size_bytes))

    def _cursor_at(self, offset: int) -> _Cursor | None:
        """A cursor at or before `offset`: the one the last read left, or one found through the index."""
        if self._cursor is not None and self._cursor.offset == offset:
            return self._cursor
        bases = self.bases()
        chosen = [base for base in bases if base <= offset][-1:] or bases[:1]
        if not chosen:
            return None
        entries = offset_entries(self._index(chosen[0], INDEX_SUFFIX))
        opened = self._open(chosen[0], offset)
        if opened is not None:
            opened.position = checked_position(opened.file, chosen[0], entries, offset)
            if opened.position == 0:
                opened.offset, opened.exact = chosen[0], True
        return opened

    def _following(self, cursor: _Cursor, offset: int, high: int, gaps: list[Gap]) -> _Cursor | None:
        """A cursor at the start of the next segment; None when this is the last one that is published."""
        above = [base for base in self.bases() if base > cursor.base_offset]
        if not above:
            return None
        first = max(cursor.offset, offset)  # the cursor may have started before what was asked for
        end, why = min(above[0], high), _what_stands_at(cursor)
        if end > first and not (why is DAMAGED and above[0] > high):  # what is not published yet is no damage
            gaps.append(Gap(first=first, next=end, reason=why))
        if above[0] >= high:
            return None
        following = self._open(above[0], above[0])
        if following is not None:
            following.exact = True
        return following

    def _open(self, base: int, offset: int) -> _Cursor | None:
        """A cursor at the start of a segment, in place of the one there was."""
        before, self._cursor = self._cursor, None
        if before is not None and before.base_offset == base:
            file = before.file
        else:
            if before is not None:
                before.file.close()
            try:
                file = self._storage.open_read(segment_path(self._directory, base))
            except FileNotFoundError:
                return None  # expired between looking and opening; the next read sees the new log start
        self._cursor = _Cursor(base, file, offset, 0)
        return self._cursor

    def _index(self, base: int, suffix: str) -> bytes:
        try:
            return read_whole(self._storage, segment_path(self._directory, base, suffix))
        except FileNotFoundError:
            return b""


def _what_stands_at(cursor: _Cursor) -> str:
    """Why no batch stands at a cursor: bytes that are none, or no bytes."""
    return DAMAGED if cursor.file.read(1, cursor.position) else MISSING
