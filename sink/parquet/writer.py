"""One Parquet file from a sorted table: encodings, statistics, checksums and metadata."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from sink.base import CancelFlag

ROW_GROUP_ROWS: Final = 131_072  # what one reader thread takes at a time; some MB compressed
ZSTD_LEVEL: Final = 3  # Parquet readers' usual one; level 1 is little faster here, as encoding takes the time
_MANY: Final = 16  # rows a text of a dictionary, at least: what is large compared to its rows
_DELTAS: Final = frozenset({pa.int64(), pa.timestamp("us", tz="UTC")})
"""Whole numbers and times are encoded as differences: sorted by device and time they are small and alike."""


class ParquetFileWriter:
    """Writes a file row group by row group; to be used in a `with` statement.

    The same tables give the same bytes. Texts that are dictionaries in a table stand in the file as plain strings: they
    are written as they come, and the file's Arrow schema, which says what Arrow's readers make of a column, is ours.
    """

    def __init__(self, out: BinaryIO, schema: pa.Schema, metadata: Mapping[str, str], cancel: CancelFlag) -> None:
        self._out = out
        self._schema = schema
        self._notes = {"ARROW:schema": base64.b64encode(schema.serialize()).decode(), **metadata}
        self._cancel = cancel
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ParquetFileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add a sorted table with the file's columns, texts as plain strings or as dictionaries."""
        if self._writer is None:
            self._writer = self._open(table)
        for start in range(0, table.num_rows, ROW_GROUP_ROWS):
            self._cancel.check()
            rows = _own_dictionaries(table.slice(start, ROW_GROUP_ROWS)).cast(self._writer.schema)
            self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)

    def _open(self, first: pa.Table) -> pq.ParquetWriter:
        """A writer that takes dictionaries where the first table has them."""
        fields = [_as_written(field, first.schema.field(field.name)) for field in self._schema]
        schema = pa.schema(fields)
        deltas = [field.name for field in fields if field.type in _DELTAS]
        time = "ts" if "ts" in schema.names else "received_at"
        writer = pq.ParquetWriter(
            self._out,
            schema,
            store_schema=False,
            compression="zstd",
            compression_level=ZSTD_LEVEL,
            use_dictionary=[field.name for field in fields if field.name not in deltas],
            column_encoding=dict.fromkeys(deltas, "DELTA_BINARY_PACKED"),
            write_statistics=True,
            write_page_index=True,
            write_page_checksum=True,
            sorting_columns=pq.SortingColumn.from_ordering(
                schema, [("device", "ascending"), (time, "ascending")], null_placement="at_end"
            ),
        )
        writer.add_key_value_metadata(self._notes)
        return writer


def _own_dictionaries(rows: pa.Table) -> pa.Table:
    """A row group is written with its columns' whole dictionaries: large ones are cut down to what these rows need."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            column = rows.column(index)
            if any(len(chunk.dictionary) > rows.num_rows // _MANY for chunk in column.chunks):
                rows = rows.set_column(index, field, column.cast(pa.string()).dictionary_encode())
    return rows


def _as_written(field: pa.Field, given: pa.Field) -> pa.Field:
    """A text that repeats is a dictionary in a table; in Parquet that is an encoding of strings, no type."""
    return field.with_type(given.type) if pa.types.is_dictionary(given.type) else field
