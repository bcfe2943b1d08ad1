"""Machines: deterministic, flat, believable."""

from __future__ import annotations

import itertools

import pytest

from devices.simulator.machine import FAULT_CODES, KINDS, SIGNALS, Kind, Machine

TICKS = 20_000  # about 300 stretches


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_readings_in_any_order(kind: Kind) -> None:
    ticks = [*range(0, 2000, 7)]
    forward, backward = Machine(kind, 42), Machine(kind, 42)
    first = {tick: forward.reading(tick) for tick in ticks}
    second = {tick: backward.reading(tick) for tick in reversed(ticks)}
    assert first == second
    assert [forward.silent(tick) for tick in ticks] == [backward.silent(tick) for tick in ticks]


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_gives_other_readings(kind: Kind) -> None:
    assert Machine(kind, 1).reading(10) != Machine(kind, 2).reading(10)


def test_a_known_reading_stays_as_it_is() -> None:
    """A seed written down today must mean the same machines later, on any Python."""
    assert Machine("pump", 7).reading(100) == KNOWN_PUMP


KNOWN_PUMP = {
    "state": "running",
    "temperature_c": 58.81,
    "vibration_mm_s": 2.026,
    "rpm": 1540,
    "pressure_bar": 6.02,
    "flow_l_min": 242.2,
}


@pytest.mark.parametrize("kind", KINDS)
def test_readings_are_flat_and_each_field_keeps_its_type(kind: Kind) -> None:
    machine = Machine(kind, 3)
    types: dict[str, type] = {}
    for tick in range(TICKS):
        for name, value in machine.reading(tick).items():
            assert types.setdefault(name, type(value)) is type(value)
    assert set(types.values()) <= {str, int, float, bool}
    assert {signal.name for signal in SIGNALS[kind]} <= types.keys()


def test_fields_differ_per_kind() -> None:
    fields = [frozenset(Machine(kind, 1).reading(0)) for kind in KINDS]
    assert len(set(fields)) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_life_has_work_rest_faults_and_silence(kind: Kind) -> None:
    machine = Machine(kind, 5)
    states = [machine.reading(tick)["state"] for tick in range(TICKS)]
    assert 0.6 < states.count("running") / TICKS < 0.9
    assert 0.05 < states.count("idle") / TICKS < 0.3
    assert 0.005 < states.count("fault") / TICKS < 0.15
    assert 0.002 < sum(machine.silent(tick) for tick in range(TICKS)) / TICKS < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_code_stands_in_faults_only(kind: Kind) -> None:
    machine = Machine(kind, 5)
    for tick in range(TICKS):
        reading = machine.reading(tick)
        if reading["state"] == "fault":
            assert reading["fault_code"] in FAULT_CODES[kind]
        else:
            assert "fault_code" not in reading


@pytest.mark.parametrize("seed", range(40))
def test_the_first_half_minute_is_neither_silent_nor_in_fault(seed: int) -> None:
    machine = Machine("press", seed)
    assert not any(machine.silent(tick) or machine.reading(tick)["state"] == "fault" for tick in range(40))


def test_a_pump_warms_up_gradually() -> None:
    machine = Machine("pump", 5)
    temperatures = [float(machine.reading(tick)["temperature_c"]) for tick in range(TICKS)]
    assert max(temperatures) - min(temperatures) > 20
    steps = [abs(after - before) for before, after in itertools.pairwise(temperatures)]
    assert max(steps) < 6


def test_a_higher_rate_does_not_make_a_machine_live_faster() -> None:
    slow, fast = Machine("pump", 5, tick_s=1.0), Machine("pump", 5, tick_s=0.1)
    for second in range(0, 5000, 50):
        assert fast.reading(second * 10)["state"] == slow.reading(second)["state"]
