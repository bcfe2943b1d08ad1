"""A small log written by fixed inputs: every kind of file, byte for byte as docs/formats.md says.

Files that were written once are never written anew: what is written differently today stands in a directory of its own
(`GOLDEN_NOW`), beside what was written before (`GOLDEN`), which must stay readable.
`python -m tests.commitlog.golden_log`
adds to it what differs; that is a change of the format and needs a decision record.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from commitlog.base import ClosedWindow, TopicInfo, Watermark
from commitlog.batch import CODEC_NONE, new_builder, place
from commitlog.checkpoint import Checkpoint, PartitionPoint, write_checkpoint
from commitlog.journal import Journal, JournalBatch, encode_body, preallocate
from commitlog.metadata import write_metadata
from commitlog.report import Cut, RecoveryReport, keep_report
from commitlog.segment import Segment
from commitlog.storage import SystemStorage
from commitlog.tables import CommittedTables
from commitlog.version import write_meta
from commitlog.watermarks import WatermarkWriter
from commitlog.windows import window_change

GOLDEN = Path(__file__).parent / "golden" / "log"
GOLDEN_NOW = Path(__file__).parent / "golden" / "log-2"
TOPIC_ID = bytes(range(16))
JOURNAL_ID = 0x0123_4567_89AB_CDEF
JOURNAL_BYTES = 1_024
BASE = 100
START_MS = 1_763_596_800_000
TOPIC = TopicInfo(name="telemetry", topic_id=TOPIC_ID.hex(), partitions=1)
WINDOW = ClosedWindow(
    topic="telemetry",
    topic_id=TOPIC_ID.hex(),
    number=0,
    start_ms=START_MS,
    end_ms=START_MS + 60_000,
    offsets={0: (0, BASE)},
    reason="time",
)


def a_batch(base: int, count: int, time_ms: int, size: int) -> bytes:
    builder = new_builder(CODEC_NONE)
    for number in range(count):
        value = (b'{"n":%d}' % number).ljust(size, b" ")
        builder.append(number, time_ms + number, b"press-17", value, [("mqtt.topic", b"devices/press-17/t")])
    data = builder.build()
    place(data, base, 3)
    return bytes(data)


def write_log(log_dir: Path) -> None:
    """Every kind of file below `<data>/log`."""
    storage = SystemStorage()
    partition = log_dir / "telemetry-0"
    tables_dir = log_dir / "tables"
    for directory in (partition, tables_dir):
        storage.make_dir(directory)
    write_meta(storage, log_dir, journal_inode=4711, journal_id=JOURNAL_ID, leader_epoch=3)
    write_metadata(storage, partition, TOPIC_ID)
    segment = Segment.fresh(storage, partition, BASE)
    offset = BASE
    for number in range(12):
        segment.append(a_batch(offset, 3, START_MS + 1_000 * number, 300), offset + 2, START_MS + 1_000 * number + 2)
        offset += 3
    segment.seal()
    segment.close()
    file = preallocate(storage, log_dir / "journal", JOURNAL_BYTES)
    journal = Journal(file, size=JOURNAL_BYTES, journal_id=JOURNAL_ID, sequence=7)
    changes = [("state", "a", {"n": 1}), ("state", "gone", None)]
    for number in range(5):  # more than a lap: a mark, and old entries behind the head
        journal.release(journal.head)
        batch = JournalBatch(TOPIC_ID, 0, a_batch(offset + number, 1, START_MS + 20_000, 40))
        journal.write(encode_body([batch], changes if number % 2 else []))
    journal.close()
    tables = CommittedTables()
    tables.apply(
        [window_change(WINDOW), ("state", "a", {"n": 1, "text": "ä", "bytes": b"\x00"}), ("state", "b", [1.5])]
    )
    tables.write_snapshots(storage, tables_dir, 7)
    tables.apply([("state", "b", None), ("state", "c", 3)])
    tables.write_snapshots(storage, tables_dir, 8)  # behind what there is
    write_checkpoint(storage, log_dir, a_checkpoint(offset, dict(tables.snapshots), dict(tables.snapshot_bytes)))
    lost = Cut(
        topic="telemetry", partition=0, first=7, next=9, reason="damaged in segment 0", start_ms=5, devices=("m",)
    )
    keep_report(storage, log_dir, RecoveryReport(clean=False, cuts=[lost], notes=["a note"], duration_s=0.25), START_MS)


def a_checkpoint(next_offset: int, tables: dict[str, str], table_bytes: dict[str, int]) -> Checkpoint:
    point = PartitionPoint(
        topic="telemetry",
        topic_id=TOPIC_ID,
        partition=0,
        log_start=BASE,
        next_offset=next_offset,
        segment=BASE,
        log_bytes=12_000,
        index_bytes=16,
        timeindex_bytes=36,
    )
    return Checkpoint(
        journal_id=JOURNAL_ID,
        journal_size=JOURNAL_BYTES,
        journal_position=0,
        next_sequence=7,
        leader_epoch=3,
        last_timestamp_ms=START_MS + 20_000,
        clean=False,
        partitions=[point],
        tables=tables,
        table_bytes=table_bytes,
    )


def write_map(run_dir: Path) -> None:
    """The watermark map of a writer that lives."""
    run_dir.mkdir(parents=True, exist_ok=True)
    writer = WatermarkWriter(run_dir, boot_id=bytes(range(16, 32)), capacity=2)
    writer.publish([(TOPIC, 0, Watermark(start=BASE, high=BASE + 36))], checkpoint=True)
    writer.beat(123_456)
    writer._map.close()


def files_of(directory: Path) -> dict[str, Path]:
    """Every file below a directory, by its name from there."""
    return {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        written = Path(name)
        write_log(written)
        write_map(written / "run")
        known = files_of(GOLDEN) | files_of(GOLDEN_NOW)
        for part, path in files_of(written).items():
            if part not in known or known[part].read_bytes() != path.read_bytes():
                (GOLDEN_NOW / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, GOLDEN_NOW / part)


if __name__ == "__main__":
    main()
