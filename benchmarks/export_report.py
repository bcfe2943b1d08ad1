"""From exports to tables: medians with their spread, ratios of the two that took turns, and whether the bar is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.measure import Spread
from benchmarks.report import OTHERS_LIMIT, STEAL_LIMIT

LEAST_RATIO: Final = 0.7  # of the peer's rows a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One export. `others_share`: what else the machine did, `steal_share`: what its host took, of one core."""

    readings: int
    rows: int
    quarantined: int
    files: int
    size_bytes: int
    wall_s: float
    user_s: float
    system_s: float
    start_rss_bytes: int
    peak_rss_bytes: int
    others_share: float
    steal_share: float

    @property
    def readings_per_s(self) -> float:
        return self.readings / self.wall_s

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.wall_s

    @property
    def cpu_us_per_row(self) -> float:
        return (self.user_s + self.system_s) / self.rows * 1e6

    @property
    def user_us_per_row(self) -> float:
        return self.user_s / self.rows * 1e6

    @property
    def system_us_per_row(self) -> float:
        return self.system_s / self.rows * 1e6

    @property
    def bytes_per_row(self) -> float:
        return self.size_bytes / self.rows

    @property
    def cores(self) -> float:
        """How many processors it kept busy, on average."""
        return (self.user_s + self.system_s) / self.wall_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One exporter on one mix, once; left out of all medians when `void` names a reason."""

    exporter: str
    mix: str
    number: int
    figures: Figures | None
    void: str = ""


def reason_to_void(figures: Figures) -> str:
    """Why this export says nothing; empty if it does."""
    if figures.steal_share >= STEAL_LIMIT:
        return f"the hypervisor took {figures.steal_share:.0%} of a core"
    return ""


def disturbed(figures: Figures, processors: int) -> bool:
    """Whether so much else ran on the machine that the figures are worse than the exporter is."""
    return figures.others_share > OTHERS_LIMIT * processors


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One exporter on one mix over its valid rounds; ratios are to the peer's round of the same number."""

    exporter: str
    mix: str
    valid: Sequence[Figures]
    rounds: int
    disturbed: int
    rate_ratio: Spread | None
    cpu_ratio: Spread | None
    size_ratio: Spread | None


def summarise(rounds: Sequence[Round], peer: str, processors: int) -> list[Row]:
    """A row for each mix and exporter, in the order of their first round."""
    return [
        _row(rounds, mix, exporter, peer, processors)
        for mix, exporter in dict.fromkeys((one.mix, one.exporter) for one in rounds)
    ]


def _row(rounds: Sequence[Round], mix: str, exporter: str, peer: str, processors: int) -> Row:
    mine, theirs = _valid(rounds, mix, exporter), _valid(rounds, mix, peer)
    pairs = [(own, theirs[number]) for number, own in mine.items() if number in theirs and exporter != peer]

    def ratio(figure: Callable[[Figures], float]) -> Spread | None:
        return Spread.of([figure(own) / figure(other) for own, other in pairs]) if pairs else None

    return Row(
        exporter=exporter,
        mix=mix,
        valid=list(mine.values()),
        rounds=sum(one.mix == mix and one.exporter == exporter for one in rounds),
        disturbed=sum(disturbed(figures, processors) for figures in mine.values()),
        rate_ratio=ratio(lambda one: one.rows_per_s),
        cpu_ratio=ratio(lambda one: one.cpu_us_per_row),
        size_ratio=ratio(lambda one: one.bytes_per_row),
    )


def _valid(rounds: Sequence[Round], mix: str, exporter: str) -> dict[int, Figures]:
    named = [one for one in rounds if one.mix == mix and one.exporter == exporter]
    return {one.number: one.figures for one in named if one.figures is not None and not one.void}


def verdicts(rows: Sequence[Row], peer: str) -> list[str]:
    """What the bar says of each comparison."""
    told = []
    for row in rows:
        if row.rate_ratio is not None:
            met = "met" if row.rate_ratio.median >= LEAST_RATIO else "MISSED"
            told.append(
                f"{row.exporter}, {row.mix}: {row.rate_ratio.median:.2f} of {peer}'s rows/s, bar {LEAST_RATIO}: {met}"
            )
    return told


# --- tables


Cell = Callable[[Row], str]


def _figure(of: Callable[[Figures], float], scale: float, digits: int, *, ranged: bool = False) -> Cell:
    def cell(row: Row) -> str:
        if not row.valid:
            return "-"
        spread = Spread.of([of(figures) * scale for figures in row.valid])
        middle = f"{spread.median:,.{digits}f}"
        if not ranged or len(row.valid) < 2:
            return middle
        return f"{middle} ({spread.low:,.{digits}f}..{spread.high:,.{digits}f})"

    return cell


def _ratio(of: Callable[[Row], Spread | None]) -> Cell:
    def cell(row: Row) -> str:
        spread = of(row)
        if spread is None:
            return "-"
        middle = f"{spread.median:.2f}"
        return middle if len(row.valid) < 2 else f"{middle} ({spread.low:.2f}..{spread.high:.2f})"

    return cell


def _rounds(row: Row) -> str:
    counted = str(len(row.valid)) if len(row.valid) == row.rounds else f"{len(row.valid)} of {row.rounds}"
    return f"{counted}, {row.disturbed} disturbed" if row.disturbed else counted


def columns(peer: str) -> list[tuple[str, Cell]]:
    """Headings and how to fill the cells below them."""
    return [
        ("exporter", lambda row: row.exporter),
        ("rows/s", _figure(lambda one: one.rows_per_s, 1, 0, ranged=True)),
        (f"rows/s to {peer}", _ratio(lambda row: row.rate_ratio)),
        ("readings/s", _figure(lambda one: one.readings_per_s, 1, 0)),
        ("CPU us/row", _figure(lambda one: one.cpu_us_per_row, 1, 3, ranged=True)),
        (f"CPU to {peer}", _ratio(lambda row: row.cpu_ratio)),
        ("user us/row", _figure(lambda one: one.user_us_per_row, 1, 3)),
        ("sys us/row", _figure(lambda one: one.system_us_per_row, 1, 3)),
        ("cores", _figure(lambda one: one.cores, 1, 2)),
        ("peak MiB", _figure(lambda one: one.peak_rss_bytes, 2**-20, 0, ranged=True)),
        ("before MiB", _figure(lambda one: one.start_rss_bytes, 2**-20, 0)),
        ("files", _figure(lambda one: one.files, 1, 0)),
        ("bytes/row", _figure(lambda one: one.bytes_per_row, 1, 2)),
        (f"bytes to {peer}", _ratio(lambda row: row.size_ratio)),
        ("quarantined", _figure(lambda one: one.quarantined, 1, 0)),
        ("others %", _figure(lambda one: one.others_share, 100, 0, ranged=True)),
        ("rounds", _rounds),
    ]


def text_table(rows: Sequence[Row], peer: str) -> str:
    """For a terminal: a block per mix, a line per figure, a column per exporter."""
    lines: list[str] = []
    for mix in dict.fromkeys(row.mix for row in rows):
        group = [row for row in rows if row.mix == mix]
        cells = [[head, *(cell(row) for row in group)] for head, cell in columns(peer)]
        widths = [max(len(line[at]) for line in cells) for at in range(len(group) + 1)]
        lines += ["", mix, *("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row], peer: str, environment: Mapping[str, str]) -> str:
    """For docs/performance.md: what it was measured on, then a table per mix."""
    heads = columns(peer)
    lines = [f"- {name}: {value}" for name, value in environment.items()]
    for mix in dict.fromkeys(row.mix for row in rows):
        lines += ["", f"**{mix}**", "", "| " + " | ".join(head for head, _ in heads) + " |"]
        lines += ["| --- |" + " ---: |" * (len(heads) - 1)]
        lines += ["| " + " | ".join(cell(row) for _, cell in heads) + " |" for row in rows if row.mix == mix]
    return "\n".join([*lines, "", *(f"- {told}" for told in verdicts(rows, peer))]) + "\n"
