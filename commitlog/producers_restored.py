"""The `producers` table made again from the batches themselves, when its snapshot is damaged.

Every batch of an idempotent producer carries its id, epoch and first sequence number; with the base offset that is all
that a row says. Read is the newest segment of each partition, whole: it is open anyway, it holds what producers wrote
last, and with it the cost of a damaged snapshot is bounded by `log.segment_size` for each partition. (Kafka's broker
rebuilds the same state the same way, from its last good snapshot on.) A producer that has written only to older
segments is forgotten, as one that rested for a day is: its next batch may begin anywhere, so a batch of it that was
sent before the damage and is sent again now is stored twice. The report says so.

The journal is replayed after this, and has every row's last changes again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from commitlog.batch import HEADER, HEADER_BYTES
from commitlog.files import PartitionFiles
from commitlog.foreign import SEQUENCES, Sequenced
from commitlog.producers import KEPT_BATCHES, MAX_ROWS, MAX_RUN, PRODUCERS_TABLE, Written, row_key
from commitlog.report import RecoveryReport
from commitlog.segment import base_offsets, segment_path
from commitlog.storage import Storage, StorageFile, partition_dir_name
from commitlog.tables import CommittedTables
from commitlog.walk import FoundBatch, walk

_Row = dict[str, Any]


def restore_producers(
    storage: Storage,
    log_dir: Path,
    partitions: Sequence[PartitionFiles],
    tables: CommittedTables,
    report: RecoveryReport,
) -> None:
    """Set the rows that the newest segments yield, unless the table has newer ones. Raises OSError."""
    known = tables.decoded().get(PRODUCERS_TABLE, {})
    rows: OrderedDict[str, _Row] = OrderedDict()  # the one that rested longest first
    for files in partitions:
        directory = log_dir / partition_dir_name(files.topic.name, files.partition)
        for base in base_offsets(storage, directory)[-1:]:
            file = storage.open_read(segment_path(directory, base))
            try:
                for batch, base_offset, time_ms in _sequenced(file, base):
                    key = row_key(batch.producer_id, files.topic.topic_id, files.partition)
                    rows[key] = _continued(rows.pop(key, None) or known.get(key), batch, base_offset, time_ms)
                    if len(rows) > MAX_ROWS:
                        rows.popitem(last=False)
            finally:
                file.close()
    tables.apply((PRODUCERS_TABLE, key, row) for key, row in rows.items())
    report.notes.append(
        f"state table {PRODUCERS_TABLE!r} was made again from the newest segment of each partition: {len(rows)} rows; "
        "of producers that have not written there, a batch sent once more is stored once more"
    )


def _sequenced(file: StorageFile, base: int) -> Iterator[tuple[Sequenced, int, int]]:
    """The whole batches of idempotent producers in a segment, each with its base offset and its time received."""
    for found in walk(file, 0, base):
        if not isinstance(found, FoundBatch):
            continue
        *_, producer_id, epoch, sequence, count = HEADER.unpack(file.read(HEADER_BYTES, found.position))
        if producer_id >= 0 and count:
            batch = Sequenced(producer_id=producer_id, epoch=epoch, first=sequence, count=count)
            yield batch, found.header.base_offset, found.header.max_timestamp_ms


def _continued(before: _Row | None, batch: Sequenced, base_offset: int, time_ms: int) -> _Row:
    """The row after a batch; one that does not follow what is known begins anew."""
    if before is not None and before["batches"][-1][2] >= base_offset:
        return before  # the snapshot has it already
    expected = None if before is None else (before["batches"][-1][1] + 1) % SEQUENCES
    if before is None or before["epoch"] != batch.epoch or batch.first != expected:
        before = {"run": 0, "batches": []}
    return {
        "epoch": batch.epoch,
        "run": min(before["run"] + batch.count, MAX_RUN),
        "last_ms": time_ms,
        "batches": [
            *before["batches"][1 - KEPT_BATCHES :],
            Written(batch.first, batch.last, base_offset, time_ms).as_row(),
        ],
    }
