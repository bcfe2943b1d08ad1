"""The worker that lets windows leave the log, on a real log: what goes, what stays, what is said of it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from commitlog.base import NewRecord
from commitlog.check import check_log
from commitlog.settings import TopicSettings
from commitlog.windows import WINDOWS_TABLE
from core.clock import ClockState
from core.errors import UnavailableError
from retention.disk import DiskPressure
from retention.usage import Usage
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.retention.retention_support import SINK, RetentionBox


@asynccontextmanager
async def box(data_dir: Path, **settings: Any) -> AsyncIterator[RetentionBox]:
    made = await RetentionBox(data_dir, **settings).open()
    try:
        yield made
    finally:
        await made.log.close()


async def test_old_exported_windows_leave_the_log_the_ledger_and_the_table_say_so(tmp_path: Path) -> None:
    async with box(tmp_path, max_age="2h", roll_interval="1h") as it:
        await it.windows(6)
        await it.look()
        assert it.starts() == [0, 0], "nothing is exported"
        assert [(held.number, held.sinks) for held in it.expirer.held] == [(0, (SINK,))]
        await it.export(2)
        await it.look()
        assert it.starts() == [3, 3]
        assert it.readable() == {0: [3, 4, 5], 1: [3, 4, 5]}
        told = [(one.partition, one.first, one.next, one.state, one.reason) for one in it.ledger()]
        assert told == [(0, 0, 3, "expired", "older than max_age"), (1, 0, 3, "expired", "older than max_age")]
        assert it.expirer.expired_windows == {("telemetry", "older than max_age"): 3}
        assert it.expirer.expired_bytes["telemetry", "older than max_age"] > 3 * 2 * 2_000
        assert it.expirer.unexported_offsets == {}
        await it.look()
        assert it.numbers() == [3, 4, 5]
        assert len(it.ledger()) == 2
        (gone,) = it.expirer.lately
        assert (gone.expiry.first_number, gone.expiry.last.number, gone.at_ms) == (0, 2, it.clock.now_ms)


async def test_what_expires_later_prolongs_the_entries(tmp_path: Path) -> None:
    async with box(tmp_path, max_age="1h") as it:
        for number in range(10):
            await it.window()
            await it.export(number)
            await it.look()
        assert [(one.partition, one.first, one.next) for one in it.ledger()] == [(0, 0, 8), (1, 0, 8)]
        await it.look(2)
        assert it.numbers() == [8, 9]


async def test_nothing_goes_by_age_while_the_clock_is_wrong(tmp_path: Path) -> None:
    async with box(tmp_path, max_age="1h") as it:
        await it.windows(4)
        await it.export(3)
        for state in (ClockState.STEPPED, ClockState.BEHIND):
            it.clock_state = state
            await it.look()
        assert it.starts() == [0, 0]
        it.clock_state = ClockState.OK
        await it.look()
        assert it.starts() == [2, 2], "window 2 ended one hour ago, and is not older than that"


async def test_a_topic_over_its_bytes_loses_its_oldest_windows_and_others_keep_theirs(tmp_path: Path) -> None:
    async with box(tmp_path) as it:
        it.topics = (TopicSettings(name="telemetry", max_bytes="20KB"),)
        it.renew()
        await it.log.create_topic("other", 1)
        for _ in range(8):
            await it.window()
            await it.window(topic="other", partitions=(0,))
        await it.export(7)
        await it.look()
        assert it.expirer.expired_windows == {("telemetry", "topic over max_bytes"): 4}
        assert it.starts() == [4, 4]
        assert it.starts("other") == [0]
        await it.look(3)
        assert it.numbers() == [4, 5, 6, 7]


async def test_unexported_windows_go_where_the_loss_is_allowed_and_this_is_loud(tmp_path: Path) -> None:
    async with box(tmp_path, max_age="1h", allow_unexported_loss=True) as it:
        await it.windows(5)
        await it.export(0)
        with capture_logs() as told:
            await it.look(2)
        assert it.starts() == [3, 3]
        assert it.expirer.unexported_offsets == {"telemetry": 4}
        assert [(one.first, one.next, one.reason) for one in it.ledger() if one.partition == 0] == [
            (0, 1, "older than max_age"),
            (1, 3, "older than max_age, not exported"),
        ]
        (lost,) = [line for line in told if "their readings are lost" in line["event"]]
        assert (lost["log_level"], lost["windows"], lost["offsets"]) == ("error", [1, 2], 4)
        assert it.expirer.expired_windows == {("telemetry", "older than max_age"): 3}, "each counts once"
        await it.look()
        assert it.numbers() == [1, 2, 3, 4], "the sink has still to hear of windows 1 and 2"


async def test_without_a_sink_nothing_is_protected(tmp_path: Path) -> None:
    async with box(tmp_path, max_age="1h") as it:
        it.sinks = ()
        it.renew()
        await it.windows(4)
        await it.look(2)
        assert it.starts() == [2, 2]
        assert it.numbers() == [2, 3]


async def test_over_the_high_mark_windows_go_until_below_the_low_mark_then_no_more(tmp_path: Path) -> None:
    async with box(tmp_path, disk_budget="100KB", high_mark_percent=50, low_mark_percent=30) as it:
        await it.log.create_topic("other", 1)
        for _ in range(8):
            await it.window()
            await it.window(topic="other", partitions=(0,))
        await it.export(7)
        await it.export(7, topic="other")
        it.usage = Usage(total_bytes=1 << 40, free_bytes=0, lake_bytes=2_000, log_other_bytes=1_000)
        await it.look()
        assert it.expirer.disk.pressure is DiskPressure.OVER
        await it.look()
        disk = it.expirer.disk.last
        assert disk is not None
        assert it.expirer.disk.pressure is DiskPressure.OK
        assert 15_000 < disk.used_bytes < disk.marks.low_bytes == 100 * 1024 * 30 // 100
        assert disk.used_bytes == disk.log_bytes + 2_000
        left = it.numbers()[0], it.numbers("other")[0]
        assert left in ((3, 3), (4, 3)), "the oldest of whichever topic; the other's windows end later"
        await it.look(3)
        assert (it.numbers()[0], it.numbers("other")[0]) == left
        assert {one.reason for one in it.ledger()} == {"disk over the high mark"}


async def test_over_the_high_mark_with_nothing_exported_it_is_stuck_and_says_so_once(tmp_path: Path) -> None:
    async with box(tmp_path) as it:
        await it.windows(4)
        it.usage = Usage(total_bytes=100 << 30, free_bytes=1 << 30, lake_bytes=0, log_other_bytes=0)
        with capture_logs() as told:
            await it.look(5)
        assert it.expirer.disk.pressure is DiskPressure.STUCK
        assert it.starts() == [0, 0]
        events = [line["event"] for line in told if line["log_level"] != "info"]
        assert events == [
            "the disk is over its high mark: the oldest exported windows leave the log",
            "the disk is over its high mark, and nothing in the log may go",
            "a window is due and stays: it is not exported",
        ]
        await it.export(3)
        await it.look()
        assert it.expirer.disk.pressure is DiskPressure.OVER
        assert it.starts() == [3, 3]
        it.usage = Usage(total_bytes=100 << 30, free_bytes=90 << 30, lake_bytes=0, log_other_bytes=0)
        await it.look()
        assert it.expirer.disk.pressure is DiskPressure.OK


async def test_between_the_marks_with_nothing_left_that_may_go_all_is_well(tmp_path: Path) -> None:
    async with box(tmp_path) as it:
        await it.windows(4)
        await it.export(1)
        it.usage = Usage(total_bytes=100 << 30, free_bytes=1 << 30, lake_bytes=0, log_other_bytes=0)
        await it.look()
        assert it.expirer.disk.pressure is DiskPressure.OVER
        assert it.starts() == [2, 2]
        it.usage = Usage(total_bytes=100 << 30, free_bytes=20 << 30, lake_bytes=0, log_other_bytes=0)
        await it.look()
        assert it.expirer.disk.pressure is DiskPressure.OK, "80 % are below the high mark"


async def test_rows_are_forgotten_also_where_a_partition_is_idle_and_the_check_finds_nothing(tmp_path: Path) -> None:
    async with box(tmp_path, max_age="1h") as it:
        await it.window(partitions=(0, 1))
        await it.windows(5, partitions=(0,))
        await it.export(5)
        await it.look(2)
        assert it.starts() == [4, 0], "the newest segment of a partition stays"
        assert it.numbers() == [4, 5]
        await it.log.close()
        report = check_log(tmp_path, storage=it.disk, clock=it.clock)
        assert report.clean, report.found.findings.kept
        await it.reopen()
        await it.window()
        assert it.numbers() == [4, 5, 6], "numbers go on"
        assert it.closed()[-1].offsets == {0: (6, 7), 1: (1, 2)}


async def test_what_cannot_be_committed_is_tried_again_from_the_ledger_as_it_is(tmp_path: Path) -> None:
    async with box(tmp_path, max_age="1h") as it:
        await it.windows(4)
        await it.export(3)
        append = it.log.append

        async def refused(*_: Any, **__: Any) -> Any:
            raise UnavailableError("not now")

        it.log.append = refused  # type: ignore[method-assign]
        with pytest.raises(UnavailableError):
            await it.look()
        assert it.starts() == [0, 0], "nothing is deleted that the ledger does not say"
        it.log.append = append  # type: ignore[method-assign]
        await it.look()
        assert [(one.first, one.next) for one in it.ledger()] == [(0, 2), (0, 2)]
        assert it.starts() == [2, 2]


async def _until_dead(it: RetentionBox, work: Callable[[], Any]) -> bool:
    """Whether it came to its end before the disk took no more."""
    try:
        await work()
    except UnavailableError:
        return False
    return True


@pytest.mark.parametrize("seed", range(6))
async def test_killed_at_any_call_nothing_unexported_is_gone_and_the_ledger_knows_what_is(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    finished = partly = 0
    for at in range(1 + seed, 150, 6):
        it = await RetentionBox(tmp_path, MemoryDisk(), max_age="1h").open()
        for _ in range(5):
            await it.window(partitions=rng.choice([(0,), (1,), (0, 1)]), size=rng.choice([10, 3_000]))
        exported = rng.randrange(5)
        await it.export(exported)
        held = {p: offsets for p, (_, offsets) in it.closed()[exported].offsets.items()}
        before = it.readable()
        it.disk.stop_at = it.disk.calls + at
        finished += await _until_dead(it, lambda it=it: it.look(3))
        await it.log.close()
        it.disk.revive(power_cut=random.Random(at) if rng.random() < 0.5 else None)
        await it.open()
        assert not it.log.report.cuts
        ledger = {one.partition: one.next for one in it.ledger() if one.state == "expired"}
        for partition, start in enumerate(it.starts()):
            assert start <= held[partition], "not exported, and gone"
            assert start <= ledger.get(partition, 0), "gone, and the ledger does not say so"
            partly += start < ledger.get(partition, 0)
        assert it.readable() == {p: [o for o in all_ if o >= it.starts()[p]] for p, all_ in before.items()}
        await it.look(3)
        assert {one.partition: one.next for one in it.ledger()} == {
            p: start for p, start in enumerate(it.starts()) if start
        }
        assert it.numbers()[-1] == 4
        await it.log.close()
    assert finished, "every kill came too early"
    assert partly, "no kill came between ledger and deletion"


async def test_a_file_that_cannot_be_removed_is_tried_again_and_fails_nothing(tmp_path: Path) -> None:
    async with box(tmp_path, max_age="1h") as it:
        await it.windows(4)
        await it.export(3)

        def before(operation: str, path: Path) -> None:
            if operation == "remove" and path.suffix == ".deleted":
                raise PermissionError(1, "not permitted", str(path))

        it.disk.before = before
        await it.look()
        segments = it.log._engine.segments
        for _ in range(8):
            it.log._engine.segment_thread.submit(segments.checkpoint_if_due)
        await it.log._engine.segment_thread.run(lambda: None)
        directory = tmp_path / "log" / "telemetry-0"
        assert [name for name in it.disk.names(directory) if name.endswith(".deleted")]
        assert 0 < segments.deletion_failures < 6 * 8, "at growing pauses"
        await it.log.append([NewRecord(topic="telemetry", key=None, value=b"goes on")])
        it.disk.before = None
        for _ in range(130):
            it.log._engine.segment_thread.submit(segments.checkpoint_if_due)
        await it.log._engine.segment_thread.run(lambda: None)
        assert not [name for name in it.disk.names(directory) if name.endswith(".deleted")]


async def test_many_forgotten_windows_leave_in_several_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commitlog.old_end.MAX_FORGOTTEN", 3)
    async with box(tmp_path) as it:
        await it.windows(9, partitions=(0,), size=10)
        assert await it.log.forget_windows("telemetry", 0) == 0
        assert await it.log.forget_windows("telemetry", 5) == 3
        assert await it.log.forget_windows("telemetry", 5) == 2
        assert it.numbers() == [5, 6, 7, 8]
        assert await it.log.forget_windows("telemetry", 100) == 3
        assert it.numbers() == [8], "the newest says where the next one begins"
        assert await it.log.forget_windows("telemetry", 100) == 0
        await it.reopen()
        assert len(it.log.rows_now(WINDOWS_TABLE)) == 1
        await it.window(partitions=(0,))
        assert it.numbers() == [8, 9]
