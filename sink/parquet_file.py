"""One Parquet file from a table: its order, encodings and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sink.base import CancelFlag
from sink.plan import Plan, PlannedFile

ROW_GROUP_ROWS: Final = 131_072  # what one reader thread takes at a time; some MB compressed
ZSTD_LEVEL: Final = 3  # Parquet readers' usual one; level 1 is little faster here, as encoding takes the time
_REPEATING: Final = frozenset({"_partition", "_row"})


def file_metadata(plan: Plan, file: PlannedFile, rows: int) -> dict[str, str]:
    """Key-value metadata of a file: where its rows come from and how they were read."""
    return {
        "headrace.topic": plan.topic,
        "headrace.topic_id": plan.topic_id,
        "headrace.window": str(plan.number),
        "headrace.start_ms": str(plan.start_ms),
        "headrace.end_ms": str(plan.end_ms),
        "headrace.offsets": msgspec.json.encode(plan.offsets).decode(),
        "headrace.kind": file.kind,
        "headrace.date": file.date,
        "headrace.part": str(file.part),
        "headrace.rows": str(rows),
        "headrace.decoder": plan.decoder,
        "headrace.columns": _columns_note(plan),
        "headrace.software": plan.software,
    }


def _columns_note(plan: Plan) -> str:
    notes = {
        column.name: {"field": column.field, "kind": column.kind, "other": column.other} for column in plan.columns
    }
    return msgspec.json.encode(notes).decode()


def write_table(out: BinaryIO, table: pa.Table, metadata: Mapping[str, str], cancel: CancelFlag) -> None:
    """Write `table` sorted by (device, time, place in the log); the same table gives the same bytes."""
    time = "ts" if "ts" in table.column_names else "received_at"
    order = _order(table, time)
    schema = table.schema.with_metadata(dict(metadata))
    sorting = pq.SortingColumn.from_ordering(
        schema, [("device", "ascending"), (time, "ascending")], null_placement="at_end"
    )
    with pq.ParquetWriter(
        out,
        schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=_dictionary_columns(schema),
        write_statistics=True,
        write_page_index=True,
        sorting_columns=sorting,
    ) as writer:
        for start in range(0, table.num_rows, ROW_GROUP_ROWS):
            cancel.check()
            writer.write_table(table.take(order.slice(start, ROW_GROUP_ROWS)), row_group_size=ROW_GROUP_ROWS)


def _dictionary_columns(schema: pa.Schema) -> list[str]:
    """Columns whose values repeat: texts (the writer gives up by itself where they do not) and two of ours."""
    return [field.name for field in schema if field.type == pa.string() or field.name in _REPEATING]


def _order(table: pa.Table, time: str) -> pa.Array:
    """Row numbers in (device, time, partition, offset) order, rows without a device last.

    Devices are ranked once and compared as numbers: much cheaper than comparing their names row by row.
    """
    devices = table.column("device").combine_chunks().dictionary_encode()
    ranks = pc.rank(devices.dictionary, sort_keys="ascending", tiebreaker="dense")
    keys = pa.table(
        {
            "device": pc.take(ranks, devices.indices),
            "time": table.column(time),
            "_partition": table.column("_partition"),
            "_offset": table.column("_offset"),
        }
    )
    return pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
