"""Mutated packets: whatever the bytes, they are a packet or are refused with a clause and a reason code; and through
the server core whatever the bytes, they are taken or end the connection, and memory is bounded.

Bounded and seeded in the suite; for a longer hunt: HEADRACE_FUZZ_PACKETS=2000000 pytest tests/wire/test_mqtt_fuzz.py
"""

from __future__ import annotations

import random

import pytest
from mqtt_mutations import CORPUS, PACKETS, SEEDS, mutated, with_its_length
from mqtt_oracle import parses_or_is_refused
from mqtt_shell import CONNECTS, MAX_ALIAS, Shell, cut_at, publish, split

from wire.mqtt.clauses import LEVELS
from wire.mqtt.decode import decode_packet
from wire.mqtt.encode import encode_packet
from wire.mqtt.publishes import MAX_VARIANT_SIZE_BYTES

MAX_PACKET_SIZE_BYTES = 2048
MAX_TOPICS = 4
PACKETS_A_STREAM = 12


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("level", CORPUS)
def test_any_bytes_are_a_packet_or_refused(level: int, seed: int) -> None:
    rng = random.Random(seed)
    corpus = CORPUS[level]
    read = 0
    for _ in range(PACKETS // SEEDS // len(CORPUS)):
        data = mutated(rng, rng.choice(corpus), corpus)
        if data and rng.random() < 0.8:
            data = with_its_length(data)
        read += parses_or_is_refused(data, level)
    assert read > PACKETS // SEEDS // len(CORPUS) // 20, "the mutations reach nothing any more"


class Watched(Shell):
    """Looks after every chunk at what the connection holds and says."""

    def receive(self, data: bytes) -> None:
        super().receive(data)
        connection = self.connection
        assert connection.buffered_size_bytes < MAX_PACKET_SIZE_BYTES
        assert sum(map(len, connection._targets.values())) <= MAX_TOPICS
        assert len(connection._aliases or ()) <= MAX_ALIAS
        assert all(len(part) < MAX_PACKET_SIZE_BYTES for part in connection._last[:5] if isinstance(part, bytes))
        assert len(connection._last[3]) <= MAX_VARIANT_SIZE_BYTES
        assert connection.size_bytes <= len(data) + MAX_PACKET_SIZE_BYTES
        for answer in split(bytes(connection.out) + connection.acks):
            decode_packet(answer, connection.level)
        if self.error is not None:
            assert connection.over
            assert connection.buffered_size_bytes == 0
            assert connection._aliases is None


def stream(rng: random.Random, level: int) -> bytes:
    """A connection that begins well, and goes on with packets some of which are broken."""
    corpus = CORPUS[level]
    usual = [encode_packet(publish(number + 1, topic, qos=number % 3), level) for number, topic in enumerate("aabca")]
    parts = [CONNECTS[level]] if rng.random() < 0.95 else []
    for _ in range(PACKETS_A_STREAM):
        data = rng.choice(usual) if rng.random() < 0.8 else rng.choice(corpus)
        if rng.random() < 0.1:
            data = mutated(rng, data, corpus)
            if data and rng.random() < 0.8:
                data = with_its_length(data)
        parts.append(data)
    return b"".join(parts)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("level", LEVELS)
def test_any_stream_is_taken_or_ends_the_connection(level: int, seed: int) -> None:
    rng = random.Random(seed)
    taken = failed = 0
    for _ in range(PACKETS // SEEDS // PACKETS_A_STREAM):
        data = stream(rng, level)
        cuts = [rng.randrange(len(data) + 1) for _ in range(rng.randrange(6))]
        limits = {"max_packet_size_bytes": MAX_PACKET_SIZE_BYTES, "max_topics": MAX_TOPICS}
        whole = Watched(**limits).play([data])
        assert Watched(**limits).play(cut_at(data, cuts)).outcome() == whole.outcome()
        taken += whole.taken
        failed += whole.error is not None
        if whole.error is not None:
            said = (len(whole.records), whole.acks, whole.out)
            whole.receive(rng.randbytes(20))
            assert (len(whole.records), whole.acks, whole.out) == said
    assert taken > PACKETS // SEEDS // 20, "hardly a publish gets through"
    assert failed > PACKETS // SEEDS // PACKETS_A_STREAM // 10, "hardly a stream fails"
