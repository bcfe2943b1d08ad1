"""docs/tcp.md: its session and its client are run against a real listener."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.ingest.edge_box import Client, edge_box

DOCS = (Path(__file__).parents[2] / "docs" / "tcp.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


async def test_the_session_is_what_a_box_answers(tmp_path: Path) -> None:
    (session,) = blocks("")
    asked = b""
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.tcp_port)
        for line in session.splitlines():
            if line.startswith(">"):
                asked += line[2:].encode() + b"\n"
                continue
            if asked:
                client.send(asked)
                asked = b""
            assert await client.line() == line[2:].encode() + b"\n"
    assert not asked


async def test_the_client_runs_as_it_stands(tmp_path: Path) -> None:
    (program,) = blocks("python")
    async with edge_box(tmp_path) as box:
        assert program.count("9000") == 1
        program = program.replace("9000", str(box.tcp_port)).replace('"n": 2', '"x": 2')
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, error = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, out, error) == (0, b"", b"")
        assert [r.value for r in await box.records("telemetry", 2)] == [
            b'{"device": "press-17", "n": 1}',
            b'{"device": "press-17", "x": 2}',
        ]
