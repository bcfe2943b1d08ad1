"""What recovery has to say: nothing that was cut or skipped goes without a word.

The report of the last start stands in `<data>/log/recovery.json`, with what earlier starts could not keep: readers,
the console and the tools look there for why offsets are missing.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from commitlog.gaps import LEFT_OUT
from commitlog.storage import Storage, read_whole, write_atomically
from commitlog.walk import Damage

REPORT_NAME: Final = "recovery.json"
REPORT_VERSION: Final = 1
MAX_CUTS: Final = 1_000
"""Cuts of earlier starts that are kept, newest first: a disk that damages more than that has to be replaced."""
MAX_LEFT_OUT: Final = 20_000
"""Of those that only left offsets out, as weaker durability does in every partition at every start after a kill:
three topics of eight partitions and a power cut every day for two years. About 5 MB, read where there is a gap."""


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets of one partition that recovery could not keep, or that it skipped: first <= offset < next.

    `start_ms` and `end_ms` are the record timestamps on both sides, None where there is no neighbour. `devices` are
    those whose records could still be read in part: some of those concerned, at most 20.
    """

    topic: str
    partition: int
    first: int
    next: int
    reason: str
    start_ms: int | None = None
    end_ms: int | None = None
    devices: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class RecoveryReport:
    """What recovery found and did; logged at every start. `bytes_cut` are torn tails, which the journal made good."""

    clean: bool = True
    entries_replayed: int = 0
    records_replayed: int = 0
    bytes_cut: int = 0
    cuts: list[Cut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def lost_offsets(self) -> int:
        """Offsets in the cuts, without those that no record ever had."""
        return sum(cut.next - cut.first for cut in self.cuts if not cut.reason.startswith(LEFT_OUT))


class KeptReport(msgspec.Struct, frozen=True, kw_only=True):
    """The file: the last start's report, and what earlier starts could not keep."""

    version: int
    clean: bool
    newest_record_ms: int
    entries_replayed: int
    records_replayed: int
    bytes_cut: int
    duration_s: float
    cuts: Sequence[Cut]
    notes: Sequence[str]
    earlier: Sequence[Cut]


def cut_of(topic: str, partition: int, damage: Damage, following: int, reason: str) -> Cut:
    """Damage as the report tells it; `following` is the first offset behind it."""
    return Cut(
        topic=topic,
        partition=partition,
        first=damage.first,
        next=following,
        reason=reason,
        start_ms=damage.start_ms,
        end_ms=damage.end_ms,
        devices=damage.devices,
    )


def keep_report(storage: Storage, log_dir: Path, report: RecoveryReport, newest_record_ms: int) -> None:
    """Write the report beside the log. A full disk is no reason not to start: then it is only logged.

    A start that died after this is followed by one that finds the same again: its cuts are not told twice.
    """
    before = read_report(storage, log_dir)
    now = set(report.cuts)
    earlier = [] if before is None else [cut for cut in (*before.cuts, *before.earlier) if cut not in now]
    kept = KeptReport(
        version=REPORT_VERSION,
        clean=report.clean,
        newest_record_ms=newest_record_ms,
        entries_replayed=report.entries_replayed,
        records_replayed=report.records_replayed,
        bytes_cut=report.bytes_cut,
        duration_s=round(report.duration_s, 3),
        cuts=_newest(report.cuts),
        notes=report.notes[:MAX_CUTS],
        earlier=_newest(earlier),
    )
    try:
        write_atomically(storage, log_dir / REPORT_NAME, msgspec.json.format(msgspec.json.encode(kept), indent=1))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        report.notes.append(f"{REPORT_NAME} could not be written: {error.strerror}")


def _newest(cuts: Sequence[Cut]) -> list[Cut]:
    """As many of each kind as are kept; they come newest first."""
    room = {True: MAX_LEFT_OUT, False: MAX_CUTS}
    kept = []
    for cut in cuts:
        is_left_out = cut.reason.startswith(LEFT_OUT)
        if room[is_left_out] > 0:
            room[is_left_out] -= 1
            kept.append(cut)
    return kept


def read_report(storage: Storage, log_dir: Path) -> KeptReport | None:
    """The report of the last start; None when there is none, or none that can be read."""
    try:
        return msgspec.json.decode(read_whole(storage, log_dir / REPORT_NAME), type=KeptReport)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
