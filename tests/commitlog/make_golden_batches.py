"""Makes the files in tests/commitlog/golden/: batches that real clients sent, as a broker received them.

Not run by the tests. Needs confluent-kafka and kafka-python, with the packages that the latter compresses with.
librdkafka produces to its own mock broker, from which the stored bytes are fetched as they are.

    python -m tests.commitlog.make_golden_batches tests/commitlog/golden
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import kafka
from kafka.record.memory_records import MemoryRecordsBuilder

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
RECORDS = 40
TIME_MS = 1_700_000_000_000  # the client's own time, with one millisecond from record to record


def value(number: int) -> bytes | None:
    return None if number == 7 else b'{"value": %d, "unit": "bar", "machine": "press-17"}' % number


def text(data: str) -> bytes:
    return struct.pack(">h", len(data)) + data.encode()


def fetch(address: tuple[str, int], topic: str) -> bytes:
    """The records of partition 0 from offset 0 on, with Fetch v4 (Kafka documentation, "The Messages: Fetch")."""
    body = struct.pack(">iiiibi", -1, 1000, 1, 1 << 22, 0, 1) + text(topic) + struct.pack(">iiqi", 1, 0, 0, 1 << 22)
    request = struct.pack(">hhi", 1, 4, 1) + text("golden") + body
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as stream:
            (size,) = struct.unpack(">i", stream.read(4))
            answer = stream.read(size)
    at = 4 + 4 + 4 + 2 + len(topic) + 4 + 4  # correlation id, throttle, topics, name, partitions, index
    error, _, _, aborted = struct.unpack_from(">hqqi", answer, at)
    assert error == 0, f"fetch failed with {error}"
    at += 22 + max(0, aborted) * 16
    (length,) = struct.unpack_from(">i", answer, at)
    return answer[at + 4 : at + 4 + length]


def with_librdkafka(bootstrap: str, topic: str, codec: str, idempotent: bool) -> None:
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": codec,
            "enable.idempotence": idempotent,
            "linger.ms": 500,
        }
    )
    for number in range(RECORDS):
        producer.produce(
            topic,
            key=b"press-17",
            value=value(number),
            partition=0,
            timestamp=TIME_MS + number,
            headers=[("n", b"%d" % number), ("none", None)],
        )
    assert producer.flush(10) == 0


def with_kafka_python(codec: str, idempotent: bool) -> bytes:
    """By the builder that its producer sends from: the producer itself does not find the mock broker."""
    builder = MemoryRecordsBuilder(
        2,
        CODECS.index(codec),
        1 << 20,
        producer_id=4711 if idempotent else -1,
        producer_epoch=3 if idempotent else -1,
        base_sequence=0 if idempotent else -1,
    )
    for number in range(RECORDS):
        headers = [("n", b"%d" % number), ("none", None)]
        builder.append(TIME_MS + number, b"press-17", value(number), headers)
    builder.close()
    return bytes(builder.buffer())


def cases() -> Iterator[tuple[str, bool]]:
    for codec in CODECS:
        yield codec, False
    yield "zstd", True


def main(directory: Path) -> None:
    broker = confluent_kafka.Producer({"test.mock.num.brokers": 1})
    (listener,) = broker.list_topics(timeout=10).brokers.values()
    directory.mkdir(exist_ok=True)
    for codec, idempotent in cases():
        suffix = f"{'idempotent-' if idempotent else ''}{codec}.batch"
        topic = f"golden-{suffix}"
        with_librdkafka(f"{listener.host}:{listener.port}", topic, codec, idempotent)
        batch = fetch((listener.host, listener.port), topic)
        (directory / f"librdkafka-{confluent_kafka.libversion()[0]}-{suffix}").write_bytes(batch)
        batch = with_kafka_python(codec, idempotent)
        (directory / f"kafka-python-{kafka.__version__}-{suffix}").write_bytes(batch)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
