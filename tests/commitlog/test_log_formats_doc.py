"""docs/formats.md says what the code writes."""

from __future__ import annotations

from pathlib import Path

import pytest

import ingest.headers
from commitlog.checkpoint import CHECKPOINT_MAGIC, Checkpoint, PartitionPoint
from commitlog.foreign import Sequenced
from commitlog.producers import MAX_ROWS, PRODUCERS_TABLE, Producers
from commitlog.tables import SNAPSHOT_MAGIC
from commitlog.watermarks import _MAGIC as MAP_MAGIC
from commitlog.watermarks import _SLOT_BYTES, STALE_AFTER_MS

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
HEADER_NAMES = [value for name, value in vars(ingest.headers).items() if name.isupper()]


@pytest.mark.parametrize("name", [*HEADER_NAMES, *Checkpoint.__struct_fields__, *PartitionPoint.__struct_fields__])
def test_names_are_documented(name: str) -> None:
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("magic", [CHECKPOINT_MAGIC, SNAPSHOT_MAGIC, MAP_MAGIC])
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
