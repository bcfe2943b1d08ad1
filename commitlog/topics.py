"""The topics of an embedded log, as the event loop knows them: open partitions, open windows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from commitlog.base import MAX_TOPIC_NAME_CHARS, ClosedWindow, NewRecord, TopicInfo
from commitlog.durability import Durability
from commitlog.files import PartitionFiles
from commitlog.partition import CommitRoom, Partition
from commitlog.partitioner import partition_for_key
from commitlog.windows import OpenWindow, last_windows
from core.errors import BadRequestError, NotFoundError

_NAME: Final = re.compile(rf"[a-zA-Z0-9._-]{{1,{MAX_TOPIC_NAME_CHARS}}}\Z")


@dataclass(slots=True)
class Topic:
    """One topic: its open partitions and its open window."""

    info: TopicInfo
    partitions: list[Partition]
    window: OpenWindow
    bytes_since_roll: int = 0


class Topics:
    """All topics by name. `room` is the open commit, into which their partitions append."""

    def __init__(self, *, max_topics: int, max_partitions: int, room: CommitRoom) -> None:
        self._max_topics = max_topics
        self._max_partitions = max_partitions
        self._room = room
        self._topics: dict[str, Topic] = {}
        self._durability: Mapping[str, Durability] = {}

    def __iter__(self) -> Iterator[Topic]:
        return iter(self._topics.values())

    def get(self, name: str) -> Topic | None:
        """A topic, if there is one of that name."""
        return self._topics.get(name)

    def named(self, name: str) -> Topic:
        """A topic. Raises NotFoundError."""
        topic = self._topics.get(name)
        if topic is None:
            raise NotFoundError(f"there is no topic {name!r}", mend=f"one of {', '.join(sorted(self._topics))}")
        return topic

    def check_new(self, name: str, partitions: int) -> None:
        """Raise BadRequestError unless a topic of that name and size can be made."""
        if not _NAME.match(name) or name in (".", ".."):
            raise BadRequestError(f"{name!r} is not a topic name", mend="1 to 249 of: letters, digits, `.`, `_`, `-`")
        if partitions < 1:
            raise BadRequestError(f"topic {name!r} with {partitions} partitions", mend="one or more")
        have = sum(len(topic.partitions) for topic in self)
        if len(self._topics) >= self._max_topics or have + partitions > self._max_partitions:
            raise BadRequestError(
                f"there are {len(self._topics)} topics with {have} partitions; there is no room for {name!r}",
                mend="raise log.max_topics",
            )

    def add(
        self,
        info: TopicInfo,
        *,
        next_offsets: Sequence[int],
        log_starts: Sequence[int],
        last_window: ClosedWindow | None,
        now_ms: int,
    ) -> None:
        """A topic with its partitions at their open ends, after its last closed window."""
        topic_id = bytes.fromhex(info.topic_id)
        topic = self._topics[info.name] = Topic(
            info,
            [Partition(info.name, topic_id, p, offset, self._room) for p, offset in enumerate(next_offsets)],
            OpenWindow(info, last_window, log_starts, now_ms),
        )
        self._set_durability(topic)
        self._room.share(sum(len(topic.partitions) for topic in self))

    def keep_at(self, levels: Mapping[str, Durability]) -> None:
        """Levels of topics by name, of those that are there and those to come; the others have none of their own."""
        self._durability = dict(levels)
        for topic in self:
            self._set_durability(topic)

    def _set_durability(self, topic: Topic) -> None:
        for partition in topic.partitions:
            partition.durability = self._durability.get(topic.info.name)

    def adopt(self, recovered: Sequence[PartitionFiles], windows: Mapping[str, Any], now_ms: int) -> None:
        """Take over the topics that recovery found; `windows` are the rows of the `windows` table."""
        newest = last_windows(windows)
        groups: dict[str, list[PartitionFiles]] = {}
        for files in recovered:
            groups.setdefault(files.topic.name, []).append(files)
        for group in groups.values():
            self.add(
                group[0].topic,
                next_offsets=[files.next_offset for files in group],
                log_starts=[files.log_start for files in group],
                last_window=newest.get(group[0].topic.topic_id),
                now_ms=now_ms,
            )

    def target(self, record: NewRecord) -> Partition:
        """The partition a record goes to. Raises NotFoundError."""
        if record.partition is not None:
            return self.partition(record.topic, record.partition)
        partitions = self.named(record.topic).partitions
        return partitions[partition_for_key(record.key, len(partitions))]

    def partition(self, topic: str, index: int) -> Partition:
        """A partition by its number. Raises NotFoundError."""
        partitions = self.named(topic).partitions
        if not 0 <= index < len(partitions):
            raise NotFoundError(f"topic {topic!r} has no partition {index}")
        return partitions[index]
