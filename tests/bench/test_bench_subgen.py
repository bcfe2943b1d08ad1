"""The receiving loader against a server in this process that sends exactly what a test wants."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from benchmarks import ingest
from benchmarks.loader import compile_loader
from benchmarks.measure import BenchmarkError
from benchmarks.mqtt.scenario import Plan
from benchmarks.mqtt.subscriber import Mark, Subscribers
from tests.conftest import require_component

SOURCE = Path(ingest.__file__).with_name("subgen.c")
CONNACK: Final = b"\x20\x02\x00\x00"
LATE_MS: Final = 1_700_000_000_000  # years ago: a latency that no test can mistake for its own


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    require_component("cc")
    program = compile_loader(SOURCE, tmp_path_factory.mktemp("subgen"))
    return Plan(programs={"subgen": program}, warmup_s=0.1, interval_s=0.2, payload_bytes=120, size=1)


def reading(device: int, sequence: int, *, qos: int = 0, packet_id: int = 1, made_ms: int = LATE_MS) -> bytes:
    topic = f"devices/dev-{device:06}/telemetry".encode()
    body = len(topic).to_bytes(2, "big") + topic + (packet_id.to_bytes(2, "big") if qos else b"")
    body += f'{{"ts":{made_ms},"seq":{sequence},"temperature":20.00}}'.encode()
    assert len(body) < 128
    return bytes([0x30 | qos << 1, len(body)]) + body


@dataclass
class FakeBroker:
    """Answers CONNECT and SUBSCRIBE, then sends `pieces` one write each, and keeps what it is sent."""

    pieces: list[bytes]
    connack: bytes = CONNACK
    granted: int | None = None
    forwards: bool = False
    received: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                packet = await _packet(reader)
                self.received.append(packet)
                await self._answer(packet, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the loader has ended
        finally:
            writer.close()

    async def _answer(self, packet: bytes, writer: asyncio.StreamWriter) -> None:
        if packet[0] == 0x10:
            writer.write(self.connack)
        elif packet[0] == 0x82:
            granted = packet[-1] if self.granted is None else self.granted
            writer.write(b"\x90\x03" + packet[2:4] + bytes([granted]))
            self.writers.append(writer)
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
        elif packet[0] >> 4 == 3 and self.forwards:
            for subscriber in self.writers:
                subscriber.write(packet)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]


async def _packet(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(2)
    length = head[1]
    if length & 0x80:
        head += await reader.readexactly(1)
        length = length & 0x7F | head[2] << 7
    return head + await reader.readexactly(length)


async def run(plan: Plan, fake: FakeBroker, use: Callable[[Subscribers], Mark], /, **options: float | str) -> Mark:
    def whole_run(port: int) -> Mark:
        with Subscribers(plan, port, **({"filter": "devices/#", "qos": 1} | options)) as clients:
            clients.connected()
            return use(clients)

    async with fake.listening() as port:
        return await asyncio.to_thread(whole_run, port)


def until(wanted: int) -> Callable[[Subscribers], Mark]:
    return lambda clients: clients.drain(wanted)


async def test_counts_what_comes_in_order(plan: Plan) -> None:
    fake = FakeBroker([reading(device, sequence) for sequence in range(5) for device in (0, 7)])
    seen = await run(plan, fake, until(10), qos=0)
    assert (seen.delivered, seen.missing, seen.repeated, seen.unique, seen.acked) == (10, 0, 0, 10, 0)


async def test_a_gap_is_missing_and_what_was_there_before_is_repeated(plan: Plan) -> None:
    fake = FakeBroker([reading(0, sequence) for sequence in (0, 1, 1, 4, 3, 5)])
    seen = await run(plan, fake, until(4), qos=0)
    assert (seen.delivered, seen.missing, seen.repeated, seen.unique) == (6, 2, 2, 4)


async def test_packets_in_single_bytes(plan: Plan) -> None:
    whole = b"".join(reading(0, sequence, qos=1, packet_id=sequence + 1) for sequence in range(3))
    fake = FakeBroker([whole[at : at + 1] for at in range(len(whole))])
    seen = await run(plan, fake, until(3))
    assert (seen.unique, seen.missing, seen.acked) == (3, 0, 3)


async def test_qos_1_is_acknowledged_with_the_ids_it_came_with(plan: Plan) -> None:
    ids = [1, 65535, 256, 7]
    pieces = [b"".join(reading(0, at, qos=1, packet_id=packet_id) for at, packet_id in enumerate(ids))]
    fake = FakeBroker(pieces)
    await run(plan, fake, until(4))
    acks = [packet for packet in fake.received if packet[0] == 0x40]
    assert acks == [b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in ids]


async def test_latency_is_from_the_time_in_the_reading(plan: Plan) -> None:
    def first_delivery(clients: Subscribers) -> Mark:
        mark = clients.mark()
        while mark.delivered == 0:  # the latencies of a delivery are in the first mark that counts it
            mark = clients.mark()
        return mark

    seen = await run(plan, FakeBroker([reading(0, 0)]), first_delivery, qos=0)
    years_us = 1e12 * 2
    assert seen.max_us > years_us
    assert seen.p50_us == pytest.approx(seen.max_us, rel=0.01)


async def test_it_publishes_when_all_have_the_window(plan: Plan) -> None:
    fake = FakeBroker([], forwards=True)
    seen = await run(plan, fake, until(60), qos=0, connections=3, publish=4, devices=1)
    assert seen.missing == seen.repeated == seen.dropped == 0
    assert 0 <= 3 * seen.published - seen.delivered <= 3 * 4


async def test_what_a_subscriber_never_gets_is_dropped_and_the_rest_goes_on(plan: Plan) -> None:
    fake = FakeBroker([])  # forwards nothing

    def given_up(clients: Subscribers) -> Mark:
        return clients.drain(1, patience_s=1.5)  # a reading is given up after a second

    seen = await run(plan, fake, given_up, qos=0, connections=3, publish=1, devices=1)
    assert seen.delivered == 0
    assert seen.dropped > 0
    assert seen.dropped == 3 * (seen.published - 1)


async def test_without_a_filter_they_only_stay(plan: Plan) -> None:
    fake = FakeBroker([])

    def stay(port: int) -> None:
        with Subscribers(plan, port, connections=3, keep_alive=600) as clients:
            clients.connected()

    async with fake.listening() as port:
        await asyncio.to_thread(stay, port)
    connects = [packet for packet in fake.received if packet[0] == 0x10]
    assert len(connects) == len({packet[14:] for packet in connects}) == 3  # client ids of their own
    assert {packet[9:12] for packet in connects} == {b"\x02" + (600).to_bytes(2, "big")}
    assert not [packet for packet in fake.received if packet[0] == 0x82]


async def test_a_session_is_resumed_without_subscribing(plan: Plan) -> None:
    fake = FakeBroker([], connack=b"\x20\x02\x01\x00")
    await run(plan, fake, lambda clients: clients.mark(), resume=True)
    assert [packet[0] for packet in fake.received if packet[0] != 0xE0] == [0x10]
    assert fake.received[0][9] == 0  # clean session 0


@pytest.mark.parametrize(
    ("fake", "options", "words"),
    [
        (FakeBroker([], connack=b"\x20\x02\x00\x05"), {}, "refused with return code 5"),
        (FakeBroker([]), {"resume": True}, "knows nothing of its session"),
        (FakeBroker([], granted=0x80), {}, "at QoS 1 was answered with 0x80"),
        (FakeBroker([reading(9, 0)]), {"devices": 9}, "no reading of a device below 9"),
        (FakeBroker([reading(0, 0, qos=2)]), {}, "PUBLISH of QoS 2"),
        (FakeBroker([b"\x30\x02\x00\x09"]), {}, "not to be expected"),
        (FakeBroker([b"\x30\xff\xff\x7f"]), {}, "larger than any reading"),
        (FakeBroker([b"\x30\xff\xff\xff\xff"]), {}, "more than four bytes"),
        (FakeBroker([b"\xd0\x00"]), {}, "unexpected packet of type 13"),
    ],
)
async def test_a_server_that_errs_ends_the_run_with_its_reason(
    plan: Plan, fake: FakeBroker, options: dict[str, float | str], words: str
) -> None:
    with pytest.raises(BenchmarkError, match=re.escape(words)):
        await run(plan, fake, until(1_000_000), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"publish": 2, "qos": 1}, "--publish needs"),
        ({"connections": 20_000, "devices": 100_000}, "counters"),
        ({"qos": 2}, "a number from 0 to 1"),
        ({"filter": "x" * 101}, "1 to 100 bytes"),
    ],
)
def test_options_that_do_not_fit_are_refused(plan: Plan, options: dict[str, float | str], words: str) -> None:
    with (
        Subscribers(plan, 1, **({"filter": "#", "qos": 0} | options)) as clients,
        pytest.raises(BenchmarkError, match=words),
    ):
        clients.connected()
