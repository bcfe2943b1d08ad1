"""Rows of the MQTT server's state: chunks and subscriptions written and read back, whole and cut."""

from __future__ import annotations

import pytest
from broker_support import FILTERS
from hypothesis import given
from hypothesis import strategies as st

from ingest.broker.chunk import Chunk, ChunkReader, Kind
from ingest.broker.rows import (
    SUBSCRIPTIONS,
    StateRowError,
    rows_by_client,
    seq_key,
    split_share,
    subscription_from_row,
    subscription_row,
)
from ingest.broker.subscriptions import Subscription

IDENTIFIERS = st.lists(st.integers(1, 268_435_455), max_size=3).map(tuple)
LOG_KINDS = st.builds(
    Kind, st.sampled_from(("telemetry", "mqtt")), st.integers(0, 300), st.integers(1, 2), st.booleans(), IDENTIFIERS
)
RETAINED_KINDS = st.builds(Kind, st.just(""), st.just(0), st.integers(1, 2), st.booleans(), IDENTIFIERS)
ITEMS = st.lists(
    st.tuples(LOG_KINDS, st.integers(0, (1 << 63) - 1))
    | st.tuples(RETAINED_KINDS, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)),
    min_size=1,
    max_size=20,
)


def chunk_of(items: list[tuple[Kind, int | str]]) -> Chunk:
    chunk = Chunk(40)
    for kind, place in items:
        if isinstance(place, int):
            chunk.append(kind, place)
        else:
            chunk.append_retained(kind, place)
    return chunk


def read_all(chunk: Chunk) -> list[tuple[Kind, int | str]]:
    reader = ChunkReader("c", chunk)
    return [reader.read() for _ in range(chunk.count)]


@given(ITEMS)
def test_a_row_gives_the_places_back(items: list[tuple[Kind, int | str]]) -> None:
    chunk = chunk_of(items)
    assert read_all(chunk) == items
    other = Chunk.from_row("c", 40, chunk.row(), {})
    assert (read_all(other), other.end_seq) == (items, 40 + len(items))
    chunk.seal()
    assert chunk.row() == other.row()
    assert chunk.size_bytes + 32 >= len(chunk.row())


@given(ITEMS, st.data())
def test_a_chunk_that_was_cut_is_told(items: list[tuple[Kind, int | str]], data: st.DataObject) -> None:
    chunk = chunk_of(items)
    row = chunk.row()
    with pytest.raises(StateRowError, match=r"damaged.*mqtt\.queues"):
        Chunk.from_row("c", 40, row[: data.draw(st.integers(0, len(row) - 1))], {})
    chunk.data = chunk.data[: data.draw(st.integers(0, len(chunk.data) - 1))]
    with pytest.raises(StateRowError, match="no item at byte"):
        read_all(chunk)


def test_kinds_of_a_restored_queue_are_shared() -> None:
    known: dict[Kind, Kind] = {}
    row = chunk_of([(Kind("t", 0, 1), 5)]).row()
    first, second = (Chunk.from_row("c", seq, row, known) for seq in (0, 1))
    assert first.kinds[0] is second.kinds[0]


@given(
    st.builds(
        Subscription,
        client_id=st.sampled_from(("", "c", "c/1")),
        filter=FILTERS,
        qos=st.integers(0, 2),
        no_local=st.booleans(),
        retain_as_published=st.booleans(),
        retain_handling=st.integers(0, 2),
        identifier=st.none() | st.integers(1, 268_435_455),
        share=st.none() | st.sampled_from(("g", "$share")),
    )
)
def test_a_row_gives_the_subscription_back(subscription: Subscription) -> None:
    table, key, value = subscription_row(subscription)
    assert table == SUBSCRIPTIONS
    assert subscription_from_row(key, value) == subscription


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("c", [0, False, False, 0, None]),
        ("c\0", [0, False, False, 0, None]),
        ("c\0$share/g/", [0, False, False, 0, None]),
        ("c\0$share//a", [0, False, False, 0, None]),
        ("c\0a", [0, False, False, 0]),
        ("c\0a", ["0", False, False, 0, None]),
        ("c\0a", None),
    ],
)
def test_a_subscription_that_cannot_be_read_says_where(key: str, value: object) -> None:
    with pytest.raises(StateRowError, match=r"where: mqtt\.subscriptions: "):
        subscription_from_row(key, value)


def test_a_share_is_split_off_mqtt5_4_8_2_1() -> None:
    assert split_share("$share/g/a/+") == ("g", "a/+")
    assert split_share("$share/g//a") == ("g", "/a")
    assert split_share("$share/g") == ("g", "")
    assert split_share("$shared/g/a") == (None, "$shared/g/a")


def test_rows_are_grouped_by_client() -> None:
    rows = {seq_key("a", 1): "x", seq_key("b\0c", 2): "y", seq_key("a", 1 << 40): "z"}
    assert rows_by_client("t", rows) == {"a": {1: "x", 1 << 40: "z"}, "b\0c": {2: "y"}}
    assert sorted(rows) == [seq_key("a", 1), seq_key("a", 1 << 40), seq_key("b\0c", 2)]
    for key in ("a", "a\0", "a\0" + "1" * 15, "a\0" + "g" * 16, "a\0-" + "1" * 15):
        with pytest.raises(StateRowError, match="holds no sequence number"):
            rows_by_client("t", {key: 1})
