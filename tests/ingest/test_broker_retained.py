"""Retained messages against a plain dictionary, walked while they change."""

from __future__ import annotations

import pytest
from broker_support import FILTERS, TOPICS, Tables, matches
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.broker.retained import (
    RetainedFullError,
    RetainedLimits,
    RetainedMessage,
    RetainedMessages,
    retained_from_row,
)
from ingest.broker.rows import RETAINED, StateRowError


def message(topic: str, payload: bytes = b"1", *, expires_ms: int | None = None) -> RetainedMessage:
    return RetainedMessage(topic=topic, payload=payload, qos=1, timestamp_ms=5, expires_ms=expires_ms)


def test_the_last_message_of_a_topic_is_kept_mqtt_3_3_1_5() -> None:
    retained = RetainedMessages()
    assert retained.set(message("a", b"1")) is None
    assert retained.set(message("a", b"2")) == message("a", b"1")
    assert retained.get("a", 0) == message("a", b"2")
    assert list(retained.matching("#")) == ["a"]


def test_an_empty_payload_is_never_retained_mqtt_3_3_1_11() -> None:
    retained = RetainedMessages()
    with pytest.raises(ValueError, match="remove the topic"):
        retained.set(message("a", b""))
    assert len(retained) == 0


def test_nothing_is_retained_under_a_removed_topic_mqtt_3_3_1_10() -> None:
    retained = RetainedMessages([message("a"), message("a/b")])
    assert retained.remove("a") == message("a")
    assert retained.remove("a") is None
    assert retained.get("a", 0) is None
    assert list(retained.matching("#")) == ["a/b"]


def test_what_expired_is_gone_at_once_and_swept_later_mqtt5_3_3_2_5() -> None:
    retained = RetainedMessages([message("old", expires_ms=100), message("later", expires_ms=200), message("ever")])
    assert retained.get("old", 99) is not None
    assert retained.get("old", 100) is None
    assert retained.sweep(99) == []
    assert retained.sweep(100) == ["old"]
    retained.set(message("later"))  # without an expiry now
    assert retained.sweep(10_000) == []
    assert sorted(retained.matching("#")) == ["ever", "later"]


def test_a_sweep_takes_as_many_as_it_may() -> None:
    retained = RetainedMessages(message(f"t{number}", expires_ms=number) for number in range(10))
    assert retained.sweep(100, max_messages=4) == ["t0", "t1", "t2", "t3"]
    assert len(retained.sweep(100)) == 6
    assert (len(retained), retained.size_bytes) == (0, 0)


def test_expiries_of_replaced_messages_do_not_pile_up() -> None:
    retained = RetainedMessages()
    for expires_ms in range(1000):
        retained.set(message("a", expires_ms=expires_ms))
    assert len(retained._expiries) < 100
    assert retained.sweep(998) == []
    assert retained.sweep(999) == ["a"]


def test_no_more_is_retained_than_allowed() -> None:
    retained = RetainedMessages(limits=RetainedLimits(max_messages=2, max_size_bytes=5_000))
    retained.set(message("a"))
    retained.set(message("b"))
    with pytest.raises(RetainedFullError, match="2 messages are retained already"):
        retained.set(message("c"))
    with pytest.raises(RetainedFullError, match="at most 5000 are allowed"):
        retained.set(message("b", b"x" * 5_000))
    assert retained.get("b", 0) == message("b")
    retained.set(message("b", b"2"))
    retained.remove("a")
    retained.set(message("c"))
    assert list(retained.matching("#")) == ["b", "c"]


def test_what_the_rows_hold_is_kept_under_lower_limits() -> None:
    retained = RetainedMessages([message("a", b"12"), message("b")], limits=RetainedLimits(max_messages=1))
    retained.set(message("a", b"2"))
    with pytest.raises(RetainedFullError):
        retained.set(message("c"))
    assert list(retained.matching("#")) == ["a", "b"]


def test_a_walk_does_not_visit_what_cannot_match() -> None:
    retained = RetainedMessages(message(f"d{device}/f{field}") for device in range(20) for field in range(50))
    walk = retained.walk("+/f7")
    found: list[str] = []
    steps = 0
    while not walk.done:
        found += walk.take(1)
        steps += 1
    assert sorted(found) == sorted(f"d{device}/f7" for device in range(20))
    assert steps <= 4 * 20 + 2


@given(st.sets(TOPICS, max_size=15), FILTERS)
def test_a_walk_finds_what_an_obvious_matcher_finds(topics: set[str], topic_filter: str) -> None:
    retained = RetainedMessages(map(message, topics))
    expected = sorted((topic for topic in topics if matches(topic_filter, topic)), key=lambda topic: topic.split("/"))
    assert list(retained.matching(topic_filter)) == expected


@given(
    st.builds(
        RetainedMessage,
        topic=TOPICS,
        payload=st.binary(min_size=1),
        qos=st.integers(0, 2),
        headers=st.lists(st.tuples(st.text(), st.none() | st.binary())).map(tuple),
        timestamp_ms=st.integers(0, 1 << 50),
        expires_ms=st.none() | st.integers(0, 1 << 50),
    )
)
def test_a_row_gives_the_message_back(one: RetainedMessage) -> None:
    table, key, value = one.row()
    assert (table, key) == (RETAINED, one.topic)
    assert retained_from_row(key, value) == one


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {**message("a").row()[2], "qos": 3}, {**message("a").row()[2], "headers": [["x", 1]]}],
    ids=["nothing", "list", "empty", "qos", "header"],
)
def test_a_row_that_cannot_be_read_says_where(value: object) -> None:
    with pytest.raises(StateRowError, match=r"mqtt\.retained: 'a'"):
        retained_from_row("a", value)


class RetainedMachine(RuleBasedStateMachine):
    """Walks that take their time while topics come, go and expire."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.retained = RetainedMessages()
        self.model: dict[str, RetainedMessage] = {}
        self.tables = Tables()
        self.walk = self.retained.walk("#")
        self.filter = "#"
        self.found: list[str] = []
        self.always: set[str] = set()  # there since the walk began
        self.ever: set[str] = set()  # there at any time since

    @rule(topic=TOPICS, lives_ms=st.none() | st.integers(1, 20))
    def set(self, topic: str, lives_ms: int | None) -> None:
        new = message(topic, expires_ms=None if lives_ms is None else self.now_ms + lives_ms)
        assert self.retained.set(new) == self.model.get(topic)
        self.model[topic] = new
        self.tables.apply([new.row()])
        self.ever.add(topic)

    @rule(topic=TOPICS)
    def remove(self, topic: str) -> None:
        assert self.retained.remove(topic) == self.model.get(topic)
        self._gone(topic)

    @rule(ms=st.integers(1, 10))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms
        for topic in self.retained.sweep(self.now_ms):
            self._gone(topic)

    @rule(topic_filter=FILTERS)
    def begin(self, topic_filter: str) -> None:
        self.walk, self.filter, self.found = self.retained.walk(topic_filter), topic_filter, []
        self.always, self.ever = set(self.model), set(self.model)

    @rule(steps=st.integers(1, 5))
    def step(self, steps: int) -> None:
        taken = self.walk.take(steps)
        assert len(taken) <= steps
        assert set(taken) <= set(self.model)
        self.found += taken
        assert all(matches(self.filter, topic) for topic in taken)
        assert self.found == sorted(set(self.found), key=lambda topic: topic.split("/"))
        if self.walk.done:
            assert set(self.found) >= {topic for topic in self.always if matches(self.filter, topic)}
            assert set(self.found) <= self.ever

    @invariant()
    def agrees(self) -> None:
        expired = [m for m in self.model.values() if m.expires_ms is not None and m.expires_ms <= self.now_ms]
        assert not expired
        assert len(self.retained) == len(self.model)
        assert self.retained.size_bytes == sum(one.size_bytes for one in self.model.values())
        restored = [retained_from_row(key, value) for key, value in self.tables.of(RETAINED).items()]
        assert {one.topic: one for one in restored} == self.model

    def _gone(self, topic: str) -> None:
        self.model.pop(topic, None)
        self.always.discard(topic)
        self.tables.apply([(RETAINED, topic, None)])


TestRetained = RetainedMachine.TestCase
TestRetained.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
