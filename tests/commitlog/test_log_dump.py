"""`log dump`: which records, in which order, and how they look as JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitlog.base import Gap, NewRecord, Record
from commitlog.dump import Dumped, Selection, dump, json_line
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from core.errors import NotFoundError
from tests.commitlog.log_support import opened, record
from tests.log_fakes import FakeClock, FakeLog, FakeRecord


def lines(parts: list[Dumped]) -> list[tuple[str, int, int]]:
    return [(part.topic, part.partition, one.offset) for part in parts for one in part.records]


@pytest.fixture
def log() -> FakeLog:
    """telemetry: offsets 0 to 99 in partition 0, one each second, devices d0 and d1; a gap of 5; 100 more."""
    clock = FakeClock(1_000_000)
    log = FakeLog(clock, partitions=2)
    for number in range(100):
        log.append("telemetry", b"d%d" % (number % 2), b"{}", partition=0, time_ms=1_000_000 + 1000 * number)
    log.skip("telemetry", 0, 5)
    log.append("telemetry", b"d1", b"{}", partition=1, time_ms=1_000_000)
    log.append("mqtt", None, b"x", partition=0, time_ms=1_000_000)
    return log


def select(log: FakeLog, **bounds: Any) -> list[Dumped]:
    return list(dump(log.reader(), Selection(**bounds)))


def test_everything_is_every_topic_and_partition_in_order(log: FakeLog) -> None:
    found = lines(select(log))
    assert found == [("mqtt", 0, 0), *(("telemetry", 0, n) for n in range(100)), ("telemetry", 1, 0)]


@pytest.mark.parametrize(
    ("bounds", "offsets"),
    [
        ({"first": 10, "next": 13}, [10, 11, 12]),
        ({"first": 99}, [99]),
        ({"next": 2}, [0, 1]),
        ({"since_ms": 1_097_000}, [97, 98, 99]),
        ({"until_ms": 1_002_000}, [0, 1]),
        ({"since_ms": 1_050_500, "until_ms": 1_052_000}, [51]),
        ({"since_ms": 1_050_000, "first": 98}, [98, 99]),
        ({"key": b"d1", "first": 90}, [91, 93, 95, 97, 99]),
        ({"since_ms": 9_000_000}, []),
        ({"key": b"nobody"}, []),
    ],
    ids=lambda value: str(value),
)
def test_bounds(log: FakeLog, bounds: dict[str, Any], offsets: list[int]) -> None:
    found = lines(select(log, topic="telemetry", partition=0, **bounds))
    assert [offset for _, _, offset in found] == offsets


def test_gaps_are_handed_on(log: FakeLog) -> None:
    gaps = [gap for part in select(log, topic="telemetry", partition=0) for gap in part.gaps]
    assert sum(gap.next - gap.first for gap in gaps) == 5


def test_a_bound_before_the_end_ends_the_reading(log: FakeLog) -> None:
    reader = log.reader()
    list(dump(reader, Selection(topic="telemetry", partition=0, next=3)))
    assert reader.reads == 1
    reader = log.reader()
    list(dump(reader, Selection(topic="telemetry", partition=0, until_ms=1_001_000)))
    assert reader.reads == 1


@pytest.mark.parametrize("bounds", [{"topic": "nope"}, {"topic": "telemetry", "partition": 2}], ids=str)
def test_an_unknown_topic_or_partition_is_an_error_that_names_those_there_are(
    log: FakeLog, bounds: dict[str, Any]
) -> None:
    with pytest.raises(NotFoundError) as caught:
        select(log, **bounds)
    assert caught.value.mend


def test_following_brings_what_comes_and_ends_at_its_bounds(log: FakeLog) -> None:
    parts = dump(log.reader(), Selection(topic="telemetry", partition=1, next=3), follow=True)
    assert lines([next(parts)]) == [("telemetry", 1, 0)]
    for _ in range(5):
        log.append("telemetry", b"d", b"{}", partition=1)
    assert lines(list(parts)) == [("telemetry", 1, 1), ("telemetry", 1, 2)]


@asynccontextmanager
async def real(data_dir: Path, clock: FakeClock) -> AsyncIterator[tuple[EmbeddedLog, FileLogReader]]:
    async with opened(data_dir, clock=clock) as log:
        with closing(FileLogReader(data_dir, clock=clock)) as reader:
            yield log, reader


async def test_a_real_log_is_dumped_as_it_was_appended(tmp_path: Path) -> None:
    headers = [("mqtt.topic", b"a/b"), ("raw", b"\xff"), ("none", None)]
    async with real(tmp_path, FakeClock()) as (log, reader):
        await log.create_topic("telemetry", 1)
        await log.append([NewRecord(topic="telemetry", key=b"press-17", value=b'{"v": 1.10}', headers=headers)])
        await log.append([record("telemetry", None, b"\x00\xff"), record("telemetry", "k", "two\nlines")])
        await log.roll("telemetry", "flushed")
        shown = [json.loads(json_line(p.topic, p.partition, r)) for p in dump(reader, Selection()) for r in p.records]
    time = FakeClock().now_ms
    base = {"topic": "telemetry", "partition": 0, "timestamp": time}
    assert shown == [
        {
            **base,
            "offset": 0,
            "key": "press-17",
            "headers": [["mqtt.topic", "a/b"], ["raw", {"base64": "/w=="}], ["none", None]],
            "encoding": "json",
            "value": {"v": 1.1},
        },
        {**base, "offset": 1, "key": None, "headers": [], "encoding": "base64", "value": "AP8="},
        {**base, "offset": 2, "key": "k", "headers": [], "encoding": "text", "value": "two\nlines"},
    ]


async def test_what_a_writer_that_is_gone_promised_and_no_segment_holds_is_a_gap(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as log:
        await log.create_topic("telemetry", 1)
        await log.append([record("telemetry", "d", "v")])
        await log.roll("telemetry", "flushed")
    (tmp_path / "log" / "telemetry-0" / f"{0:020}.log").write_bytes(b"")
    with closing(FileLogReader(tmp_path, clock=clock)) as reader:
        (part,) = dump(reader, Selection(), follow=True)
    assert [(gap.first, gap.next) for gap in part.gaps] == [(0, 1)]
    assert isinstance(part.gaps[0], Gap)


def shown_value(value: bytes | None) -> tuple[str | None, Any, bytes]:
    one: Record = FakeRecord(0, 1, None, value)
    line = json_line("t", 0, one)
    assert b"\n" not in line
    decoded = json.loads(line)
    return decoded["encoding"], decoded["value"], line


@pytest.mark.parametrize("number", [b"1.10", b"123456789012345678901234567890", b"-0.0"])
def test_numbers_keep_their_digits(number: bytes) -> None:
    _, _, line = shown_value(b'{"v": %s}' % number)
    assert b'{"v": %s}' % number in line


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (None, None),
        (b"", "text"),
        (b"NaN", "text"),
        (b"{", "text"),
        (b"on", "text"),
        (b"1e400", "text"),
        (b'"on"', "json"),
        (b"null", "json"),
        (b'{"a":\r\n1}', "text"),
        (b'"\xff"', "base64"),
        (b"[" * 5_000, "text"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_values_are_json_text_or_base64(value: bytes | None, encoding: str | None) -> None:
    assert shown_value(value)[0] == encoding


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_every_value_can_be_had_back_from_its_line(value: bytes) -> None:
    encoding, shown, line = shown_value(value)
    if encoding == "json":
        assert value in line
        assert not (isinstance(shown, float) and math.isnan(shown))
    elif encoding == "text":
        assert shown.encode() == value
    else:
        assert base64.b64decode(shown) == value
