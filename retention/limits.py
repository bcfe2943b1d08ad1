"""What holds for each topic: the `[retention]` settings, and where `[[topics]]` says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from commitlog.settings import TopicSettings
from retention.settings import RetentionSettings

_MAX_BYTES_WINDOWS: Final = 4  # windows in a topic's max_bytes at least: the open one cannot expire
_BUDGET_WINDOWS: Final = 8  # the same for the disk budget, which several topics share
_JITTER_PART: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a topic's windows close, and when they leave the log; 0: never, no limit."""

    roll_interval_ms: int
    roll_jitter_ms: int
    roll_bytes: int
    max_age_ms: int
    max_bytes: int


class TopicLimits:
    """The limits of every topic, by name; one that is not named has those of `[retention]`."""

    def __init__(self, settings: RetentionSettings, topics: Sequence[TopicSettings] = ()) -> None:
        self._otherwise = _limits(settings, None)
        self._named: Mapping[str, Limits] = {topic.name: _limits(settings, topic) for topic in topics}

    def of(self, topic: str) -> Limits:
        """What holds for a topic."""
        return self._named.get(topic, self._otherwise)


def _limits(settings: RetentionSettings, topic: TopicSettings | None) -> Limits:
    def own(name: str) -> int:
        value: int | None = None if topic is None else getattr(topic, name)
        return int(getattr(settings, name)) if value is None else value

    interval_ms, max_bytes = own("roll_interval_ms"), own("max_bytes")
    bounds = [own("roll_bytes")]
    if max_bytes:
        bounds.append(max(1, max_bytes // _MAX_BYTES_WINDOWS))
    if settings.disk_budget_bytes:
        bounds.append(max(1, settings.disk_budget_bytes // _BUDGET_WINDOWS))
    return Limits(
        roll_interval_ms=interval_ms,
        roll_jitter_ms=min(settings.roll_jitter_ms, interval_ms // _JITTER_PART),
        roll_bytes=min(bounds),
        max_age_ms=own("max_age_ms"),
        max_bytes=max_bytes,
    )
