"""What the box says of its disk and of what leaves it: the answer to the verb `storage`, plain values for msgpack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.clock import ClockState
from retention.disk_watch import DiskWatch
from retention.expirer import Expirer, Gone
from retention.expiry import TopicState
from retention.lake_keeper import LakeKeeper


def storage_report(expirer: Expirer, lake: LakeKeeper, *, clock: ClockState) -> Mapping[str, Any]:
    """As of the last look; `disk` is None before the first."""
    held = {one.topic: one for one in expirer.held}
    return {
        "as_of_ms": expirer.looked_ms,
        "clock": clock.value,
        "disk": _disk(expirer.disk),
        "topics": [_topic(topic) for topic in expirer.topics],
        "held": [
            {"topic": one.topic, "window": one.number, "reason": one.reason.value, "sinks": list(one.sinks)}
            for one in held.values()
        ],
        "expired": [_gone(gone) for gone in reversed(expirer.lately)],
        "lake_retention": lake.on,
        "lake_files_left_alone": lake.left_alone,
    }


def _disk(watch: DiskWatch) -> Mapping[str, Any] | None:
    look = watch.last
    if look is None:
        return None
    return {
        "state": watch.pressure.value,
        "budget_bytes": watch.budget_bytes,
        "total_bytes": look.usage.total_bytes,
        "free_bytes": look.usage.free_bytes,
        "log_bytes": look.log_bytes,
        "lake_bytes": look.usage.lake_bytes,
        "used_bytes": look.used_bytes,
        "limit_bytes": look.marks.limit_bytes,
        "high_bytes": look.marks.high_bytes,
        "low_bytes": look.marks.low_bytes,
        "forecast": look.forecast.state,
        "growth_bytes_per_day": look.forecast.bytes_per_day,
        "days_left": look.forecast.days_left,
    }


def _topic(topic: TopicState) -> Mapping[str, Any]:
    return {
        "topic": topic.info.name,
        "size_bytes": topic.size_bytes,
        "windows": len(topic.windows),
        "oldest_window": topic.windows[0].number if topic.windows else None,
        "oldest_ms": topic.windows[0].start_ms if topic.windows else None,
        "max_age_ms": topic.limits.max_age_ms,
        "max_bytes": topic.limits.max_bytes,
        "not_exported": {
            name: sum(bool(name in topic.behind(window)) for window in topic.windows) for name in topic.committed
        },
    }


def _gone(gone: Gone) -> Mapping[str, Any]:
    expiry = gone.expiry
    return {
        "topic": expiry.info.name,
        "first_window": expiry.first_number,
        "last_window": expiry.last.number,
        "offsets": expiry.span,
        "size_bytes": expiry.size_bytes,
        "reason": expiry.reason.value,
        "unexported": list(expiry.unexported),
        "at_ms": gone.at_ms,
    }
