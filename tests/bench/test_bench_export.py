"""The benchmarks of exporting: readings, figures, tables, and each once, small, on the real log, sink and appliance."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from benchmarks import export, export_beside, ingest
from benchmarks.export import PEER, SINK, export_once, parse_arguments, prepared
from benchmarks.export_beside import Pair, Run, pairs_of
from benchmarks.export_load import AWKWARD_KINDS, DEVICES, READING_BYTES, TOPIC, Mix, open_log, readings
from benchmarks.export_report import Figures, Round, markdown_table, summarise, text_table, verdicts
from benchmarks.measure import BenchmarkError
from benchmarks.report import Figures as LoadFigures
from commitlog.base import TableChange
from commitlog.reader import FileLogReader
from commitlog.settings import LogSettings
from core.clock import SystemClock
from tests.conftest import require_component

SMALL = LogSettings(journal_size="4MB", pending_bytes="1MB", checkpoint_bytes="1MB", reserve="1MB")  # type: ignore[call-arg]


# --- readings


def test_readings_are_seeded_and_as_long_as_they_are_said_to_be() -> None:
    first = list(readings(Mix(readings=2_500)))
    assert first == list(readings(Mix(readings=2_500)))
    assert {len(reading.payload) for reading in first} == {READING_BYTES}
    assert {reading.device for reading in first[:DEVICES]} == set(range(DEVICES))
    assert all(json.loads(reading.payload)["ts"] <= reading.received_ms for reading in first)
    assert [reading.device for reading in first[:DEVICES]] == [
        reading.device for reading in first[DEVICES : 2 * DEVICES]
    ]


def test_awkward_readings_are_as_many_as_asked_for_and_of_every_kind() -> None:
    mixed = [reading.payload for reading in readings(Mix(readings=5_000, awkward_percent=10))]
    awkward = [payload for payload in mixed if len(payload) != READING_BYTES]
    assert 400 < len(awkward) < 600
    broken = [payload for payload in awkward if len(payload) == READING_BYTES - 1]
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken[0])
    shapes = {tuple(sorted(json.loads(payload))) for payload in set(awkward) - set(broken)}
    assert len(shapes) == AWKWARD_KINDS - 1


# --- exports


async def test_both_export_the_same_window_again_and_again(tmp_path: Path) -> None:
    mix = Mix(readings=3_000)
    async with prepared(tmp_path / "export", mix, SMALL, with_lines=True) as ready:
        for exporter in (SINK, PEER, SINK):
            figures = await export_once(ready, exporter, threads=1)
            assert (figures.rows, figures.quarantined) == (mix.readings, 0)
            assert figures.files >= 1
            assert 0 < figures.bytes_per_row < READING_BYTES
            assert figures.peak_rss_bytes >= figures.start_rss_bytes > 1 << 20
            assert figures.wall_s > 0 < figures.cpu_us_per_row
            lake = ready.data_dir / "lake" / "telemetry"
            assert len(list(lake.glob("*/*.parquet"))) == (figures.files if exporter == SINK else 0)
    assert not (tmp_path / "export").exists()


async def test_what_is_broken_is_counted_apart(tmp_path: Path) -> None:
    mix = Mix(readings=2_000, awkward_percent=50)
    broken = sum(not reading.payload.endswith(b"}") for reading in readings(mix))
    async with prepared(tmp_path / "export", mix, SMALL, with_lines=False) as ready:
        figures = await export_once(ready, SINK, threads=1)
    assert figures.quarantined >= broken > 100
    assert figures.rows >= mix.readings - figures.quarantined


async def test_an_export_that_fails_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with prepared(tmp_path / "export", Mix(readings=100), SMALL, with_lines=False) as ready:
        (ready.data_dir / "lake").write_text("in the way")
        with pytest.raises(BenchmarkError, match="ended with code"):
            await export._child(["sink", str(ready.data_dir)], 1, 60)
    assert "the export failed" in capfd.readouterr().err


# --- figures and tables


def figures(rows: int = 1_000, wall_s: float = 1.0, *, size_bytes: int = 10_000, steal: float = 0.0) -> Figures:
    return Figures(
        readings=rows,
        rows=rows,
        quarantined=0,
        files=1,
        size_bytes=size_bytes,
        wall_s=wall_s,
        user_s=wall_s / 2,
        system_s=wall_s / 4,
        start_rss_bytes=1 << 20,
        peak_rss_bytes=3 << 20,
        others_share=0.0,
        steal_share=steal,
    )


def test_ratios_pair_rounds_of_one_number_and_leave_out_void_ones() -> None:
    rounds = [
        Round(exporter=SINK, mix="plain", number=1, figures=figures(wall_s=2.0)),
        Round(exporter=PEER, mix="plain", number=1, figures=figures(wall_s=1.0, size_bytes=5_000)),
        Round(exporter=PEER, mix="plain", number=2, figures=figures(wall_s=1.0)),
        Round(exporter=SINK, mix="plain", number=2, figures=figures(wall_s=99.0), void="steal"),
        Round(exporter=SINK, mix="plain", number=3, figures=figures(wall_s=4.0)),
        Round(exporter=PEER, mix="plain", number=3, figures=figures(wall_s=3.0, size_bytes=10_000)),
        Round(exporter=SINK, mix="awkward", number=1, figures=figures()),
    ]
    sink, peer, awkward = summarise(rounds, PEER, processors=2)
    assert (sink.exporter, peer.exporter, awkward.mix) == (SINK, PEER, "awkward")
    assert sink.rate_ratio is not None
    assert (sink.rate_ratio.low, sink.rate_ratio.high) == (0.5, 0.75)
    assert sink.size_ratio is not None
    assert (sink.size_ratio.low, sink.size_ratio.high) == (1.0, 2.0)
    assert (len(sink.valid), sink.rounds, len(peer.valid)) == (2, 3, 3)
    assert peer.rate_ratio is awkward.rate_ratio is None
    assert verdicts([sink, peer, awkward], PEER) == ["headrace, plain: 0.62 of duckdb's rows/s, bar 0.7: MISSED"]
    text = text_table([sink, peer, awkward], PEER)
    assert "2 of 3" in text
    assert "0.62 (0.50..0.75)" in text
    assert "- machine: ours" in markdown_table([sink, peer], PEER, {"machine": "ours"})


def test_a_neighbour_on_the_host_makes_a_round_void() -> None:
    assert "hypervisor" in export.reason_to_void(figures(steal=0.2))
    assert export.reason_to_void(figures()) == ""


@pytest.mark.parametrize("words", [["--rows", "-1"], ["--threads", "0"], ["--threads", "4096"], ["--mix", "odd"]])
def test_options_that_make_no_run(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(words)


def test_sizes_unless_given() -> None:
    assert (parse_arguments([]).rows, parse_arguments([]).rounds) == (5_000_000, 5)
    assert parse_arguments(["--quick", "--rows", "7"]).rows == 7
    assert parse_arguments([]).mix == ["plain", "awkward"]


# --- beside a load


def load_figures(p99_us: float) -> LoadFigures:
    names = LoadFigures.__dataclass_fields__
    return LoadFigures(**(dict.fromkeys(names, 1.0) | {"p99_us": p99_us}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("without_ms", "with_ms", "verdict"),
    [(2.0, 6.5, "met"), (2.0, 7.5, "MISSED"), (20.0, 39.0, "met"), (20.0, 41.0, "MISSED")],
)
def test_twice_or_five_milliseconds_whichever_is_larger(without_ms: float, with_ms: float, verdict: str) -> None:
    runs = [
        Run(kind="without", pair=1, figures=load_figures(without_ms * 1000)),
        Run(kind="with", pair=1, figures=load_figures(with_ms * 1000), sink_share=0.9),
    ]
    assert export_beside.report(runs).rstrip().endswith(verdict)


def test_a_pair_counts_when_both_its_runs_do() -> None:
    runs = [
        Run(kind=kind, pair=pair, figures=load_figures(1.0), void=("odd",) if (kind, pair) == ("with", 2) else ())
        for pair, kind in itertools.product((1, 2), export_beside.KINDS)
    ]
    assert pairs_of(runs) == [Pair(without=load_figures(1.0), beside=load_figures(1.0))]
    assert "Void: pair 2, with: odd." in export_beside.report(runs)


def test_one_pair_on_the_running_appliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_component("cc")
    monkeypatch.setattr(export_beside, "DATA", tmp_path / "data")
    words = [
        "--pairs",
        "1",
        "--windows",
        "1",
        "--rows",
        "2000",
        "--load",
        "20@100",
        "--seconds",
        "0.5",
        "--warmup",
        "0.1",
    ]
    monkeypatch.setattr(ingest, "BUILD", tmp_path)
    monkeypatch.setattr(ingest.measure, "idle_disk_rate", lambda _device, _seconds: ingest.DiskRate())
    _, runs = export_beside.run(export_beside.parse_arguments(words))
    without, beside = runs
    assert (without.kind, beside.kind) == export_beside.KINDS
    assert without.figures is not None
    assert without.figures.acked > 300
    assert beside.figures is not None
    assert "the export was over before the interval: more --windows" in beside.void
    assert beside.sink_peak_bytes > 1 << 20
    assert not (tmp_path / "data").exists()


async def test_a_filled_log_has_its_windows_and_forgets_its_exports(tmp_path: Path) -> None:
    assert await export_beside.fill_windows(tmp_path, 2, 500) == 2
    (tmp_path / "lake").mkdir()
    tables = ("sink.parquet", "exports", "ledger")
    log = await open_log(tmp_path, SystemClock())
    assert len(FileLogReader(tmp_path).windows(TOPIC)) == 2
    await log.append([], [TableChange(table=table, key="a", value={"next_window": 2}) for table in tables])
    await log.close()
    await export_beside.forget(tmp_path)
    log = await open_log(tmp_path, SystemClock())
    assert [await log.rows(table) for table in tables] == [{}, {}, {}]
    await log.close()
    assert not (tmp_path / "lake").exists()
