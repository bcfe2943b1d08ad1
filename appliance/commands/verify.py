"""`headrace verify`: proves that the lake holds what the log held. Beside a running appliance, or without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from appliance.commands.log_text import size_text
from appliance.commands.options import Config, DataDir
from appliance.commands.progress import Progress
from appliance.settings import load_settings

if TYPE_CHECKING:
    from sink.verify.report import Finding, TopicReport, VerifyReport

FOUND: Final = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(
    topic: Annotated[str | None, typer.Option("--topic", help="Only this topic.")] = None,
    contents: Annotated[
        bool, typer.Option("--contents/--no-contents", help="Compare every value with the log's records, too.")
    ] = True,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Check that every exported record is in the lake once, as it was. Exit code 0: it is, 1: findings, 2: usage."""
    from sink.verify.run import verify_lake  # here: no other command needs it

    directory = load_settings(config, data_dir).data_dir
    progress = Progress("verifying")
    try:
        report = verify_lake(directory, topic=topic, contents=contents, progress=progress)
    finally:
        progress.clear()
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        for line in report_lines(report):
            typer.echo(line)
    raise typer.Exit(0 if report.clean else FOUND)


def report_lines(report: VerifyReport) -> Iterator[str]:
    """For a person: findings, notes, what was looked at topic by topic, then the verdict."""
    for sort, kept in (("found", report.findings), ("note", report.notes)):
        for one in kept.kept:
            yield from _finding_lines(sort, one)
        if kept.count > len(kept.kept):
            yield f"{sort}: {kept.count - len(kept.kept)} more of these"
    for topic in report.topics:
        yield from _topic_lines(topic)
    beside = "beside the running appliance" if report.live else "no appliance is writing"
    contents = "" if report.contents else "; values were not compared"
    files, size = report.numbers["files"], size_text(report.numbers["bytes"])
    yield f"{len(report.topics)} topics, {files} files ({size}); {beside}{contents}"
    yield "clean" if report.clean else f"{report.findings.count} found"


def _finding_lines(sort: str, finding: Finding) -> Iterator[str]:
    at = finding.topic
    if finding.partition >= 0:
        at = f"{at}-{finding.partition} offsets {finding.first} to {finding.next - 1}"
    yield f"{sort}: {finding.kind}: {at + ': ' if at else ''}{finding.what}"
    yield f"where: {finding.where}"
    if finding.mend:
        yield f"mend:  {finding.mend}"


def _topic_lines(topic: TopicReport) -> Iterator[str]:
    numbers = topic.numbers
    gone = [f"{numbers[name]} {name.replace('_', ' ')}" for name in ("lost", "left_out", "dropped") if numbers[name]]
    in_lake = ", ".join([f"{numbers['in_files']} in files", *gone])
    yield (
        f"topic {topic.topic}: {numbers['committed']} offsets exported, {in_lake}; {numbers['units']} exports, "
        f"{numbers['files']} files, {numbers['rows']} rows, {numbers['quarantined']} in quarantine; "
        f"{numbers['compared']} rows compared with the log, {numbers['not_compared']} offsets it no longer has"
    )
