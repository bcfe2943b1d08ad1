"""Who gets a message: topic filters, section 4.7, and what overlapping and shared subscriptions come to.

Filters without wildcards stand in a map of their own, whole: most subscriptions of a fleet are such, a lookup finds
them, and a filter of 60,000 slashes costs no more than its text. Filters with wildcards stand in a tree, a node per
level. A node exists only while a filter below it does.

A client gets one copy of a message, whatever number of its subscriptions match (5.0, 3.3.4 leaves the choice). That
copy has

* the highest QoS of them [MQTT-3.3.5-1, MQTT5-3.3.4-2];
* all their subscription identifiers, an identifier as often as it was given [MQTT5-3.3.4-4]; ascending, so that the
  same subscriptions always come to the same list, also after a restart;
* the publisher's RETAIN flag if any of them asks for Retain As Published. MQTT5-3.3.1-12 and -13 contradict each other
  for a merged copy; who asked for the flag once (a bridge) knows how to read it and would miss it;
* for a client's own messages only what its subscriptions without No Local say [MQTT5-3.8.3-3].

A shared subscription is one of the group, not of the client: it is never merged with others, and a client that has
both kinds gets a copy for each (5.0, 4.8.2). Who of a group gets a message is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ingest.broker.filters import FilterTree, TooManyLevelsError

__all__ = ["Delivery", "Match", "Matched", "SharedGroup", "Subscription", "SubscriptionTree", "TooManyLevelsError"]

MAX_CACHED_TOPICS: Final = 10_000  # as many MQTT topics as a connection remembers by default
MAX_CACHED_MATCHES: Final = 200_000  # in results of several filters, at most about 200 bytes each: 40 MB
MAX_CACHED_TOPIC_CHARS: Final = 1024  # longer ones are matched anew: 10,000 topics of 64 KB would be 640 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a client subscribed to. `filter` is without `$share/<name>/`; `share` is that name, None if not shared."""

    client_id: str
    filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    identifier: int | None = None
    share: str | None = None

    @property
    def size_bytes(self) -> int:
        """What its texts take, about; the client id is its session's."""
        return len(self.filter) + len(self.share or "")

    @property
    def full_filter(self) -> str:
        """The filter as the client wrote it: what it names in UNSUBSCRIBE."""
        return self.filter if self.share is None else f"$share/{self.share}/{self.filter}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a client gets a message: at most at `qos`, with these subscription identifiers."""

    qos: int
    retain_as_published: bool
    identifiers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A client that gets a message. `own` is how it gets one that it published itself; None: it does not."""

    client_id: str
    delivery: Delivery
    own: Delivery | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedGroup:
    """The subscriptions of one group, in order of joining: a message goes to one of them."""

    share: str
    filter: str
    members: tuple[Subscription, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Who gets a message of one MQTT topic."""

    direct: Sequence[Match] = ()
    shared: Sequence[SharedGroup] = ()


NOBODY: Final = Matched()


class _Leaf:
    """The subscriptions of one filter. What they come to is made when first asked for, and kept until one changes."""

    __slots__ = ("direct", "groups", "matches", "shared")

    def __init__(self) -> None:
        self.direct: dict[str, Subscription] = {}
        self.groups: dict[str, dict[str, Subscription]] = {}
        self.matches: tuple[Match, ...] | None = None
        self.shared: dict[str, SharedGroup] = {}

    def put(self, subscription: Subscription) -> None:
        if subscription.share is None:
            self.direct[subscription.client_id] = subscription  # a key that is there keeps its place
            self.matches = None
        else:
            self.groups.setdefault(subscription.share, {})[subscription.client_id] = subscription
            self.shared.pop(subscription.share, None)

    def drop(self, subscription: Subscription) -> None:
        if subscription.share is None:
            del self.direct[subscription.client_id]
            self.matches = None
            return
        members = self.groups[subscription.share]
        del members[subscription.client_id]
        if not members:
            del self.groups[subscription.share]
        self.shared.pop(subscription.share, None)

    @property
    def empty(self) -> bool:
        return not self.direct and not self.groups

    def direct_matches(self) -> tuple[Match, ...]:
        if self.matches is None:
            self.matches = tuple(merge((subscription,)) for subscription in self.direct.values())
        return self.matches

    def shared_groups(self) -> Iterator[SharedGroup]:
        for share, members in self.groups.items():
            group = self.shared.get(share)
            if group is None:
                subscriptions = tuple(members.values())
                group = SharedGroup(share=share, filter=subscriptions[0].filter, members=subscriptions)
                self.shared[share] = group
            yield group


class SubscriptionTree:
    """All subscriptions of all sessions. How many a client may have is the caller's to limit: `len(tree.of(id))`.

    `generation` moves with every change that can change what `match` returns.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.size_bytes = 0
        """What the texts of all subscriptions take, about: a character may be four bytes."""
        self._leaves: FilterTree[_Leaf] = FilterTree(_Leaf)
        self._clients: dict[str, dict[tuple[str | None, str], Subscription]] = {}
        self._count = 0
        self._cache: dict[str, Matched] = {}
        self._cached_matches = 0

    def __len__(self) -> int:
        """Subscriptions there are."""
        return self._count

    def add(self, subscription: Subscription) -> Subscription | None:
        """Take in a subscription; returns the one that it replaced [MQTT-3.8.4-3, MQTT5-3.8.4-3].

        Raises TooManyLevelsError, with nothing changed, for a filter with wildcards that the tree does not take.
        """
        key = (subscription.share, subscription.filter)
        replaced = self._clients.get(subscription.client_id, {}).get(key)
        if replaced == subscription:
            return replaced  # clients subscribe anew at every connect: nobody's cache has to go for that
        self._leaves.leaf(subscription.filter).put(subscription)
        self._clients.setdefault(subscription.client_id, {})[key] = subscription
        if replaced is None:
            self._count += 1
            self.size_bytes += subscription.size_bytes
        self._changed(subscription.filter)
        return replaced

    def remove(self, client_id: str, topic_filter: str, share: str | None = None) -> Subscription | None:
        """Take out a subscription; filters are compared as they are [MQTT-3.10.4-1, MQTT5-3.10.4-1]."""
        subscriptions = self._clients.get(client_id, {})
        removed = subscriptions.pop((share, topic_filter), None)
        if removed is None:
            return None
        if not subscriptions:
            del self._clients[client_id]
        self._take_out(removed)
        return removed

    def remove_all(self, client_id: str) -> Sequence[Subscription]:
        """Take out all subscriptions of a client, and return them."""
        removed = tuple(self._clients.pop(client_id, {}).values())
        for subscription in removed:
            self._take_out(subscription)
        return removed

    def of(self, client_id: str) -> Sequence[Subscription]:
        """A client's subscriptions, in the order in which they were first made."""
        return tuple(self._clients.get(client_id, {}).values())

    def first_of(self, client_id: str, count: int) -> Sequence[Subscription]:
        """A client's first subscriptions, in the same order."""
        return tuple(islice(self._clients.get(client_id, {}).values(), count))

    def count_of(self, client_id: str) -> int:
        """How many subscriptions a client has."""
        return len(self._clients.get(client_id, {}))

    def has(self, client_id: str, topic_filter: str, share: str | None = None) -> bool:
        """Whether a client subscribed to that."""
        return (share, topic_filter) in self._clients.get(client_id, {})

    def members(self, share: str, topic_filter: str) -> Sequence[Subscription]:
        """The subscriptions of a group, in order of joining; none if there is no such group."""
        leaf = self._leaves.find(topic_filter)
        return () if leaf is None else tuple(leaf.groups.get(share, {}).values())

    def match(self, topic: str) -> Matched:
        """Who gets a message of an MQTT topic (a topic name, without wildcards)."""
        matched = self._cache.get(topic)
        if matched is None:
            leaves = self._leaves.matching(topic)
            matched = _matched(leaves)
            self._remember(topic, matched, len(matched.direct) if len(leaves) > 1 else 0)
        return matched

    def _take_out(self, subscription: Subscription) -> None:
        leaf = self._leaves.leaf(subscription.filter)
        leaf.drop(subscription)
        if leaf.empty:
            self._leaves.remove(subscription.filter)
        self._count -= 1
        self.size_bytes -= subscription.size_bytes
        self._changed(subscription.filter)

    def _changed(self, topic_filter: str) -> None:
        self.generation += 1
        if "+" in topic_filter or "#" in topic_filter:
            self._cache.clear()
            self._cached_matches = 0
        else:
            # What this one counted for stays counted: the cache is then cleared a little early, never late.
            self._cache.pop(topic_filter, None)

    def _remember(self, topic: str, matched: Matched, merged: int) -> None:
        if len(topic) > MAX_CACHED_TOPIC_CHARS or merged > MAX_CACHED_MATCHES:
            return
        self._cached_matches += merged
        if len(self._cache) >= MAX_CACHED_TOPICS or self._cached_matches > MAX_CACHED_MATCHES:
            self._cache.clear()
            self._cached_matches = merged
        self._cache[topic] = matched


def merge(subscriptions: Sequence[Subscription]) -> Match:
    """What the overlapping subscriptions of one client come to; at least one, none of them shared."""
    delivery = _deliver(subscriptions)
    local = [subscription for subscription in subscriptions if not subscription.no_local]
    own = delivery if len(local) == len(subscriptions) else _deliver(local) if local else None
    return Match(client_id=subscriptions[0].client_id, delivery=delivery, own=own)


def _deliver(subscriptions: Sequence[Subscription]) -> Delivery:
    return Delivery(
        qos=max(subscription.qos for subscription in subscriptions),
        retain_as_published=any(subscription.retain_as_published for subscription in subscriptions),
        identifiers=tuple(sorted(s.identifier for s in subscriptions if s.identifier is not None)),
    )


def _matched(leaves: Sequence[_Leaf]) -> Matched:
    shared = tuple(group for leaf in leaves for group in leaf.shared_groups())
    filled = [leaf for leaf in leaves if leaf.direct]
    if not filled and not shared:
        return NOBODY
    if len(filled) < 2:
        return Matched(direct=filled[0].direct_matches() if filled else (), shared=shared)
    found: dict[str, Match] = {}
    overlapping: set[str] = set()
    for leaf in filled:
        for match in leaf.direct_matches():
            if found.setdefault(match.client_id, match) is not match:
                overlapping.add(match.client_id)
    for client_id in overlapping:
        found[client_id] = merge([leaf.direct[client_id] for leaf in filled if client_id in leaf.direct])
    return Matched(direct=tuple(found.values()), shared=shared)
