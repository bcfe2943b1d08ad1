from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from benchmarks.loads import Load, parse_load
from benchmarks.measure import Spread
from benchmarks.report import Figures, Round, markdown_table, reasons_to_void, summarise, text_table

LOAD = Load(connections=100, window=10)


def figures(**changes: Any) -> Figures:
    values: dict[str, Any] = {field.name: 1.0 for field in dataclasses.fields(Figures)}
    quiet = {"acked": 10_000, "loader_share": 0.5, "steal_share": 0.0, "others_share": 0.0}
    return Figures(**(values | quiet | changes))


def one(server: str, number: int, acked_per_s: float, *, void: tuple[str, ...] = (), **changes: Any) -> Round:
    seen = figures(acked_per_s=acked_per_s, **changes)
    return Round(server=server, load=LOAD, number=number, figures=seen, void=void)


@pytest.mark.parametrize(
    ("text", "load", "title"),
    [
        ("100x10", Load(connections=100, window=10), "saturated, 100 connections x window 10"),
        ("1000x1", Load(connections=1000, window=1), "saturated, 1,000 connections x window 1"),
        ("5000@1", Load(connections=5000, window=10, rate_per_s=1.0), "paced, 5,000 devices x 1/s"),
        ("20@0.5", Load(connections=20, window=10, rate_per_s=0.5), "paced, 20 devices x 0.5/s"),
    ],
)
def test_loads_by_name(text: str, load: Load, title: str) -> None:
    parsed = parse_load(text)
    assert (parsed, parsed.name, parsed.title) == (load, text, title)


@pytest.mark.parametrize("text", ["", "100", "x10", "0x10", "10x0", "10@0", "10@", "10x1@1", "-1x1"])
def test_what_is_no_load(text: str) -> None:
    with pytest.raises(ValueError, match="is no load"):
        parse_load(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loader_share": 0.9}, "bottleneck"),
        ({"acked": 999}, "too few"),
        ({"steal_share": 0.1}, "hypervisor"),
    ],
)
def test_void_at_the_limit(changes: dict[str, float], words: str) -> None:
    (reason,) = reasons_to_void(figures(**changes))
    assert words in reason


def test_not_void_below_the_limits() -> None:
    assert reasons_to_void(figures(loader_share=0.89, acked=1000, steal_share=0.09)) == ()


def test_ratios_pair_rounds_of_the_same_number_and_leave_out_void_ones() -> None:
    rounds = [
        one("headrace", 1, 300.0, cpu_us_per_message=2.0),
        one("mosquitto", 1, 100.0, cpu_us_per_message=8.0),
        one("mosquitto", 2, 100.0, void=("noise",)),
        one("headrace", 2, 9000.0),
        one("headrace", 3, 80.0, cpu_us_per_message=2.0),
        one("mosquitto", 3, 40.0, cpu_us_per_message=2.0),
    ]
    mine, theirs = summarise(rounds, "mosquitto")
    assert (mine.server, theirs.server) == ("headrace", "mosquitto")
    assert mine.rate_ratio == Spread(median=2.5, low=2.0, high=3.0)
    assert mine.cpu_ratio == Spread(median=0.625, low=0.25, high=1.0)
    assert (mine.valid, theirs.valid, theirs.rounds, theirs.void) == (3, 2, 3, ("noise",))
    assert theirs.spreads["acked_per_s"] == Spread(median=70.0, low=40.0, high=100.0)
    assert theirs.rate_ratio is None


def test_tables_say_what_is_void_and_do_not_print_its_figures() -> None:
    rounds = [one("headrace", 1, 123_456.0), one("mosquitto", 1, 77_777.0, void=("the loader took 95 %",))]
    rows = summarise(rounds, "mosquitto")
    for table in (text_table(rows, "mosquitto"), markdown_table(rows, "mosquitto", {"cpu": "2 x Test"})):
        assert "123,456" in table
        assert "77,777" not in table
        assert "the loader took 95 %" in table
        assert "0 of 1" in table


def test_a_round_that_broke_off_is_a_row_of_dashes() -> None:
    broken = Round(server="headrace", load=LOAD, number=1, figures=None, void=("broke off: closed",))
    (row,) = summarise([broken], None)
    assert (row.valid, row.spreads) == (0, {})
    assert "broke off: closed" in text_table([row], None)


def test_disturbed_rounds_count_and_are_marked() -> None:
    rows = summarise([one("headrace", 1, 5.0), one("headrace", 2, 7.0, others_share=float(os.cpu_count() or 1))], None)
    assert (rows[0].valid, rows[0].disturbed) == (2, 1)
    assert "2, 1 disturbed" in text_table(rows, None)


def test_no_device_means_no_device_figures() -> None:
    rows = summarise([one("headrace", 1, 5.0, device_writes_per_s=None)], None)
    assert "device_writes_per_s" not in rows[0].spreads


def test_markdown_rows_have_as_many_cells_as_the_heading() -> None:
    rows = summarise([one("headrace", 1, 2.0), one("mosquitto", 1, 1.0)], "mosquitto")
    table = [line for line in markdown_table(rows, "mosquitto", {}).splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
