"""The loader of reconnect storms against a server in this process."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ingest
from benchmarks.loader import LoaderProcess, compile_loader
from benchmarks.measure import BenchmarkError
from tests.bench.test_bench_loader import _packet, packet_id
from tests.conftest import require_component

SOURCE = Path(ingest.__file__).with_name("stormgen.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_component("cc")
    return compile_loader(SOURCE, tmp_path_factory.mktemp("stormgen"))


@dataclass
class FakeServer:
    """Acknowledges what comes; loses `unanswered` publishes of the first connections, refuses some later ones."""

    first: int = 4
    unanswered: int = 0
    refused: int = 0
    wrong_id: bool = False
    connects: Counter[bytes] = field(default_factory=Counter)
    published: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connect = await _packet(reader)
            self.connects[connect[14:]] += 1
            again = self.connects.total() > self.first
            if again and self.refused > 0:
                self.refused -= 1
                return
            writer.write(b"\x20\x02\x00\x00")
            while (packet := await _packet(reader))[0] != 0xE0:
                self.published.append(packet)
                if again or self.unanswered <= 0:
                    writer.write(b"\x40\x02" + (b"\xff\xff" if self.wrong_id else packet_id(packet)))
                elif packet_id(packet) != b"\x00\x01":
                    self.unanswered -= 1
                else:
                    writer.write(b"\x40\x02\x00\x01")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # cut, which is what this is about
        finally:
            writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]


async def storm(program: Path, fake: FakeServer, **more: float | str) -> list[dict[str, Any]]:
    options: dict[str, float | str] = {"connections": 4, "rate": 50, "steady": 0.2, "after": 0.1, "patience": 5, **more}

    def whole_run(port: int) -> list[dict[str, Any]]:
        with LoaderProcess(program, {"port": port, **options}, life_s=10) as devices:
            return [devices.wait_for(event) for event in ("connected", "steady", "back", "result")]

    async with fake.listening() as port:
        return await asyncio.to_thread(whole_run, port)


def sequences(fake: FakeServer) -> Counter[bytes]:
    """How often each reading was published, by MQTT topic and place in the sequence."""
    return Counter(
        packet[4:32] + re.search(rb'"seq":\d+', packet).group()  # type: ignore[union-attr]
        for packet in fake.published
    )


@pytest.mark.parametrize("abandon", [False, True], ids=["closed", "abandoned"])
async def test_all_come_back_once_and_every_reading_is_answered(program: Path, abandon: bool) -> None:
    fake = FakeServer()
    _, steady, back, result = await storm(program, fake, abandon=abandon)
    assert set(fake.connects.values()) == {2}
    assert result["sent_total"] == result["acked_total"] == len(sequences(fake))
    assert 0 < steady["acked_total"] < result["acked_total"]
    assert 0 < back["elapsed_s"] <= result["elapsed_s"]
    assert result["retries"] == 0
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["max_us"]


@pytest.mark.parametrize(("persistent", "dup"), [(False, 0x00), (True, 0x08)])
async def test_what_was_unanswered_is_sent_again(program: Path, persistent: bool, dup: int) -> None:
    fake = FakeServer(first=1, unanswered=3)
    *_, result = await storm(program, fake, connections=1, window=3, steady=0.5, persistent=persistent)
    again = [packet for packet, times in sequences(fake).items() if times == 2]
    assert (result["resent"], len(again)) == (3, 3)
    assert {packet[0] & 0x08 for packet in fake.published} == {0, dup}
    assert result["sent_total"] == result["acked_total"] == len(sequences(fake))


async def test_who_is_refused_tries_again(program: Path) -> None:
    fake = FakeServer(refused=3)
    *_, back, result = await storm(program, fake)
    assert (back["retries"], result["retries"], fake.connects.total()) == (3, 3, 4 + 4 + 3)
    assert back["elapsed_s"] >= 0.1  # the pause before another try
    assert result["sent_total"] == result["acked_total"]


async def test_who_never_gets_back_ends_the_run(program: Path) -> None:
    with pytest.raises(BenchmarkError, match="only 0 of 4 devices were back after 1 s"):
        await storm(program, FakeServer(refused=1_000_000), patience=1)


async def test_an_answer_that_is_not_due_ends_the_run(program: Path) -> None:
    with pytest.raises(BenchmarkError, match="packet id 65535, which was not the next"):
        await storm(program, FakeServer(wrong_id=True))
