"""A map from topic filters to values that finds all filters which an MQTT topic matches, section 4.7.

Filters without wildcards are found by their text. The others stand in a tree whose edges are levels; matching keeps the
set of nodes that the levels so far lead to. It visits at most the nodes that there are, and no deeper than filters go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from core.errors import BadRequestError

MAX_WILDCARD_LEVELS: Final = 128
"""Levels of a filter with wildcards: several times what topic schemes use. One of 65,535 bytes can have as many levels,
and would take 20 MB as nodes."""
MAX_NODES: Final = 300_000
"""Nodes of all of them together, about 330 bytes each: 100 MB. Three levels for each of 100,000 subscriptions."""

Leaf = TypeVar("Leaf")


class TooManyLevelsError(BadRequestError):
    """A topic filter with wildcards that is deeper than the tree takes, or for which there is no room in it."""

    code = "too-many-levels"


class _Node(Generic[Leaf]):
    __slots__ = ("children", "leaf")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Leaf]] = {}
        self.leaf: Leaf | None = None


class FilterTree(Generic[Leaf]):
    """Topic filters, each with a value of its own that is made when it is first named."""

    def __init__(
        self, make: Callable[[], Leaf], *, max_nodes: int = MAX_NODES, max_levels: int = MAX_WILDCARD_LEVELS
    ) -> None:
        self._make = make
        self._max_nodes = max_nodes
        self._max_levels = max_levels
        self._exact: dict[str, Leaf] = {}
        self._root: _Node[Leaf] = _Node()
        self.node_count = 0

    def leaf(self, topic_filter: str) -> Leaf:
        """The value of a filter. Raises TooManyLevelsError, with nothing changed, where it is new and not taken."""
        if "+" not in topic_filter and "#" not in topic_filter:
            if topic_filter not in self._exact:
                self._exact[topic_filter] = self._make()
            return self._exact[topic_filter]
        node = self._grow(topic_filter.split("/"))
        if node.leaf is None:
            node.leaf = self._make()
        return node.leaf

    def find(self, topic_filter: str) -> Leaf | None:
        """The value of a filter; None where it is not there."""
        if "+" not in topic_filter and "#" not in topic_filter:
            return self._exact.get(topic_filter)
        node: _Node[Leaf] | None = self._root
        for level in topic_filter.split("/"):
            if node is None:
                return None
            node = node.children.get(level)
        return None if node is None else node.leaf

    def remove(self, topic_filter: str) -> None:
        """Forget a filter and what only led to it. Raises KeyError where it is not there."""
        if "+" not in topic_filter and "#" not in topic_filter:
            del self._exact[topic_filter]
            return
        levels = topic_filter.split("/")
        path = [self._root]
        for level in levels:
            path.append(path[-1].children[level])
        path[-1].leaf = None
        for parent, level, node in zip(path[-2::-1], levels[::-1], path[:0:-1], strict=True):
            if node.children or node.leaf is not None:
                break
            del parent.children[level]
            self.node_count -= 1

    def matching(self, topic: str) -> Sequence[Leaf]:
        """The values of all filters that an MQTT topic matches."""
        found = [exact] if (exact := self._exact.get(topic)) is not None else []
        if not self._root.children:
            return found
        nodes = [self._root]
        # [MQTT-4.7.2-1, MQTT5-4.7.2-1] a wildcard in the first level does not match what begins with $
        wildcards = not topic.startswith("$")
        for level in topic.split("/"):
            following = []
            for node in nodes:
                children = node.children
                if (child := children.get(level)) is not None:
                    following.append(child)
                if wildcards:
                    if (child := children.get("+")) is not None:
                        following.append(child)
                    if (child := children.get("#")) is not None and child.leaf is not None:
                        found.append(child.leaf)
            if not following:
                return found
            nodes, wildcards = following, True
        for node in nodes:
            if node.leaf is not None:
                found.append(node.leaf)
            # (4.7.1.2) `sport/#` also matches `sport`
            if (child := node.children.get("#")) is not None and child.leaf is not None:
                found.append(child.leaf)
        return found

    def _grow(self, levels: Sequence[str]) -> _Node[Leaf]:
        node, depth = self._root, 0
        while depth < len(levels) and (child := node.children.get(levels[depth])) is not None:
            node, depth = child, depth + 1
        missing = len(levels) - depth
        if missing and len(levels) > self._max_levels:
            raise TooManyLevelsError(
                f"a topic filter with wildcards has {len(levels)} levels; at most {self._max_levels} are taken",
                where="/".join(levels)[:80],
                mend="subscribe to a shorter filter that ends with #",
            )
        if missing > self._max_nodes - self.node_count:
            raise TooManyLevelsError(
                f"all topic filters with wildcards together have more than {self._max_nodes} levels",
                where="/".join(levels)[:80],
                mend="let clients subscribe to fewer filters with wildcards",
            )
        for level in levels[depth:]:
            node.children[level] = child = _Node()
            node = child
        self.node_count += missing
        return node
