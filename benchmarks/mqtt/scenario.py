"""What a scenario is: a size, the figures of one round on one started server, and the bars they are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from benchmarks.ingest import Reading
from benchmarks.report import LOADER_LIMIT, STEAL_LIMIT
from benchmarks.servers import Running

MIB: Final = 2**20
LOADERS: Final = ("loadgen", "subgen", "stormgen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What stays the same over a run: the loaders' programs, how long, how large."""

    programs: Mapping[str, Path]
    warmup_s: float
    interval_s: float
    payload_bytes: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A figure as a table shows it: times `scale`; `compared` adds its ratio to the reference server's."""

    name: str
    head: str
    scale: float = 1.0
    digits: int = 0
    compared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A limit for the median of a figure, or (`ratio`) for the median of its paired ratios to the reference server."""

    name: str
    limit: float
    at_most: bool
    ratio: bool = False
    words: str

    def met_by(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One round on one server. It is void, and left out of all medians, when `void` names a reason."""

    figures: Mapping[str, float]
    void: tuple[str, ...] = ()
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Scenario(Protocol):
    """One question to a server."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """The number that makes it large: connections, subscribers, clients or messages."""
        ...

    @property
    def columns(self) -> Sequence[Column]: ...

    @property
    def bars(self) -> Sequence[Bar]: ...

    def title(self, size: int) -> str: ...

    def run(self, plan: Plan, running: Running) -> Outcome:
        """One round. Raises BenchmarkError when it broke off."""
        ...


def shares(start: Reading, end: Reading, loaders_cpu_s: Mapping[str, float]) -> dict[str, float]:
    """CPU of the server, of each loader and of everything else between two readings, as shares of one core."""
    elapsed_s = end.at_s - start.at_s
    server_s, machine = end.server.since(start.server).total_s, end.machine.since(start.machine)
    others_s = max(machine.busy_s - server_s - sum(loaders_cpu_s.values()), 0.0)
    spent_s = {"server": server_s, "others": others_s, "steal": machine.steal_s, **loaders_cpu_s}
    return {f"{name}_share": value / elapsed_s for name, value in spent_s.items()}


def reasons_to_void(figures: Mapping[str, float], loaders: Sequence[str]) -> tuple[str, ...]:
    """Why a round says nothing about the server: a loader at its limit, or a hypervisor that took the processors."""
    reasons = [
        f"the {name} took {figures[f'{name}_share']:.0%} of a core: it may be the bottleneck"
        for name in loaders
        if figures[f"{name}_share"] >= LOADER_LIMIT
    ]
    if figures["steal_share"] >= STEAL_LIMIT:
        reasons.append(f"the hypervisor took {figures['steal_share']:.0%} of a core")
    return tuple(reasons)


def share_columns(*loaders: str) -> Sequence[Column]:
    names = ("server", *loaders, "others")
    return tuple(Column(name=f"{name}_share", head=f"{name} %", scale=100) for name in names)
