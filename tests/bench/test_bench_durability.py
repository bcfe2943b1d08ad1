"""The durability benchmark: its points, its table, its options."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.durability import INTERVALS, LEVELS, chosen, parse_arguments, table
from benchmarks.loads import parse_load
from benchmarks.report import Round, summarise
from commitlog.settings import PROFILES


def test_all_points_unless_chosen() -> None:
    names = [point.name for point in chosen(parse_arguments([]))]
    assert len(names) == len(LEVELS) * len(INTERVALS)
    assert names[0] == "fsync-0"
    some = chosen(parse_arguments(["--level", "os", "--interval", "7ms", "--profile", "sd"]))
    assert [point.name for point in some] == ["os-7ms", "profile-sd"]
    profiles = chosen(parse_arguments(["--only-profiles"]))
    assert [point.name for point in profiles] == [f"profile-{name}" for name in PROFILES]


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--directory", str(tmp_path / "nowhere")])


def test_a_point_without_a_valid_round_stands_in_the_table() -> None:
    one = Round(server="os-7ms", load=parse_load("1000@1"), number=1, figures=None, void=("broke off: why",))
    assert table(summarise([one], None)).splitlines()[-1] == "| os 7ms | - | - | - | - | - | - | 0 of 1 |"
