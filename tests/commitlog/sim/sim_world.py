"""What stands around a simulated log: its clock, its doorbell, its settings, and how it may be broken on purpose."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from commitlog.durability import Durability
from commitlog.settings import LogSettings
from tests.commitlog.sim.sim_disk import SimStorage
from tests.commitlog.sim.sim_loop import SimLoop

TOPICS = {"spine": 2, "other": 3, "late": 1}
START_BYTES = 1_000  # of `commitlog.space`, in the measure of these disks


class SimClock:
    """Wall time that steps now and then, and monotonic time, both of the simulated loop."""

    def __init__(self) -> None:
        self.loop: SimLoop | None = None
        self.skew_ms = 1_800_000_000_000

    def time_ms(self) -> int:
        return self.skew_ms + self.monotonic_ms()

    def monotonic_ms(self) -> int:
        assert self.loop is not None
        return int(self.loop.now_s * 1000) + 1


class SimBell:
    """Takes the place of the doorbell: wakes the reader of the simulation."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()

    def ring(self) -> None:
        self.rung.set()

    def close(self) -> None:
        return


@dataclass
class Breakage:
    """How a log is broken on purpose: its storage, other names of `commitlog` replaced.

    `slow`, `dies_syncing`: how often its disk stalls, and in the sync of which file it dies, so that the fault shows.
    `checkpoints`: between two lives the checkpoint may be damaged or lost, which breaks no promise.
    """

    storage_class: type[SimStorage] = SimStorage
    patches: dict[str, object] = field(default_factory=dict)
    slow: float | None = None
    dies_syncing: str | None = None
    checkpoints: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Durability as settings have it: the log's, those of topics, and those of listeners (None: the log's)."""

    log: Durability
    topics: dict[str, Durability]
    listeners: tuple[Durability | None, ...]

    @property
    def weak(self) -> bool:
        """Whether anything may be acknowledged before it is synced."""
        every = [self.log, *self.topics.values(), *self.listeners]
        return any(level is not None and level is not Durability.FSYNC for level in every)

    def promised(self, topics: list[str], asked: Durability | None = None) -> Durability:
        """The level of records of these topics that are appended in one breath, as the docs have it."""
        return max(self.topics.get(topic, self.log if asked is None else asked) for topic in topics)


def some_levels(rng: random.Random) -> Levels:
    """Half of all logs sync everything; of the others each listener and topic may differ."""
    if rng.random() < 0.5:
        return Levels(log=Durability.FSYNC, topics={}, listeners=(None,))
    topics = {topic: rng.choice(list(Durability)) for topic in TOPICS if rng.random() < 0.3}
    listeners = (None, rng.choice(list(Durability)))
    return Levels(log=rng.choice((*Durability, Durability.OS)), topics=topics, listeners=listeners)


def some_settings(rng: random.Random, levels: Levels) -> LogSettings:
    """So small that a few appends wrap the journal, fill segments and checkpoint: smaller than settings allow."""
    checkpoint_bytes = rng.choice((1_500, 3_000, 6_000))
    return LogSettings().model_copy(
        update={
            "durability": levels.log.label,
            "unsynced_records": rng.choice((4, 20, 200)),
            "sync_interval_ms": rng.choice((10, 200, 1_000)),
            "partitions": 2,
            "commit_interval_ms": rng.choice((0, 2, 10)),
            "commit_records": rng.choice((1, 4, 64)),
            "commit_bytes": 2_000,
            "pending_bytes": 4_000,
            "journal_size_bytes": max(16_000, 4 * checkpoint_bytes) + rng.randrange(600),
            "checkpoint_bytes": checkpoint_bytes,
            "checkpoint_interval_ms": rng.choice((100, 1_000, 10_000)),
            "segment_size_bytes": rng.choice((600, 2_000, 60_000)),
            "flush_interval_ms": rng.choice((1, 20, 100)),
            "flush_bytes": rng.choice((200, 2_000)),
            "max_topics": 4,
            "reserve_bytes": 2_000,
            "full_mark_bytes": 1_500,
        }
    )
