"""What is counted while a seed runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Outcome:
    """What a seed went through: for the summary, and to see that two runs were the same."""

    trace: int = 0
    calls: int = 0
    deaths: int = 0
    deaths_in_recovery: int = 0
    power_cuts: int = 0
    failures: int = 0
    records: int = 0
    windows: int = 0
    checkpoints: int = 0
    replayed: int = 0
    refused: int = 0
    resent: int = 0
    deletions: int = 0
    full_disks: int = 0
    starts_on_full: int = 0
    lost: int = 0
    followed: int = 0
    checkpoints_lost: int = 0
