"""A topic made after the last checkpoint: all of it is in the journal, whatever became of its segments."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from commitlog.checkpoint import read_checkpoint
from commitlog.storage import LOG_DIR, SystemStorage
from commitlog.version import META_NAME
from tests.commitlog.log_support import opened, read_all, record


@pytest.mark.parametrize("damaged", ["first", "middle", "all"])
async def test_a_damaged_batch_of_a_topic_that_no_checkpoint_knows_comes_from_the_journal(
    tmp_path: Path, damaged: str
) -> None:
    noise = random.Random(1).randbytes(200)  # which compression leaves as it is
    async with opened(tmp_path / "writer") as log:
        await log.create_topic("telemetry", 1)
        for number in range(6):
            await log.append([record("telemetry", "d", b"value %d" % number + noise)])
        await log.create_topic("later", 1)  # behind the flushes of what was appended before
        shutil.copytree(tmp_path / "writer", tmp_path / "killed", ignore=shutil.ignore_patterns("*.sock"))
    (tmp_path / "killed" / LOG_DIR / META_NAME).unlink()  # else it is taken for a restored copy
    checkpoint = read_checkpoint(SystemStorage(), tmp_path / "killed" / LOG_DIR)
    assert checkpoint is not None
    assert checkpoint.partitions == []
    path = tmp_path / "killed" / LOG_DIR / "telemetry-0" / f"{0:020}.log"
    content = bytearray(path.read_bytes())
    assert len(content) > 300, len(content)
    places = {"first": [30], "middle": [len(content) // 2], "all": range(len(content))}[damaged]
    for at in places:
        content[at] ^= 0xFF
    path.write_bytes(content)
    async with opened(tmp_path / "killed") as log:
        assert log.report.cuts == []
    kept = read_all(tmp_path / "killed")["telemetry", 0]
    assert [(offset, value[:7]) for offset, value in kept] == [(n, b"value %d" % n) for n in range(6)]
