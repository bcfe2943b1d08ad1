"""A look at a log's directory from outside: what is there, and how far it can be relied on. Takes no lock.

Two states. *Live*: the writer's heartbeat is fresh; what its watermark map promises is in the segments, what comes
after is being written. *At rest*: nobody writes; the checkpoint says how far files are durable, the journal holds what
came after, and what stands in a segment beyond the checkpoint may be torn: recovery makes it again from the journal.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from commitlog.base import Watermark
from commitlog.checkpoint import Checkpoint, CheckpointError, PartitionPoint, read_checkpoint
from commitlog.metadata import read_metadata
from commitlog.segment import base_offsets
from commitlog.storage import LOG_DIR, RUN_DIR, Storage, parse_partition_dir_name, partition_dir_name
from commitlog.version import check_version
from commitlog.watermarks import MAP_NAME, MapSnapshot, WatermarkMap
from core.clock import Clock
from core.errors import DataDirError, UnavailableError


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLook:
    """One partition: `point` is the checkpoint's word on it, `mark` the watermark map's; either may be missing."""

    topic: str
    topic_id: str
    partition: int
    directory: Path
    point: PartitionPoint | None
    mark: Watermark | None

    @property
    def name(self) -> str:
        """`<topic>-<partition>`."""
        return partition_dir_name(self.topic, self.partition)

    def log_start(self, bases: list[int]) -> int:
        """The first offset that there should be."""
        if self.point is None and self.mark is None:
            return min(bases, default=0)
        return max(self.point.log_start if self.point else 0, self.mark.start if self.mark else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLook:
    """The log at one moment. `checkpoint` is None where there is none that can be read: `checkpoint_problem` says."""

    live: bool
    checkpoint: Checkpoint | None
    checkpoint_problem: str
    marks_problem: str
    partitions: tuple[PartitionLook, ...]

    @property
    def clean(self) -> bool:
        """Whether the log was closed in order, so that everything stands where the checkpoint says."""
        return not self.live and self.checkpoint is not None and self.checkpoint.clean

    def partition(self, topic_id: str, partition: int) -> PartitionLook | None:
        """A partition by the topic's id."""
        return next((p for p in self.partitions if (p.topic_id, p.partition) == (topic_id, partition)), None)


def look_at(storage: Storage, data_dir: Path, clock: Clock) -> LogLook:
    """See the module. Raises DataDirError when there is no log, it may not be read, or is of a newer version."""
    log_dir = data_dir / LOG_DIR
    try:
        check_version(storage, log_dir)
        live, marks, marks_problem = _marks(data_dir, clock)
        checkpoint, problem = _checkpoint(storage, log_dir)
        names = storage.names(log_dir)
    except OSError as error:
        raise unreadable(error, log_dir) from error
    if checkpoint is None and not any(map(parse_partition_dir_name, names)) and not problem:
        raise DataDirError(
            "there is no log in this data directory",
            where=str(log_dir),
            mend="name the one that an appliance has run on with --data-dir",
        )
    points = {(p.topic, p.partition): p for p in (checkpoint.partitions if checkpoint else ())}
    found = _of_map(log_dir, marks, points) if live and marks else _of_disk(storage, log_dir, names, points, marks)
    missing = "" if checkpoint is not None else "there is no checkpoint"
    return LogLook(
        live=live,
        checkpoint=checkpoint,
        checkpoint_problem=problem or missing,
        marks_problem=marks_problem,
        partitions=tuple(found),
    )


def unreadable(error: OSError, where: Path) -> DataDirError:
    """The log's files are there and may not be read, or the disk refuses."""
    return DataDirError(
        f"the log cannot be read ({error.strerror or error})",
        where=str(error.filename or where),
        mend="run the command as the appliance's user; an input/output error comes from the disk itself",
    )


def _marks(data_dir: Path, clock: Clock) -> tuple[bool, MapSnapshot | None, str]:
    """Whether the writer lives, what it told readers, and what is wrong with that: it is made anew at every start."""
    marks = WatermarkMap(data_dir / RUN_DIR)
    try:
        live = marks.is_live(clock.monotonic_ms())
        return live, marks.read(), ""
    except (UnavailableError, ValueError, struct.error) as error:
        missing = not (data_dir / RUN_DIR / MAP_NAME).exists()
        return False, None, "" if missing else f"what readers were shown last cannot be read: {error}"
    finally:
        marks.close()


def _checkpoint(storage: Storage, log_dir: Path) -> tuple[Checkpoint | None, str]:
    try:
        return read_checkpoint(storage, log_dir), ""
    except CheckpointError as error:
        return None, str(error)


def _of_map(log_dir: Path, marks: MapSnapshot, points: Mapping[tuple[str, int], PartitionPoint]) -> list[PartitionLook]:
    """What a living writer says there is."""
    return [
        PartitionLook(
            topic=name,
            topic_id=info.topic_id,
            partition=index,
            directory=log_dir / partition_dir_name(name, index),
            point=points.get((name, index)),
            mark=marks.watermarks[name][index],
        )
        for name, info in sorted(marks.topics.items())
        for index in range(info.partitions)
    ]


def _of_disk(
    storage: Storage,
    log_dir: Path,
    names: Sequence[str],
    points: Mapping[tuple[str, int], PartitionPoint],
    marks: MapSnapshot | None,
) -> list[PartitionLook]:
    """What the checkpoint and the directories say; a directory that holds nothing of the log's is not a partition."""
    ids: dict[str, bytes] = {point.topic: point.topic_id for point in points.values()}
    places = set(points)
    for name in names:
        parsed = parse_partition_dir_name(name)
        if parsed is None or parsed in places:
            continue
        topic_id = read_metadata(storage, log_dir / name)
        if topic_id is not None or base_offsets(storage, log_dir / name):
            places.add(parsed)
            ids.setdefault(parsed[0], topic_id or bytes(16))
    looks = []
    for topic, index in sorted(places):
        topic_id_hex = ids[topic].hex()
        seen = marks.watermarks.get(topic, ()) if marks and _same(marks, topic, topic_id_hex) else ()
        looks.append(
            PartitionLook(
                topic=topic,
                topic_id=topic_id_hex,
                partition=index,
                directory=log_dir / partition_dir_name(topic, index),
                point=points.get((topic, index)),
                mark=seen[index] if index < len(seen) else None,
            )
        )
    return looks


def _same(marks: MapSnapshot, topic: str, topic_id: str) -> bool:
    info = marks.topics.get(topic)
    return info is not None and info.topic_id == topic_id
