"""What the MQTT core costs per PUBLISH: `ServerConnection.receive` alone, with an append that does nothing; and what
reading the properties of a 5.0 PUBLISH in place costs, and writing one message for one more subscriber.

    python -m benchmarks.parse_publish [--messages 20000] [--rounds 15]

Loads are a 120-byte JSON payload on one topic (or on eight by turns, as gateways do), one connection, both versions,
and so many whole packets a chunk. Each figure is nanoseconds of CPU per message: the best and the median of the rounds,
and the best less what calling the empty append costs in the same process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.encode import encode_connect, encode_publish
from wire.mqtt.events import Target
from wire.mqtt.frame import Frame
from wire.mqtt.packets import ConnAck, Connect, Publish, Subscribe, Unsubscribe
from wire.mqtt.properties import NO_PUBLISH_PROPERTIES, PublishProperties
from wire.mqtt.property_codec import PUBLISH, read_publish_properties
from wire.mqtt.reasons import ReasonCode
from wire.mqtt.server import ServerConnection

PACKETS_PER_CHUNK = (1, 10, 100)
PAYLOAD_SIZE_BYTES = 120
VERSIONS = {LEVEL_3_1_1: "3.1.1", LEVEL_5: "5.0"}


def append_nothing(
    timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], /
) -> int:
    return 0


class Nowhere:
    """A shell that takes everything and keeps nothing."""

    def connect(self, connect: Connect) -> ConnAck:
        return ConnAck()

    def resolve(self, publish: Publish, flags: int) -> Target:
        return append_nothing, publish.topic.split("/")[1].encode(), [("mqtt.topic", publish.topic.encode())]

    def subscribe(self, subscribe: Subscribe) -> Sequence[ReasonCode]:
        return [ReasonCode.SUCCESS for _ in subscribe.subscriptions]

    def unsubscribe(self, unsubscribe: Unsubscribe) -> Sequence[ReasonCode]:
        return [ReasonCode.SUCCESS for _ in unsubscribe.filters]


def packets(qos: int, level: int, topics: int, count: int) -> bytes:
    reading = {"ts": 1_790_000_000_000, "seq": 1, "temperature_c": 21.5, "state": "running"}
    text = json.dumps(reading)
    payload = text.encode() + b" " * (PAYLOAD_SIZE_BYTES - len(text))
    return b"".join(
        encode_publish(
            Publish(
                topic=f"devices/pump-{at % topics:04}/telemetry",
                payload=payload,
                qos=qos,
                packet_id=at % 65_535 + 1 if qos else None,
            ),
            level,
        )
        for at in range(count)
    )


def connected(level: int) -> ServerConnection:
    connection = ServerConnection(Nowhere(), max_packet_size_bytes=1 << 20, max_topics=10_000)
    connection.receive(encode_connect(Connect(client_id="bench", protocol_level=level)), 0)
    return connection


def receive_loop(qos: int, level: int, topics: int, count: int, messages: int) -> Callable[[], int]:
    connection = connected(level)
    receive, acknowledged = connection.receive, connection.acknowledged
    chunk, now_ms = packets(qos, level, topics, count), 1_790_000_000_000
    answered = count if qos == 1 and level == LEVEL_5 else 0

    def run() -> int:
        taken = 0
        for _ in range(messages // count):
            taken += receive(chunk, now_ms)
            if answered:
                acknowledged(answered)
        return taken

    return run


def property_loop(properties: PublishProperties, messages: int) -> Callable[[], int]:
    encoded = PUBLISH.encode(properties) + b" " * PAYLOAD_SIZE_BYTES
    read, end = read_publish_properties, len(encoded)

    def run() -> int:
        for _ in range(messages):
            read(encoded, 0, end)
        return messages

    return run


def outgoing_loop(level: int, qos: int, messages: int) -> Callable[[], int]:
    frame = Frame(topic="devices/pump-0001/telemetry", qos=qos, level=level)
    payload = b" " * PAYLOAD_SIZE_BYTES

    def run() -> int:
        for number in range(messages):
            frame.packet_with_id(number & 0xFFF | 1, payload)
        return messages

    def run_0() -> int:
        for _ in range(messages):
            frame.packet(payload)
        return messages

    return run if qos else run_0


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
    for level, qos, topics in ((4, 1, 1), (4, 0, 1), (4, 1, 8), (5, 1, 1), (5, 0, 1), (5, 1, 8)):
        for count in PACKETS_PER_CHUNK:
            run = receive_loop(qos, level, topics, count, options.messages)
            costs = measure(run, options.rounds)
            print(
                f"{VERSIONS[level]}, QoS {qos}, {topics} topics, {count:3d} a chunk: best {costs[0]:4.0f} ns, "
                f"median {statistics.median(costs):4.0f} ns; less the append {costs[0] - append_ns:4.0f} ns"
            )
    for name, properties in PROPERTY_LOADS.items():
        costs = measure(property_loop(properties, options.messages), options.rounds)
        print(f"5.0 properties, {name}: best {costs[0]:4.0f} ns, median {statistics.median(costs):4.0f} ns")
    for level in (LEVEL_3_1_1, LEVEL_5):
        for qos in (0, 1):
            costs = measure(outgoing_loop(level, qos, options.messages), options.rounds)
            best, median = costs[0], statistics.median(costs)
            print(f"one more subscriber, {VERSIONS[level]}, QoS {qos}: best {best:4.0f} ns, median {median:4.0f} ns")


if __name__ == "__main__":
    main()
