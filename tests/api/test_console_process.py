"""The console process beside a real edge: real log files, local channel, sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from appliance import console, edge
from appliance.settings import Settings
from core.channel import ChannelClient
from core.errors import ConfigError, PortTakenError
from core.ports import publish_port, read_ports
from devices.registry_client import RegistryClient
from tests.conftest import wait_until_async


def settings_for(data_dir: Path, **http: Any) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": str(data_dir),
            "log": {
                "partitions": 2,
                "journal_size": "8MB",
                "pending_bytes": "1MB",
                "checkpoint_bytes": "1MB",
                "commit_interval": "1ms",
                "flush_interval": "5ms",
            },
            "mqtt": {"port": 0},
            "tcp": {"port": "auto"},
            "http": {"port": "auto", **http},
            "sink": {"enabled": False},
        }
    )


class Running:
    """The edge and the console as tasks."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.run_dir = settings.data_dir / "run"
        self.edge_stop = asyncio.Event()
        self.console_stop = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def start_edge(self) -> None:
        self.edge_stop = asyncio.Event()
        self.tasks.append(asyncio.create_task(edge.run(self.settings, self.edge_stop)))
        await wait_until_async(lambda: "tcp" in read_ports(self.run_dir), describe="the edge's ports")

    async def start_console(self) -> None:
        self.tasks.append(asyncio.create_task(console.run(self.settings, self.console_stop)))
        await wait_until_async(lambda: "http" in read_ports(self.run_dir), describe="the console's port")

    async def get(self, path: str) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{read_ports(self.run_dir)['http']}{path}")

    async def device(self, device: str) -> Any:
        return (await self.get(f"/api/v1/devices/{device}")).json()

    async def stop_edge(self) -> None:
        self.edge_stop.set()
        await self.tasks.pop(0)

    async def stop(self) -> None:
        self.console_stop.set()
        self.edge_stop.set()
        await asyncio.gather(*self.tasks)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    (tmp_path / "run").mkdir()
    running = Running(settings_for(tmp_path))
    await running.start_edge()
    await running.start_console()
    yield running
    await running.stop()


async def test_what_was_known_is_known_after_a_restart_of_the_console(running: Running) -> None:
    writer = await send_lines(running, {"device": "d", "seq": 1}, {"device": "d", "seq": 3, "n": 5})
    await wait_until_async(lambda: told(running, "d", connected=True), describe="connected")
    before = await running.device("d")
    running.console_stop.set()
    await running.tasks.pop()
    assert (running.settings.data_dir / "state" / "status.snapshot").stat().st_size > 0
    port = read_ports(running.run_dir)["http"]
    running.console_stop = asyncio.Event()
    await running.start_console()
    await wait_until_async(lambda: read_ports(running.run_dir)["http"] != port, describe="the new port")
    await wait_until_async(lambda: told(running, "d", connected=True), describe="connected again")
    after = await running.device("d")
    assert after["sequence"] == {"newest": 3, "missing": 1, "duplicates": 0, "restarts": 0}
    names = ("first_seen", "last_seen", "messages", "fields", "sessions", "sequence", "clock_skew_s")
    assert [after[name] for name in names] == [before[name] for name in names]
    metrics = (await running.get("/metrics")).text
    assert "headrace_status_fed_records_total 0.0" in metrics  # nothing was read again
    writer.close()


async def send_lines(running: Running, *readings: dict[str, Any]) -> asyncio.StreamWriter:
    """Send readings over TCP and wait until they are acknowledged; the connection stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", read_ports(running.run_dir)["tcp"])
    writer.write(b"".join(json.dumps(reading).encode() + b"\n" for reading in readings))
    while f"OK {len(readings)}\n".encode() != await reader.readline():
        pass
    return writer


async def test_a_reading_is_told_while_its_session_is_open(running: Running) -> None:
    writer = await send_lines(running, {"device": "line/4", "n": 1}, {"device": "line/4", "n": 2})
    await wait_until_async(lambda: told(running, "line%2F4", connected=True), describe="connected")
    device = await running.device("line%2F4")
    assert device["last_reading"]["payload"] == {"device": "line/4", "n": 2}
    assert device["messages"] == 2
    assert [session["protocol"] for session in device["sessions"]] == ["tcp"]
    readings = (await running.get("/api/v1/devices/line%2F4/readings?since=-1h")).json()
    assert [one["payload"]["n"] for one in readings["readings"]] == [2, 1]
    sessions = (await running.get("/api/v1/sessions")).json()
    assert [session["devices"] for session in sessions["sessions"] if session["protocol"] == "tcp"] == [1]
    assert (sessions["connected"], sessions["away"], sessions["next"]) == (1, 0, None)
    assert (await running.get("/api/v1/sessions?connected=false")).json()["sessions"] == []
    assert (await running.get("/api/v1/sessions?cursor=mqtt:0")).json() == sessions
    topics = {one["topic"]: one["records"] for one in (await running.get("/api/v1/topics")).json()["topics"]}
    assert topics["telemetry"] == 2
    assert (await running.get("/api/v1/exports")).json()["exports"] == []
    metrics = (await running.get("/metrics")).text
    assert 'headrace_scrape_part_up{part="edge"} 1' in metrics
    assert (await running.get("/readyz")).status_code == 200
    assert "line/4" in (await running.get("/")).text
    writer.close()
    await wait_until_async(lambda: told(running, "line%2F4", connected=False), describe="not connected")


async def told(running: Running, device: str, *, connected: bool | None) -> bool:
    answer = await running.device(device)
    return "connected" in answer and answer["connected"] is connected


async def test_the_edge_goes_and_comes_back(running: Running) -> None:
    writer = await send_lines(running, {"device": "d", "n": 1})
    await wait_until_async(lambda: told(running, "d", connected=True), describe="connected")
    await running.stop_edge()
    writer.close()
    await wait_until_async(lambda: told(running, "d", connected=None), timeout_s=15, describe="stale")
    assert (await running.device("d"))["view"]["state"] == "stale"
    assert (await running.get("/readyz")).status_code == 503
    assert (await running.get("/api/v1/sessions")).json()["type"] == "urn:headrace:problem:unavailable"
    assert "The edge process is down" in (await running.get("/")).text
    publish_port(running.run_dir, "tcp", 0)
    await running.start_edge()
    await wait_until_async(lambda: told(running, "d", connected=False), timeout_s=15, describe="live again")
    (await send_lines(running, {"device": "d", "n": 2})).close()
    await wait_until_async(lambda: messages(running, "d", 2), describe="the second reading")


async def test_what_people_say_of_a_device(running: Running) -> None:
    address = f"http://127.0.0.1:{read_ports(running.run_dir)['http']}/api/v1/registry/line%2F4"
    (await send_lines(running, {"device": "line/4", "n": 1})).close()
    await wait_until_async(lambda: told(running, "line%2F4", connected=False), describe="the device")
    async with httpx2.AsyncClient(trust_env=False) as client:
        made = await client.put(address, json={"name": "Press", "tags": ["t"]})
    assert made.status_code == 201
    item = (await running.get("/api/v1/registry/line%2F4")).json()
    assert (await running.device("line%2F4"))["registry"].items() <= item.items()
    elsewhere = ChannelClient(running.run_dir / "edge.sock")
    await RegistryClient(elsewhere.call).patch(b"line/4", {"name": "Press 4"})
    await elsewhere.close()
    await wait_until_async(lambda: called(running, "Press 4"), describe="a change made elsewhere")
    await running.stop_edge()
    publish_port(running.run_dir, "tcp", 0)
    await running.start_edge()
    assert [one["device"] for one in (await running.get("/api/v1/devices?tag=t")).json()["devices"]] == ["line/4"]
    async with httpx2.AsyncClient(trust_env=False) as client:
        stale = await client.put(address, json={}, headers={"If-Match": made.headers["etag"]})
    assert stale.status_code == 412


async def called(running: Running, name: str) -> bool:
    return bool((await running.device("line%2F4"))["registry"]["name"] == name)


async def messages(running: Running, device: str, count: int) -> bool:
    return bool((await running.device(device))["messages"] == count)


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = settings_for(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(PortTakenError) as raised:
            await console.run(settings, asyncio.Event())
    assert raised.value.where == "http.port"
    assert "auto" in raised.value.mend


def test_an_address_that_is_not_ours_is_said() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 203\.0\.113\.1"):
        console.listen("203.0.113.1", 0)


async def test_switched_off_it_takes_its_port_away_and_waits(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    publish_port(tmp_path / "run", "http", 8080)
    stop = asyncio.Event()
    running = asyncio.create_task(console.run(settings_for(tmp_path, port=0), stop))
    await wait_until_async(lambda: not read_ports(tmp_path / "run"), describe="no port")
    assert not running.done()
    stop.set()
    await running
