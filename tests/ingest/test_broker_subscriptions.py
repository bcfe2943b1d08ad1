"""Who gets a message: the subscription tree against the words of the specification and an obvious matcher."""

from __future__ import annotations

from typing import Any

import pytest
from broker_support import FILTERS, TOPICS, matches
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.broker.filters import FilterTree, TooManyLevelsError
from ingest.broker.subscriptions import (
    MAX_CACHED_MATCHES,
    MAX_CACHED_TOPIC_CHARS,
    MAX_CACHED_TOPICS,
    Delivery,
    Matched,
    Subscription,
    SubscriptionTree,
)

CASES = [
    ("MQTT-4.7.1-2", "sport/#", "sport", True),
    ("MQTT-4.7.1-2", "sport/#", "sport/", True),
    ("MQTT-4.7.1-2", "sport/#", "sport/tennis/player1", True),
    ("MQTT-4.7.1-2", "sport/#", "sports", False),
    ("MQTT-4.7.1-2", "#", "sport/tennis", True),
    ("MQTT-4.7.1-2", "sport/tennis/#", "sport", False),
    ("MQTT-4.7.1-3", "sport/+", "sport/tennis", True),
    ("MQTT-4.7.1-3", "sport/+", "sport", False),
    ("MQTT-4.7.1-3", "sport/+", "sport/", True),
    ("MQTT-4.7.1-3", "sport/+", "sport/tennis/player1", False),
    ("MQTT-4.7.1-3", "+/+", "/finance", True),
    ("MQTT-4.7.1-3", "/+", "/finance", True),
    ("MQTT-4.7.1-3", "+", "/finance", False),
    ("MQTT-4.7.1-3", "+/tennis/#", "sport/tennis", True),
    ("MQTT-4.7.1-3", "sport/+/player1", "sport/tennis/player1", True),
    ("MQTT-4.7.2-1", "#", "$SYS/uptime", False),
    ("MQTT-4.7.2-1", "+/uptime", "$SYS/uptime", False),
    ("MQTT-4.7.2-1", "+/#", "$SYS", False),
    ("MQTT-4.7.2-1", "$SYS/#", "$SYS/uptime", True),
    ("MQTT-4.7.2-1", "$SYS/#", "$SYS", True),
    ("MQTT-4.7.2-1", "$SYS/+", "$SYS/uptime", True),
    ("MQTT-4.7.2-1", "#", "a/$SYS", True),
    ("MQTT-4.7.3-4", "Accounts", "ACCOUNTS", False),
    ("MQTT-4.7.3-4", "a//b", "a//b", True),
    ("MQTT-4.7.3-4", "a//b", "a/b", False),
    ("MQTT-4.7.3-4", "a/+/b", "a//b", True),
    ("MQTT-4.7.3-4", "/a", "a", False),
]


def sub(client_id: str, topic_filter: str, qos: int = 1, **more: Any) -> Subscription:
    return Subscription(client_id=client_id, filter=topic_filter, qos=qos, **more)


def tree_of(*subscriptions: Subscription) -> SubscriptionTree:
    tree = SubscriptionTree()
    for subscription in subscriptions:
        assert tree.add(subscription) is None
    return tree


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"), [case[1:] for case in CASES], ids=["{}: {} {}".format(*c) for c in CASES]
)
def test_a_filter_matches_as_the_specification_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) == expected  # the reference first
    assert bool(tree_of(sub("c", topic_filter)).match(topic).direct) == expected


@given(st.lists(FILTERS, max_size=12), st.lists(TOPICS, max_size=5))
def test_the_tree_finds_what_an_obvious_matcher_finds(filters: list[str], topics: list[str]) -> None:
    tree: FilterTree[list[None]] = FilterTree(list)
    leaves = {topic_filter: tree.leaf(topic_filter) for topic_filter in filters}
    for topic in topics:
        expected = {id(leaf) for topic_filter, leaf in leaves.items() if matches(topic_filter, topic)}
        found = [id(leaf) for leaf in tree.matching(topic)]
        assert len(found) == len(set(found))
        assert set(found) == expected
    for topic_filter in set(filters):
        tree.remove(topic_filter)
    assert tree.node_count == 0
    assert all(not tree.matching(topic) for topic in topics)


# ---- overlapping subscriptions


def test_the_highest_qos_wins_mqtt5_3_3_4_2() -> None:
    tree = tree_of(sub("c", "a/+", 0), sub("c", "a/b", 2), sub("c", "#", 1), sub("d", "a/#", 0))
    assert {match.client_id: match.delivery.qos for match in tree.match("a/b").direct} == {"c": 2, "d": 0}


def test_every_identifier_is_sent_as_often_as_it_was_given_mqtt5_3_3_4_4() -> None:
    tree = tree_of(
        sub("c", "#", identifier=9), sub("c", "a", identifier=2), sub("c", "a/#"), sub("c", "+", identifier=9)
    )
    (match,) = tree.match("a").direct
    assert match.delivery.identifiers == (2, 9, 9)


def test_retain_as_published_is_kept_for_whoever_asked_once_mqtt5_3_3_1_13() -> None:
    tree = tree_of(sub("c", "#"), sub("c", "a", retain_as_published=True), sub("d", "#"))
    found = {match.client_id: match.delivery.retain_as_published for match in tree.match("a").direct}
    assert found == {"c": True, "d": False}


def test_own_messages_come_only_by_subscriptions_without_no_local_mqtt5_3_8_3_3() -> None:
    tree = tree_of(
        sub("some", "#", 2, no_local=True, identifier=1),
        sub("some", "a", 0, identifier=2),
        sub("all", "a", no_local=True),
        sub("none", "a"),
    )
    found = {match.client_id: match for match in tree.match("a").direct}
    assert found["some"].delivery == Delivery(qos=2, retain_as_published=False, identifiers=(1, 2))
    assert found["some"].own == Delivery(qos=0, retain_as_published=False, identifiers=(2,))
    assert found["all"].own is None
    assert found["none"].own == found["none"].delivery


def test_a_subscription_made_again_replaces_the_first_mqtt_3_8_4_3() -> None:
    tree = tree_of(sub("c", "a", 0, identifier=1))
    assert tree.add(sub("c", "a", 2)) == sub("c", "a", 0, identifier=1)
    (match,) = tree.match("a").direct
    assert match.delivery == Delivery(qos=2, retain_as_published=False, identifiers=())
    assert len(tree) == 1


# ---- shared subscriptions


def test_a_group_is_told_by_share_name_and_filter_in_order_of_joining_mqtt5_4_8_2_1() -> None:
    joined = [sub(name, "a/+", share="g") for name in ("m2", "m1", "m3")]
    tree = tree_of(*joined, sub("m1", "a/+", share="h"), sub("m1", "a/b", share="g"))
    tree.add(sub("m2", "a/+", 2, share="g"))  # who subscribes again keeps its place
    groups = {(group.share, group.filter): group.members for group in tree.match("a/b").shared}
    assert groups == {
        ("g", "a/+"): (sub("m2", "a/+", 2, share="g"), *joined[1:]),
        ("h", "a/+"): (sub("m1", "a/+", share="h"),),
        ("g", "a/b"): (sub("m1", "a/b", share="g"),),
    }


def test_shared_and_own_subscriptions_are_apart_mqtt5_3_8_4_3() -> None:
    tree = tree_of(sub("c", "a", 0), sub("c", "a", 2, share="g"))
    matched = tree.match("a")
    assert [match.delivery.qos for match in matched.direct] == [0]
    assert [group.members for group in matched.shared] == [(sub("c", "a", 2, share="g"),)]
    assert tree.of("c") == (sub("c", "a", 0), sub("c", "a", 2, share="g"))
    assert [subscription.full_filter for subscription in tree.of("c")] == ["a", "$share/g/a"]
    assert tree.remove("c", "a", "other") is None
    assert tree.remove("c", "a", "g") == sub("c", "a", 2, share="g")
    assert tree.match("a").shared == ()


# ---- changes, limits and what is remembered


def test_only_changes_move_the_generation() -> None:
    tree = tree_of(sub("c", "a"))
    generation = tree.generation
    assert tree.add(sub("c", "a")) == sub("c", "a")  # as every client does that connects again
    assert tree.remove("c", "b") is None
    assert tree.remove_all("d") == ()
    assert tree.generation == generation
    for change in (lambda: tree.add(sub("c", "a", 2)), lambda: tree.add(sub("d", "#")), lambda: tree.remove_all("c")):
        change()
        assert tree.generation > generation
        generation = tree.generation


def test_filters_too_deep_are_refused_and_leave_nothing() -> None:
    tree: FilterTree[list[None]] = FilterTree(list, max_nodes=10, max_levels=4)
    kept = tree.leaf("a/b/c/#")
    with pytest.raises(TooManyLevelsError, match="5 levels; at most 4"):
        tree.leaf("a/b/c/d/#")
    tree.leaf("a/b/+/e")
    tree.leaf("x/y/z/+")
    with pytest.raises(TooManyLevelsError, match="more than 10 levels"):
        tree.leaf("a/+")
    assert tree.node_count == 10
    assert tree.leaf("a/b/c/#") is kept
    assert tree.leaf("/".join("x" * 60_000)) == []  # without wildcards depth costs nothing
    tree.remove("x/y/z/+")
    assert tree.leaf("a/+") == []


def test_a_refused_subscription_changes_nothing() -> None:
    tree = tree_of(sub("c", "a"))
    with pytest.raises(TooManyLevelsError):
        tree.add(sub("c", "/" * 200 + "#"))
    assert (len(tree), tree.of("c"), tree.generation) == (1, (sub("c", "a"),), 1)


def test_ten_thousand_members_are_not_copied_per_topic() -> None:
    tree = SubscriptionTree()
    for number in range(10_000):
        tree.add(sub(f"m{number}", "a/#", share="g"))
        tree.add(sub(f"c{number}", "a/#"))
    one, other = tree.match("a/1"), tree.match("a/2")
    assert len(one.direct) == len(one.shared[0].members) == 10_000
    assert one.direct is other.direct
    assert one.shared[0] is other.shared[0]


def test_what_is_remembered_is_bounded() -> None:
    tree = tree_of(sub("c", "#"), sub("c", "+/b"))
    for number in range(MAX_CACHED_TOPICS + 5):
        tree.match(f"{number}/b")
    assert len(tree._cache) == 5
    tree.match("a" * (MAX_CACHED_TOPIC_CHARS + 1))
    assert len(tree._cache) == 5
    for number in range(2_000):
        tree.add(sub(f"c{number}", "#"))
    for number in range(150):
        tree.match(f"{number}/b")
    assert sum(len(matched.direct) for matched in tree._cache.values()) <= MAX_CACHED_MATCHES


class TreeMachine(RuleBasedStateMachine):
    """Random subscribing and unsubscribing; the model is a list."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = SubscriptionTree()
        self.model: dict[tuple[str, str | None, str], Subscription] = {}
        self.topics = {"a", "a/b", "$x/a"}

    @rule(
        client_id=st.sampled_from("cde"),
        topic_filter=FILTERS,
        share=st.sampled_from((None, None, "g", "h")),
        qos=st.integers(0, 2),
        options=st.tuples(st.booleans(), st.booleans()),
        identifier=st.none() | st.integers(1, 3),
    )
    def add(
        self,
        client_id: str,
        topic_filter: str,
        share: str | None,
        qos: int,
        options: tuple[bool, bool],
        identifier: int | None,
    ) -> None:
        new = sub(
            client_id,
            topic_filter,
            qos,
            share=share,
            no_local=options[0] and share is None,
            retain_as_published=options[1],
            identifier=identifier,
        )
        key = (client_id, share, topic_filter)
        assert self.tree.add(new) == self.model.get(key)
        self.model[key] = new

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.model:
            client_id, share, topic_filter = key = data.draw(st.sampled_from(sorted(self.model, key=str)))
            assert self.tree.remove(client_id, topic_filter, share) == self.model.pop(key)
            assert self.tree.remove(client_id, topic_filter, share) is None

    @rule(client_id=st.sampled_from("cde"))
    def remove_all(self, client_id: str) -> None:
        gone = [key for key in self.model if key[0] == client_id]
        assert self.tree.remove_all(client_id) == tuple(self.model.pop(key) for key in gone)

    @rule(topic=TOPICS)
    def ask(self, topic: str) -> None:
        self.topics.add(topic)

    @invariant()
    def matches_as_the_model(self) -> None:
        for topic in self.topics:
            assert_matched(self.tree.match(topic), self.model.values(), topic)
        for client_id in "cde":
            expected = tuple(one for key, one in self.model.items() if key[0] == client_id)
            assert self.tree.of(client_id) == expected
        assert len(self.tree) == len(self.model)
        if not self.model:
            assert self.tree._leaves.node_count == 0


def assert_matched(matched: Matched, subscriptions: Any, topic: str) -> None:
    found = [one for one in subscriptions if matches(one.filter, topic)]
    direct = {match.client_id: match for match in matched.direct}
    assert len(direct) == len(matched.direct)
    assert set(direct) == {one.client_id for one in found if one.share is None}
    for client_id, match in direct.items():
        mine = [one for one in found if one.client_id == client_id and one.share is None]
        assert match.delivery == delivered(mine)
        assert match.own == delivered([one for one in mine if not one.no_local])
    groups = {(group.share, group.filter): list(group.members) for group in matched.shared}
    assert len(groups) == len(matched.shared)
    expected: dict[Any, list[Subscription]] = {}
    for one in found:
        if one.share is not None:
            expected.setdefault((one.share, one.filter), []).append(one)
    assert groups == expected


def delivered(mine: list[Subscription]) -> Delivery | None:
    if not mine:
        return None
    return Delivery(
        qos=max(one.qos for one in mine),
        retain_as_published=any(one.retain_as_published for one in mine),
        identifiers=tuple(sorted(one.identifier for one in mine if one.identifier is not None)),
    )


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
