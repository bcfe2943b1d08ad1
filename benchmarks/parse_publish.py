"""What the MQTT core costs per PUBLISH: `ServerConnection.receive` alone, with an append that does nothing; and what
reading the properties of a 5.0 PUBLISH in place costs, and writing one message for one more subscriber.

    python -m benchmarks.parse_publish [--messages 20000] [--rounds 15]

Loads are QoS 1 with a 120-byte JSON payload on one topic, one connection, and so many whole packets a chunk. Each
figure is nanoseconds of CPU per message: the best and the median of the rounds, and the best less what calling the
empty append costs in the same process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

from wire.mqtt.encode import encode_connect, encode_publish
from wire.mqtt.events import Target
from wire.mqtt.outgoing import OutgoingPublish
from wire.mqtt.packets import ConnAck, Connect, Publish
from wire.mqtt.properties import NO_PUBLISH_PROPERTIES, PublishProperties
from wire.mqtt.property_codec import PUBLISH, read_publish_properties
from wire.mqtt.server import ServerConnection

PACKETS_PER_CHUNK = (1, 10, 100)
PAYLOAD_SIZE_BYTES = 120


def append_nothing(
    timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], /
) -> int:
    return 0


def resolve(topic: str, flags: int) -> Target:
    return append_nothing, topic.split("/")[1].encode(), [("mqtt.topic", topic.encode())]


def packet(qos: int) -> bytes:
    reading = {"ts": 1_790_000_000_000, "seq": 1, "temperature_c": 21.5, "state": "running"}
    text = json.dumps(reading)
    payload = text.encode() + b" " * (PAYLOAD_SIZE_BYTES - len(text))
    packet_id = 7 if qos else None
    return encode_publish(Publish(topic="devices/pump-0001/telemetry", payload=payload, qos=qos, packet_id=packet_id))


def connected() -> ServerConnection:
    connection = ServerConnection(
        resolve=resolve, on_connect=lambda connect: ConnAck(), max_packet_size_bytes=1 << 20, max_topics=10_000
    )
    connection.receive(encode_connect(Connect(client_id="bench")), 0)
    return connection


def receive_loop(qos: int, packets: int, messages: int) -> Callable[[], int]:
    receive, chunk, now_ms = connected().receive, packet(qos) * packets, 1_790_000_000_000

    def run() -> int:
        return sum(receive(chunk, now_ms) for _ in range(messages // packets))

    return run


def property_loop(properties: PublishProperties, messages: int) -> Callable[[], int]:
    encoded = PUBLISH.encode(properties) + b" " * PAYLOAD_SIZE_BYTES
    read, end = read_publish_properties, len(encoded)

    def run() -> int:
        for _ in range(messages):
            read(encoded, 0, end)
        return messages

    return run


def outgoing_loop(level: int, subscription_identifiers: tuple[int, ...], messages: int) -> Callable[[], int]:
    message = OutgoingPublish(topic="devices/pump-0001/telemetry", payload=b" " * PAYLOAD_SIZE_BYTES, level=level)
    shared = message.parts(qos=1)

    def run() -> int:
        for _ in range(messages):
            parts = message.parts(qos=1, subscription_identifiers=subscription_identifiers)
            parts.packet(7)
        return messages

    def run_shared() -> int:
        for _ in range(messages):
            shared.packet(7)
        return messages

    return run if subscription_identifiers else run_shared


PROPERTY_LOADS = {
    "none": NO_PUBLISH_PROPERTIES,
    "a topic alias": PublishProperties(topic_alias=1),
    "expiry and content type": PublishProperties(message_expiry_interval_s=60, content_type="application/json"),
    "two user properties": PublishProperties(user_properties=(("site", "north"), ("fw", "1.2.3"))),
}


def append_loop(messages: int) -> Callable[[], int]:
    headers: list[tuple[str, bytes | None]] = []

    def run() -> int:
        for _ in range(messages):
            append_nothing(0, b"", b"", headers)
        return messages

    return run


def measure(run: Callable[[], int], rounds: int) -> Sequence[float]:
    """Nanoseconds of CPU per message, sorted."""
    run()
    costs = []
    for _ in range(rounds):
        began_ns = time.process_time_ns()
        count = run()
        costs.append((time.process_time_ns() - began_ns) / count)
    return sorted(costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000, help="messages a round")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    append_ns = measure(append_loop(options.messages), options.rounds)[0]
    print(f"the empty append: {append_ns:.0f} ns a call (loop included)")
    for qos in (1, 0):
        for packets in PACKETS_PER_CHUNK:
            costs = measure(receive_loop(qos, packets, options.messages), options.rounds)
            print(
                f"QoS {qos}, {packets:3d} a chunk: best {costs[0]:4.0f} ns, median {statistics.median(costs):4.0f} ns; "
                f"less the append {costs[0] - append_ns:4.0f} ns; {1e9 / costs[0]:,.0f} messages/s"
            )
    for name, properties in PROPERTY_LOADS.items():
        costs = measure(property_loop(properties, options.messages), options.rounds)
        print(f"5.0 properties, {name}: best {costs[0]:4.0f} ns, median {statistics.median(costs):4.0f} ns")
    for level, name, identifiers in ((4, "3.1.1", ()), (5, "5.0", ()), (5, "5.0 with an identifier of its own", (7,))):
        costs = measure(outgoing_loop(level, identifiers, options.messages), options.rounds)
        print(f"one more subscriber, {name}: best {costs[0]:4.0f} ns, median {statistics.median(costs):4.0f} ns")


if __name__ == "__main__":
    main()
