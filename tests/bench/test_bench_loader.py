"""The loader against a server in this process that answers exactly as a test wants."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks import ingest
from benchmarks.ingest import Bench, measure_once
from benchmarks.loads import Load, Loader, LoadResult, Timing, compile_loader
from benchmarks.measure import BenchmarkError, DiskRate, block_device_of
from benchmarks.servers import CommandServer, Mosquitto, MosquittoPersistent
from tests.conftest import free_port, require_component

SOURCE = Path(ingest.__file__).with_name("loadgen.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_component("cc")
    return compile_loader(SOURCE, tmp_path_factory.mktemp("loadgen"))


@dataclass
class FakeServer:
    """Speaks just enough MQTT; `answer` turns the packets of one read into the bytes to send back."""

    answer: Callable[[list[bytes]], Iterator[bytes]]
    connack: bytes = b"\x20\x02\x00\x00"
    delay: Callable[[], Awaitable[None]] | None = None
    published: list[bytes] = field(default_factory=list)
    goodbyes: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _packet(reader)
            writer.write(self.connack)
            while True:
                packets = [await _packet(reader)]
                if packets[0][0] == 0xE0:
                    self.goodbyes += 1
                    break
                self.published += [packet for packet in packets if packet[0] >> 4 == 3]
                for piece in self.answer(packets):
                    if self.delay:
                        await self.delay()
                    writer.write(piece)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the loader gave up, which its test expects
        finally:
            writer.close()

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


def packet_id(publish: bytes) -> bytes:
    topic_at = 3 if publish[1] & 0x80 else 2
    end = topic_at + 2 + int.from_bytes(publish[topic_at : topic_at + 2], "big")
    return publish[end : end + 2]


def puback(packets: list[bytes]) -> Iterator[bytes]:
    for packet in packets:
        yield b"\x40\x02" + packet_id(packet)


def byte_by_byte(packets: list[bytes]) -> Iterator[bytes]:
    for answer in puback(packets):
        yield from (answer[at : at + 1] for at in range(len(answer)))


async def load(program: Path, fake: FakeServer, load: Load, *, qos: int = 1, interval_s: float = 0.2) -> LoadResult:
    timing = Timing(warmup_s=0.1, interval_s=interval_s, qos=qos, payload_bytes=120)

    def whole_run(port: int) -> LoadResult:
        with Loader(program, port, load, timing) as loader:
            loader.wait_for("connected")
            loader.wait_for("measuring")
            return loader.result()

    async with fake.listening() as port:
        return await asyncio.to_thread(whole_run, port)


async def test_saturated_counts_what_was_answered(program: Path) -> None:
    fake = FakeServer(puback)
    result = await load(program, fake, Load(connections=3, window=4))
    assert 0 < result.acked < result.acked_total <= len(fake.published) <= result.sent_total
    assert result.sent_total - result.acked_total <= 3 * 4
    assert result.interval_s == pytest.approx(0.2, abs=0.1)
    assert result.acked_per_s == pytest.approx(result.acked / result.interval_s, rel=1e-3)
    assert 0 < result.p50_us <= result.p99_us <= result.max_us


async def test_readings_are_json_of_the_wanted_size_in_order(program: Path) -> None:
    fake = FakeServer(puback)
    await load(program, fake, Load(connections=1, window=2))
    bodies = [packet[packet.index(b"{") :] for packet in fake.published]
    assert {len(body) for body in bodies} == {120}
    assert [json.loads(body)["seq"] for body in bodies] == list(range(len(bodies)))
    assert all(b"devices/dev-000000/telemetry" in packet for packet in fake.published)


async def test_answers_in_single_bytes(program: Path) -> None:
    result = await load(program, FakeServer(byte_by_byte), Load(connections=2, window=3))
    assert result.acked > 0


async def test_latency_of_a_window_above_64_is_the_servers_own(program: Path) -> None:
    held: list[bytes] = []

    def every_hundred(packets: list[bytes]) -> Iterator[bytes]:
        held.extend(puback(packets))
        if len(held) == 100:
            yield b"".join(reversed(held))  # out of order, too
            held.clear()

    async def twenty_ms() -> None:
        await asyncio.sleep(0.02)

    fake = FakeServer(every_hundred, delay=twenty_ms)
    result = await load(program, fake, Load(connections=1, window=100))
    assert result.p50_us >= 20_000 * 0.99  # a bucket is less than 1 % wide


async def test_paced_sends_at_its_rate(program: Path) -> None:
    result = await load(program, FakeServer(puback), Load(connections=10, window=10, rate_per_s=50.0), interval_s=0.4)
    assert result.acked == pytest.approx(200, abs=100)
    assert result.skipped == 0


async def test_paced_skips_and_counts_when_nobody_answers(program: Path) -> None:
    result = await load(program, FakeServer(lambda _packets: iter(())), Load(connections=2, window=1, rate_per_s=50.0))
    assert (result.acked_total, result.sent_total) == (0, 2)
    assert result.skipped > 0


async def test_qos_0_counts_by_pingresp(program: Path) -> None:
    def pong(packets: list[bytes]) -> Iterator[bytes]:
        yield from (b"\xd0\x00" for packet in packets if packet == b"\xc0\x00")

    fake = FakeServer(pong)
    result = await load(program, fake, Load(connections=2, window=5), qos=0)
    assert result.acked > 0
    assert result.acked_total % 5 == 0
    assert {packet[0] for packet in fake.published} == {0x30}


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (FakeServer(puback, connack=b"\x20\x02\x00\x05"), "refused with return code 5"),
        (FakeServer(puback, connack=b"\x40\x02\x00\x01"), "where a CONNACK was due"),
        (FakeServer(lambda _packets: iter([b"\x40\x02\xff\xff"])), "not in flight"),
        (FakeServer(lambda _packets: iter([b"\x40\x02\x00\x00"])), "not in flight"),
        (FakeServer(lambda _packets: iter([b"\x30\x05\x00\x01ahi"])), "unexpected packet of type 3"),
        (FakeServer(lambda _packets: iter([b"\x40\x80\x01"])), "more than 127 bytes"),
    ],
)
async def test_a_server_that_errs_ends_the_run_with_its_reason(program: Path, fake: FakeServer, words: str) -> None:
    with pytest.raises(BenchmarkError, match=re.escape(words)):
        await load(program, fake, Load(connections=1, window=1))


async def test_a_server_that_hangs_up_ends_the_run(program: Path) -> None:
    def leave(_packets: list[bytes]) -> Iterator[bytes]:
        raise ConnectionResetError

    with pytest.raises(BenchmarkError, match="the server closed it"):
        await load(program, FakeServer(leave), Load(connections=1, window=1))


async def test_the_ledger_holds_what_was_answered_before_the_server_hung_up(program: Path, tmp_path: Path) -> None:
    answered: list[bytes] = []

    def a_hundred(packets: list[bytes]) -> Iterator[bytes]:
        if len(answered) == 100:
            raise ConnectionResetError
        answered.extend(packets)
        yield from puback(packets)

    fake, ledger = FakeServer(a_hundred), tmp_path / "ledger"
    async with fake.listening() as port:
        words = ["--port", str(port), "--connections", "3", "--window", "1", "--first-device", "40"]
        process = await asyncio.create_subprocess_exec(
            str(program),
            *words,
            "--ledger",
            str(ledger),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
    assert process.returncode == 1
    assert b"the server closed it" in said
    noted = array("I", ledger.read_bytes())
    entries = list(zip(noted[::2], noted[1::2], strict=True))
    sent = [(packet[packet.index(b"dev-") + 4 :][:6], json.loads(packet[packet.index(b"{") :])) for packet in answered]
    assert len(entries) > 90, "answers that the others had not read when one was thrown out are not noted"
    assert set(entries) <= {(int(device), body["seq"]) for device, body in sent}
    for device in (40, 41, 42):
        seqs = [seq for one, seq in entries if one == device]
        assert seqs == list(range(len(seqs)))


def test_a_ledger_of_qos_0_is_refused(program: Path, tmp_path: Path) -> None:
    words = [str(program), "--port", "1", "--qos", "0", "--ledger", str(tmp_path / "ledger")]
    done = subprocess.run(words, capture_output=True, check=False, timeout=10)
    assert done.returncode == 1
    assert b"QoS 0 has no acknowledgements" in done.stderr


def test_nobody_listening(program: Path) -> None:
    timing = Timing(warmup_s=0, interval_s=0.1, qos=1, payload_bytes=120)
    with (
        Loader(program, free_port(), Load(connections=1, window=1), timing) as loader,
        pytest.raises(BenchmarkError, match="Connection refused"),
    ):
        loader.wait_for("connected")


@pytest.mark.parametrize("payload_bytes", [109, 8193])
def test_payload_sizes_out_of_range_are_refused(program: Path, payload_bytes: int) -> None:
    timing = Timing(warmup_s=0, interval_s=0.1, qos=1, payload_bytes=payload_bytes)
    with (
        Loader(program, 1, Load(connections=1, window=1), timing) as loader,
        pytest.raises(BenchmarkError, match="from 110 to 8192"),
    ):
        loader.wait_for("connected")


def test_a_loader_that_does_not_compile_says_so(tmp_path: Path) -> None:
    require_component("cc")
    source = tmp_path / "broken.c"
    source.write_text("int main(void) { return nothing; }\n")
    with pytest.raises(BenchmarkError, match="nothing"):
        compile_loader(source, tmp_path / "build")


@pytest.mark.parametrize("server", [Mosquitto(), MosquittoPersistent()], ids=lambda server: server.name)
def test_one_measurement_of_mosquitto(
    program: Path, server: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_component("mosquitto")
    monkeypatch.setattr(ingest, "BUILD", tmp_path)
    timing = Timing(warmup_s=0.1, interval_s=0.3, qos=1, payload_bytes=120)
    bench = Bench(loader=program, timing=timing, device=block_device_of(tmp_path), idle=DiskRate())
    one = measure_once(bench, server, Load(connections=20, window=10), 1)
    assert one.figures is not None, one.void
    assert one.figures.acked > 0
    assert one.figures.cpu_us_per_message > 0
    assert 0 < one.figures.pss_bytes <= one.figures.peak_rss_bytes
    assert not (tmp_path / f"data-{server.name}").exists()


def test_a_second_benchmark_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "BUILD", tmp_path)
    lock = ingest.only_one()
    with pytest.raises(BenchmarkError, match="another benchmark"):
        ingest.only_one()
    os.close(lock)
    os.close(ingest.only_one())


def test_a_server_that_does_not_start_is_a_void_round(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ingest, "BUILD", tmp_path)
    timing = Timing(warmup_s=0.1, interval_s=0.1, qos=1, payload_bytes=120)
    bench = Bench(loader=program, timing=timing, device=None, idle=DiskRate())
    server = CommandServer("broken", "sh -c 'echo no such luck; exit 3'")
    one = measure_once(bench, server, Load(connections=1, window=1), 1)
    assert one.figures is None
    assert "ended with code 3" in one.void[0]
    assert "no such luck" in capsys.readouterr().err
