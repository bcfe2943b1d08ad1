"""A damaged snapshot of the `producers` table: rows come back from the batches themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from commitlog.batch_errors import BatchError, DuplicateSequenceError, InvalidProducerEpochError
from commitlog.embedded import EmbeddedLog
from commitlog.producers import PRODUCERS_TABLE
from commitlog.storage import LOG_DIR
from commitlog.tables import TABLES_DIR
from tests.commitlog.batch_support import client_batch
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import log_settings, open_log, opened
from tests.log_fakes import FakeClock


async def send(log: EmbeddedLog, producer: int, sequence: int, count: int = 2, epoch: int = 0) -> int:
    batch = client_batch([b"%d" % n for n in range(count)], producer=(producer, epoch, sequence))
    return (await log.append_batch("telemetry", 0, batch)).offset


async def fill(log: EmbeddedLog) -> None:
    """Producer 7 has sent 0 to 13 in seven batches, producer 8 0 and 1 of epoch 3."""
    await log.create_topic("telemetry", 1)
    for sequence in range(0, 14, 2):
        await send(log, 7, sequence)
    await send(log, 8, 0, epoch=3)


def damage(disk: MemoryDisk, data_dir: Path, how: str) -> None:
    directory = data_dir / LOG_DIR / TABLES_DIR
    (name,) = [one for one in disk.names(directory) if one.startswith(PRODUCERS_TABLE)]
    if how == "gone":
        disk.remove(directory / name)
    elif how == "whole":
        disk.content(directory / name)[20] ^= 1
    else:
        del disk.content(directory / name)[-5:]


@pytest.mark.parametrize("how", ["gone", "whole", "end"])
@pytest.mark.parametrize("kill", [False, True], ids=["clean", "killed"])
async def test_a_batch_sent_again_is_stored_once_although_the_snapshot_is_damaged(
    tmp_path: Path, how: str, kill: bool
) -> None:
    disk = MemoryDisk()
    settings = log_settings(segment_size="16MB")
    log = await open_log(tmp_path, storage=disk, settings=settings)
    await log.create_topic("telemetry", 1)
    await send(log, 9, 0)
    await log.roll("telemetry", "a checkpoint with the table, and one more block for what follows")
    await fill(log)
    await log.roll("telemetry", "another one")
    before = dict(await log.rows(PRODUCERS_TABLE))
    if kill:
        disk.stop_at = 0
    await log.close()
    disk.revive()
    damage(disk, tmp_path, how)
    async with opened(tmp_path, storage=disk, settings=settings) as log:
        assert any("made again from the newest segment" in note for note in log.report.notes)
        rows = await log.rows(PRODUCERS_TABLE)
        assert {key: [list(one) for one in row["batches"]] for key, row in rows.items() if key[0] in "78"} == {
            key: [list(one) for one in row["batches"]] for key, row in before.items() if key[0] in "78"
        }
        assert {key: row["run"] for key, row in rows.items() if key[0] in "78"} == {
            key: row["run"] for key, row in before.items() if key[0] in "78"
        }
        assert await send(log, 7, 12) == 14, "the offset that it got then"
        with pytest.raises(DuplicateSequenceError):
            await send(log, 7, 0)
        with pytest.raises(InvalidProducerEpochError):
            await send(log, 8, 2, epoch=2)
        assert await send(log, 7, 14) == 18
    async with opened(tmp_path, storage=disk, settings=settings) as log:
        assert await send(log, 7, 14) == 18
        assert not any(PRODUCERS_TABLE in note for note in log.report.notes), "once is enough"


async def test_a_producer_that_wrote_only_to_older_segments_is_forgotten_and_the_report_says_so(tmp_path: Path) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await fill(log)
        await log.roll("telemetry", "closes the segment")
        await send(log, 8, 2, epoch=3)
    damage(disk, tmp_path, "whole")
    async with opened(tmp_path, storage=disk) as log:
        assert {key[0] for key in await log.rows(PRODUCERS_TABLE)} == {"8"}
        assert any("is stored once more" in note for note in log.report.notes)
        assert await send(log, 7, 12) == 18, "it may begin anywhere"


async def test_numbers_that_do_not_follow_begin_a_new_run(tmp_path: Path) -> None:
    """Damage took the batch between: what was certainly appended is what follows it."""
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        for sequence in (0, 2, 4):
            await send(log, 7, sequence)
            log._engine.flusher.flush_now()
            await log._engine.segment_thread.run(lambda: None)
    damage(disk, tmp_path, "whole")
    content = disk.content(tmp_path / LOG_DIR / "telemetry-0" / f"{0:020}.log")
    content[len(content) // 3 + 30] ^= 1
    async with opened(tmp_path, storage=disk) as log:
        (row,) = (await log.rows(PRODUCERS_TABLE)).values()
        assert (row["run"], [list(one) for one in row["batches"]]) == (2, [[4, 5, 4, FakeClock().now_ms]])
        with pytest.raises(BatchError):
            await send(log, 7, 0)
