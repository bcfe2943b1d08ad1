"""`headrace devices` and `headrace device` against a store on a real log, over a real channel, in another thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.cli import main
from commitlog.embedded import EmbeddedLog
from core.channel import ChannelServer
from devices.registry_entry import TABLE
from devices.registry_store import RegistryStore, registry_handlers
from tests.commitlog.log_support import opened


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EmbeddedLog]:
    async with opened(tmp_path) as log:
        server = ChannelServer(tmp_path / "run" / "edge.sock", registry_handlers(RegistryStore(log, max_devices=100)))
        await server.start()
        yield log
        await server.close()


async def run(data_dir: Path, *arguments: str) -> int:
    """The command's exit code; it runs its own event loop, as on the command line."""

    def command() -> int:
        try:
            return main([*arguments, "--data-dir", str(data_dir)])
        except SystemExit as end:
            return int(end.code or 0)

    return await asyncio.to_thread(command)


async def test_a_device_is_set_field_by_field_exported_forgotten_and_imported(
    log: EmbeddedLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["--name", "Press", "--tag", "a", "--tag", "b", "--interval", "10s", "--unit", "t=°C", "--unit", "p=bar"]
    assert await run(tmp_path, "device", "line/4", "set", *first) == 0
    more = ["--latitude", "1.5", "--longitude", "-2", "--unit", "p=", "--notes", "=x"]
    assert await run(tmp_path, "device", "line/4", "set", *more) == 0
    assert capsys.readouterr().out == "line/4: version 1\nline/4: version 2\n"
    file = tmp_path / "devices.csv"
    assert await run(tmp_path, "devices", "export", str(file)) == 0
    assert file.read_text() == (
        "device,name,tags,location,latitude,longitude,expected_interval,units,notes\n"
        "line/4,Press,a;b,,1.5,-2.0,10s,t=°C,'=x\n"
    )
    before = dict(log.rows_now(TABLE))
    assert await run(tmp_path, "device", "line/4", "forget") == 0
    assert await run(tmp_path, "devices", "import", "--dry-run", str(file)) == 0
    assert "line%2F4" not in log.rows_now(TABLE)
    assert await run(tmp_path, "devices", "import", str(file)) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "would be: 1 created, 0 changed, 0 unchanged",
        "1 created, 0 changed, 0 unchanged",
    ]
    now = log.rows_now(TABLE)["line%2F4"]
    assert now == before["line%2F4"].replace(b'"revision":2', b'"revision":4')


async def test_tags_and_interval_are_taken_away(log: EmbeddedLog, tmp_path: Path) -> None:
    assert await run(tmp_path, "device", "d", "set", "--tag", "a", "--interval", "10s", "--name", "n") == 0
    assert await run(tmp_path, "device", "d", "set", "--no-tags", "--interval", "0", "--name", "") == 0
    assert log.rows_now(TABLE)["d"] == b'{"revision":2,"entry":{}}'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["device", "d", "set"], "nothing to set"),
        (["device", "d", "set", "--latitude", "1"], "belong together"),
        (["device", "d", "set", "--unit", "t"], "no field and unit"),
        (["device", "d", "set", "--interval", "10"], "10"),
        (["device", "d", "set", "--interval", "1ms"], "expected_interval_ms"),
        (["device", "d", "set", "--tag", "=1"], "spreadsheets"),
        (["device", "d\n", "set", "--name", "n"], "no device can be called"),
        (["device", "d", "forget"], "no entry of 'd'"),
        (["devices", "import", "nowhere.csv"], "cannot be read"),
        (["devices", "export", "/nowhere/x.csv"], "cannot be written"),
    ],
)
async def test_what_cannot_be_done_is_said(
    log: EmbeddedLog, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert await run(tmp_path, *arguments) == 1
    assert says in capsys.readouterr().err
    assert not log.rows_now(TABLE)


async def test_every_bad_row_is_told(log: EmbeddedLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.csv"
    file.write_text("device,tags\na,=\nb,ok\nc,=\n")
    assert await run(tmp_path, "devices", "import", str(file)) == 1
    err = capsys.readouterr().err
    assert "where: row 2, column tags" in err
    assert "note: row 4, column tags" in err
    assert not log.rows_now(TABLE)


async def test_without_a_running_appliance_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(tmp_path, "device", "d", "set", "--name", "n") == 5
    assert "mend" in capsys.readouterr().err
