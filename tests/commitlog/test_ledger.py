"""The ledger's rows and the committed offsets': written, read back, prolonged, added to in any order."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitlog.base import TableChange
from commitlog.committed import Committed, committed_from_row, committed_row, committed_table
from commitlog.ledger import LEDGER_TABLE, Ledger, LedgerEntry, additions, entries, without

TOPIC_ID = "ab" * 16


def entry(first: int, following: int, **changes: Any) -> LedgerEntry:
    whole = LedgerEntry(
        topic="t",
        topic_id=TOPIC_ID,
        partition=3,
        first=first,
        next=following,
        state="dropped",
        reason="old",
        at_ms=5,
    )
    return replace(whole, **changes)


def applied(rows: dict[str, Any], *changes: TableChange | None) -> dict[str, Any]:
    """The rows after some changes, as msgpack brings them back."""
    rows = dict(rows)
    for change in changes:
        if change is not None:
            assert change.table == LEDGER_TABLE
            rows[change.key] = msgspec.msgpack.decode(msgspec.msgpack.encode(change.value))
    return rows


def ranges(rows: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(one.first, one.next, one.reason) for one in entries(rows)]


def test_an_entry_is_read_back_as_it_was_and_keys_sort_by_offset() -> None:
    made = [entry(9, 12), entry(100, 101, state="lost"), entry(0, 9, partition=11)]
    rows = applied({}, *(one.change for one in made))
    assert list(entries(rows)) == [made[0], made[2], made[1]], "by state, then partition"
    assert made[0].key == f"{TOPIC_ID}/dropped/3/{9:020}"
    assert entry(9, 12).key < entry(100, 101).key


def test_what_follows_for_the_same_reason_prolongs_the_row() -> None:
    ledger = Ledger({})
    rows = applied({}, ledger.enter(entry(0, 10)), ledger.enter(entry(10, 20, at_ms=9)))
    assert list(entries(rows)) == [entry(0, 20, at_ms=9)]
    rows = applied(rows, Ledger(rows).enter(entry(20, 30, reason="full")))
    assert ranges(rows) == [(0, 20, "old"), (20, 30, "full")]
    rows = applied(rows, Ledger(rows).enter(entry(35, 40, reason="full")))
    assert ranges(rows)[-1] == (35, 40, "full"), "a hole between them is no part of it"


def test_what_stands_there_already_is_entered_once() -> None:
    ledger = Ledger(applied({}, entry(0, 20).change))
    assert ledger.enter(entry(5, 20)) is None
    assert ledger.enter(entry(0, 20)) is None
    rows = applied({}, entry(0, 20).change, ledger.enter(entry(10, 25)))
    assert ranges(rows) == [(0, 25, "old")]


def test_topics_states_and_partitions_do_not_meet() -> None:
    ledger = Ledger({})
    others = [entry(0, 5), entry(0, 5, partition=4), entry(0, 5, state="lost"), entry(0, 5, topic_id="cd" * 16)]
    changes = [ledger.enter(one) for one in others]
    assert len({change.key for change in changes if change is not None}) == 4


@pytest.mark.parametrize(
    ("there", "added", "expected"),
    [
        ([], (5, 9), [(5, 9)]),
        ([(0, 5)], (5, 9), [(0, 9)]),
        ([(9, 12)], (5, 9), [(5, 9), (9, 12)]),
        ([(0, 5), (9, 12)], (3, 20), [(0, 9), (9, 20)]),
        ([(4, 6)], (0, 10), [(0, 4), (4, 10)]),
        ([(0, 20)], (5, 9), [(0, 20)]),
        ([(0, 2), (4, 6), (8, 10)], (1, 9), [(0, 4), (4, 8), (8, 10)]),
    ],
)
def test_additions_fill_what_is_missing(
    there: list[tuple[int, int]], added: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    rows = applied({}, *(entry(*one).change for one in there))
    rows = applied(rows, *additions(rows, entry(*added)))
    assert [(first, following) for first, following, _ in ranges(rows)] == expected


def offsets_of(rows: dict[str, Any]) -> list[int]:
    return [offset for one in entries(rows) for offset in range(one.first, one.next)]


spans = st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(st.tuples(spans, st.sampled_from(["old", "full"])), max_size=12))
def test_in_whatever_order_each_offset_stands_once(added: list[tuple[tuple[int, int], str]]) -> None:
    rows: dict[str, Any] = {}
    for span, reason in added:
        rows = applied(rows, *additions(rows, entry(*span, reason=reason)))
    wanted = {offset for (first, following), _ in added for offset in range(first, following)}
    assert offsets_of(rows) == sorted(wanted)


@given(st.lists(st.tuples(spans, st.sampled_from(["lost", "left_out", "expired"])), max_size=8), spans)
def test_without_leaves_what_no_such_entry_has(taken: list[tuple[tuple[int, int], Any]], span: tuple[int, int]) -> None:
    rows = applied({}, *(entry(*one, state=state).change for one, state in taken))
    known = {(one.first, one.next) for one in entries(rows) if one.state in ("lost", "left_out")}
    parts = without(rows, entry(*span), ("lost", "left_out"))
    covered = {offset for first, following in known for offset in range(first, following)}
    found = [offset for first, following in parts for offset in range(first, following)]
    assert found == [offset for offset in range(*span) if offset not in covered]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(parts))


def test_committed_offsets_are_read_back_as_they_were() -> None:
    committed = Committed(next_window=7, offsets={10: 5, 2: 9}, notes=("temp",))
    row = msgspec.msgpack.decode(msgspec.msgpack.encode(committed_row("t", committed, 77)))
    kept = {"topic": "t", "next_window": 7, "offsets": {"2": 9, "10": 5}, "exported_at_ms": 77}
    assert row == {**kept, "notes": ["temp"]}
    assert committed_from_row(row) == committed
    assert committed_from_row(kept).notes == ()
    assert (committed.offset(2), committed.offset(3)) == (9, 0)
    assert committed_table("parquet") == "sink.parquet"
