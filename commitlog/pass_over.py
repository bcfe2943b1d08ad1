"""Going on past offsets that may have meant something already.

At a durability below `fsync` readers see records before they are synced, and a power cut may take those. How many at
most is in the checkpoint. Whether there was a power cut nobody can tell (docs/decisions/0012-weaker-durability.md), so
after every start that does not follow an orderly end each partition goes on that many offsets further.

What a closed window holds has been exported, or will be: should its records be lost, its offsets are not used again.
"""

from __future__ import annotations

from collections.abc import Sequence

from commitlog.files import PartitionFiles
from commitlog.report import Cut, RecoveryReport
from commitlog.tables import CommittedTables
from commitlog.windows import WINDOWS_TABLE, last_windows

REASON = "left out: durability was below fsync, and what was not yet synced may be lost"


def pass_over(offsets: int, partitions: Sequence[PartitionFiles], report: RecoveryReport) -> None:
    """Let every partition go on `offsets` further, and report each stretch."""
    if not offsets:
        return
    report.notes.append(f"every partition goes on {offsets} offsets further; {REASON}")
    for files in partitions:
        first = files.next_offset
        files.next_offset = first + offsets
        report.cuts.append(
            Cut(topic=files.topic.name, partition=files.partition, first=first, next=files.next_offset, reason=REASON)
        )


def continue_past_windows(
    partitions: Sequence[PartitionFiles], tables: CommittedTables, report: RecoveryReport
) -> None:
    """Never use an offset again that a closed window holds, should its records be lost."""
    newest = last_windows(tables.decoded().get(WINDOWS_TABLE, {}))
    for files in partitions:
        window = newest.get(files.topic.topic_id)
        first, seen = files.next_offset, 0 if window is None else window.offsets.get(files.partition, (0, 0))[1]
        if seen > first:
            reason = "in a closed window, and missing from the segments"
            report.cuts.append(
                Cut(topic=files.topic.name, partition=files.partition, first=first, next=seen, reason=reason)
            )
            files.next_offset = seen
