"""Clients that others wrote against a whole appliance, over every transport: paho, aiomqtt, MQTT.js, mosquitto."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import aiomqtt
import pytest
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTProtocolVersion

from tests.conftest import require_component, required_components, wait_until
from tests.e2e.appliance_process import Appliance, appliance

MQTT_JS: Final = "mqtt@5.16.0"
COUNT: Final = 100
PATIENCE_S: Final = 20.0

Transport = Literal["tcp", "websockets"]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """One appliance for all of them, with every transport."""
    directory = tmp_path_factory.mktemp("c")
    settings = ("sink.enabled=false", f"mqtt.unix_socket={directory / 'm.sock'}")
    with appliance(directory / "data", settings) as running:
        wait_until(lambda: {"mqtt", "mqtt_ws"} <= running.ports.keys(), 30, describe=lambda: running.output[-3000:])
        yield running


def port_of(box: Appliance, transport: Transport) -> int:
    return box.ports["mqtt_ws" if transport == "websockets" else "mqtt"]


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5], ids=["3.1.1", "5.0"])
@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_paho(box: Appliance, transport: Transport, version: MQTTProtocolVersion) -> None:
    topic = f"devices/paho-{transport}-{version}/x"
    arrived: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    subscribed: queue.SimpleQueue[None] = queue.SimpleQueue()
    client = Client(CallbackAPIVersion.VERSION2, client_id=topic, transport=transport, protocol=version)
    client.on_message = lambda _client, _data, message: arrived.put((message.qos, message.payload))
    client.on_subscribe = lambda *_: subscribed.put(None)
    client.connect("127.0.0.1", port_of(box, transport))
    client.loop_start()
    try:
        client.subscribe(topic, qos=2)
        subscribed.get(timeout=PATIENCE_S)
        sent = [(number % 3, b"%d" % number * (1 + 50 * (number % 7))) for number in range(COUNT)]
        sent.append((2, bytes(300_000)))  # a frame of its largest kind
        for published in [client.publish(topic, payload, qos=qos) for qos, payload in sent]:
            published.wait_for_publish(PATIENCE_S)
        got = [arrived.get(timeout=PATIENCE_S) for _ in sent]
        for qos in range(3):  # paho hands out QoS 2 with the PUBREL, after what came meanwhile
            assert [message for message in got if message[0] == qos] == [pair for pair in sent if pair[0] == qos]
    finally:
        client.disconnect()
        client.loop_stop()
    assert arrived.empty()


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
async def test_aiomqtt(box: Appliance, transport: Transport) -> None:
    topic = f"devices/aiomqtt-{transport}/x"
    client = aiomqtt.Client(
        "127.0.0.1",
        port_of(box, transport),
        identifier=topic,
        protocol=aiomqtt.ProtocolVersion.V5,
        transport=transport,
        timeout=PATIENCE_S,
    )
    async with client, asyncio.timeout(PATIENCE_S):
        await client.subscribe(topic, qos=2)
        for number in range(30):  # one after the other
            await client.publish(topic, b"%d" % number, qos=number % 3)
        arrived = []
        async for message in client.messages:
            arrived.append(message.payload)
            if len(arrived) == 30:
                break
    assert sorted(map(int, arrived)) == list(range(30))


@pytest.fixture(scope="module")
def mqtt_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with MQTT.js in `node_modules`. Skips where Node, npm or a registry is missing, unless required."""
    require_component("node")
    npm = require_component("npm")
    directory = tmp_path_factory.mktemp("js")
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", MQTT_JS]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode:
        why = f"npm cannot install {MQTT_JS}: {done.stderr.strip()[-300:]}"
        if "npm" in required_components():
            pytest.fail(why)
        pytest.skip(why)
    return directory


JS_CLIENT: Final = """
const mqtt = require("mqtt");
const [url, topic, count] = [process.argv[2], process.argv[3], Number(process.argv[4])];
const client = mqtt.connect(url, {
  protocolVersion: 5, clean: false, clientId: topic, reconnectPeriod: 0,
  properties: { sessionExpiryInterval: 300, receiveMaximum: 20, topicAliasMaximum: 5 },
});
const arrived = [];
client.on("error", (error) => { console.error(error); process.exit(1); });
client.on("message", (_, payload, packet) => {
  arrived.push([payload.toString(), packet.qos, packet.properties.userProperties.n]);
  if (arrived.length === count) client.end(false, {}, () => console.log(JSON.stringify(arrived)));
});
client.on("connect", async (connack) => {
  if (connack.sessionPresent) throw new Error("a session that nobody opened");
  const granted = await client.subscribeAsync(topic, { qos: 2, properties: { subscriptionIdentifier: 7 } });
  if (granted[0].qos !== 2) throw new Error("not granted");
  for (let n = 0; n < count; n++)
    client.publish(topic, `${n}`, { qos: 2, properties: { userProperties: { n: `${n}` } } });
});
"""


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_mqtt_js_with_qos_2_of_5_0(box: Appliance, mqtt_js: Path, transport: Transport) -> None:
    (mqtt_js / "client.cjs").write_text(JS_CLIENT)
    scheme, path = ("ws", "/mqtt") if transport == "websockets" else ("mqtt", "")
    url = f"{scheme}://127.0.0.1:{port_of(box, transport)}{path}"
    command = [require_component("node"), "client.cjs", url, f"devices/js-{transport}/x", str(COUNT)]
    done = subprocess.run(command, cwd=mqtt_js, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[str(n), 2, str(n)] for n in range(COUNT)]


def test_mosquitto_over_the_unix_socket(box: Appliance) -> None:
    publisher, subscriber = require_component("mosquitto_pub"), require_component("mosquitto_sub")
    if "--unix" not in subprocess.run([publisher, "--help"], capture_output=True, text=True, check=False).stdout:
        pytest.skip("this mosquitto_pub knows no unix sockets (2.0 does)")
    path = next(box.data_dir.parent.glob("m.sock"))
    topic = "devices/unix/x"
    where = ["--unix", str(path), "-t", topic, "-q", "2", "-V", "5"]
    command = [subscriber, *where, "-i", "keeper", "-c", "-x", "300"]
    subprocess.run([*command, "-E"], timeout=30, check=True)  # subscribe, and go
    lines = "".join(f"{number}\n" for number in range(COUNT))
    subprocess.run([publisher, *where, "-l"], input=lines, text=True, timeout=30, check=True)
    done = subprocess.run([*command, "-C", str(COUNT)], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == lines


def test_a_killed_edge_listens_again_on_every_transport(box: Appliance) -> None:
    before = dict(box.ports)
    box.kill("edge")
    path = next(box.data_dir.parent.glob("m.sock"))  # what the killed one left
    wait_until(lambda: _listens(before["mqtt_ws"]) and _listens(before["mqtt"]) and _listens(path), 30)
    assert box.ports == before


def _listens(where: int | Path) -> bool:
    family = socket.AF_INET if isinstance(where, int) else socket.AF_UNIX
    with socket.socket(family) as probe:
        try:
            probe.connect(("127.0.0.1", where) if isinstance(where, int) else str(where))
        except OSError:
            return False
        return True
