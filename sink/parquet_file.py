"""One Parquet file from a sorted table: encodings, statistics, checksums and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from sink.base import CancelFlag

ROW_GROUP_ROWS: Final = 131_072  # what one reader thread takes at a time; some MB compressed
ZSTD_LEVEL: Final = 3  # Parquet readers' usual one; level 1 is little faster here, as encoding takes the time
_DELTAS: Final = frozenset({pa.int64(), pa.timestamp("us", tz="UTC")})
"""Whole numbers and times are encoded as differences: sorted by device and time they are small and alike."""


class ParquetFileWriter:
    """Writes a file row group by row group; to be used in a `with` statement.

    The same tables give the same bytes. Texts that are dictionaries in a table stand in the file as plain strings.
    """

    def __init__(self, out: BinaryIO, schema: pa.Schema, metadata: Mapping[str, str], cancel: CancelFlag) -> None:
        self._schema = schema.with_metadata(dict(metadata))
        self._cancel = cancel
        deltas = [field.name for field in schema if field.type in _DELTAS]
        self._writer = pq.ParquetWriter(
            out,
            self._schema,
            compression="zstd",
            compression_level=ZSTD_LEVEL,
            use_dictionary=[field.name for field in schema if field.name not in deltas],
            column_encoding=dict.fromkeys(deltas, "DELTA_BINARY_PACKED"),
            write_statistics=True,
            write_page_index=True,
            write_page_checksum=True,
            sorting_columns=pq.SortingColumn.from_ordering(
                self._schema, [("device", "ascending"), (_time_of(schema), "ascending")], null_placement="at_end"
            ),
        )

    def __enter__(self) -> ParquetFileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add a sorted table with the file's columns."""
        for start in range(0, table.num_rows, ROW_GROUP_ROWS):
            self._cancel.check()
            rows = table.slice(start, ROW_GROUP_ROWS).cast(self._schema)
            self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)


def _time_of(schema: pa.Schema) -> str:
    return "ts" if "ts" in schema.names else "received_at"
