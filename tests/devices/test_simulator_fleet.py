"""Whole fleets over real sockets: the report agrees with what the box saw."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import BadRequestError
from devices.simulator import FleetOptions, FleetReport, run_fleet
from devices.simulator.fleet import device_id_of, protocol_of
from devices.simulator.link import Timing
from devices.simulator.ranges import numbers_in, size_of
from tests.conftest import free_port, require_component, wait_until, wait_until_async
from tests.devices.simulator_box import Arrival, FakeBox, Verdict

QUICK = Timing(backoff_min_s=0.01, backoff_max_s=0.04, drain_s=60.0)
NO_DRAIN = Timing(backoff_min_s=0.01, backoff_max_s=0.04, drain_s=0.05)


def _options(box: FakeBox, **changes: Any) -> FleetOptions:
    options: dict[str, Any] = {
        "devices": 6,
        "rate_hz": 100.0,
        "protocol": "both",
        "seed": 1,
        "for_s": None,
        "host": "127.0.0.1",
        "mqtt_port": box.mqtt_port,
        "tcp_port": box.tcp_port,
        "timing": QUICK,
    }
    return FleetOptions(**options | changes)


async def _run_until(options: FleetOptions, enough: Callable[[], bool], report: Path | None = None) -> FleetReport:
    stop = asyncio.Event()
    fleet = asyncio.create_task(run_fleet(options, stop, report_path=report, report_interval_s=0.01))
    try:
        await wait_until_async(lambda: fleet.done() or enough())
    finally:
        stop.set()
        outcome = await _ended(fleet)
    return outcome


async def _ended(fleet: asyncio.Task[FleetReport]) -> FleetReport:
    """Its report; a drain must not run into its limit while the box answers."""
    async with asyncio.timeout(QUICK.drain_s / 3):
        return await fleet


def _assert_books_agree(report: FleetReport, box: FakeBox) -> None:
    """After a full drain: the box has exactly what the report says, and each reading was a first attempt once."""
    for device, book in report.devices.items():
        acked, resent = set(numbers_in(book.acked)), set(numbers_in(book.resent))
        assert book.unacked == (), device
        assert acked == box.stored[device]
        assert set(book.refused) == box.refused[device]
        assert acked | set(book.refused) == set(range(1, book.sent + 1))
        assert not acked & set(book.refused)
        arrivals = box.arrivals[device]
        assert {arrival.seq for arrival in arrivals if arrival.attempt > 1} <= resent
        assert len(arrivals) <= book.sent + book.resends
        if book.protocol == "mqtt":
            assert {arrival.seq for arrival in arrivals if arrival.dup} <= resent
            firsts = [arrival.seq for arrival in arrivals if not arrival.dup]
            assert len(firsts) == len(set(firsts)), "DUP is 0 on the first attempt only [MQTT-3.3.1-1]"
            assert len({(arrival.seq, arrival.packet_id) for arrival in arrivals}) == len({a.seq for a in arrivals})
    assert box.stored.keys() | box.refused.keys() <= report.devices.keys()


def test_device_numbers_decide_ids_and_protocols() -> None:
    assert [device_id_of(number) for number in (1, 2, 3, 4, 17, 12345)] == [
        "pump-0001",
        "press-0002",
        "chiller-0003",
        "pump-0004",
        "press-0017",
        "chiller-12345",
    ]
    assert [protocol_of(number, "both") for number in (1, 2, 3)] == ["tcp", "mqtt", "tcp"]
    assert {protocol_of(number, "tcp") for number in (1, 2)} == {"tcp"}


async def test_a_box_that_takes_everything_has_everything() -> None:
    async with FakeBox().listening() as box:
        report = await _run_until(_options(box), lambda: box.seen() > 200)
        await wait_until_async(lambda: box.farewells == 3, describe="DISCONNECT of the three MQTT devices")
    _assert_books_agree(report, box)
    assert report.final
    assert report.totals.resends == 0
    assert report.totals.connections == box.connections == 6
    assert sorted(box.connects) == sorted((device_id_of(number), 0, 60) for number in (2, 4, 6))
    for device, arrivals in box.arrivals.items():
        assert [arrival.seq for arrival in arrivals] == list(range(1, len(arrivals) + 1))
        times = [arrival.payload["ts"] for arrival in arrivals]
        assert times == sorted(times)
        assert all(report.started_ms <= time <= report.ended_ms for time in times)
        assert all(arrival.payload.get("device", device) == device for arrival in arrivals)
        assert all("temperature" in " ".join(a.payload) or "supply_c" in a.payload for a in arrivals)


@pytest.mark.parametrize("protocol", ["mqtt", "tcp"])
@pytest.mark.parametrize("lost", [Verdict.LOSE_ACK, Verdict.DROP], ids=["ack lost", "reading lost"])
async def test_connections_dropped_midway_lose_no_reading(protocol: str, lost: Verdict) -> None:
    def script(arrival: Arrival) -> Verdict:
        return lost if arrival.attempt == 1 and arrival.seq % 7 == 3 else Verdict.ACK

    async with FakeBox(script).listening() as box:
        report = await _run_until(_options(box, protocol=protocol), lambda: box.seen() > 200)
    _assert_books_agree(report, box)
    assert report.totals.resent > 6
    assert report.totals.connections == box.connections > 12
    assert report.totals.skipped == 0


async def test_a_box_that_answers_between_losses_is_come_back_to_without_growing_pauses() -> None:
    def script(arrival: Arrival) -> Verdict:
        return Verdict.LOSE_ACK if arrival.attempt == 1 and arrival.seq % 4 == 3 else Verdict.ACK

    patient = Timing(backoff_min_s=0.005, backoff_max_s=3600.0, drain_s=60.0)
    async with FakeBox(script).listening() as box:
        report = await _run_until(_options(box, devices=2, timing=patient), lambda: box.connections >= 40)
    _assert_books_agree(report, box)


async def test_refused_lines_are_recorded_and_not_sent_again() -> None:
    def script(arrival: Arrival) -> Verdict:
        return Verdict.REFUSE if arrival.seq % 5 == 0 else Verdict.ACK

    async with FakeBox(script).listening() as box:
        report = await _run_until(_options(box, protocol="tcp"), lambda: box.seen() > 150)
    _assert_books_agree(report, box)
    assert report.totals.refused > 10
    assert report.totals.resends == 0
    for book in report.devices.values():
        assert book.refused == {seq: f"reading {seq} is not wanted" for seq in range(5, book.sent + 1, 5)}


async def test_refusals_and_drops_together_still_balance() -> None:
    def script(arrival: Arrival) -> Verdict:
        if arrival.attempt == 1 and arrival.seq % 11 == 4 and arrival.seq % 5:
            return Verdict.LOSE_ACK
        return Verdict.REFUSE if arrival.seq % 5 == 0 else Verdict.ACK

    async with FakeBox(script).listening() as box:
        report = await _run_until(_options(box, protocol="tcp"), lambda: box.seen() > 200)
    _assert_books_agree(report, box)
    assert report.totals.refused > 10
    assert report.totals.resent > 6


@pytest.mark.parametrize("protocol", ["mqtt", "tcp"])
async def test_a_full_memory_skips_and_resends_exactly_what_it_holds(protocol: str) -> None:
    first = Verdict.HOLD

    def script(arrival: Arrival) -> Verdict:
        return first if arrival.attempt == 1 and arrival.seq <= 5 else Verdict.ACK

    async with FakeBox(script).listening() as box:
        stop = asyncio.Event()
        options = _options(box, devices=1, protocol=protocol, max_unacked=5)
        fleet = asyncio.create_task(run_fleet(options, stop))
        await wait_until_async(lambda: box.seen() == 5)
        await asyncio.sleep(0.1)  # ten readings more would be due; that none comes cannot be awaited otherwise
        assert box.seen() == 5
        box.hang_up()
        await wait_until_async(lambda: box.seen() > 20)
        stop.set()
        report = await _ended(fleet)
    _assert_books_agree(report, box)
    book = report.devices["pump-0001"]
    assert (book.resent, book.resends) == (((1, 5),), 5)
    assert book.skipped >= 8
    assert book.connections == 2
    second = [arrival for arrival in box.arrivals["pump-0001"] if arrival.connection == 2]
    assert [arrival.seq for arrival in second] == list(range(1, book.sent + 1)), "oldest first, then the new ones"
    if protocol == "mqtt":
        assert [arrival.dup for arrival in second[:6]] == [True] * 5 + [False]


async def test_readings_made_while_the_box_is_away_arrive_when_it_is_back() -> None:
    mqtt_port, tcp_port = free_port(), free_port()
    box = FakeBox()
    box.mqtt_port, box.tcp_port = mqtt_port, tcp_port
    stop = asyncio.Event()
    fleet = asyncio.create_task(run_fleet(_options(box, devices=2, max_unacked=8), stop))
    await asyncio.sleep(0.15)  # nobody listens: there is nothing to be seen meanwhile
    async with box.listening(mqtt_port, tcp_port):
        await wait_until_async(lambda: all(len(box.stored[device]) > 20 for device in ("pump-0001", "press-0002")))
        stop.set()
        report = await _ended(fleet)
    _assert_books_agree(report, box)
    assert report.totals.skipped > 0
    assert report.totals.failed_connections >= 2
    assert report.totals.resends == 0, "what was never sent is no resend"


async def test_what_stays_open_is_reported_as_unacked() -> None:
    def script(arrival: Arrival) -> Verdict:
        return Verdict.HOLD if arrival.seq > 3 else Verdict.ACK

    async with FakeBox(script).listening() as box:
        options = _options(box, devices=2, max_unacked=10, timing=NO_DRAIN)
        report = await _run_until(options, lambda: box.seen() == 26)
    for device, book in report.devices.items():
        assert book.acked == ((1, 3),)
        assert book.unacked == ((4, 13),)
        assert box.stored[device] == set(range(1, 14))
    assert report.totals.unacked == 20


async def test_acks_that_come_after_the_stop_still_count() -> None:
    held = True

    def script(arrival: Arrival) -> Verdict:
        return Verdict.HOLD if held else Verdict.ACK

    async with FakeBox(script).listening() as box:
        stop = asyncio.Event()
        fleet = asyncio.create_task(run_fleet(_options(box, devices=2, max_unacked=4), stop))
        await wait_until_async(lambda: box.seen() == 8)
        stop.set()
        held = False
        box.hang_up()  # the drain reconnects and resends
        report = await _ended(fleet)
    _assert_books_agree(report, box)
    assert (report.totals.sent, report.totals.acked, report.totals.resent) == (8, 8, 8)


async def test_devices_that_wait_to_connect_try_at_once_when_the_run_ends() -> None:
    patient = Timing(backoff_min_s=3600.0, backoff_max_s=3600.0, drain_s=60.0)
    box = FakeBox(lambda _: Verdict.HOLD)
    async with box.listening():
        stop = asyncio.Event()
        fleet = asyncio.create_task(run_fleet(_options(box, devices=4, max_unacked=3, timing=patient), stop))
        await wait_until_async(lambda: box.seen() == 12)
        box.script = lambda _: Verdict.ACK
        box.hang_up()
        await wait_until_async(lambda: not box.open_connections)
        await asyncio.sleep(0.05)  # nobody comes back: an hour's pause has begun
        assert box.connections == 4
        stop.set()
        report = await _ended(fleet)
    _assert_books_agree(report, box)
    assert box.connections == 8


async def test_a_refused_connect_is_tried_again() -> None:
    async with FakeBox().listening() as box:
        box.connack = 3
        stop = asyncio.Event()
        fleet = asyncio.create_task(run_fleet(_options(box, devices=1, protocol="mqtt"), stop))
        await wait_until_async(lambda: len(box.connects) == 3)
        box.connack = 0
        await wait_until_async(lambda: box.seen() > 3)
        stop.set()
        report = await _ended(fleet)
    _assert_books_agree(report, box)
    book = report.devices["pump-0001"]
    assert book.failed_connections >= 3
    assert book.connections == 1
    assert book.last_error == "refused with CONNACK 3, server unavailable"


async def test_the_run_ends_by_itself_after_its_time() -> None:
    async with FakeBox().listening() as box:
        report = await run_fleet(_options(box, for_s=0.1), asyncio.Event())
    _assert_books_agree(report, box)
    assert 6 < report.totals.sent < 6 * 100


async def test_the_rate_is_kept_and_devices_do_not_fire_together() -> None:
    async with FakeBox().listening() as box:
        report = await run_fleet(_options(box, devices=20, rate_hz=4.0, for_s=1.0), asyncio.Event())
    assert 3 * 20 <= report.totals.sent + report.totals.skipped <= 5 * 20
    firsts = {arrivals[0].payload["ts"] for arrivals in box.arrivals.values()}
    assert len(firsts) > 8, "spread over the first period of 250 ms"


async def test_two_runs_of_a_seed_send_the_same_readings() -> None:
    bodies = []
    for _ in range(2):
        async with FakeBox().listening() as box:
            await _run_until(_options(box, devices=3), lambda box=box: box.seen() > 60)
        by_seq = {(a.device, a.seq): a.payload for arrivals in box.arrivals.values() for a in arrivals}
        bodies.append({at: {**payload, "ts": 0} for at, payload in by_seq.items()})
    common = bodies[0].keys() & bodies[1].keys()
    assert len(common) > 30
    assert [bodies[0][at] for at in common] == [bodies[1][at] for at in common]


async def test_the_report_file_is_there_from_the_start_and_final_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    async with FakeBox().listening() as box:

        def grown() -> bool:
            early = path.exists() and FleetReport.read(path)
            return bool(early) and not early.final and early.totals.acked > 10

        report = await _run_until(_options(box), grown, report=path)
    assert FleetReport.read(path) == report
    assert report.final
    assert [found.name for found in tmp_path.iterdir()] == ["report.json"]


CHILD = """
import asyncio, pathlib, sys
from devices.simulator import FleetOptions, run_fleet
options = FleetOptions(devices=4, rate_hz=50.0, protocol="both", seed=1, for_s=60.0, host="127.0.0.1",
                       mqtt_port=int(sys.argv[1]), tcp_port=int(sys.argv[2]))
asyncio.run(run_fleet(options, asyncio.Event(), report_path=pathlib.Path(sys.argv[3]), report_interval_s=0.02))
"""


async def test_a_killed_simulator_leaves_a_report_that_claims_nothing_untrue(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    async with FakeBox().listening() as box:
        command = [sys.executable, "-c", CHILD, str(box.mqtt_port), str(box.tcp_port), str(path)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await wait_until_async(lambda: path.exists() and FleetReport.read(path).totals.acked > 20, timeout_s=20)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            await asyncio.to_thread(child.wait, 10)
    report = FleetReport.read(path)
    assert not report.final
    for device, book in report.devices.items():
        assert set(numbers_in(book.acked)) <= box.stored[device]
        assert size_of(book.acked) + len(book.refused) + size_of(book.unacked) == book.sent


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"devices": 0}, "--devices"),
        ({"devices": 20_001}, "--devices"),
        ({"rate_hz": 0.0}, "--rate"),
        ({"rate_hz": float("nan")}, "--rate"),
        ({"rate_hz": 1001.0}, "--rate"),
        ({"for_s": 0.0}, "--for"),
        ({"for_s": float("nan")}, "--for"),
        ({"max_unacked": 0}, "max_unacked"),
        ({"tcp_port": 0, "mqtt_port": 1}, "--tcp-port"),
        ({"mqtt_port": 65536, "tcp_port": 1}, "--mqtt-port"),
    ],
)
async def test_options_that_cannot_be_met_are_refused(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        await run_fleet(_options(FakeBox(), **{"mqtt_port": 1, "tcp_port": 1} | changes), asyncio.Event())
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("limits", "raised"), [((50, 100), (70, 100)), ((50, -1), (70, -1)), ((70, 100), None), ((-1, -1), None)]
)
async def test_open_files_are_allowed_as_far_as_they_are_needed(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: tuple[int, int] | None
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("devices.simulator.fleet.resource.getrlimit", lambda _: limits)
    monkeypatch.setattr("devices.simulator.fleet.resource.setrlimit", lambda _, wanted: asked.append(wanted))
    async with FakeBox().listening() as box:
        await run_fleet(_options(box, for_s=0.01), asyncio.Event())
    assert asked == ([raised] if raised else [])


async def test_more_devices_than_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devices.simulator.fleet.resource.getrlimit", lambda _: (50, 69))
    with pytest.raises(BadRequestError, match="70 open files are needed, 69 are allowed"):
        await run_fleet(_options(FakeBox(), mqtt_port=1, tcp_port=1), asyncio.Event())


async def test_a_report_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    async with FakeBox().listening() as box:
        with pytest.raises(BadRequestError, match="cannot be written"):
            await run_fleet(_options(box), asyncio.Event(), report_path=tmp_path / "no" / "report.json")
    assert box.connections == 0


async def test_a_fleet_with_a_real_broker(tmp_path: Path) -> None:
    broker = require_component("mosquitto")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([broker, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        box = FakeBox()
        box.mqtt_port = port
        report = await run_fleet(_options(box, devices=10, protocol="mqtt", for_s=1.0), asyncio.Event())
    finally:
        process.terminate()
        wait_until(lambda: process.poll() is not None, describe="mosquitto ended")
    assert report.totals.sent > 100
    assert report.totals.acked == report.totals.sent
    assert report.totals.connections == 10
