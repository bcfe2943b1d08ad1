"""The benchmarks of the MQTT server: options, figures, tables, and each scenario once on a real broker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import ingest
from benchmarks.ingest import Reading
from benchmarks.loader import compile_loader
from benchmarks.measure import MachineCpu, ProcessCpu, Spread
from benchmarks.mqtt.__main__ import MOSQUITTO_INFLIGHT, SCENARIOS, make_plans, parse_arguments, report
from benchmarks.mqtt.memory import growth_bytes
from benchmarks.mqtt.run import measure_once
from benchmarks.mqtt.scenario import LOADERS, Bar, Outcome, Plan, reasons_to_void, shares
from benchmarks.mqtt.table import Round, cells, judge, markdown_table, summarise, text_table
from benchmarks.servers import CommandServer, Mosquitto
from tests.conftest import require_component

SOURCES = Path(ingest.__file__).parent
SMALL: Mapping[str, int] = {"fan-in": 5, "fan-out": 8, "idle": 50, "away": 2_000, "storm": 40, "qos0": 5}
FAN_IN = SCENARIOS["fan-in"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    require_component("cc")
    build = tmp_path_factory.mktemp("loaders")
    return {name: compile_loader(SOURCES / f"{name}.c", build) for name in LOADERS}


def plan_of(programs: Mapping[str, Path], size: int) -> Plan:
    return Plan(programs=programs, warmup_s=0.1, interval_s=0.3, payload_bytes=120, size=size)


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_once_on_mosquitto(programs: Mapping[str, Path], name: str, tmp_path: Path) -> None:
    require_component("mosquitto")
    scenario = SCENARIOS[name]
    server = Mosquitto(inflight=MOSQUITTO_INFLIGHT)
    one = measure_once(plan_of(programs, SMALL[name]), scenario, server, 1, tmp_path)
    assert one.outcome is not None, one.void
    figures = one.outcome.figures
    assert {column.name for column in scenario.columns} | {bar.name for bar in scenario.bars} <= set(figures)
    assert {key: figures[key] for key in ("lost", "disordered", "dropped") if figures.get(key)} == {}
    rates = [figures[key] for key in figures if key.endswith("_per_s") or key == "back_s"]
    assert all(rate > 0 for rate in rates)
    assert not (tmp_path / "data-mosquitto").exists()


def test_a_server_that_does_not_start_is_a_void_round(
    programs: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = CommandServer("broken", "sh -c 'echo no such luck; exit 3'")
    one = measure_once(plan_of(programs, 1), FAN_IN, server, 1, tmp_path)
    assert one.outcome is None
    assert "ended with code 3" in one.void[0]
    assert "no such luck" in capsys.readouterr().err


# --- options


def test_rounds_and_sizes_unless_given() -> None:
    options = parse_arguments(["all"])
    assert (options.scenario, options.rounds, options.seconds, options.warmup) == (list(SCENARIOS), 3, 10.0, 3.0)
    quick = parse_arguments(["idle", "idle", "--quick", "--rounds", "2"])
    assert (quick.scenario, quick.rounds, quick.seconds) == (["idle"], 2, 2.0)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nothing"],
        ["idle", "--rounds", "0"],
        ["idle", "--size", "0"],
        ["idle", "away", "--size", "5"],
        ["idle", "--warmup", "-1"],
    ],
)
def test_options_that_make_no_run(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(words)


def test_sizes_of_plans(programs: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.mqtt.__main__.compile_loader", lambda source, _build: programs[source.stem])
    assert make_plans(parse_arguments(["away", "storm", "--quick"]))["away"].size == 100_000
    assert make_plans(parse_arguments(["idle"]))["idle"].size == 10_000
    assert make_plans(parse_arguments(["idle", "--quick", "--size", "77"]))["idle"].size == 77


# --- figures


def test_growth_leaves_out_the_first_quarter() -> None:
    assert growth_bytes([1, 2, 100, 100, 100, 100, 107, 107]) == 7
    assert growth_bytes([5, 900, 1]) == 0  # too few to say


def test_shares_of_one_core_and_what_is_void() -> None:
    def reading(server_s: float, busy_s: float, steal_s: float, at_s: float) -> Reading:
        cpu = ProcessCpu(user_s=0, system_s=0, total_s=server_s)
        return Reading(server=cpu, machine=MachineCpu(busy_s=busy_s, steal_s=steal_s), at_s=at_s)

    figures = shares(reading(1, 10, 0, 100), reading(5, 20, 1, 110), {"publisher": 5.0, "subscriber": 9.0})
    assert figures == {
        "server_share": 0.4,
        "others_share": 0.0,
        "steal_share": 0.1,
        "publisher_share": 0.5,
        "subscriber_share": 0.9,
    }
    bottleneck, stolen = reasons_to_void(figures, ["publisher", "subscriber"])
    assert "the subscriber took 90% of a core" in bottleneck
    assert "hypervisor" in stolen
    assert reasons_to_void(figures | {"steal_share": 0.0}, ["publisher"]) == ()


# --- tables


def fan_in(server: str, number: int, rate: float, void: tuple[str, ...] = (), **more: float) -> Round:
    names = {column.name for column in FAN_IN.columns} | {bar.name for bar in FAN_IN.bars}
    figures = dict.fromkeys(sorted(names), 0.0) | {"delivered_per_s": rate} | more
    outcome = Outcome(figures=figures, void=void)
    return Round(scenario=FAN_IN.name, server=server, number=number, outcome=outcome, void=void)


def test_ratios_pair_rounds_and_leave_out_void_ones() -> None:
    rounds = [
        fan_in("headrace", 1, 300.0),
        fan_in("mosquitto", 1, 100.0),
        fan_in("mosquitto", 2, 1.0, ("the publisher took 95%",)),
        fan_in("headrace", 2, 9000.0),
        fan_in("headrace", 3, 80.0),
        fan_in("mosquitto", 3, 40.0),
    ]
    mine, theirs = summarise(FAN_IN, rounds, "mosquitto")
    assert mine.ratios["delivered_per_s"] == Spread(median=2.5, low=2.0, high=3.0)
    assert "acked_per_s" not in mine.ratios  # nothing to divide by
    assert (mine.valid, theirs.valid, theirs.rounds) == (3, 2, 3)
    assert theirs.ratios == {}
    assert theirs.figures["delivered_per_s"] == Spread(median=70.0, low=40.0, high=100.0)


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (Bar(name="delivered_per_s", limit=2.5, at_most=False, ratio=True, words="w"), "w: met (2.50)"),
        (Bar(name="delivered_per_s", limit=2.6, at_most=False, ratio=True, words="w"), "w: MISSED (2.50)"),
        (Bar(name="lost", limit=0, at_most=True, words="w"), "w: MISSED (7.00)"),
        (Bar(name="rss_bytes", limit=1000, at_most=True, words="w"), "w: met (1,000)"),
        (Bar(name="acked_per_s", limit=1, at_most=True, ratio=True, words="w"), "w: not measured"),
    ],
)
def test_bars(bar: Bar, verdict: str) -> None:
    rounds = [fan_in("headrace", 1, 250.0, lost=7.0, rss_bytes=1000.0), fan_in("mosquitto", 1, 100.0)]
    assert judge(bar, summarise(FAN_IN, rounds, "mosquitto")[0]) == verdict


def test_tables_have_a_cell_for_every_figure_and_server() -> None:
    broken = Round(scenario=FAN_IN.name, server="headrace", number=1, outcome=None, void=("broke off: why",))
    lines = cells(FAN_IN, summarise(FAN_IN, [broken, fan_in("mosquitto", 1, 1234.5)], "mosquitto"), "mosquitto")
    assert {len(line) for line in lines} == {
        2 + len(FAN_IN.columns) + sum(column.compared for column in FAN_IN.columns)
    }
    assert set(lines[1][1:-1]) == {"-"}
    assert lines[1][-1] == "0 of 1"
    markdown = markdown_table(lines).splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    assert len(markdown) == 4
    assert "1,234" in text_table(lines)


def test_a_report_names_bars_void_rounds_and_whether_all_is_there() -> None:
    options = parse_arguments(["fan-in"])
    options.server = ["headrace", "mosquitto"]
    plans = {"fan-in": plan_of({}, 100)}
    rounds = [fan_in("headrace", 1, 90.0), fan_in("mosquitto", 1, 100.0, ("the subscriber took 99%",))]
    text, whole = report(options, plans, rounds)
    assert not whole
    assert FAN_IN.title(100) in text
    assert "Void rounds of mosquitto: the subscriber took 99%." in text
    assert "Bar: delivered/s to mosquitto at least 1.0: not measured." in text
    assert "Bar: nothing acked is lost: met (0.00)." in text
