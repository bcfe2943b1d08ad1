"""From rounds to tables: medians with their spread, paired ratios to the reference server, bars met or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import Spread
from benchmarks.mqtt.scenario import Bar, Column, Outcome, Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One server in one scenario, once; without an outcome when it broke off, for the reason in `void`."""

    scenario: str
    server: str
    number: int
    outcome: Outcome | None
    void: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One server in one scenario over all its valid rounds. Ratios pair the rounds of the same number."""

    server: str
    valid: int
    rounds: int
    void: tuple[str, ...]
    figures: Mapping[str, Spread]
    ratios: Mapping[str, Spread]


def summarise(scenario: Scenario, rounds: Sequence[Round], reference: str | None) -> list[Row]:
    """A row per server, in the order of their first round; ratios are to the server named `reference`."""
    own = [one for one in rounds if one.scenario == scenario.name]
    theirs = _valid(own, reference)
    return [_row(scenario, server, own, theirs, reference) for server in dict.fromkeys(one.server for one in own)]


def _row(
    scenario: Scenario, server: str, own: Sequence[Round], theirs: Mapping[int, Outcome], reference: str | None
) -> Row:
    valid = _valid(own, server)
    names = list(next(iter(valid.values())).figures) if valid else []
    wanted = {column.name for column in scenario.columns if column.compared} | {
        bar.name for bar in scenario.bars if bar.ratio
    }
    pairs = [(mine, theirs[number]) for number, mine in valid.items() if number in theirs and server != reference]
    ratios = {
        name: Spread.of([mine.figures[name] / other.figures[name] for mine, other in pairs])
        for name in sorted(wanted)
        if pairs and all(other.figures[name] for _, other in pairs)
    }
    return Row(
        server=server,
        valid=len(valid),
        rounds=sum(one.server == server for one in own),
        void=tuple(dict.fromkeys(reason for one in own if one.server == server for reason in one.void)),
        figures={name: Spread.of([outcome.figures[name] for outcome in valid.values()]) for name in names},
        ratios=ratios,
    )


def _valid(rounds: Sequence[Round], server: str | None) -> dict[int, Outcome]:
    mine = (one for one in rounds if one.server == server and not one.void)
    return {one.number: one.outcome for one in mine if one.outcome is not None}


# --- bars


def judge(bar: Bar, row: Row) -> str:
    """`met` or `MISSED` with the figure, or that there is none."""
    spread = (row.ratios if bar.ratio else row.figures).get(bar.name)
    if spread is None:
        return f"{bar.words}: not measured"
    verdict = "met" if bar.met_by(spread.median) else "MISSED"
    digits = 2 if bar.ratio or abs(bar.limit) < 100 else 0
    return f"{bar.words}: {verdict} ({spread.median:,.{digits}f})"


# --- tables


def cells(scenario: Scenario, rows: Sequence[Row], reference: str | None) -> list[list[str]]:
    """The heading, then a line per server."""
    heads = ["server"]
    for column in scenario.columns:
        heads += [column.head] + ([f"to {reference}"] if column.compared and reference else [])
    return [[*heads, "rounds"], *(_line(scenario, row, reference) for row in rows)]


def _line(scenario: Scenario, row: Row, reference: str | None) -> list[str]:
    line = [row.server]
    for column in scenario.columns:
        line.append(_figure(row.figures.get(column.name), column))
        if column.compared and reference:
            line.append(_ratio(row.ratios.get(column.name)))
    return [*line, str(row.rounds) if row.valid == row.rounds else f"{row.valid} of {row.rounds}"]


def _figure(spread: Spread | None, column: Column) -> str:
    return _spread(spread, column.scale, column.digits)


def _ratio(spread: Spread | None) -> str:
    return _spread(spread, 1.0, 2)


def _spread(spread: Spread | None, scale: float, digits: int) -> str:
    if spread is None:
        return "-"
    middle, low, high = (f"{value * scale:,.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return middle if low == high else f"{middle} ({low}..{high})"


def text_table(lines: Sequence[Sequence[str]]) -> str:
    """Turned on its side, since a terminal is narrow: a line per figure, a column per server."""
    turned = list(zip(*lines, strict=True))
    widths = [max(len(line[at]) for line in turned) for at in range(len(lines))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in turned)


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    heads, *rest = lines
    ruler = "| --- |" + " ---: |" * (len(heads) - 1)
    return "\n".join(["| " + " | ".join(heads) + " |", ruler, *("| " + " | ".join(line) + " |" for line in rest)])
