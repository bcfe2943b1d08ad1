"""From rounds to tables: medians with their spread, ratios to the other server, as text and as Markdown."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.loads import Load
from benchmarks.measure import Spread

LOADER_LIMIT: Final = 0.9  # of one core: from here on the loader, not the server, may set the pace
MIN_ACKED: Final = 1000  # fewer leave the 99th percentile to ten messages
STEAL_LIMIT: Final = 0.1  # of one core: a hypervisor that takes more has measured its other guests
OTHERS_LIMIT: Final = 0.25  # of all cores: beyond it a round is marked as disturbed, though it counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One measured interval. Device figures cover the warm-up and the write-back too; None without a block device.

    Shares are of one core. `others_share` is everything but server and loader: kernel threads, this script, neighbours.
    """

    acked: int
    acked_per_s: float
    p50_us: float
    p99_us: float
    max_us: float
    skipped: int
    cpu_us_per_message: float
    user_us_per_message: float
    system_us_per_message: float
    rss_bytes: float
    pss_bytes: float
    pss_all_processes_bytes: float
    peak_rss_bytes: float
    process_bytes_per_payload_byte: float
    device_bytes_per_payload_byte: float | None
    device_writes_per_s: float | None
    device_flushes_per_s: float | None
    server_share: float
    loader_share: float
    others_share: float
    steal_share: float
    connect_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One server under one load, once. It is void, and left out of all medians, when `void` names a reason."""

    server: str
    load: Load
    number: int
    figures: Figures | None
    void: tuple[str, ...]


def reasons_to_void(figures: Figures) -> tuple[str, ...]:
    """Why this interval says nothing about the server; empty if it does."""
    reasons = []
    if figures.loader_share >= LOADER_LIMIT:
        reasons.append(f"the loader took {figures.loader_share:.0%} of a core: it may be the bottleneck")
    if figures.acked < MIN_ACKED:
        reasons.append(f"{figures.acked} acks are too few for a 99th percentile")
    if figures.steal_share >= STEAL_LIMIT:
        reasons.append(f"the hypervisor took {figures.steal_share:.0%} of a core")
    return tuple(reasons)


def disturbed(figures: Figures) -> bool:
    """Whether so much else ran on the machine that the figures are worse than the server is."""
    return figures.others_share > OTHERS_LIMIT * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One server under one load over all its valid rounds. Ratios pair the rounds of the same number."""

    server: str
    load: Load
    valid: int
    rounds: int
    disturbed: int
    void: tuple[str, ...]
    spreads: Mapping[str, Spread]
    rate_ratio: Spread | None
    cpu_ratio: Spread | None


def summarise(rounds: Sequence[Round], reference: str | None) -> list[Row]:
    """A row per load and server, in the order of their first round; ratios are to the server named `reference`."""
    order = dict.fromkeys((one.load, one.server) for one in rounds)
    loads = dict.fromkeys(load for load, _ in order)
    return [_row(load, server, rounds, reference) for load in loads for other, server in order if other == load]


def _row(load: Load, server: str, rounds: Sequence[Round], reference: str | None) -> Row:
    mine = [one for one in rounds if one.load == load and one.server == server]
    valid = _valid_by_number(mine)
    theirs = _valid_by_number([one for one in rounds if one.load == load and one.server == reference])
    pairs = [(figures, theirs[number]) for number, figures in valid.items() if number in theirs]
    compared = server != reference and bool(pairs)
    return Row(
        server=server,
        load=load,
        valid=len(valid),
        rounds=len(mine),
        disturbed=sum(map(disturbed, valid.values())),
        void=tuple(dict.fromkeys(reason for one in mine for reason in one.void)),
        spreads=_spreads(list(valid.values())),
        rate_ratio=Spread.of([own.acked_per_s / other.acked_per_s for own, other in pairs]) if compared else None,
        cpu_ratio=(
            Spread.of([own.cpu_us_per_message / other.cpu_us_per_message for own, other in pairs])
            if compared and all(other.cpu_us_per_message for _, other in pairs)
            else None
        ),
    )


def _valid_by_number(rounds: Sequence[Round]) -> dict[int, Figures]:
    return {one.number: one.figures for one in rounds if one.figures is not None and not one.void}


def _spreads(valid: Sequence[Figures]) -> dict[str, Spread]:
    names = [field.name for field in dataclasses.fields(Figures)] if valid else []
    columns = {name: [getattr(figures, name) for figures in valid] for name in names}
    return {name: Spread.of(values) for name, values in columns.items() if None not in values}


# --- tables


Cell = Callable[[Row], str]


def _spread_cell(name: str, scale: float, digits: int, *, ranged: bool = False) -> Cell:
    def cell(row: Row) -> str:
        spread = row.spreads.get(name)
        if spread is None:
            return "-"
        middle = f"{spread.median * scale:,.{digits}f}"
        if not ranged or row.valid < 2:
            return middle
        return f"{middle} ({spread.low * scale:,.{digits}f}..{spread.high * scale:,.{digits}f})"

    return cell


def _ratio_cell(name: str) -> Cell:
    def cell(row: Row) -> str:
        spread: Spread | None = getattr(row, name)
        if spread is None:
            return "-"
        middle = f"{spread.median:.2f}"
        return middle if row.valid < 2 else f"{middle} ({spread.low:.2f}..{spread.high:.2f})"

    return cell


def _rounds_cell(row: Row) -> str:
    counted = str(row.valid) if row.valid == row.rounds else f"{row.valid} of {row.rounds}"
    return f"{counted}, {row.disturbed} disturbed" if row.disturbed else counted


def columns(reference: str | None) -> list[tuple[str, Cell]]:
    """Headings and how to fill the cells below them."""
    ratios: list[tuple[str, Cell]] = []
    if reference is not None:
        ratios = [
            (f"acked/s to {reference}", _ratio_cell("rate_ratio")),
            (f"CPU to {reference}", _ratio_cell("cpu_ratio")),
        ]
    return [
        ("server", lambda row: row.server),
        ("acked/s", _spread_cell("acked_per_s", 1, 0, ranged=True)),
        *ratios,
        ("p50 ms", _spread_cell("p50_us", 1e-3, 2, ranged=True)),
        ("p99 ms", _spread_cell("p99_us", 1e-3, 2, ranged=True)),
        ("CPU us/msg", _spread_cell("cpu_us_per_message", 1, 2, ranged=True)),
        ("user us/msg", _spread_cell("user_us_per_message", 1, 2)),
        ("sys us/msg", _spread_cell("system_us_per_message", 1, 2)),
        ("RSS MiB", _spread_cell("rss_bytes", 2**-20, 0)),
        ("PSS MiB", _spread_cell("pss_bytes", 2**-20, 0)),
        ("peak MiB", _spread_cell("peak_rss_bytes", 2**-20, 0)),
        ("device B/payload B", _spread_cell("device_bytes_per_payload_byte", 1, 2)),
        ("process B/payload B", _spread_cell("process_bytes_per_payload_byte", 1, 2)),
        ("device writes/s", _spread_cell("device_writes_per_s", 1, 0)),
        ("server %", _spread_cell("server_share", 100, 0)),
        ("loader %", _spread_cell("loader_share", 100, 0)),
        ("others %", _spread_cell("others_share", 100, 0, ranged=True)),
        ("rounds", _rounds_cell),
    ]


def text_table(rows: Sequence[Row], reference: str | None) -> str:
    """For a terminal: one block per load, columns aligned."""
    heads = columns(reference)
    lines: list[str] = []
    for load in dict.fromkeys(row.load for row in rows):
        group = [row for row in rows if row.load == load]
        cells = [[head for head, _ in heads], *[[cell(row) for _, cell in heads] for row in group]]
        widths = [max(len(line[at]) for line in cells) for at in range(len(heads))]
        lines += ["", load.title, *("  ".join(map(str.rjust, line, widths)).rstrip() for line in cells)]
        lines += [f"  void: {row.server}: {reason}" for row in group for reason in row.void]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row], reference: str | None, environment: Mapping[str, Any]) -> str:
    """For docs/performance.md: what it was measured on, then one table per load."""
    heads = columns(reference)
    lines = [f"- {name}: {value}" for name, value in environment.items()]
    for load in dict.fromkeys(row.load for row in rows):
        group = [row for row in rows if row.load == load]
        lines += ["", f"**{load.title}**", "", "| " + " | ".join(head for head, _ in heads) + " |"]
        lines += ["|---|" + "---:|" * (len(heads) - 1)]
        lines += ["| " + " | ".join(cell(row) for _, cell in heads) + " |" for row in group]
        reasons = [f"Void rounds of {row.server}: {reason}." for row in group for reason in row.void]
        lines += ["", *reasons] if reasons else []
    return "\n".join(lines) + "\n"
