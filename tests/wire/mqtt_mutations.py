"""Broken packets for the fuzz tests: changes of the kinds that broken senders and attackers make, seeded."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import mqtt5_packets
import mqtt_packets

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.fields import encode_remaining_length

PACKETS = int(os.environ.get("HEADRACE_FUZZ_PACKETS", "10000"))
SEEDS = 4
# Good packets twice: from them the mutations get deepest.
CORPUS = {
    LEVEL_3_1_1: [case.data for case in [*mqtt_packets.ALL, *mqtt_packets.GOOD]],
    LEVEL_5: [case.data for case in [*mqtt5_packets.ALL, *mqtt5_packets.GOOD]],
}
TELLING = b"\x00\x01\x02\x03\x0b\x1f\x23\x26\x7f\x80\x81\xff"  # lengths, properties and limits
MAX_SIZE_BYTES = 400


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A change or a few, of the kinds that broken senders and attackers make."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(changed):
                changed[at] = rng.choice(TELLING)
            case 2:
                changed.insert(at, rng.choice(TELLING))
            case 3:
                del changed[at : at + rng.randint(1, 4)]
            case 4:
                changed[at:at] = changed[at : at + rng.randint(1, 12)]
            case _:
                other = rng.choice(others)
                cut = rng.randrange(len(other) + 1)
                changed[at:] = other[cut : cut + rng.randint(1, 40)]
    return bytes(changed[:MAX_SIZE_BYTES])


def with_its_length(data: bytes) -> bytes:
    """The same with a remaining length that fits, so that what is behind it is reached."""
    body = data[2:]
    return data[:1] + encode_remaining_length(len(body)) + body
