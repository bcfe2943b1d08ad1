"""Which directories are partitions of the log.

The checkpoint knows the topics there were; a topic made since is known by its directories, each with a
`partition.metadata`, damaged or not, or with segments should that be lost. Anything else below `<data>/log` was put
there by somebody: it is left alone, and named in the report.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from commitlog.base import TopicInfo
from commitlog.checkpoint import PartitionPoint
from commitlog.metadata import METADATA_NAME, read_metadata
from commitlog.report import RecoveryReport
from commitlog.segment import bases_in
from commitlog.settings import LogSettings
from commitlog.storage import Storage, parse_partition_dir_name, partition_dir_name

Points = Mapping[tuple[str, int], PartitionPoint]


def find_topics(
    storage: Storage, log_dir: Path, settings: LogSettings, points: Points, report: RecoveryReport
) -> list[TopicInfo]:
    """Topics by the checkpoint and by their directories; one that was half made is completed by the caller."""
    counts: dict[str, int] = {}
    ids: dict[str, bytes] = {}
    for (topic, index), point in points.items():
        counts[topic] = max(counts.get(topic, 0), index + 1)
        ids[topic] = point.topic_id
    known = frozenset(counts)
    for name in storage.names(log_dir):
        parsed = parse_partition_dir_name(name)
        if parsed is None or parsed in points:
            continue
        topic, index = parsed
        topic_id = read_metadata(storage, log_dir / name)
        if topic in known or not _is_partition(storage, log_dir, settings, topic, index):
            report.notes.append(f"{name!r} is not a partition of this log, and is left alone")
            continue
        counts[topic] = max(counts.get(topic, 0), index + 1)
        if topic_id is not None:
            ids.setdefault(topic, topic_id)
    for topic in counts:
        if topic not in ids:
            ids[topic] = secrets.token_bytes(16)
            report.notes.append(f"topic {topic!r} has lost its id and got a new one")
    return [TopicInfo(name=name, topic_id=ids[name].hex(), partitions=counts[name]) for name in sorted(counts)]


def _is_partition(storage: Storage, log_dir: Path, settings: LogSettings, topic: str, index: int) -> bool:
    if index >= settings.max_topics * max(settings.partitions, 8):  # as many as the log may hold of all topics
        return False
    names = storage.names(log_dir / partition_dir_name(topic, index))
    return METADATA_NAME in names or bool(bases_in(names))
