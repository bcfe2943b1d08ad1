"""What is in quarantine now, for people: counts by topic, reason and file, the rows themselves, one row's bytes.

Reads the lake's files, takes no lock, and works beside a running appliance. While a replay is being settled, a moment,
its rows are counted in the old file alone, as `headrace verify` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa

from core.errors import DataDirError
from sink.parquet.lake import BadFile, LakeFile, look_at_lake
from sink.payload.kept import KeptRecord, KeptRow, kept_records, read_again
from sink.payload.reading import Reading

NO_ROWS: Final = "no-rows"
"""The one reason with which nothing is wrong: a record that has no readings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows: of a topic, with a reason, received from `since_us` on and before `until_us`. None: all."""

    topic: str | None = None
    reason: str | None = None
    since_us: int | None = None
    until_us: int | None = None

    def takes(self, record: KeptRecord, row: KeptRow) -> bool:
        """Whether a row is one of them."""
        return (
            self.reason in (None, row.reason)
            and (self.since_us is None or record.received_us >= self.since_us)
            and (self.until_us is None or record.received_us < self.until_us)
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A row, its record and its file."""

    file: LakeFile
    record: KeptRecord
    row: KeptRow


@dataclass(slots=True, kw_only=True)
class Listing:
    """Rows by file and reason, files in the order of their paths; the first rows; what could not be read and why."""

    files: list[tuple[LakeFile, Counter[str]]] = field(default_factory=list)
    rows: list[Found] = field(default_factory=list)
    unread: list[BadFile] = field(default_factory=list)

    def reasons(self, topic: str | None = None) -> Mapping[str, int]:
        """Rows by reason, of a topic or of all, the most frequent first."""
        total: Counter[str] = Counter()
        for file, counts in self.files:
            if topic in (None, file.topic):
                total.update(counts)
        return dict(sorted(total.items(), key=lambda pair: (-pair[1], pair[0])))


def quarantine_files(lake: Path, topic: str | None = None) -> tuple[list[LakeFile], list[BadFile]]:
    """The quarantine files that stand, of a topic or of all, and what is none or cannot be read.

    Raises DataDirError when the lake may not be read.
    """
    look = look_at_lake(lake, topic)
    standing = {file.path for file in look.files}
    files = [file for file in look.files if file.kind == "quarantine" and file.replays not in standing]
    return sorted(files, key=lambda file: file.path), [bad for bad in look.bad if bad.path.startswith("_quarantine/")]


def listed(lake: Path, selection: Selection, limit: int) -> Listing:
    """Count all rows that are selected; the first `limit` of them, without those that are `no-rows` unless asked for.

    A file that vanishes meanwhile, replayed or dropped, is left out. Raises DataDirError.
    """
    files, bad = quarantine_files(lake, selection.topic)
    listing = Listing(unread=bad)
    for file in files:
        try:
            found = _count(lake, file, selection, listing.rows, limit)
        except FileNotFoundError:
            listing.rows = [row for row in listing.rows if row.file is not file]
        except (OSError, pa.ArrowException) as error:
            what = f"it cannot be read to its end: {error}"
            listing.unread.append(BadFile(path=file.path, trouble="corrupt", what=what))
        else:
            if found:
                listing.files.append((file, found))
    return listing


def _count(lake: Path, file: LakeFile, selection: Selection, rows: list[Found], limit: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for one in _selected(lake, file, selection):
        counts[one.row.reason] += 1
        if len(rows) < limit and (one.row.reason != NO_ROWS or selection.reason == NO_ROWS):
            rows.append(one)
    return counts


def _selected(lake: Path, file: LakeFile, selection: Selection) -> Iterator[Found]:
    for record in kept_records(lake / file.path):
        for row in record.rows:
            if selection.takes(record, row):
                yield Found(file, record, row)


def rows_at(lake: Path, topic: str | None, partition: int, offset: int) -> list[Found]:
    """The rows of one record; of several topics', if none is named. Raises DataDirError."""
    files, _ = quarantine_files(lake, topic)
    found: list[Found] = []
    for file in files:
        first, following = file.offsets.get(partition, (0, 0))
        if not first <= offset < following:
            continue
        try:
            records = (
                one for one in kept_records(lake / file.path) if (one.partition, one.offset) == (partition, offset)
            )
            found += [Found(file, record, row) for record in islice(records, 1) for row in record.rows]
        except FileNotFoundError:
            continue
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, error) from error
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a replay of a file would do: rows it would make, and what would still be refused, by reason."""

    rows: int
    refused: Mapping[str, int]


def outlook(lake: Path, file: LakeFile, reading: Reading) -> Outlook:
    """Decode a file's records anew and keep nothing. Raises ReplayRefusedError, DataDirError."""
    rows = 0
    refused: Counter[str] = Counter()
    try:
        for record in kept_records(lake / file.path):
            decoded = read_again(record, reading.decoder)
            rows += len(decoded.rows)
            refused.update(one.reason for one in decoded.refused)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error
    return Outlook(rows=rows, refused=dict(sorted(refused.items())))


def _unreadable(file: LakeFile, error: Exception) -> DataDirError:
    return DataDirError(
        f"a quarantine file cannot be read: {error}",
        where=f"lake/{file.path}",
        mend="`headrace verify` says what is wrong with it; put it back from a copy",
    )
