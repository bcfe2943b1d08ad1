"""The supervisor with real child processes: small scripts that write down what happens to them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.child import ChildSpec
from appliance.datadir import DataDir, open_data_dir
from appliance.restarts import RestartRule
from appliance.settings import Settings
from appliance.supervisor import Patience, Supervisor, children_of, with_ports
from core.clock import Clock
from tests.conftest import wait_until, wait_until_async
from tests.log_fakes import FakeClock

RULE = RestartRule(first_delay_s=0.01, max_delay_s=0.05, healthy_after_s=60)

CHILD = """
import asyncio, os, signal, sys, time
from pathlib import Path
from appliance.process import announce_ready, child_main
from core.errors import PortTakenError

NAME = {name!r}

def note(what):
    descriptor = os.open({journal!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{{NAME}} {{what}}\\n".encode())
    os.close(descriptor)

async def run(settings, stop):
    note(f"starts {{os.getpid()}}")
{body}

child_main(NAME, run)
"""
WORKS = """
announce_ready()
await stop.wait()
note("stops")
"""


@dataclass
class House:
    """A supervisor under test, its children's notes, and how to make children."""

    path: Path
    data_dir: DataDir
    drained: list[str] = field(default_factory=list)
    runs: list[asyncio.Task[int]] = field(default_factory=list)

    def child(self, name: str, body: str = WORKS, *, keeps_log: bool = False) -> ChildSpec:
        script = self.path / f"{name}.py"
        code = textwrap.indent(textwrap.dedent(body).strip(), "    ")
        script.write_text(CHILD.format(name=name, journal=str(self.path / "notes"), body=code))
        return ChildSpec(name=name, command=(sys.executable, "-P", str(script)), keeps_log=keeps_log)

    def supervise(
        self,
        *children: ChildSpec,
        patience: Patience | None = None,
        settings: object = None,
        rule: RestartRule = RULE,
        clock: Clock | None = None,
    ) -> Supervisor:
        async def drain() -> None:
            self.drained.append("drain")
            self.note("drain")

        sections = settings if isinstance(settings, dict) else {}
        supervisor = Supervisor(
            Settings.model_validate({"data_dir": self.path / "data", **sections}),
            self.data_dir,
            children,
            rule=rule,
            patience=patience,
            clock=clock,
            drain=drain,
        )
        self.runs.append(asyncio.create_task(supervisor.run()))
        return supervisor

    def note(self, text: str) -> None:
        with (self.path / "notes").open("a") as notes:
            notes.write(f"supervisor {text}\n")

    def notes(self) -> list[str]:
        path = self.path / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def pids(self) -> dict[str, int]:
        path = self.data_dir.run / "pids.json"
        found: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        return found

    async def up(self, *names: str) -> dict[str, int]:
        """The pids, once the named children have started."""
        await wait_until_async(
            lambda: (
                set(names) <= {note.split()[0] for note in self.notes() if " starts " in note}
                and set(names) <= set(self.pids())
            ),
            timeout_s=20,
            describe=lambda: f"{names} up; notes: {self.notes()}, pids: {self.pids()}",
        )
        return self.pids()

    async def ended(self) -> int:
        return await asyncio.wait_for(self.runs[0], 20)


@pytest.fixture(name="house")
async def _house(tmp_path: Path) -> AsyncIterator[House]:
    data_dir = open_data_dir(tmp_path / "data", journal_size_bytes=1)
    house = House(path=tmp_path, data_dir=data_dir)
    yield house
    for run in house.runs:
        if not run.done():
            run.cancel()
            for name, pid in house.pids().items():
                if name != "supervisor":
                    os.kill(pid, signal.SIGKILL)
            await asyncio.gather(run, return_exceptions=True)
    data_dir.close()


async def test_the_log_first_then_the_others_and_the_way_back(house: House) -> None:
    supervisor = house.supervise(house.child("edge", keeps_log=True), house.child("console"), house.child("sink"))
    pids = await house.up("edge", "console", "sink")
    assert pids["supervisor"] == os.getpid()
    assert house.notes()[0] == f"edge starts {pids['edge']}"
    supervisor.stop()
    assert await house.ended() == 0
    end = [note for note in house.notes() if " starts " not in note]
    assert end[0] == "supervisor drain"
    assert sorted(end[1:3]) == ["console stops", "sink stops"]
    assert end[3:] == ["edge stops"]
    assert house.pids() == {"supervisor": os.getpid()}


async def test_the_others_wait_until_the_log_is_ready(house: House) -> None:
    gate = house.path / "gate"
    slow = f"""
    while not Path({str(gate)!r}).exists():
        await asyncio.sleep(0.01)
    note("ready")
    announce_ready()
    await stop.wait()
    """
    supervisor = house.supervise(house.child("edge", slow, keeps_log=True), house.child("sink"))
    await house.up("edge")
    assert not supervisor.log_ready.is_set()
    gate.touch()
    await house.up("sink")
    assert [note.split()[:2] for note in house.notes()] == [["edge", "starts"], ["edge", "ready"], ["sink", "starts"]]
    supervisor.stop()
    assert await house.ended() == 0


async def test_a_killed_child_comes_back_alone(house: House) -> None:
    supervisor = house.supervise(house.child("edge", keeps_log=True), house.child("console"), house.child("sink"))
    before = await house.up("edge", "console", "sink")
    for name in ("sink", "edge"):
        killed = house.pids()[name]
        os.kill(killed, signal.SIGKILL)
        await wait_until_async(
            lambda name=name, killed=killed: house.pids().get(name, killed) != killed,  # type: ignore[misc]
            describe=lambda: f"a new process; notes: {house.notes()}",
        )
    after = await house.up("edge", "console", "sink")
    assert after["console"] == before["console"]
    assert after["supervisor"] == before["supervisor"]
    assert after["sink"] != before["sink"]
    assert after["edge"] != before["edge"]
    supervisor.stop()
    assert await house.ended() == 0


async def test_a_child_that_crashes_at_once_is_tried_again_and_again(house: House) -> None:
    supervisor = house.supervise(house.child("edge", keeps_log=True), house.child("sink", "raise ValueError('boom')"))
    await wait_until_async(lambda: sum(note.startswith("sink starts") for note in house.notes()) >= 3, timeout_s=20)
    supervisor.stop()
    assert await house.ended() == 0


@pytest.mark.parametrize(("worked_s", "comes_back"), [(10, True), (9, False)])
async def test_a_child_that_was_ready_for_a_while_is_back_at_once(
    house: House, worked_s: int, *, comes_back: bool
) -> None:
    clock = FakeClock()
    rule = RestartRule(first_delay_s=3600, max_delay_s=3600, healthy_after_s=10)
    supervisor = house.supervise(house.child("edge", keeps_log=True), rule=rule, clock=clock)
    await wait_until_async(supervisor.log_ready.is_set, timeout_s=20)
    killed = house.pids()["edge"]
    clock.now_ms += worked_s * 1000
    os.kill(killed, signal.SIGKILL)
    await wait_until_async(lambda: house.pids().get("edge") != killed, timeout_s=20)
    starts = lambda: sum(note.startswith("edge starts") for note in house.notes())  # noqa: E731
    if comes_back:
        await wait_until_async(lambda: starts() == 2, timeout_s=20)
    supervisor.stop()
    assert await house.ended() == 0
    assert starts() == 1 + comes_back


async def test_what_a_person_must_mend_ends_everything_with_its_exit_code(house: House) -> None:
    taken = "raise PortTakenError('port 8080 is taken', where='http.port', mend='choose another')"
    house.supervise(house.child("edge", keeps_log=True), house.child("console", taken))
    assert await house.ended() == 4
    assert house.notes()[-1] == "edge stops"


async def test_an_edge_that_cannot_start_ends_everything_without_a_drain(house: House) -> None:
    taken = "raise PortTakenError('port 1883 is taken', where='mqtt.port', mend='choose another')"
    house.supervise(house.child("edge", taken, keeps_log=True), house.child("sink"))
    assert await house.ended() == 4
    assert house.drained == []
    assert not [note for note in house.notes() if note.startswith("sink")]


STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("deaf")
announce_ready()
await asyncio.sleep(3600)
"""


async def test_what_does_not_end_is_killed_and_the_rest_still_stops_in_order(house: House) -> None:
    supervisor = house.supervise(
        house.child("edge", keeps_log=True), house.child("sink", STUBBORN), patience=Patience(others_s=0.1)
    )
    await wait_until_async(lambda: "sink deaf" in house.notes(), timeout_s=20)
    supervisor.stop()
    assert await house.ended() == 137
    assert house.notes()[-1] == "edge stops"


async def test_a_second_stop_loses_patience(house: House) -> None:
    supervisor = house.supervise(
        house.child("edge", keeps_log=True), house.child("sink", STUBBORN), patience=Patience(others_s=3600)
    )
    await wait_until_async(lambda: "sink deaf" in house.notes(), timeout_s=20)
    supervisor.stop()
    supervisor.stop()
    assert await house.ended() == 137


async def test_a_stop_while_a_child_is_still_starting_ends_it_too(house: House) -> None:
    supervisor = house.supervise(house.child("edge", keeps_log=True), house.child("sink"))
    await asyncio.sleep(0)  # run() has begun; the edge's process is being made
    supervisor.stop()
    assert await house.ended() == 0
    assert house.pids() == {"supervisor": os.getpid()}


async def test_who_writes_keeps_the_directory_locked(house: House, tmp_path: Path) -> None:
    report = "note(sorted(os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if fd.isdigit() "
    report += "and Path(f'/proc/self/fd/{fd}').exists() and 'lock' in os.readlink(f'/proc/self/fd/{fd}')))\n"
    writer = dataclasses.replace(house.child("edge", report + WORKS, keeps_log=True), holds_lock=True)
    supervisor = house.supervise(writer, house.child("console", report + WORKS))
    await house.up("edge", "console")
    await wait_until_async(lambda: len([note for note in house.notes() if "[" in note]) == 2, timeout_s=20)
    assert f"edge ['{tmp_path / 'data' / 'lock'}']" in house.notes()
    assert "console []" in house.notes()
    supervisor.stop()
    assert await house.ended() == 0


async def test_ports_of_an_older_boot_are_forgotten(house: House) -> None:
    ports = house.data_dir.run / "ports.json"
    ports.write_text('{"mqtt": 1}')
    supervisor = house.supervise(house.child("edge", keeps_log=True))
    await house.up("edge")
    assert ports.read_text() == "{}\n"
    supervisor.stop()
    assert await house.ended() == 0


async def test_the_children_get_the_settings_with_an_absolute_directory(house: House) -> None:
    body = "note(settings.data_dir)\nannounce_ready()\nawait stop.wait()"
    supervisor = house.supervise(house.child("edge", body, keeps_log=True))
    await wait_until_async(lambda: f"edge {house.path / 'data'}" in house.notes(), timeout_s=20)
    supervisor.stop()
    assert await house.ended() == 0


async def test_a_child_that_comes_back_listens_where_it_did(house: House) -> None:
    body = """
    from core.ports import publish_port
    note(f"port {settings.mqtt.port}")
    publish_port(settings.data_dir / "run", "mqtt", 40001)
    announce_ready()
    await stop.wait()
    """
    child = house.child("edge", body, keeps_log=True)
    supervisor = house.supervise(child, settings={"mqtt": {"port": "auto"}})
    await wait_until_async(supervisor.log_ready.is_set, timeout_s=20)
    os.kill(house.pids()["edge"], signal.SIGKILL)
    await wait_until_async(lambda: "edge port 40001" in house.notes(), timeout_s=20)
    assert "edge port auto" in house.notes()
    supervisor.stop()
    assert await house.ended() == 0


async def test_a_port_that_was_taken_meanwhile_gives_way_to_another(house: House) -> None:
    body = """
    from core.ports import publish_port
    note(f"port {settings.mqtt.port}")
    if settings.mqtt.port != "auto":
        raise PortTakenError("port 40001 is taken", where="mqtt.port", mend="")
    publish_port(settings.data_dir / "run", "mqtt", 40001)
    announce_ready()
    await stop.wait()
    """
    supervisor = house.supervise(house.child("edge", body, keeps_log=True), settings={"mqtt": {"port": "auto"}})
    await wait_until_async(supervisor.log_ready.is_set, timeout_s=20)
    os.kill(house.pids()["edge"], signal.SIGKILL)
    await wait_until_async(lambda: house.notes().count("edge port auto") == 2, timeout_s=20)
    assert house.notes().count("edge port 40001") == 1
    supervisor.stop()
    assert await house.ended() == 0


def test_only_auto_ports_are_fixed() -> None:
    settings = Settings.model_validate({"mqtt": {"port": "auto"}, "tcp": {"port": 0}})
    fixed = with_ports(settings, {"mqtt": 40001, "tcp": 40002, "http": 40003})
    assert (fixed.mqtt.port, fixed.tcp.port, fixed.http.port) == (40001, 0, 8080)


def test_the_settings_switch_console_and_sink_off(tmp_path: Path) -> None:
    def names(**sections: object) -> list[str]:
        return [child.name for child in children_of(Settings.model_validate({"data_dir": tmp_path, **sections}))]

    assert names() == ["edge", "console", "sink"]
    assert [child.name for child in children_of(Settings()) if child.holds_lock] == ["edge", "sink"]
    assert names(http={"port": 0}) == ["edge", "sink"]
    assert names(sink={"enabled": False}) == ["edge", "console"]


# --- the supervisor as a process of its own ---------------------------------------------------------------------

WHOLE = """
import asyncio, os, sys
from pathlib import Path
from appliance import supervisor
from appliance.child import ChildSpec
from appliance.settings import Settings

specs = [
    ChildSpec(name=name, command=(sys.executable, "-P", str(Path({path!r}) / f"{{name}}.py")), keeps_log=name == "edge")
    for name in ("edge", "sink")
]
supervisor.children_of = lambda settings: specs
sys.exit(supervisor.run_appliance(Settings(data_dir=Path({path!r}) / "data")))
"""
Launch = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture(name="launch")
def _launch(tmp_path: Path) -> Iterator[Launch]:
    launched: list[subprocess.Popen[bytes]] = []

    def launch() -> subprocess.Popen[bytes]:
        house = House(path=tmp_path, data_dir=None)  # type: ignore[arg-type]  # the process opens its own
        house.child("edge", keeps_log=True)
        house.child("sink")
        process = subprocess.Popen(
            [sys.executable, "-c", WHOLE.format(path=str(tmp_path))], stderr=subprocess.PIPE, start_new_session=True
        )
        launched.append(process)
        return process

    yield launch
    for process in launched:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def started_pids(path: Path) -> dict[str, int]:
    notes = path.read_text().splitlines() if path.exists() else []
    return {note.split()[0]: int(note.split()[2]) for note in notes if " starts " in note}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_supervisor_stops_everything_in_order(
    launch: Launch, tmp_path: Path, number: signal.Signals
) -> None:
    process = launch()
    notes = tmp_path / "notes"
    wait_until(lambda: len(started_pids(notes)) == 2, timeout_s=30)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert notes.read_text().splitlines()[-2:] == ["sink stops", "edge stops"]


def test_children_end_when_the_supervisor_is_killed_and_the_directory_is_free_again(
    launch: Launch, tmp_path: Path
) -> None:
    process = launch()
    notes = tmp_path / "notes"
    pids = wait_until(lambda: found if len(found := started_pids(notes)) == 2 else None, timeout_s=30)
    process.kill()
    process.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids.values()), timeout_s=30)
    assert sorted(notes.read_text().splitlines()[-2:]) == ["edge stops", "sink stops"]
    open_data_dir(tmp_path / "data", journal_size_bytes=1).close()
