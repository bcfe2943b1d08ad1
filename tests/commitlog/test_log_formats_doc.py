"""docs/formats.md says what the code writes."""

from __future__ import annotations

from pathlib import Path

import pytest

import ingest.headers
from commitlog.checkpoint import CHECKPOINT_MAGIC, Checkpoint, PartitionPoint
from commitlog.foreign import Sequenced
from commitlog.producers import MAX_ROWS, PRODUCERS_TABLE, Producers
from commitlog.report import REPORT_NAME, Cut, KeptReport
from commitlog.restored import OFFSETS_LEFT_OUT
from commitlog.snapshots import OLD_SNAPSHOT_MAGIC, SNAPSHOT_MAGIC
from commitlog.version import FORMAT_VERSION, INODE_KEY, META_NAME
from commitlog.watermarks import _MAGIC as MAP_MAGIC
from commitlog.watermarks import _SLOT_BYTES, STALE_AFTER_MS

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
REPORT_FIELDS = [*KeptReport.__struct_fields__, *Cut.__struct_fields__]
FIELDS = [*Checkpoint.__struct_fields__, *PartitionPoint.__struct_fields__, *REPORT_FIELDS]
HEADER_NAMES = [value for name, value in vars(ingest.headers).items() if name.isupper()]


@pytest.mark.parametrize(
    "name", [*HEADER_NAMES, *Checkpoint.__struct_fields__, *PartitionPoint.__struct_fields__, *REPORT_FIELDS]
)
def test_names_are_documented(name: str) -> None:
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("magic", [CHECKPOINT_MAGIC, SNAPSHOT_MAGIC, OLD_SNAPSHOT_MAGIC, MAP_MAGIC])
def test_magic_numbers_are_documented(magic: bytes) -> None:
    assert f"`{magic.decode()}`" in TEXT


def test_the_rows_of_producers_are_documented() -> None:
    (section,) = (part for part in TEXT.split("\n\n") if part.startswith(f"Table `{PRODUCERS_TABLE}`"))
    one = Sequenced(producer_id=1, epoch=0, first=0, count=1)
    ((_, _, row),) = Producers({}, 0).appended("00" * 16, 0, one, 0, now_ms=0, now_monotonic_ms=0)
    assert all(f"`{name}`" in section for name in row)
    assert f"At most {MAX_ROWS:,} rows" in section


def test_sizes_are_documented() -> None:
    assert f"slots of {_SLOT_BYTES} bytes" in TEXT
    assert f"more than {STALE_AFTER_MS // 1000} s old" in TEXT


def test_the_version_is_documented() -> None:
    assert f"`{META_NAME}`: lines of text, `version={FORMAT_VERSION}`" in TEXT
    assert f"`{INODE_KEY}=`" in TEXT
    assert f"`{REPORT_NAME}`" in TEXT
    assert OFFSETS_LEFT_OUT == 2**36
    assert "2^36 offsets further" in TEXT
