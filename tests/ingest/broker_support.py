"""What tests of the MQTT server's state share: an obvious matcher, topics and filters that meet each other often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from ingest.broker.rows import Row

NAMES = ("", "a", "b", "a!", "ab", "$x")  # "!" sorts before the slash
LEVELS = st.sampled_from(NAMES)
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(st.sampled_from((*NAMES, "+")), max_size=4), st.sampled_from(((), ("#",))))
    .map(lambda parts: "/".join((*parts[0], *parts[1])))
    .filter(bool)
)


def matches(topic_filter: str, topic: str) -> bool:
    """Section 4.7, word by word."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False  # [MQTT-4.7.2-1]
    return _levels_match(topic_filter.split("/"), topic.split("/"))


def _levels_match(wanted: Sequence[str], levels: Sequence[str]) -> bool:
    if list(wanted) == ["#"]:
        return True  # any number of levels, none too
    if not wanted or not levels:
        return not wanted and not levels
    return wanted[0] in ("+", levels[0]) and _levels_match(wanted[1:], levels[1:])


class Tables:
    """State tables as the log keeps them: changes in, rows out."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def apply(self, changes: Sequence[Row]) -> None:
        for table, key, value in changes:
            rows = self.rows.setdefault(table, {})
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value

    def of(self, table: str) -> Mapping[str, Any]:
        return self.rows.get(table, {})
