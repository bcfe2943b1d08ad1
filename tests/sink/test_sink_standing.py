"""How the sink stands: what the runner knows of it, the file that tells it, the metrics."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commitlog.committed import Committed
from core.errors import UnavailableError
from sink.attempts import Attempts, Trouble, trouble_of
from sink.base import (
    BackOffError,
    CancelFlag,
    Export,
    ExportWindow,
    NotConnectedError,
    RecordsFailedError,
    Replay,
    joined,
)
from sink.holding import Holding
from sink.metrics import SinkMetrics, keep_written
from sink.requests import flush_request, replay_request
from sink.runner import Runner
from sink.standing import (
    STANDING_FILE,
    TEXT_CHARS,
    TOPICS_TOLD,
    ReplayStanding,
    Standing,
    TopicStanding,
    Waiting,
    bounded,
    read_standing,
    tried,
    write_standing,
)
from tests.conftest import wait_until_async
from tests.sink.sink_fakes import FakeLog, quick_runner, run_until
from tests.sink.test_sink_runner import ScriptedSink, windows

HELD = Holding(small_records=100, hold_ms=10**15)


def topic_of(runner: Runner, name: str = "telemetry") -> TopicStanding:
    (found,) = [one for one in runner.standing().topics if one.topic == name]
    return found


def counted(standing: TopicStanding) -> tuple[int, int, int | None]:
    assert standing.waiting is not None
    return standing.waiting.windows, standing.waiting.held, standing.waiting.oldest_end_ms


async def test_before_its_first_look_it_is_starting_and_then_idle() -> None:
    log = windows(3)
    runner = quick_runner(ScriptedSink(), log)
    assert (runner.standing().state, runner.standing().topics) == ("starting", [])
    await run_until(runner, lambda: log.waits > 2)
    assert runner.standing().state == "idle"
    assert counted(topic_of(runner)) == (0, 0, None)
    assert topic_of(runner).lag_ms(10**15) == 0


async def test_what_is_held_back_waits_and_does_not_lag() -> None:
    log = windows(2)
    runner = quick_runner(ScriptedSink(), log, holding=HELD)
    await run_until(runner, lambda: log.waits > 2)
    standing = topic_of(runner)
    assert counted(standing) == (2, 2, None)
    assert (standing.failures, standing.lag_ms(10**15)) == (0, 0)


async def test_what_fails_lags_behind_the_end_of_its_oldest_window() -> None:
    log = windows(3)
    sink = ScriptedSink(*[RecordsFailedError("poison", where="telemetry", mend="mend it")] * 1000)
    runner = quick_runner(sink, log, retry_max_s=60.0)
    await run_until(runner, lambda: log.waits > 2)
    standing, (first, *_) = topic_of(runner), log.closed["telemetry"]
    assert counted(standing) == (3, 0, first.end_ms)
    assert standing.lag_ms(first.end_ms + 7) == 7
    assert standing.lag_ms(first.end_ms - 7) == 0
    assert standing.failures == 1
    error = standing.last_error
    assert error is not None
    assert (error.event, error.code, error.what) == ("export failed", "sink.records-failed", "poison")
    assert (error.where, error.mend) == ("telemetry", "mend it")
    assert standing.failing_since_ms == error.at_ms
    assert standing.next_attempt_ms == error.at_ms + 60_000


async def test_what_the_sink_has_already_is_due_and_not_held_back() -> None:
    log = windows(3)
    first, second, _ = log.closed["telemetry"]
    sink = ScriptedSink(*[RuntimeError("bug")] * 1000)
    sink.ahead = {first.topic_id: [joined([first, second])]}
    runner = quick_runner(sink, log, holding=HELD, retry_max_s=60.0, first_s=60.0)
    await run_until(runner, lambda: log.waits > 2)
    assert counted(topic_of(runner)) == (3, 1, first.end_ms)


async def test_windows_that_close_while_a_topic_waits_are_counted() -> None:
    log = windows(1)
    runner = quick_runner(ScriptedSink(*[RuntimeError("bug")] * 1000), log, retry_max_s=60.0, first_s=60.0)
    task, stop = None, asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    await wait_until_async(lambda: topics_failing(runner) == ["telemetry"])
    log.put("more")
    log.close_window()
    await wait_until_async(lambda: counted(topic_of(runner))[0] == 2)
    stop.set()
    await task


def topics_failing(runner: Runner) -> list[str]:
    return [name for name, _ in runner.standing().failing()]


async def test_windows_that_cannot_be_counted_are_not_known() -> None:
    log = windows(1)
    runner = quick_runner(ScriptedSink(*[RuntimeError("bug")] * 1000), log, retry_max_s=60.0, first_s=60.0)
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    await wait_until_async(lambda: topics_failing(runner) == ["telemetry"])
    log.closed.clear()  # the fake reader then raises
    await wait_until_async(lambda: topic_of(runner).waiting is None)
    assert topic_of(runner).failures == 1
    stop.set()
    await task


async def test_after_a_success_the_failures_are_over_and_the_error_is_kept() -> None:
    log = windows(1)
    runner = quick_runner(ScriptedSink(OSError(28, "No space left on device", "/lake/x")), log)
    await run_until(runner, lambda: log.waits > 3)
    standing = topic_of(runner)
    assert (standing.failures, standing.failing_since_ms, standing.next_attempt_ms) == (0, None, None)
    assert standing.last_error is not None
    assert (standing.last_error.code, standing.last_error.where) == ("storage", "/lake/x")
    assert topics_failing(runner) == []


async def test_a_failure_that_is_over_without_an_export_is_over() -> None:
    """Reading the windows failed once; when it works there is nothing to export."""
    log = windows(0)
    closed = log.closed.pop("telemetry")
    runner = quick_runner(ScriptedSink(), log)
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    await wait_until_async(lambda: topics_failing(runner) == ["telemetry"])
    log.closed["telemetry"] = closed
    await wait_until_async(lambda: topics_failing(runner) == [])
    stop.set()
    await task


async def test_an_export_under_way_is_told_with_its_windows() -> None:
    log, begun, go_on = windows(2), threading.Event(), threading.Event()

    def slow(window: ExportWindow, cancel: CancelFlag) -> Export:
        begun.set()
        assert go_on.wait(30)
        return Export(records=window.span)

    runner = quick_runner(ScriptedSink(slow), log)
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    await wait_until_async(begun.is_set)
    standing = runner.standing()
    assert standing.state == "exporting"
    assert standing.work is not None
    assert (standing.work.topic, standing.work.first_window, standing.work.window) == ("telemetry", 0, 0)
    assert 0 < standing.work.since_ms <= standing.at_ms
    go_on.set()
    await wait_until_async(lambda: runner.standing().state == "idle" and log.waits > 0)
    assert runner.standing().work is None
    stop.set()
    await task


async def test_what_waits_is_counted_while_the_sink_cannot_start() -> None:
    """Also what was small and would be held back, but that somebody waits for it."""
    log, sink = windows(2), ScriptedSink()
    await log.append([], [flush_request(log.infos["telemetry"].topic_id, 9, 7)])
    sink.fail_open = [OSError(30, "Read-only file system", "/lake")] * 3
    runner = quick_runner(sink, log, retry_max_s=60.0, first_s=60.0, holding=HELD)
    assert runner.standing().lag_ms(10**15) is None
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    await wait_until_async(lambda: runner.standing().topics)
    first = log.closed["telemetry"][0]
    assert counted(topic_of(runner)) == (2, 0, first.end_ms)
    assert runner.standing().lag_ms(first.end_ms + 9) == 9
    log.close_window()
    await wait_until_async(lambda: counted(topic_of(runner))[0] == 3)
    log.infos.clear()
    await wait_until_async(lambda: topic_of(runner).waiting is None)
    assert runner.standing().lag_ms(10**15) is None
    assert [call[0] for call in sink.calls] == ["open"]
    stop.set()
    await task


async def test_what_is_exported_is_not_known_while_the_log_does_not_say() -> None:
    """Without the committed offsets nobody can tell what waits."""
    log = windows(2)

    async def away(table: str) -> Mapping[str, Any]:
        raise UnavailableError("the edge process does not answer")

    object.__setattr__(log, "rows", away)
    runner = quick_runner(ScriptedSink(), log, retry_max_s=60.0, first_s=60.0)
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    await wait_until_async(lambda: runner.standing().failures)
    await asyncio.sleep(0)
    assert (runner.standing().state, runner.standing().topics) == ("cannot-start", [])
    assert runner.standing().lag_ms(10**15) is None
    stop.set()
    await task


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system", "/lake"), NotConnectedError("gone")])
async def test_a_sink_that_cannot_start_says_why(error: Exception) -> None:
    log, sink = windows(1), ScriptedSink()
    sink.fail_open = [error] * 3
    runner = quick_runner(sink, log, retry_max_s=60.0, first_s=60.0)
    await run_until(runner, lambda: runner.standing().failures > 0)
    standing = runner.standing()
    assert (standing.state, standing.failures) == ("cannot-start", 1)
    assert standing.last_error is not None
    assert standing.last_error.event == "the sink cannot start"
    assert [name for name, _ in standing.failing()] == [""]


class FailingReplayer:
    """Reads nothing again."""

    def replays_begun(self) -> list[str]:
        return []

    def replay(self, path: str, progress: Mapping[str, Committed], cancel: CancelFlag) -> Replay:
        raise OSError(28, "No space left on device", path)

    def settle_replay(self, path: str) -> None:
        raise AssertionError("was not replayed")


async def test_a_replay_that_fails_is_told_by_its_file_and_is_no_topics_failure() -> None:
    log, path = windows(1), "_quarantine/telemetry/date=2026-11-20/x.parquet"
    await log.append([], [replay_request(path, "telemetry", "1", 7)])
    runner = quick_runner(ScriptedSink(), log, replayer=FailingReplayer(), retry_max_s=60.0, first_s=60.0)
    await run_until(runner, lambda: log.waits > 2)
    standing = runner.standing()
    assert [(name, one.failures) for name, one in standing.failing()] == [(path, 1)]
    assert (standing.state, topic_of(runner).failures) == ("idle", 0)
    (replay,) = standing.replays
    assert replay.last_error is not None
    assert (replay.last_error.event, replay.last_error.where) == ("replay failed", path)


# ---- the file


def failing(name: str, failures: int = 0, oldest_end_ms: int | None = None) -> TopicStanding:
    attempts = Attempts(failures=failures, failing_since_ms=5 if failures else None)
    waiting = Waiting(windows=1, held=0, oldest_end_ms=oldest_end_ms, counted_at_ms=9)
    return TopicStanding(topic=name, topic_id=name * 2, waiting=waiting, **tried(attempts))


def test_the_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    trouble = Trouble(event="e", code="c", what="w", where="", mend="m", at_ms=7)
    attempts = Attempts(failures=2, failing_since_ms=3, last_error=trouble, next_attempt_ms=11)
    topic = TopicStanding(topic="t", topic_id="1", waiting=None, **tried(attempts))
    replays = [ReplayStanding(path="_quarantine/t/x", **tried(attempts))]
    standing = Standing(at_ms=8, state="idle", topics=[failing("a", 1, 6), topic], topics_total=2, replays=replays)
    write_standing(standing, tmp_path / STANDING_FILE)
    assert read_standing(tmp_path) == standing


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param('{"at_ms": 1, "state": "id', id="half"),
        pytest.param('{"at_ms": 1, "state": "dancing"}', id="no such state"),
        pytest.param('{"at_ms": 1, "state": "idle", "version": 2}', id="another version"),
        pytest.param(b"\xff\xfe", id="not text"),
    ],
)
def test_a_file_that_cannot_be_read_is_as_none(tmp_path: Path, text: str | bytes | None) -> None:
    if text is not None:
        (tmp_path / STANDING_FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_standing(tmp_path) is None


def test_the_file_is_bounded_and_keeps_what_matters() -> None:
    topics = [failing(f"t{number:05}") for number in range(TOPICS_TOLD + 10)]
    topics += [failing("z-fails", failures=1), failing("z-lags", oldest_end_ms=1)]
    kept = bounded(Standing(at_ms=50, state="idle", topics=topics))
    assert len(kept.topics) == TOPICS_TOLD
    assert kept.topics_total == TOPICS_TOLD + 12
    assert [topic.topic for topic in kept.topics[-2:]] == ["z-fails", "z-lags"]


def test_the_largest_file_there_can_be_is_read(tmp_path: Path) -> None:
    awkward = Trouble(
        event="export failed", code="c", what="\x01" * 9_999, where="\x01" * 9_999, mend="\x01" * 9_999, at_ms=1
    )
    attempts = Attempts(failures=1, last_error=awkward)
    topics = [TopicStanding(topic=f"{n:0249}", topic_id="1" * 32, **tried(attempts)) for n in range(TOPICS_TOLD)]
    write_standing(Standing(at_ms=1, state="idle", topics=topics), tmp_path / STANDING_FILE)
    standing = read_standing(tmp_path)
    assert standing is not None
    assert len(standing.topics) == TOPICS_TOLD


def test_texts_of_errors_are_cut() -> None:
    attempts = Attempts(failures=1, last_error=trouble_of(BackOffError("x" * 9_999, retry_after_s=1), "e", 1))
    error = tried(attempts)["last_error"]
    assert len(error.what) == TEXT_CHARS
    assert error.what.endswith("x…")


def test_on_a_full_disk_the_file_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / STANDING_FILE
    long = Standing(at_ms=1, state="exporting", topics=[failing("a" * 100)], topics_total=1)
    write_standing(long, path)

    def full(at: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left on device", str(at))

    monkeypatch.setattr(Path, "write_bytes", full)
    short = Standing(at_ms=2, state="idle")
    write_standing(short, path)
    assert read_standing(tmp_path) == replace(short, topics=[], replays=[])
    assert os.listdir(tmp_path) == [STANDING_FILE]  # noqa: PTH208 - names only


async def test_both_files_follow_changes_and_one_that_fails_does_not_keep_the_other(tmp_path: Path) -> None:
    log = windows(1)
    metrics = SinkMetrics()
    runner = quick_runner(ScriptedSink(RuntimeError("bug")), log, metrics=metrics, retry_max_s=60.0, first_s=60.0)
    metrics.show(runner.standing)
    (tmp_path / STANDING_FILE).mkdir()
    writing = asyncio.create_task(keep_written(metrics, tmp_path / "sink.prom", 0.001, runner.standing))
    await wait_until_async((tmp_path / "sink.prom").exists)
    (tmp_path / STANDING_FILE).rmdir()
    await run_until(runner, lambda: topics_failing(runner) == ["telemetry"] and runner.standing().work is None)
    await wait_until_async(lambda: (told := read_standing(tmp_path)) is not None and list(told.failing()) != [])
    await wait_until_async(
        lambda: 'headrace_sink_consecutive_failures{topic="telemetry"} 1.0' in (tmp_path / "sink.prom").read_text()
    )
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def test_metrics_tell_it_by_topic() -> None:
    log: FakeLog = windows(2, "bad", "quiet")
    metrics = SinkMetrics()
    sink = ScriptedSink(*[RuntimeError("bug")] * 1000, topic="bad")
    runner = quick_runner(sink, log, metrics=metrics, retry_max_s=60.0, first_s=60.0)
    metrics.show(runner.standing)
    await run_until(runner, lambda: log.waits > 2)
    lines = metrics.text().splitlines()
    for line in (
        'headrace_sink_waiting_windows{topic="bad"} 2.0',
        'headrace_sink_held_windows{topic="bad"} 0.0',
        'headrace_sink_consecutive_failures{topic="bad"} 1.0',
        'headrace_sink_waiting_windows{topic="quiet"} 0.0',
        'headrace_sink_lag_seconds{topic="quiet"} 0.0',
        'headrace_sink_consecutive_failures{topic="quiet"} 0.0',
    ):
        assert line in lines
    (lag_s,) = [float(line.split()[1]) for line in lines if line.startswith('headrace_sink_lag_seconds{topic="bad"}')]
    ended_s = log.closed["bad"][0].end_ms / 1000
    assert abs(lag_s - (runner.standing().at_ms / 1000 - ended_s)) < 60


async def test_files_are_written_when_what_waits_is_counted_anew(tmp_path: Path) -> None:
    """Once a minute by itself here, so that it is the export which brings it."""
    log, metrics = windows(1), SinkMetrics()
    runner = quick_runner(ScriptedSink(), log, metrics=metrics)
    metrics.show(runner.standing)
    writing = asyncio.create_task(keep_written(metrics, tmp_path / "sink.prom", 60, runner.standing))
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))

    def told() -> bool:
        standing = read_standing(tmp_path)
        return standing is not None and any(topic.waiting and not topic.waiting.windows for topic in standing.topics)

    await wait_until_async(told)
    assert 'headrace_sink_windows_exported_total{topic="telemetry"} 1.0' in (tmp_path / "sink.prom").read_text()
    stop.set()
    await task
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
