"""Rows of the MQTT server's tables that cannot be read cost nobody else anything, and go at the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ingest.broker_client import MqttClient
from tests.ingest.edge_box import edge_box


@pytest.mark.parametrize("table", ["mqtt.retained", "mqtt.wills", "mqtt.sessions"])
async def test_a_row_that_cannot_be_read_is_left_out_and_removed(tmp_path: Path, table: str) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "kept", keep=True)
        await client.publish("r", b"retained", 1, retain=True)
        box.log.change((table, "damaged", [1, 2]), 100)
        box.log.appended(1, 100)
        await box.log.drain()
        assert "damaged" in box.log.rows_now(table)
    async with edge_box(tmp_path) as box:
        await box.log.drain()
        assert "damaged" not in box.log.rows_now(table)
        client = await MqttClient.open(box, "kept", keep=True)
        assert client.connack.session_present
        await client.subscribe("r", qos=1)
        assert (await client.message()).payload == b"retained"
