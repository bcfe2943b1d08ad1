"""Which partition a key belongs to, exactly as Kafka's Java client decides it.

murmur2 over the key's bytes, made positive, modulo the number of partitions: a device has the same partition on the
embedded log and on a Kafka cluster. Source: Kafka `Utils.murmur2`, `BuiltInPartitioner.partitionForKey`.
"""

from __future__ import annotations

from aiokafka.partitioner import murmur2


def partition_for_key(key: bytes | None, partitions: int) -> int:
    """The partition (0 <= p < partitions) of a key; records without a key go to partition 0."""
    if key is None:
        return 0
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
