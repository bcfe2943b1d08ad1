from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from commitlog.base import LogReader, TopicInfo
from commitlog.committed import Committed
from commitlog.gaps import LEFT_OUT
from commitlog.ledger import Ledger, entries
from sink.attempts import Pauses
from sink.base import (
    BackOffError,
    CancelFlag,
    Export,
    ExportCancelledError,
    ExportedFile,
    ExportWindow,
    Missing,
    NotConnectedError,
    RecordsFailedError,
    joined,
)
from sink.holding import Holding
from sink.metrics import SinkMetrics, keep_written, write_metrics
from sink.progress import EXPORTS_KEPT, after, checkpoint
from sink.requests import flush_request
from tests.conftest import wait_until_async
from tests.sink.sink_fakes import FakeLog, export_all, quick_runner, run_until

Act = Callable[[ExportWindow, CancelFlag], Export]


def exported_file(path: str) -> ExportedFile:
    return ExportedFile(path=path, kind="rows", rows=2, size_bytes=10, crc32c="0" * 8, date="2025-11-20")


class ScriptedSink:
    """Does what the test says at each `write`, and remembers every call."""

    name = "scripted"

    def __init__(self, *script: Exception | Act, topic: str | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        self.script = list(script)
        self.topic = topic
        self.fail_open: list[Exception] = []
        self.ahead: dict[str, list[ExportWindow]] = {}
        self.notes: list[tuple[str, ...]] = []

    def _noted(self) -> None:
        self.threads.add(threading.get_ident())

    def open(self, progress: Mapping[str, int]) -> None:
        self._noted()
        self.calls.append(("open", dict(progress)))
        if self.fail_open:
            raise self.fail_open.pop(0)

    def unrecorded(self, info: TopicInfo, next_window: int | None, reader: LogReader) -> Sequence[ExportWindow]:
        self._noted()
        return self.ahead.pop(info.topic_id, [])

    def begun(self, topic_id: str, next_window: int) -> int | None:
        self._noted()
        return None

    def write(
        self, window: ExportWindow, reader: LogReader, cancel: CancelFlag, *, notes: Sequence[str] = ()
    ) -> Export:
        self.notes.append(tuple(notes))
        self._noted()
        self.calls.append(("write", window.topic, window.number))
        if self.script and self.topic in (None, window.topic):
            act = self.script.pop(0)
            if isinstance(act, Exception):
                raise act
            return act(window, cancel)
        return Export(
            files=[exported_file(f"{window.topic}/{window.number}")],
            records=window.span,
            rows=window.span,
        )

    def settle(self, window: ExportWindow) -> None:
        self._noted()
        self.calls.append(("settle", window.topic, window.number))

    def close(self) -> None:
        self._noted()
        self.calls.append(("close",))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == name]


def windows(count: int, *topics: str) -> FakeLog:
    log = FakeLog()
    for topic in topics or ("telemetry",):
        log.topic(topic, 1)
        for number in range(count):
            log.put(number, topic=topic)
            log.close_window(topic)
    return log


async def test_windows_are_written_recorded_and_settled_in_order() -> None:
    log, sink = windows(20), ScriptedSink()
    await export_all(sink, log)
    expected = [(call, "telemetry", number) for number in range(20) for call in ("write", "settle")]
    assert sink.calls == [("open", {}), *expected, ("close",)]
    topic_id = log.infos["telemetry"].topic_id
    assert log.tables["sink.scripted"][topic_id]["next_window"] == 20
    assert log.tables["sink.scripted"][topic_id]["offsets"] == {"0": 20}
    row = log.tables["exports"][f"{topic_id}/{19:020}"]
    assert {name: row[name] for name in ("topic", "number", "records", "rows", "quarantined", "lost", "clashes")} == {
        **{"topic": "telemetry", "number": 19, "records": 1, "rows": 1},
        **{"quarantined": 0, "lost": [], "clashes": {}},
    }
    assert row["files"] == [
        {
            **{"path": "telemetry/19", "kind": "rows", "rows": 2},
            **{"bytes": 10, "crc32c": "00000000", "date": "2025-11-20"},
        }
    ]


async def test_a_sink_is_called_on_one_thread_that_is_not_the_loops() -> None:
    log, sink = windows(3, "bad", "good"), ScriptedSink(NotConnectedError("gone"), RuntimeError("bug"), topic="bad")
    await export_all(sink, log)
    assert {name for name, *_ in sink.calls} == {"open", "write", "settle", "close"}
    assert len(sink.threads) == 1
    assert threading.get_ident() not in sink.threads


async def test_restart_goes_on_behind_the_checkpoint() -> None:
    log = windows(2)
    await export_all(ScriptedSink(), log)
    log.put(2)
    log.close_window()
    sink = ScriptedSink()
    await export_all(sink, log)
    assert sink.calls[:2] == [("open", {log.infos["telemetry"].topic_id: 2}), ("write", "telemetry", 2)]


async def test_empty_window_only_moves_the_checkpoint() -> None:
    log, sink = FakeLog(), ScriptedSink()
    log.topic()
    log.close_window()
    await export_all(sink, log)
    assert sink.named("write") == []
    assert "exports" not in log.tables


async def test_checkpoint_that_is_refused_is_tried_again_after_the_same_write() -> None:
    log, sink = windows(1), ScriptedSink()
    log.unavailable = 3
    await export_all(sink, log)
    assert sink.named("write") == [("write", "telemetry", 0)] * 4
    assert sink.named("settle") == [("settle", "telemetry", 0)]


async def test_offsets_of_windows_that_are_gone_are_listed_as_lost() -> None:
    log = windows(5)
    del log.closed["telemetry"][:3]
    await export_all(ScriptedSink(), log)
    rows = log.tables["exports"]
    assert [row["lost"] for row in rows.values()] == [[[0, 0, 3, "in no window the log still has"]], []]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        BackOffError("later", retry_after_s=0.001),
        RecordsFailedError("poison"),
        RuntimeError("bug"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_failures_are_counted_told_and_tried_again(error: Exception) -> None:
    log, sink, metrics = windows(1), ScriptedSink(*[error] * 3), SinkMetrics()
    with capture_logs() as logs:
        await export_all(sink, log, metrics=metrics)
    assert sink.named("write") == [("write", "telemetry", 0)] * 4
    kind = getattr(error, "code", "storage" if isinstance(error, OSError) else "unexpected")
    assert f'headrace_sink_failures_total{{kind="{kind}"}} 3.0' in metrics.text()
    told = [entry for entry in logs if entry["event"] == "export failed"]
    assert [entry["failures"] for entry in told] == [1, 2, 3]
    assert len(sink.named("open")) == 1


async def test_sink_that_lost_its_connection_is_opened_again() -> None:
    log, sink = windows(1), ScriptedSink(NotConnectedError("gone"))
    await export_all(sink, log)
    assert [call[0] for call in sink.calls] == ["open", "write", "close", "open", "write", "settle", "close"]


async def test_start_is_tried_until_log_and_sink_are_there() -> None:
    log, sink = windows(1), ScriptedSink()
    sink.fail_open = [OSError("not mounted"), NotConnectedError("not yet")]
    await export_all(sink, log)
    assert len(sink.named("open")) == 3
    assert sink.named("write") == [("write", "telemetry", 0)]


async def test_one_topics_failure_does_not_stop_another() -> None:
    log = windows(3, "bad", "good")
    sink = ScriptedSink(*[RuntimeError("bug")] * 1000, topic="bad")
    good = log.infos["good"].topic_id
    runner = quick_runner(sink, log, retry_max_s=60.0, first_s=30.0)
    await run_until(runner, lambda: log.tables.get("sink.scripted", {}).get(good, {}).get("next_window") == 3)
    assert sink.named("write").count(("write", "bad", 0)) == 1


async def test_stop_drops_the_window_under_way_without_a_checkpoint() -> None:
    log, stop, begun = windows(2), asyncio.Event(), threading.Event()

    def until_cancelled(window: ExportWindow, cancel: CancelFlag) -> Export:
        begun.set()
        for _ in range(10_000):
            cancel.check()
            threading.Event().wait(0.001)
        raise AssertionError("was not cancelled")

    sink = ScriptedSink(until_cancelled)
    task = asyncio.create_task(quick_runner(sink, log).run(stop))
    await wait_until_async(begun.is_set)
    stop.set()
    await task
    assert log.appends == 0
    assert sink.calls[-1] == ("close",)
    with pytest.raises(ExportCancelledError):
        _cancelled().check()


def _cancelled() -> CancelFlag:
    flag = CancelFlag()
    flag.set()
    return flag


def test_pauses_grow_and_are_bounded() -> None:
    pauses = Pauses(retry_max_s=30, first_s=0.5)
    assert [pauses.after(OSError(), failures) for failures in (1, 2, 3, 7, 10_000)] == [0.5, 1, 2, 30, 30]
    assert pauses.after(BackOffError("", retry_after_s=5), 1) == 5
    assert pauses.after(BackOffError("", retry_after_s=0), 1) == 0.5
    assert pauses.after(BackOffError("", retry_after_s=500), 1) == 30
    assert pauses.after(RecordsFailedError(""), 1) == 30


def test_old_export_rows_are_dropped_with_the_checkpoint() -> None:
    log = windows(1)
    window = replace(joined([log.close_window(number=EXPORTS_KEPT + 5)]), first_number=EXPORTS_KEPT + 4)
    changes = checkpoint("parquet", window, Export(), after(Committed(), window), Ledger({}), 1)
    assert [(change.key[-4:], change.value is None) for change in changes if change.table == "exports"] == [
        ("1005", False),
        ("0004", True),
        ("0005", True),
    ]


def test_metrics_file_holds_what_was_exported(tmp_path: Path) -> None:
    metrics = SinkMetrics()
    file = replace(exported_file("x"), rows=3, size_bytes=100)
    lost = Missing(partition=0, first=1, next=5, reason="cut")
    never = Missing(partition=0, first=5, next=905, reason=LEFT_OUT)
    export = Export(files=[file], rows=3, quarantined={"empty": 2}, clashes={"a": 4}, lost=[lost], left_out=[never])
    metrics.exported("telemetry", export, 1_500)
    write_metrics(metrics, tmp_path / "sink.prom")
    text = (tmp_path / "sink.prom").read_text()
    for line in (
        'headrace_sink_windows_exported_total{topic="telemetry"} 1.0',
        'headrace_sink_rows_total{topic="telemetry"} 3.0',
        'headrace_sink_quarantined_total{reason="empty",topic="telemetry"} 2.0',
        'headrace_sink_files_total{topic="telemetry"} 1.0',
        'headrace_sink_bytes_total{topic="telemetry"} 100.0',
        'headrace_sink_clashes_total{topic="telemetry"} 4.0',
        'headrace_sink_lost_records_total{topic="telemetry"} 4.0',
        'headrace_sink_last_export_timestamp_seconds{topic="telemetry"} 1.5',
    ):
        assert line in text.splitlines()


async def test_metrics_file_follows_changes_and_survives_a_missing_folder(tmp_path: Path) -> None:
    metrics, path = SinkMetrics(), tmp_path / "run" / "sink.prom"
    task = asyncio.create_task(keep_written(metrics, path, 0.001))
    await asyncio.sleep(0)
    path.parent.mkdir()
    await wait_until_async(path.exists)
    metrics.failed("storage")
    await wait_until_async(lambda: 'kind="storage"' in path.read_text())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_notes_of_an_export_are_handed_to_the_next_also_after_a_restart() -> None:
    log = windows(2)
    sink = ScriptedSink(lambda window, _: Export(records=window.span, notes=("a", "b")))
    await export_all(sink, log)
    assert sink.notes == [(), ("a", "b")]
    log.put({"n": 9})
    log.close_window()
    again = ScriptedSink()
    await export_all(again, log)
    assert again.notes == [("a", "b")]


async def test_small_windows_are_held_back_until_somebody_asks() -> None:
    log, sink = windows(2), ScriptedSink()
    holding = Holding(small_records=100, hold_ms=10**15)
    runner = quick_runner(sink, log, holding=holding)
    await run_until(runner, lambda: log.waits > 5)
    assert [call for call in sink.calls if call[0] == "write"] == []
    topic_id = log.infos["telemetry"].topic_id
    await log.append([], [flush_request(topic_id, 1, 7)])
    await run_until(quick_runner(sink, log, holding=holding), lambda: log.tables["sink.requests"] == {})
    assert [call for call in sink.calls if call[0] == "write"] == [("write", "telemetry", 1)]
    (row,) = log.tables["exports"].values()
    assert (row["first_number"], row["number"]) == (0, 1)
    assert log.tables["sink.scripted"][topic_id]["next_window"] == 2


async def test_a_request_for_what_is_exported_already_is_withdrawn() -> None:
    log, sink = windows(1), ScriptedSink()
    await export_all(sink, log)
    await log.append([], [flush_request(log.infos["telemetry"].topic_id, 0, 7)])
    await run_until(quick_runner(sink, log), lambda: log.tables["sink.requests"] == {})
    assert len([call for call in sink.calls if call[0] == "write"]) == 1


async def test_lost_offsets_are_entered_in_the_ledger() -> None:
    log = windows(1)
    lost = [Missing(partition=0, first=1, next=3, reason="cut"), Missing(partition=0, first=3, next=4, reason="cut")]
    never = Missing(partition=0, first=5, next=905, reason=LEFT_OUT)
    sink = ScriptedSink(lambda window, _: Export(records=1, lost=lost, left_out=[never]))
    await export_all(sink, log)
    found = [(entry.state, entry.first, entry.next, entry.reason) for entry in entries(log.tables["ledger"])]
    assert found == [("left_out", 5, 905, LEFT_OUT), ("lost", 1, 4, "cut")]
