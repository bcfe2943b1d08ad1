"""The golden files: what is written today is what was written then, and what was written then can be read."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from commitlog.base import Watermark
from commitlog.checkpoint import read_checkpoint
from commitlog.index import offset_entries, time_entries
from commitlog.journal_scan import entries_through_damage
from commitlog.metadata import read_metadata
from commitlog.report import read_report
from commitlog.storage import SystemStorage, read_whole
from commitlog.tables import read_snapshot, unpack
from commitlog.version import FORMAT_VERSION, JournalNote, read_journal_note, read_meta
from commitlog.walk import FoundBatch, read_batch, walk
from commitlog.watermarks import WatermarkMap
from commitlog.windows import window_from_row
from core.errors import UnavailableError
from tests.commitlog.golden_log import (
    BASE,
    GOLDEN,
    GOLDEN_NOW,
    JOURNAL_BYTES,
    JOURNAL_ID,
    START_MS,
    TOPIC,
    TOPIC_ID,
    WINDOW,
    a_checkpoint,
    files_of,
    write_log,
    write_map,
)

STORAGE = SystemStorage()
FILES = files_of(GOLDEN) | files_of(GOLDEN_NOW)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fresh = tmp_path_factory.mktemp("log")
    write_log(fresh)
    write_map(fresh / "run")
    return fresh


def test_the_same_files_are_written(written: Path) -> None:
    assert sorted(files_of(written)) == sorted(FILES)
    assert len(FILES) == 11
    assert sorted(files_of(GOLDEN_NOW)) == ["meta.properties", "run/watermarks"], "what is written differently since"


@pytest.mark.parametrize("name", FILES)
def test_the_same_bytes_are_written(written: Path, name: str) -> None:
    assert (written / name).read_bytes() == FILES[name].read_bytes()


def test_the_segment_is_read() -> None:
    path = GOLDEN / "telemetry-0" / f"{BASE:020}.log"
    with closing(STORAGE.open_read(path)) as file:
        found = [one for one in walk(file, 0, BASE) if isinstance(one, FoundBatch)]
        records = [record for one in found for record in read_batch(file, one).records()]
    assert [record.offset for record in records] == list(range(BASE, BASE + 36))
    assert {record.key for record in records} == {b"press-17"}
    assert (records[4].value or b"").rstrip() == b'{"n":1}'
    assert list(records[0].headers) == [("mqtt.topic", b"devices/press-17/t")]
    assert {one.header.leader_epoch for one in found} == {3}
    ends = {one.position: one.header.last_offset - BASE for one in found}
    entries = offset_entries(read_whole(STORAGE, path.with_suffix(".index")))
    assert entries
    assert all(ends[position] == relative for relative, position in entries)
    times = time_entries(read_whole(STORAGE, path.with_suffix(".timeindex")))
    assert times[-1] == (START_MS + 11_002, 35)


def test_the_journal_is_read() -> None:
    """The first entries are overwritten by the second lap: reading starts where the last one does."""
    with closing(STORAGE.open_read(GOLDEN / "journal")) as file:
        entries = list(entries_through_damage(file, size=JOURNAL_BYTES, journal_id=JOURNAL_ID, sequence=10, position=0))
    assert [entry.sequence for entry in entries] == [10, 11]
    assert [(batch.topic_id, batch.partition) for entry in entries for batch in entry.batches] == [(TOPIC_ID, 0)] * 2
    assert list(entries[0].changes) == [("state", "a", {"n": 1}), ("state", "gone", None)]


def test_checkpoint_tables_and_small_files_are_read() -> None:
    checkpoint = read_checkpoint(STORAGE, GOLDEN)
    assert checkpoint is not None
    assert checkpoint == a_checkpoint(BASE + 36, dict(checkpoint.tables), dict(checkpoint.table_bytes))
    sizes = {table: (GOLDEN / "tables" / name).stat().st_size for table, name in checkpoint.tables.items()}
    assert checkpoint.table_bytes == sizes
    assert set(checkpoint.tables) == {"state", "windows"}
    state = read_snapshot(STORAGE, GOLDEN / "tables" / checkpoint.tables["state"])
    assert {key: unpack(value) for key, value in state.items()} == {
        "a": {"n": 1, "text": "ä", "bytes": b"\x00"},
        "c": 3,
    }
    (row,) = read_snapshot(STORAGE, GOLDEN / "tables" / checkpoint.tables["windows"]).values()
    assert window_from_row(unpack(row)) == WINDOW
    assert read_metadata(STORAGE, GOLDEN / "telemetry-0") == TOPIC_ID
    assert read_meta(STORAGE, GOLDEN) == {"version": str(FORMAT_VERSION), "journal.inode": "4711"}
    assert read_journal_note(STORAGE, GOLDEN) == JournalNote(journal_id=None, leader_epoch=0, unsynced_records=None)
    assert read_journal_note(STORAGE, GOLDEN_NOW) == JournalNote(
        journal_id=JOURNAL_ID, leader_epoch=3, unsynced_records=0
    )
    report = read_report(STORAGE, GOLDEN)
    assert report is not None
    assert [(cut.first, cut.next, cut.end_ms, cut.devices) for cut in report.cuts] == [(7, 9, None, ("m",))]


def test_the_watermark_map_is_read() -> None:
    with closing(WatermarkMap(GOLDEN_NOW / "run")) as marks:
        seen = marks.read()
        assert seen.topics == {"telemetry": TOPIC}
        assert seen.watermarks == {"telemetry": (Watermark(start=BASE, high=BASE + 36),)}
        assert marks.is_live(123_456 + 3_000)
        assert not marks.is_live(123_456 + 3_001)


def test_a_watermark_map_of_before_is_refused_by_name() -> None:
    """It is made anew at every start, so nobody has to read it; who meets one is told."""
    with (
        closing(WatermarkMap(GOLDEN / "run")) as marks,
        pytest.raises(UnavailableError, match=r"another version: its format is 1, this program reads 2"),
    ):
        marks.read()
