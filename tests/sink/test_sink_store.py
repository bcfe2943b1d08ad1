"""Rows that wait for their file: each comes out once, under its day, with all that belongs to it."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from sink.parquet.store import RowStore
from sink.payload.batches import RowBatch
from sink.payload.times import US_PER_DAY


def batch_of(days: list[int], first: int, *, received_day: int = 500) -> RowBatch:
    count = len(days)
    offsets = np.arange(first, first + count)
    return RowBatch(
        partition=0,
        devices=offsets.astype(np.int32),
        topics=np.zeros(count, np.int32),
        ts_us=np.array(days, np.int64) * US_PER_DAY + offsets,
        received_us=np.full(count, received_day * US_PER_DAY),
        offsets=offsets,
        rows=np.zeros(count, np.int32),
        fields={
            "a": {"int64": pa.array(offsets), "text": pa.nulls(count, pa.string())},
            "b": {"string": pa.array([f"text {offset}" for offset in offsets])},
        },
        more=pa.array([f'{{"m":{offset}}}' for offset in offsets]),
    )


def rows_of(batches: list[RowBatch]) -> list[tuple[object, ...]]:
    return [
        (int(batch.offsets[at]), int(batch.devices[at]), *texts)
        for batch in batches
        for at, texts in enumerate(
            zip(
                batch.fields["a"]["int64"].to_pylist(),
                batch.fields["b"]["string"].to_pylist(),
                [] if batch.more is None else batch.more.to_pylist(),
                strict=True,
            )
        )
    ]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_comes_out_once_under_its_day(seed: int) -> None:
    chance = random.Random(seed)
    store = RowStore()
    expected: dict[int, list[tuple[object, ...]]] = {}
    first = 0
    for _ in range(6):
        span = chance.choice([1, 2, 30])
        days = [400 + chance.randrange(span) for _ in range(chance.randint(1, 60))]
        store.add(batch_of(days, first))
        for offset, day in enumerate(days, first):
            expected.setdefault(day, []).append((offset, offset, offset, f"text {offset}", f'{{"m":{offset}}}'))
        first += len(days)
        if chance.random() < 0.4:
            day = max(store.days, key=store.size_of)
            assert rows_of(store.take(day)) == expected.pop(day)
    assert store.days == sorted(expected)
    assert store.size_bytes == sum(map(store.size_of, store.days))
    assert len(store) == sum(map(len, expected.values()))
    for day in chance.sample(store.days, len(store.days)):
        assert rows_of(store.take(day)) == expected[day]
    assert (len(store), store.size_bytes, store.days, store.take(400)) == (0, 0, [], [])


def test_memory_of_rows_taken_becomes_free() -> None:
    store = RowStore()
    store.add(batch_of([400] * 900 + [401] * 100, 0))
    taken = store.take(400)
    (left,) = store.take(401)
    assert left.offsets.base is None or left.offsets.base.nbytes < taken[0].offsets.nbytes


def test_days_beyond_the_limit_are_filed_under_the_day_received() -> None:
    store = RowStore(max_dates=2)
    store.add(batch_of([401, 402, 403, 402, 401], 0))
    assert store.days == [402, 403, 500]
    assert [row[0] for row in rows_of(store.take(500))] == [0, 4]
