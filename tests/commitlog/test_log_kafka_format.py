"""A partition's directory is what Kafka's own tools expect, and keys go where Kafka's clients put them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from aiokafka.record import MemoryRecords

from commitlog.partitioner import partition_for_key
from tests.commitlog.log_support import opened, record
from tests.log_fakes import FakeClock

# Kafka `UtilsTest.testMurmur2`: 32-bit results of the Java client.
MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "hashed"), MURMUR2.items(), ids=lambda value: str(value)[:12])
def test_keys_go_where_kafka_puts_them(key: bytes, hashed: int) -> None:
    for partitions in (1, 2, 3, 8, 97, 2**31 - 1):
        assert partition_for_key(key, partitions) == (hashed & 0x7FFFFFFF) % partitions


def test_no_key_is_partition_0_and_an_empty_key_is_a_key() -> None:
    assert partition_for_key(None, 8) == 0
    assert partition_for_key(b"", 8) == (275646681 & 0x7FFFFFFF) % 8


async def test_a_partition_directory_reads_as_kafka_lays_it_out(tmp_path: Path) -> None:
    async with opened(tmp_path, clock=FakeClock()) as log:
        info = await log.create_topic("telemetry", 1)
        for number in range(50):
            await log.append([record("telemetry", "press-17", b"%03d" % number + bytes(2_000 * (number % 2)))])
            if number == 30:
                await log.roll("telemetry", "test")
    directory = tmp_path / "log" / "telemetry-0"
    topic_id = base64.urlsafe_b64encode(bytes.fromhex(info.topic_id)).rstrip(b"=").decode()
    assert (directory / "partition.metadata").read_text() == f"version: 0\ntopic_id: {topic_id}\n"
    names = sorted(path.name for path in directory.iterdir() if path.name != "partition.metadata")
    assert names == [f"{base:020}.{suffix}" for base in (0, 31) for suffix in ("index", "log", "timeindex")]
    values: list[bytes] = []
    for base in (0, 31):
        records = MemoryRecords((directory / f"{base:020}.log").read_bytes())
        while (batch := records.next_batch()) is not None:
            assert batch.validate_crc()
            assert batch.base_offset == base + len(values) - (31 if base else 0)
            values.extend(bytes(one.value)[:3] for one in batch)
    assert values == [b"%03d" % number for number in range(50)]
