"""The channel's log verbs with arguments that are none: answered, nothing else disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from commitlog.remote import log_handlers
from core.channel import ChannelClient, ChannelServer
from core.errors import BadRequestError
from tests.ingest.edge_box import edge_box


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("append", {}),
        ("append", {"records": 7, "changes": []}),
        ("append", {"records": [["telemetry"]], "changes": []}),
        ("append", {"records": [["telemetry", "text", b"v", [], None]], "changes": []}),
        ("append", {"records": [], "changes": [[7, "k", 1]]}),
        ("roll", {"topic": "telemetry"}),
        ("create_topic", {"name": 7, "partitions": None}),
        ("create_topic", {"name": "t", "partitions": "many"}),
        ("rows", {}),
        ("append_batch", {"topic": "telemetry", "partition": 0}),
        ("append_batch", {"topic": "telemetry", "partition": 0, "batch": "text"}),
        ("append_batch", {"topic": "telemetry", "partition": "0", "batch": b""}),
    ],
)
async def test_arguments_of_other_types_are_refused_as_bad_requests(
    tmp_path: Path, verb: str, args: dict[str, Any]
) -> None:
    async with edge_box(tmp_path) as box:
        server = ChannelServer(tmp_path / "s", log_handlers(box.log))
        await server.start()
        client = ChannelClient(tmp_path / "s")
        try:
            with pytest.raises(BadRequestError):
                await client.call(verb, **args)
            assert await client.call("rows", table="sink.parquet") == {}
        finally:
            await client.close()
            await server.close()
