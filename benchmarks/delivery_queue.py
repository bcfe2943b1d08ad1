"""What a session's state costs: the delivery queue per message, matching and retained messages per topic.

    python -m benchmarks.delivery_queue [--messages 100000] [--rounds 7]

Offsets grow in 8 partitions that take turns, as they do for a subscriber of many devices. Each figure is CPU time per
message or call: the best and the median of the rounds. Memory is what Python allocated for a queue of a million places
(tracemalloc), and what is left of it per place.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable

from ingest.broker.chunk import Kind
from ingest.broker.queue import DeliveryQueue
from ingest.broker.retained import RetainedMessage, RetainedMessages
from ingest.broker.subscriptions import Subscription, SubscriptionTree

PARTITIONS = 8
WINDOW = 20
PER_COMMIT = 100
AWAY = 1_000_000
KINDS = tuple(Kind("telemetry", partition, 1) for partition in range(PARTITIONS))
KINDS_QOS_2 = tuple(Kind("telemetry", partition, 2) for partition in range(PARTITIONS))


def live_clean(messages: int) -> int:
    """A window of messages goes out, then their PUBACKs come in order."""
    queue = DeliveryQueue("bench", durable=False)
    send_now, acknowledged = queue.send_now, queue.acknowledged
    for _ in range(messages // WINDOW):
        ids = [send_now(1) for _ in range(WINDOW)]
        for packet_id in ids:
            assert packet_id is not None
            acknowledged(packet_id)
    assert queue.count == 0
    return messages


def live_durable(messages: int) -> int:
    """Per commit 100 messages are queued; after it they go out from memory and are acknowledged."""
    queue = DeliveryQueue("bench", durable=True)
    kinds = KINDS
    for first in range(0, messages, PER_COMMIT):
        seqs = [
            queue.append(kinds[offset & 7], 1_000_000 + (offset >> 3)) for offset in range(first, first + PER_COMMIT)
        ]
        queue.take_changes()
        queue.committed()
        ids = [queue.send(seq, 1) for seq in seqs]
        for packet_id in ids:
            assert packet_id is not None
            queue.acknowledged(packet_id)
    assert queue.count == 0
    return messages


def live_durable_qos_2(messages: int) -> int:
    """The same at QoS 2: PUBRECs come before the next commit, PUBCOMPs after it."""
    queue = DeliveryQueue("bench", durable=True)
    kinds = KINDS_QOS_2
    for first in range(0, messages, PER_COMMIT):
        seqs = [
            queue.append(kinds[offset & 7], 1_000_000 + (offset >> 3)) for offset in range(first, first + PER_COMMIT)
        ]
        queue.take_changes()
        for packet_id in queue.committed():
            queue.completed(packet_id)
        for seq in seqs:
            packet_id_sent = queue.send(seq, 2)
            assert packet_id_sent is not None
            queue.received(packet_id_sent)
    return messages


def away(messages: int) -> int:
    """Nobody is there: messages are queued, 100 a commit."""
    fill(messages)
    return messages


def fill(messages: int) -> DeliveryQueue:
    queue = DeliveryQueue("bench", durable=True)
    append, kinds = queue.append, KINDS
    for first in range(0, messages, PER_COMMIT):
        for offset in range(first, first + PER_COMMIT):
            append(kinds[offset & 7], 1_000_000 + (offset >> 3))
        queue.take_changes()
        queue.committed()
    return queue


def catch_up(messages: int) -> Callable[[int], int]:
    """A full queue is read and acknowledged by a client that came back."""

    def run(_: int) -> int:
        queue = filled.pop()
        queue.reconnected(WINDOW)
        while (item := queue.next_unsent()) is not None:
            queue.send(item.seq, item.kind.qos)
            queue.acknowledged(item.packet_id)
            if item.seq % PER_COMMIT == 0:
                queue.take_changes()
                queue.committed()
        assert queue.count == 0
        filled.append(fill(messages))
        return messages

    filled = [fill(messages)]
    return run


def match_anew(messages: int) -> Callable[[int], int]:
    """5,000 exact filters, 100 with wildcards and a shared group of 10,000; no topic was matched before."""
    tree = SubscriptionTree()
    for number in range(5_000):
        tree.add(Subscription(client_id=f"c{number}", filter=f"devices/pump-{number}/cmd", qos=1))
    for number in range(100):
        tree.add(Subscription(client_id=f"w{number}", filter=f"devices/+/kind-{number}/#", qos=1))
    for number in range(10_000):
        tree.add(Subscription(client_id=f"m{number}", filter="devices/#", qos=1, share="workers"))

    def run(_: int) -> int:
        tree.add(Subscription(client_id="x", filter="x/+", qos=1))
        tree.remove("x", "x/+")  # nothing is remembered any more
        for number in range(5_000):
            tree.match(f"devices/pump-{number}/cmd")
        return 5_000

    return run


def walk_retained(_: int) -> Callable[[int], int]:
    """100,000 retained topics, of which a filter in the middle takes a tenth."""
    retained = RetainedMessages(
        RetainedMessage(topic=f"devices/pump-{number // 10}/field-{number % 10}", payload=b"1", qos=1, timestamp_ms=0)
        for number in range(100_000)
    )

    def run(_: int) -> int:
        return len(list(retained.matching("devices/+/field-5")))

    return run


def measure(run: Callable[[int], int], messages: int, rounds: int) -> list[float]:
    """Microseconds of CPU per message, sorted; without what making and dropping a fixture takes outside of `run`."""
    run(messages)
    costs = []
    for _ in range(rounds):
        gc.collect()
        began_ns = time.process_time_ns()
        count = run(messages)
        costs.append((time.process_time_ns() - began_ns) / count / 1000)
    return sorted(costs)


def memory() -> tuple[int, int]:
    """Bytes that a queue of a million places allocates, and those of its rows."""
    gc.collect()
    tracemalloc.start()
    queue = fill(AWAY)
    used_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used_bytes, queue.size_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000, help="messages a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    loads: dict[str, Callable[[int], int]] = {
        "QoS 1, clean, live": live_clean,
        "QoS 1, durable, live": live_durable,
        "QoS 2, durable, live": live_durable_qos_2,
        "QoS 1, durable, away": away,
        "catching up, and filling": catch_up(options.messages),
        "match, not cached": match_anew(options.messages),
        "retained topic walked": walk_retained(options.messages),
    }
    for name, run in loads.items():
        costs = measure(run, options.messages, options.rounds)
        print(f"{name:25s} best {costs[0]:5.2f} us, median {statistics.median(costs):5.2f} us")
    used_bytes, size_bytes = memory()
    print(f"{AWAY:,} places: {used_bytes / 1e6:.2f} MB of memory, {size_bytes / 1e6:.2f} MB of them places and kinds")


if __name__ == "__main__":
    main()
