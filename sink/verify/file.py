"""One file of the lake read back to its last page: what its footer says has to be what stands in it.

Reading verifies the checksum of every page. Nothing here knows of the log, or of other files, but for the sums of row
hashes that go into `Buckets`, to be held against the log's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sink.parquet.checksum import checksum, checksum_text, combined
from sink.parquet.lake import LakeFile
from sink.payload.times import US_PER_DAY, day_number
from sink.verify.buckets import Buckets
from sink.verify.canonical import file_hashes
from sink.verify.places import FileTroubleError, Int64s, Span, place_arrays

BATCH_ROWS: Final = 16_384


class FileCheck:
    """Reads one file. `problems` says what does not fit."""

    def __init__(self, lake: Path, file: LakeFile, buckets: Buckets | None) -> None:
        self._path = lake / file.path
        self._file = file
        self._buckets = buckets
        self._span = Span.of([file.offsets])
        self._checksums: list[int] = []
        self._records: list[Int64s] = []
        self._misfiled = self._strays = self._rows = 0
        self.problems: list[tuple[str, str]] = []

    def run(self) -> None:
        """Read everything. Raises FileNotFoundError, and FileTroubleError for what cannot be read."""
        try:
            for batch in self._batches():
                self._take(batch)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException, ValueError) as error:
            raise FileTroubleError(self._file.path, error) from error
        if self._rows != self._file.rows:  # a page that is damaged where its length stands ends the reading silently
            problem = ValueError(f"{self._rows} of its {self._file.rows} rows can be read")
            raise FileTroubleError(self._file.path, problem)
        self._compare()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)

    def _take(self, batch: pa.RecordBatch) -> None:
        partitions, offsets, rows = place_arrays(batch)
        self._rows += len(batch)
        self._checksums.append(checksum(partitions, offsets, rows))
        inside, numbers = self._span.locate(partitions, offsets, rows)
        self._strays += int(len(inside) - np.count_nonzero(inside))
        self._records.append(np.unique(numbers[inside]))
        self._misfiled += self._in_other_dates(batch)
        if self._buckets is not None:
            hashes = file_hashes(batch, self._file.kind, self._file.columns)
            self._buckets.add(partitions, offsets, rows, hashes)

    def _in_other_dates(self, batch: pa.RecordBatch) -> int:
        """Rows that belong into another folder: neither their own day nor the one they were received is this one."""
        day = day_number(self._file.date)
        names = ("ts", "received_at") if self._file.kind == "rows" else ("received_at",)
        good = np.zeros(len(batch), np.bool_)
        for name in names:
            times = batch.column(name).cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
            good |= times // US_PER_DAY == day
        return int(len(good) - np.count_nonzero(good))

    def _compare(self) -> None:
        file = self._file
        records = len(np.unique(np.concatenate(self._records))) if self._records else 0
        found = checksum_text(combined(self._checksums))
        if self._strays:
            self._problem("row-stray", f"{self._strays} rows have places that are not of its export")
        elif records != file.records:
            self._problem("file-contradiction", f"it has rows of {records} records, and says {file.records}")
        if found != file.checksum:
            self._problem("file-contradiction", f"its checksum is {found}, and should be {file.checksum}")
        if self._misfiled:
            self._problem("file-contradiction", f"{self._misfiled} rows do not belong to its date, {file.date}")

    def _problem(self, kind: str, what: str) -> None:
        self.problems.append((kind, what))
