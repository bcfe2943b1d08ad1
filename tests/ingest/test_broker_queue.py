"""The delivery queue: what it promises one by one. `test_broker_queue_lives` has it live and die at random."""

from __future__ import annotations

import pytest
from broker_support import Tables

from ingest.broker.queue import PACKET_IDS, DeliveryQueue, Kind, QueueFullError, QueueLimits, Received
from ingest.broker.rows import QUEUES, RELEASED, StateRowError, rows_by_client, seq_key

KIND = Kind("telemetry", 0, 1)
TWICE = Kind("telemetry", 1, 2)


def durable(limits: QueueLimits | None = None) -> DeliveryQueue:
    return DeliveryQueue("c", durable=True, limits=limits)


def commit(queue: DeliveryQueue, tables: Tables | None = None) -> list[int]:
    changes = queue.take_changes()
    if tables is not None:
        tables.apply(changes)
    return list(queue.committed())


def restored(tables: Tables) -> DeliveryQueue:
    chunks = rows_by_client(QUEUES, tables.of(QUEUES)).get("c", {})
    released = rows_by_client(RELEASED, tables.of(RELEASED)).get("c", {})
    return DeliveryQueue.restore("c", chunks=chunks, released=released)


def send_all(queue: DeliveryQueue) -> list[int]:
    """Send what may be sent; the offsets, in order."""
    sent = []
    while (item := queue.next_unsent()) is not None:
        assert queue.send(item.seq, item.kind.qos) == item.packet_id
        sent.append(item.offset)
    return sent


# ---- of a session that ends with its connection


def test_a_message_that_can_be_sent_at_once_takes_only_a_number() -> None:
    queue = DeliveryQueue("c", durable=False, receive_maximum=2)
    assert [queue.send_now(1), queue.send_now(2), queue.send_now(1)] == [1, 2, None]
    assert (queue.count, queue.in_flight, queue.size_bytes) == (2, 2, 0)
    assert queue.acknowledged(1)
    assert queue.send_now(1) == 3
    assert (queue.take_changes(), queue.changed) == ([], False)


def test_what_waits_goes_first_mqtt_4_6_0_6() -> None:
    queue = DeliveryQueue("c", durable=False, receive_maximum=1)
    queue.send_now(1)
    queue.append(KIND, 70)
    queue.append(KIND, 71)
    assert queue.next_unsent() is None  # the window is closed
    queue.acknowledged(1)
    assert queue.send_now(1) is None
    assert send_all(queue) == [70]
    queue.acknowledged(2)
    assert send_all(queue) == [71]
    queue.acknowledged(3)
    assert queue.send_now(1) == 4
    queue.acknowledged(4)
    queue.append(KIND, 90)  # a chunk of its own: number 3 has no place
    assert send_all(queue) == [90]


def test_places_are_kept_no_longer_than_needed() -> None:
    queue = DeliveryQueue("c", durable=False)
    for offset in range(20_000):
        queue.append(KIND, offset)
        assert send_all(queue) == [offset]
        assert queue.acknowledged(offset % PACKET_IDS + 1)
        assert queue.size_bytes < 2_100


def test_a_session_that_ended_cannot_come_back() -> None:
    with pytest.raises(ValueError, match="ended with its connection"):
        DeliveryQueue("c", durable=False).reconnected(10)


# ---- acknowledgements


def test_only_what_is_in_flight_is_acknowledged_mqtt_4_3_2_1() -> None:
    queue = DeliveryQueue("c", durable=False)
    queue.send_now(1)
    queue.send_now(2)
    assert not queue.acknowledged(3)
    assert not queue.acknowledged(2)  # it awaits a PUBREC
    assert queue.received(1) is Received.UNKNOWN
    assert not queue.completed(2)  # no PUBREL was sent
    assert queue.acknowledged(1)
    assert not queue.acknowledged(1)


def test_a_qos_2_message_is_complete_with_its_pubcomp_mqtt_4_3_3_1() -> None:
    queue = DeliveryQueue("c", durable=False)
    queue.send_now(2)
    assert queue.received(1) is Received.RELEASE
    assert queue.received(1) is Received.RELEASE
    assert queue.count == 1
    assert queue.completed(1)
    assert (queue.count, queue.received(1)) == (0, Received.UNKNOWN)


def test_acknowledgements_out_of_order_complete_in_the_end() -> None:
    queue = DeliveryQueue("c", durable=False)
    for _ in range(4):
        queue.send_now(1)
    for packet_id, left in ((3, 3), (2, 2), (4, 1), (1, 0)):
        assert queue.acknowledged(packet_id)
        assert (queue.count, queue.in_flight) == (left, left)


def test_packet_ids_begin_again_behind_65535_mqtt_2_3_1_1() -> None:
    queue = DeliveryQueue("c", durable=False)
    for seq in range(PACKET_IDS + 2):
        packet_id = queue.send_now(1)
        assert packet_id == seq % PACKET_IDS + 1
        assert queue.acknowledged(packet_id)
    assert queue.send_now(1) == 3


# ---- of a session that outlives its connection


def test_nothing_is_sent_before_it_is_on_disk() -> None:
    queue = durable()
    assert queue.send_now(1) is None
    seq = queue.append(KIND, 5)
    assert queue.changed
    assert queue.next_unsent() is None
    assert queue.send(seq, 1) is None
    changes = queue.take_changes()
    later = queue.append(KIND, 6)
    assert queue.next_unsent() is None
    queue.committed()
    assert queue.send(later, 1) is None  # not its turn, and not on disk
    assert queue.send(seq, 1) == 1
    assert queue.next_unsent() is None
    assert [(table, key) for table, key, _ in changes] == [(QUEUES, "c\0" + "0" * 16)]


def test_a_row_goes_when_all_of_its_messages_are_complete() -> None:
    queue, tables = durable(), Tables()
    queue.append(KIND, 5)
    queue.append(KIND, 6)
    commit(queue, tables)
    assert not queue.changed
    send_all(queue)
    queue.acknowledged(2)
    assert not queue.changed
    queue.acknowledged(1)
    assert queue.changed
    commit(queue, tables)
    assert (tables.of(QUEUES), queue.changed, queue.count, queue.size_bytes) == ({}, False, 0, 0)


def test_a_pubrel_waits_for_its_row() -> None:
    queue, tables = durable(), Tables()
    queue.append(TWICE, 5)
    assert commit(queue, tables) == []
    send_all(queue)
    assert queue.received(1) is Received.AFTER_COMMIT
    tables.apply(queue.take_changes())
    assert tables.of(RELEASED) == {seq_key("c", 0): 1}
    assert queue.received(1) is Received.AFTER_COMMIT
    assert list(queue.committed()) == [1]
    assert queue.received(1) is Received.RELEASE
    assert queue.completed(1)
    commit(queue, tables)
    assert (tables.of(QUEUES), tables.of(RELEASED)) == ({}, {})


def test_who_comes_back_gets_the_rest_again_in_order_mqtt_4_4_0_1() -> None:
    queue = durable()
    for offset in range(6):
        queue.append(TWICE if offset in (1, 4) else KIND, offset)
    commit(queue)
    for _ in range(5):
        item = queue.next_unsent()
        assert item is not None
        assert not item.again
        queue.send(item.seq, item.kind.qos)
    queue.acknowledged(1)
    queue.acknowledged(3)
    queue.received(2)
    commit(queue)
    queue.received(5)  # its row is not yet on disk
    assert list(queue.reconnected(10)) == [2]
    assert commit(queue) == [5]
    again = []
    while (item := queue.next_unsent()) is not None:
        queue.send(item.seq, item.kind.qos)
        again.append((item.packet_id, item.offset, item.again))
    assert again == [(4, 3, True), (6, 5, False)]
    assert queue.completed(2)
    assert queue.completed(5)
    assert queue.acknowledged(4)
    assert queue.acknowledged(6)
    assert queue.count == 0


def test_after_a_kill_a_released_message_comes_as_pubrel_only_mqtt_4_3_3_1() -> None:
    queue, tables = durable(), Tables()
    for offset in range(3):
        queue.append(TWICE, offset)
    commit(queue, tables)
    send_all(queue)
    queue.received(1)
    queue.received(2)
    commit(queue, tables)
    queue.completed(1)
    commit(queue, tables)
    other = restored(tables)
    assert list(other.reconnected(10)) == [1, 2]  # the first one once more: its PUBCOMP is nowhere
    item = other.next_unsent()
    assert item is not None
    assert (item.packet_id, item.offset, item.again) == (3, 2, True)


def test_a_refused_message_is_never_sent_again_mqtt5_4_3_3_4() -> None:
    queue, tables = durable(), Tables()
    for offset in range(2):
        queue.append(TWICE, offset)
    commit(queue, tables)
    send_all(queue)
    assert queue.received(1, refused=True) is Received.COMPLETE
    assert queue.count == 1
    assert commit(queue, tables) == []
    other = restored(tables)
    assert list(other.reconnected(10)) == []
    assert send_all(other) == [1]
    other.received(2)
    other.completed(2)
    commit(other, tables)
    assert (tables.of(QUEUES), tables.of(RELEASED)) == ({}, {})


def test_what_cannot_be_sent_is_skipped() -> None:
    queue = durable()
    for offset in range(3):
        queue.append(KIND, offset)
    commit(queue)
    with pytest.raises(ValueError, match="message 1 is skipped and 0 is next"):
        queue.skip(1)
    queue.skip(0)
    assert send_all(queue) == [1, 2]
    queue.acknowledged(2)
    queue.acknowledged(3)
    with pytest.raises(ValueError, match="is skipped"):
        queue.skip(3)
    assert queue.count == 0


def test_ids_never_meet_also_where_the_oldest_is_never_acknowledged() -> None:
    queue = durable(QueueLimits(max_messages=100_000))
    for offset in range(PACKET_IDS + 10):
        queue.append(KIND, offset)
    commit(queue)
    for _ in range(PACKET_IDS):
        item = queue.next_unsent()
        assert item is not None
        queue.send(item.seq, 1)
        if item.seq:
            queue.acknowledged(item.packet_id)
    assert not queue.window_open
    assert queue.next_unsent() is None
    assert queue.send(PACKET_IDS, 1) is None
    queue.acknowledged(1)
    assert not queue.window_open  # a kill now would bring the first one back
    commit(queue)
    assert len(send_all(queue)) == 10


def test_a_retained_message_is_queued_by_its_topic() -> None:
    queue, tables = durable(), Tables()
    queue.append_retained(Kind("", 0, 2, True, (7,)), "a/é")
    queue.append(KIND, 9)
    commit(queue, tables)
    for one in (queue, restored(tables)):
        item = one.next_unsent()
        assert item is not None
        assert (item.mqtt_topic, item.offset, item.kind) == ("a/é", -1, Kind("", 0, 2, True, (7,)))
        one.skip(0)
        assert send_all(one) == [9]


def test_a_full_queue_stays_as_it_was() -> None:
    queue = durable(QueueLimits(max_messages=3, max_size_bytes=1 << 20))
    for offset in range(3):
        queue.append(KIND, offset)
    for refused in (lambda: queue.append(KIND, 3), lambda: queue.append_retained(KIND, "a")):
        with pytest.raises(QueueFullError, match="holds 3 messages; at most 3 are allowed; where: client 'c'"):
            refused()
    commit(queue)
    assert send_all(queue) == [0, 1, 2]
    small = durable(QueueLimits(max_size_bytes=2_000))
    retained = Kind("", 0, 1)
    small.append_retained(retained, "a" * 1_500)
    with pytest.raises(QueueFullError, match="at most 2000 are allowed"):
        small.append_retained(retained, "a" * 1_500)
    assert small.count == 1
    with pytest.raises(QueueFullError, match="at most 2000 are allowed"):
        list(map(small.append, [KIND] * 10_000, range(0, 10_000_000, 1000)))
    assert small.size_bytes < 2_000 + 1_100


def test_a_session_that_ends_leaves_no_row() -> None:
    queue, tables = durable(), Tables()
    for offset in range(2_000):
        queue.append(TWICE, offset)
    commit(queue, tables)
    queue.append(TWICE, 2_000)
    send_all(queue)
    queue.received(1)
    queue.received(900)
    tables.apply(queue.take_changes())
    queue.received(2)
    tables.apply(queue.clear())
    assert (tables.of(QUEUES), tables.of(RELEASED), queue.count, queue.in_flight) == ({}, {}, 0, 0)
    assert list(queue.committed()) == []
    queue.append(KIND, 1)
    commit(queue, tables)
    assert send_all(queue) == [1]


@pytest.mark.parametrize("kill", [False, True], ids=["lives", "killed"])
def test_shared_messages_go_on_to_others_unless_they_may_have_come_mqtt5_4_8_2_5(kill: bool) -> None:
    queue, tables = durable(), Tables()
    kinds = [Kind("t", 0, 1, group="g/a"), Kind("t", 0, 2, group="g/a"), KIND]
    for offset in range(9):
        queue.append(kinds[offset % 3], offset)
    commit(queue, tables)
    queue.receive_maximum = 4
    assert send_all(queue) == [0, 1, 2, 3]
    if kill:
        queue = restored(tables)
        assert list(queue.unfinished_shared()) == [(kinds[0], 0), (kinds[0], 3), (kinds[0], 6)]  # who knows
    else:
        queue.acknowledged(4)
        queue.reconnected(4)
        found = [(kinds[0], 0), (kinds[1], 4), (kinds[0], 6), (kinds[1], 7)]
        assert list(queue.unfinished_shared()) == found


# ---- rows that cannot be


def test_rows_that_do_not_fit_together_are_told() -> None:
    queue, tables = durable(), Tables()
    for offset in range(3_000):
        queue.append(TWICE, offset)
    commit(queue, tables)
    chunks = rows_by_client(QUEUES, tables.of(QUEUES))["c"]
    assert len(chunks) > 2
    second = sorted(chunks)[1]
    without = {seq: row for seq, row in chunks.items() if seq != second}
    with pytest.raises(StateRowError, match=f"instead of {second}"):
        DeliveryQueue.restore("c", chunks=without, released={})
    for released in ({3_000: 1}, {5: 3}, {5: None}):
        with pytest.raises(StateRowError, match="row of a released message"):
            DeliveryQueue.restore("c", chunks=chunks, released=released)
    for row in (None, b"", b"\x93\x01\x90\xc4\x00"):
        with pytest.raises(StateRowError, match=r"damaged.*mqtt\.queues"):
            DeliveryQueue.restore("c", chunks={0: row}, released={})
