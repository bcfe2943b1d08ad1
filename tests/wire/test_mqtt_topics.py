"""Topic names, topic filters and shared filters: which strings are one, and the clause that the others break."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5, LEVELS
from wire.mqtt.errors import MalformedPacketError, ProtocolError
from wire.mqtt.reasons import ReasonCode
from wire.mqtt.topics import SharedFilter, check_response_topic, check_topic_filter, check_topic_name, split_shared


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("topic", ["a", "/", "a//b", " ", "$SYS/x", "ä/漢", "\ufeffa", "$share/x/a", "a" * 65535])
def test_topic_names(level: int, topic: str) -> None:
    check_topic_name(topic, level)


WRONG_NAMES = [
    ("", "MQTT-4.7.3-1", "MQTT5-4.7.3-1"),
    ("a\0", "MQTT-4.7.3-2", "MQTT5-4.7.3-2"),
    ("ä" * 32768, "MQTT-4.7.3-3", "MQTT5-4.7.3-3"),
    ("a/#", "MQTT-3.3.2-2", "MQTT5-3.3.2-2"),
    ("a+b", "MQTT-3.3.2-2", "MQTT5-3.3.2-2"),
]
WRONG_FILTERS = [
    ("", "MQTT-4.7.3-1", "MQTT5-4.7.3-1"),
    ("a\0", "MQTT-4.7.3-2", "MQTT5-4.7.3-2"),
    ("ä" * 32768, "MQTT-4.7.3-3", "MQTT5-4.7.3-3"),
    ("a#", "MQTT-4.7.1-2", "MQTT5-4.7.1-1"),
    ("#/a", "MQTT-4.7.1-2", "MQTT5-4.7.1-1"),
    ("a/#/b", "MQTT-4.7.1-2", "MQTT5-4.7.1-1"),
    ("##", "MQTT-4.7.1-2", "MQTT5-4.7.1-1"),
    ("a+", "MQTT-4.7.1-3", "MQTT5-4.7.1-2"),
    ("++/a", "MQTT-4.7.1-3", "MQTT5-4.7.1-2"),
    ("+a/#", "MQTT-4.7.1-3", "MQTT5-4.7.1-2"),
]


def by_level(rows: list[tuple[str, str, str]]) -> list[object]:
    """(topic, level, clause), with the clause and the topic in the test's id."""
    return [
        pytest.param(topic, level, clause, id=f"{clause} {topic[:10]}")
        for topic, *clauses in rows
        for level, clause in zip(LEVELS, clauses, strict=True)
    ]


@pytest.mark.parametrize(("topic", "level", "clause"), by_level(WRONG_NAMES))
def test_no_topic_names(topic: str, level: int, clause: str) -> None:
    with pytest.raises(MalformedPacketError) as caught:
        check_topic_name(topic, level)
    assert caught.value.clause == clause
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("topic_filter", ["#", "+", "a/#", "+/+/#", "/+", "+/a/+", "a//#", "$SYS/#", "$share/x/a"])
def test_topic_filters(level: int, topic_filter: str) -> None:
    check_topic_filter(topic_filter, level)


@pytest.mark.parametrize(("topic_filter", "level", "clause"), by_level(WRONG_FILTERS))
def test_no_topic_filters(topic_filter: str, level: int, clause: str) -> None:
    with pytest.raises(MalformedPacketError) as caught:
        check_topic_filter(topic_filter, level)
    assert caught.value.clause == clause


@pytest.mark.parametrize(
    ("topic", "clause"),
    [("a/#", "MQTT5-3.3.2-14"), ("+", "MQTT5-3.3.2-14"), ("", "MQTT5-4.7.3-1"), ("a\0", "MQTT5-4.7.3-2")],
)
def test_no_response_topics(topic: str, clause: str) -> None:
    with pytest.raises(MalformedPacketError) as caught:
        check_response_topic(topic)
    assert caught.value.clause == clause


@pytest.mark.parametrize(
    ("topic_filter", "share_name", "inner"),
    [
        ("$share/g/a", "g", "a"),
        ("$share/g/#", "g", "#"),
        ("$share/g//", "g", "/"),
        ("$share/$share/$share/x/a", "$share", "$share/x/a"),
        ("$share/ /+", " ", "+"),
    ],
    ids=lambda value: f"MQTT5-4.8.2-1 MQTT5-4.8.2-2 {value}",
)
def test_shared_filters(topic_filter: str, share_name: str, inner: str) -> None:
    assert split_shared(topic_filter) == SharedFilter(share_name=share_name, filter=inner)
    check_topic_filter(topic_filter, LEVEL_5)


@pytest.mark.parametrize("topic_filter", ["$SHARE/g/a", "$shared/g/a", "$sharex", "a/$share/g/a", "/$share/g/a", "#"])
def test_ordinary_filters_are_not_shared(topic_filter: str) -> None:
    assert split_shared(topic_filter) is None


@pytest.mark.parametrize(
    ("topic_filter", "clause"),
    [
        ("$share", "MQTT5-4.8.2-1"),
        ("$share/", "MQTT5-4.8.2-1"),
        ("$share//a", "MQTT5-4.8.2-1"),
        ("$share/g", "MQTT5-4.8.2-2"),
        ("$share/g/", "MQTT5-4.8.2-2"),
        ("$share/+/a", "MQTT5-4.8.2-2"),
        ("$share/a#/a", "MQTT5-4.8.2-2"),
        ("$share/g/a#", "MQTT5-4.7.1-1"),
        ("$share/g/a+", "MQTT5-4.7.1-2"),
        ("$share/g/" + "a" * 65_535, "MQTT5-4.7.3-3"),
    ],
    ids=lambda value: value[:20],
)
def test_no_shared_filters(topic_filter: str, clause: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_topic_filter(topic_filter, LEVEL_5)
    assert caught.value.clause == clause
    assert caught.value.reason_code in (ReasonCode.PROTOCOL_ERROR, ReasonCode.MALFORMED_PACKET)


def test_3_1_1_shares_nothing() -> None:
    check_topic_filter("$share/g", LEVEL_3_1_1)
    check_topic_filter("$share//a", LEVEL_3_1_1)


def fits(topic_filter: str) -> bool:
    """The rules of section 4.7, said in another way."""
    *before, last = topic_filter.split("/")
    return (
        bool(topic_filter)
        and "\0" not in topic_filter
        and all(level == "+" or not set(level) & set("+#") for level in before)
        and (last in ("+", "#") or not set(last) & set("+#"))
    )


@given(st.text(st.sampled_from("a/+#$ \0")))
def test_any_string_is_a_filter_or_refused(text: str) -> None:
    for topic_filter in (text, f"$share/g/{text}"):
        try:
            check_topic_filter(topic_filter, LEVEL_5)
        except ProtocolError:
            assert not fits(text)
        else:
            assert fits(text)
