"""The records of a quarantine file: read back, and decoded anew by what a topic's settings say now.

Rows of one record stand next to each other in a file, in the order of their numbers. What a row keeps is enough to read
it again without the log (`sink.payload.decode.PayloadIs`): a record that was refused as a whole is decoded as a whole,
and may become any number of rows; of one that was refused in parts, only the refused parts are taken, since the others
are rows already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sink.base import ReplayRefusedError
from sink.payload.batches import RowBatch, stored_fields
from sink.payload.chunks import CHUNK_BYTES, Gatherer
from sink.payload.columns import MAX_FIELDS, FieldCounts
from sink.payload.decode import DEFAULT_FIELD, Decoded, Decoder, PayloadIs, RawDecoder, Refused, Row, with_envelope
from sink.payload.decoding import BATCH_CELLS, BATCH_ROWS, RefusedRow, with_columns
from sink.payload.reading import Reading

_READ_ROWS: Final = 1_024  # of a file at once
_CHUNK_RECORDS: Final = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRow:
    """A row of quarantine: which part of its record, what is kept of it, and why it was refused."""

    row: int
    payload: bytes | None
    payload_is: PayloadIs
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRecord:
    """What a quarantine file has of one record. `field` is the name of a scalar payload."""

    device: str | None
    topic: str | None
    received_us: int
    partition: int
    offset: int
    field: str
    rows: Sequence[KeptRow]

    @property
    def size_bytes(self) -> int:
        """Bytes of its payloads."""
        return sum(len(row.payload or b"") for row in self.rows)


def kept_records(path: Path) -> Iterator[KeptRecord]:
    """The records of a quarantine file. Raises OSError and ArrowException."""
    for (partition, offset), group in groupby(_rows(path), key=lambda row: (row["_partition"], row["_offset"])):
        rows = list(group)
        first = rows[0]
        yield KeptRecord(
            device=first["device"],
            topic=first["_topic"],
            received_us=first["received_at"],
            partition=partition,
            offset=offset,
            field=first["field"] or DEFAULT_FIELD,
            rows=[_kept(row) for row in rows],
        )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_READ_ROWS):
            index = batch.schema.get_field_index("received_at")
            yield from batch.set_column(index, "received_at", pc.cast(batch.column(index), pa.int64())).to_pylist()


def _kept(row: dict[str, Any]) -> KeptRow:
    return KeptRow(
        row=row["_row"],
        payload=row["payload"],
        payload_is=row["payload_is"],
        reason=row["reason"],
        detail=row["detail"] or "",
    )


def read_again(record: KeptRecord, decoder: Decoder) -> Decoded:
    """What the refused parts of a record are by this decoder.

    Raises ReplayRefusedError where the decoder has no such parts.
    """
    first = record.rows[0]
    if first.payload_is == "record":
        return decoder.decode(first.payload, record.field, record.received_us)
    if not decoder.has_parts:
        raise _no_parts(record, decoder)
    if first.payload_is == "part":
        found = [decoder.decode_part(row.row, row.payload or b"", record.received_us) for row in record.rows]
        return Decoded([one for one in found if isinstance(one, Row)], [o for o in found if isinstance(o, Refused)])
    whole = decoder.decode(first.payload, record.field, record.received_us)
    wanted = {row.row for row in record.rows}
    rows = [row for row in whole.rows if row.row in wanted]
    refused = [one for one in whole.refused if one.row in wanted]
    if len(rows) + len(refused) < len(wanted):
        raise _no_parts(record, decoder)
    return Decoded(rows, with_envelope(refused, first.payload))


def _no_parts(record: KeptRecord, decoder: Decoder) -> ReplayRefusedError:
    return ReplayRefusedError(
        f"parts of records are in it, and decoder {decoder.version} does not find these parts",
        where=f"partition {record.partition}, offset {record.offset}",
        mend="the topic was read in another way when they were refused: replay it with that decoder",
    )


@dataclass(frozen=True, slots=True)
class KeptChunk:
    """Some records that are decoded together."""

    records: Sequence[KeptRecord]

    def __len__(self) -> int:
        return len(self.records)


def chunked(records: Iterable[KeptRecord]) -> Iterator[KeptChunk]:
    """Records by the chunk, bounded in number and bytes."""
    held: list[KeptRecord] = []
    size_bytes = 0
    for record in records:
        held.append(record)
        size_bytes += record.size_bytes
        if len(held) >= _CHUNK_RECORDS or size_bytes >= CHUNK_BYTES:
            yield KeptChunk(held)
            held, size_bytes = [], 0
    if held:
        yield KeptChunk(held)


class QuarantineDecoding:
    """Decodes the chunks of a quarantine file, and counts what it meets: see `sink.payload.decoding.Decoding`."""

    def __init__(self, reading: Reading, gatherer: Gatherer) -> None:
        """`gatherer` numbers devices and MQTT topics."""
        schema = reading.schema
        self.counts = FieldCounts(MAX_FIELDS, frozenset() if schema is None else schema.names)
        self.refused: list[RefusedRow] = []
        self._decoder = reading.decoder
        self._gatherer = gatherer
        self._counted = not isinstance(reading.decoder, RawDecoder)

    def rows(self, chunk: KeptChunk) -> Iterator[RowBatch]:
        """The rows of a chunk, by partition; what still cannot be read goes to `refused`."""
        for partition, records in groupby(sorted(chunk.records, key=_partition), key=_partition):
            held: list[tuple[KeptRecord, Row]] = []
            for record in records:
                held += self._taken(record)
                if len(held) + len(self.refused) >= BATCH_ROWS:
                    yield from self._batches(partition, held)
                    held = []
            if held:
                yield from self._batches(partition, held)

    def _taken(self, record: KeptRecord) -> list[tuple[KeptRecord, Row]]:
        decoded = read_again(record, self._decoder)
        if self._counted:
            for row in decoded.rows:
                self.counts.add(row.fields)
        self.refused += [self._refused(record, one) for one in decoded.refused]
        return [(record, row) for row in decoded.rows]

    def _batches(self, partition: int, rows: Sequence[tuple[KeptRecord, Row]]) -> Iterator[RowBatch]:
        """At least one, be it empty: whoever takes it takes what is refused as well."""
        step = max(1, BATCH_CELLS // max(1, self.counts.width))
        for start in range(0, max(1, len(rows)), step):
            yield self._batch(partition, rows[start : start + step])

    def _batch(self, partition: int, rows: Sequence[tuple[KeptRecord, Row]]) -> RowBatch:
        devices, topics = self._gatherer.devices, self._gatherer.topics
        fields, more = with_columns(self.counts, [row.fields for _, row in rows])
        return RowBatch(
            partition=partition,
            devices=np.array([devices[_bytes(record.device)] for record, _ in rows], np.int32),
            topics=np.array([topics[_bytes(record.topic)] for record, _ in rows], np.int32),
            ts_us=np.array([row.ts_us for _, row in rows], np.int64),
            received_us=np.array([record.received_us for record, _ in rows], np.int64),
            offsets=np.array([record.offset for record, _ in rows], np.int64),
            rows=np.array([row.row for _, row in rows], np.int32),
            fields=stored_fields(fields),
            more=more,
        )

    def _refused(self, record: KeptRecord, refused: Refused) -> RefusedRow:
        return RefusedRow(
            device=self._gatherer.devices[_bytes(record.device)],
            topic=self._gatherer.topics[_bytes(record.topic)],
            received_us=record.received_us,
            partition=record.partition,
            offset=record.offset,
            row=refused.row,
            payload=refused.payload,
            reason=refused.reason,
            detail=refused.detail,
            payload_is=refused.payload_is,
            field=None if record.field == DEFAULT_FIELD else record.field,
        )


def _partition(record: KeptRecord) -> int:
    return record.partition


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
