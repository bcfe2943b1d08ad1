"""Machines that behave believably, as pure functions of (kind, seed, tick).

Any tick can be computed by itself, so that a reading never depends on what the network did. Time is cut into
stretches of 40 to 90 seconds (a length of its own per machine). What a stretch is - running, idle, in fault, silent -
is drawn from the seed and the stretch's number. Within a stretch every signal settles exponentially from the level of
the stretch before to its own, on top of that come a slow drift, and noise drawn from the tick. The first stretch is
never silent and never in fault, so that a short run delivers every reading.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["pump", "press", "chiller"]
State = Literal["running", "idle", "fault"]
Reading = dict[str, str | int | float | bool]

KINDS: Final[tuple[Kind, ...]] = ("pump", "press", "chiller")

_FAULT_SHARE: Final = 0.05
_IDLE_SHARE: Final = 0.17
_SILENT_SHARE: Final = 0.03
_MASK: Final = (1 << 64) - 1
_NOISE_BITS: Final = 10  # six signals fit into the 64 bits drawn per tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One measured value: its level per state, how fast it settles, how far it drifts and how it rattles.

    `drift` and `noise` are shares of the level; `digits` is the precision of the sensor (0: a whole number).
    """

    name: str
    levels: Mapping[State, float]
    settle_s: float
    drift: float
    noise: float
    digits: int


def _signal(
    name: str, levels: tuple[float, float, float], *, settle_s: float, drift: float, noise: float, digits: int
) -> Signal:
    running, idle, fault = levels
    by_state: dict[State, float] = {"running": running, "idle": idle, "fault": fault}
    return Signal(name=name, levels=by_state, settle_s=settle_s, drift=drift, noise=noise, digits=digits)


SIGNALS: Final[Mapping[Kind, tuple[Signal, ...]]] = {
    "pump": (
        _signal("temperature_c", (58.0, 31.0, 83.0), settle_s=14, drift=0.05, noise=0.004, digits=2),
        _signal("vibration_mm_s", (2.3, 0.2, 9.4), settle_s=2, drift=0.10, noise=0.12, digits=3),
        _signal("rpm", (1480, 0, 610), settle_s=3, drift=0.01, noise=0.004, digits=0),
        _signal("pressure_bar", (6.2, 0.9, 2.1), settle_s=4, drift=0.03, noise=0.01, digits=2),
        _signal("flow_l_min", (240.0, 0.0, 65.0), settle_s=4, drift=0.04, noise=0.02, digits=1),
    ),
    "press": (
        _signal("oil_temperature_c", (47.0, 33.0, 71.0), settle_s=16, drift=0.06, noise=0.003, digits=2),
        _signal("force_kn", (820.0, 0.0, 140.0), settle_s=1, drift=0.02, noise=0.06, digits=1),
        _signal("stroke_mm", (312.0, 0.0, 48.0), settle_s=1, drift=0.0, noise=0.005, digits=1),
        _signal("vibration_mm_s", (4.1, 0.3, 12.8), settle_s=2, drift=0.12, noise=0.15, digits=3),
    ),
    "chiller": (
        _signal("supply_c", (6.5, 12.5, 17.8), settle_s=18, drift=0.07, noise=0.01, digits=2),
        _signal("return_c", (12.2, 14.0, 18.9), settle_s=18, drift=0.05, noise=0.01, digits=2),
        _signal("refrigerant_bar", (4.3, 7.1, 2.0), settle_s=6, drift=0.03, noise=0.01, digits=2),
        _signal("power_kw", (38.0, 1.2, 3.0), settle_s=3, drift=0.05, noise=0.03, digits=2),
    ),
}

FAULT_CODES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "pump": ("E11-dry-run", "E14-bearing-hot", "E20-overload"),
    "press": ("P03-guard-open", "P07-oil-hot", "P12-overforce"),
    "chiller": ("C02-low-refrigerant", "C05-high-pressure", "C09-no-flow"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    state: State
    silent: bool
    fault_code: str


def _mixed(value: int) -> int:
    """64 well mixed bits of `value` (the finalizer of SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Machine:
    """One machine. Two of the same kind and seed give the same readings, in any order of ticks.

    `tick_s` is the time between ticks in seconds: at a higher rate the machine does not live faster.
    """

    def __init__(self, kind: Kind, seed: int | str, *, tick_s: float = 1.0) -> None:
        draw = random.Random(f"{kind}/{seed}")
        self._kind: Kind = kind
        self._key = draw.getrandbits(64)
        self._tick_s = tick_s
        self._stretch_s = draw.uniform(40.0, 90.0)
        self._drift_period_s = draw.uniform(300.0, 1500.0)
        self._drift_phase = draw.uniform(0.0, math.tau)
        self._strokes_per_s = draw.uniform(0.2, 0.6)
        self._scales = tuple(draw.uniform(0.93, 1.07) for _ in SIGNALS[kind])
        self._recent: dict[int, _Stretch] = {}

    def silent(self, tick: int) -> bool:
        """Whether the machine says nothing at this tick, though it is connected."""
        return self._stretch(int(tick * self._tick_s / self._stretch_s)).silent

    def reading(self, tick: int) -> Reading:
        """What the machine measures at `tick` (0, 1, ...): flat, JSON-ready, fields by its kind.

        A machine in fault also gives `fault_code`, which its other readings lack.
        """
        elapsed_s = tick * self._tick_s
        number = int(elapsed_s / self._stretch_s)
        since_s = elapsed_s - number * self._stretch_s
        now = self._stretch(number)
        before = self._stretch(max(number - 1, 0))
        drift = math.sin(math.tau * elapsed_s / self._drift_period_s + self._drift_phase)
        noise = _mixed(self._key ^ tick)
        reading: Reading = {"state": now.state}
        for signal, scale in zip(SIGNALS[self._kind], self._scales, strict=True):
            target = signal.levels[now.state]
            level = target + (signal.levels[before.state] - target) * math.exp(-since_s / signal.settle_s)
            rattle = (noise & ((1 << _NOISE_BITS) - 1)) / (1 << (_NOISE_BITS - 1)) - 1.0
            noise >>= _NOISE_BITS
            value = level * scale * (1.0 + signal.drift * drift + signal.noise * rattle)
            reading[signal.name] = round(value, signal.digits) if signal.digits else round(value)
        if self._kind == "press":
            reading["job"] = number + 1
            reading["strokes"] = int(since_s * self._strokes_per_s) if now.state == "running" else 0
        elif self._kind == "chiller":
            reading["compressor_on"] = now.state == "running"
        if now.state == "fault":
            reading["fault_code"] = now.fault_code
        return reading

    def _stretch(self, number: int) -> _Stretch:
        found = self._recent.get(number)
        if found is None:
            if len(self._recent) > 2:  # this one and the one before are all that a running machine asks for
                self._recent.clear()
            found = self._recent[number] = self._draw_stretch(number)
        return found

    def _draw_stretch(self, number: int) -> _Stretch:
        draw = random.Random(_mixed(self._key ^ _mixed(number)))
        chance, silence = draw.random(), draw.random()
        state: State = "running"
        if number > 0 and chance < _FAULT_SHARE:
            state = "fault"
        elif chance < _FAULT_SHARE + _IDLE_SHARE:
            state = "idle"
        return _Stretch(
            state=state,
            silent=number > 0 and silence < _SILENT_SHARE,
            fault_code=draw.choice(FAULT_CODES[self._kind]),
        )
