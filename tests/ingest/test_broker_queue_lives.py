"""A durable delivery queue lives with a client, commits and kills, at random, against a model that is a list.

The client behaves as the specification says and remembers across connections what it has to: packet ids of QoS 2
messages that it received and that were not released. So it tells duplicates of QoS 2 as a real one would.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from broker_support import Tables
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingest.broker.queue import PACKET_IDS, DeliveryQueue, Item, Kind, Received
from ingest.broker.rows import QUEUES, RELEASED, Row, rows_by_client

KINDS = [Kind("telemetry", p, qos, group=group) for p in (0, 1) for qos in (1, 2) for group in (None, "g/#")]


@dataclass
class Message:
    """What the model knows of a message; `number` is its offset, and never given twice."""

    number: int
    qos: int
    durable: bool = False
    published: int = 0  # how often it went out
    delivered: int = 0  # how often the client took it for a new message
    pubrec: bool = False  # recorded in memory
    done: bool = False


@dataclass
class Client:
    """Behaves well. `answers` are what it is about to say: they are lost with the connection."""

    answers: list[tuple[str, int]] = field(default_factory=list)
    unreleased: dict[int, int] = field(default_factory=dict)  # packet id -> message, of QoS 2


class QueueMachine(RuleBasedStateMachine):
    """The rules are what may happen to a session."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = DeliveryQueue("c", durable=True, receive_maximum=5)
        self.messages: dict[int, Message] = {}
        self.tables = Tables()
        self.commit: list[Row] | None = None
        self.in_commit: list[Message] = []
        self.client = Client()
        self.connected = True
        self.flight: dict[int, int] = {}  # packet id -> message, on this connection
        self.first_deliveries: list[int] = []
        self.ids: dict[int, int] = {}
        self.published: dict[int, int] = {}  # packet id -> message, of any connection
        self.numbers = 0

    # ---- messages and commits

    @rule(kind=st.sampled_from(KINDS), count=st.sampled_from((1, 1, 3, 400)))
    def append(self, kind: Kind, count: int) -> None:
        for _ in range(count):
            self.numbers += 7 - 3 * (self.numbers % 5 == 0)
            self.queue.append(kind, self.numbers)
            self.messages[self.numbers] = Message(self.numbers, kind.qos)

    @precondition(lambda self: self.commit is None)
    @rule()
    def begin_commit(self) -> None:
        changed = self.queue.changed
        self.commit = self.queue.take_changes()
        assert bool(self.commit) == changed
        assert not self.queue.changed
        self.in_commit = [message for message in self.messages.values() if not message.durable]

    @precondition(lambda self: self.commit is not None)
    @rule()
    def finish_commit(self) -> None:
        self._apply()
        for packet_id in self.queue.committed():
            self._pubrel(packet_id)

    def _apply(self) -> None:
        assert self.commit is not None
        self.tables.apply(self.commit)
        for message in self.in_commit:
            message.durable = True
        self.commit, self.in_commit = None, []

    @precondition(lambda self: self.commit is None)
    @rule()
    def whole_commit(self) -> None:
        self.begin_commit()
        self.finish_commit()

    # ---- the connection

    @precondition(lambda self: self.connected)
    @rule(most=st.integers(1, 6))
    def send(self, most: int) -> None:
        for _ in range(most):
            item = self.queue.next_unsent()
            if item is None:
                return
            assert self.queue.next_unsent() is item
            assert self.queue.send(item.seq, item.kind.qos) == item.packet_id
            self._publish(item)

    @precondition(lambda self: self.connected and self.client.answers)
    @rule(places=st.lists(st.integers(0, 3), min_size=1, max_size=6))
    def answer(self, places: list[int]) -> None:
        for place in places[: len(self.client.answers)]:
            self._answer(*self.client.answers.pop(min(place, len(self.client.answers) - 1)))

    def _answer(self, what: str, packet_id: int) -> None:
        if what == "PUBACK":
            assert self.queue.acknowledged(packet_id)
            self.messages[self.flight.pop(packet_id)].done = True
        elif what == "PUBREC":
            outcome = self.queue.received(packet_id)
            assert outcome in (Received.AFTER_COMMIT, Received.RELEASE)
            self.messages[self.flight[packet_id]].pubrec = True
            if outcome is Received.RELEASE:
                self._pubrel(packet_id)
        else:
            # A PUBREL that came twice has two PUBCOMPs; the second one completes nothing.
            assert self.queue.completed(packet_id) == (packet_id in self.flight)
            number = self.flight.pop(packet_id, None)
            if number is not None:
                self.messages[number].done = True

    @precondition(lambda self: self.connected)
    @rule()
    def skip(self) -> None:
        item = self.queue.next_unsent()
        if item is not None and item.kind.qos == 1:
            self.queue.skip(item.seq)
            self.messages[item.offset].done = True
            self.messages[item.offset].delivered += 1  # given up: nobody waits for it

    @precondition(lambda self: self.connected and self.messages)
    @rule(anew=st.booleans())
    def connection_lost(self, anew: bool) -> None:
        self.disconnect()
        if anew:
            self.reconnect(5)

    def disconnect(self) -> None:
        self.connected = False
        self.client.answers.clear()
        self.flight.clear()

    @precondition(lambda self: not self.connected)
    @rule(receive_maximum=st.integers(1, 8))
    def reconnect(self, receive_maximum: int) -> None:
        self.connected = True
        for packet_id in self.queue.reconnected(receive_maximum):
            self._pubrel(packet_id)

    @precondition(lambda self: len(self.messages) > 3)
    @rule(seldom=st.integers(0, 3), with_commit=st.booleans())
    def killed(self, seldom: int, with_commit: bool) -> None:
        if seldom == 3:
            self.kill(with_commit)

    def kill(self, with_commit: bool) -> None:
        """The process is gone; a commit under way may or may not have reached the disk."""
        if with_commit and self.commit is not None:
            self._apply()
        self.commit, self.in_commit = None, []
        self.disconnect()
        self.messages = {number: message for number, message in self.messages.items() if message.durable}
        self._restore()

    def _restore(self) -> None:
        chunks = rows_by_client(QUEUES, self.tables.of(QUEUES)).get("c", {})
        released = rows_by_client(RELEASED, self.tables.of(RELEASED)).get("c", {})
        self.queue = DeliveryQueue.restore("c", chunks=chunks, released=released)
        kept = {place for _, _, place in self.queue._places.items(0)}
        gone = [message for number, message in self.messages.items() if number not in kept]
        assert all(message.done for message in gone)  # nothing is lost
        for number in kept:
            message = self.messages[int(number)]
            message.done = message.done and message.qos == 2 and message.pubrec

    # ---- what the other side sees

    def _publish(self, item: Item) -> None:
        message = self.messages[item.offset]
        assert message.durable
        assert item.again or not message.published  # DUP where it was sent before
        assert not (message.qos == 2 and self._recorded(item)), "a PUBLISH after its PUBREC was recorded"
        assert item.packet_id not in self.flight
        assert self.ids.setdefault(item.offset, item.packet_id) == item.packet_id  # the same id every time
        assert item.packet_id == item.seq % PACKET_IDS + 1
        self.flight[item.packet_id] = self.published[item.packet_id] = item.offset
        message.published += 1
        if message.qos == 1:
            self._deliver(message)
            self.client.answers.append(("PUBACK", item.packet_id))
            return
        if item.packet_id not in self.client.unreleased:
            self.client.unreleased[item.packet_id] = item.offset
            self._deliver(message)
        assert self.client.unreleased[item.packet_id] == item.offset
        self.client.answers.append(("PUBREC", item.packet_id))

    def _recorded(self, item: Item) -> bool:
        message = self.messages[item.offset]
        key = f"c\0{item.seq:016x}"
        return key in self.tables.of(RELEASED) or (message.pubrec and item.seq in self.queue._released.seqs)

    def _deliver(self, message: Message) -> None:
        if not message.delivered:
            self.first_deliveries.append(message.number)
        message.delivered += 1

    def _pubrel(self, packet_id: int) -> None:
        if not self.connected:
            return  # the caller drops it; `reconnected` names it again
        self.client.unreleased.pop(packet_id, None)  # it may come again, when the PUBCOMP was lost
        number = self.published[packet_id]
        assert self.messages[number].qos == 2
        self.flight[packet_id] = number
        self.client.answers.append(("PUBCOMP", packet_id))

    # ---- what always holds

    @invariant()
    def qos_2_comes_once_and_all_in_order(self) -> None:
        assert all(message.delivered <= 1 for message in self.messages.values() if message.qos == 2)
        assert self.first_deliveries == sorted(self.first_deliveries)

    @invariant()
    def the_window_holds(self) -> None:
        assert self.queue.in_flight >= len(self.flight)
        if not self.connected:
            assert not self.flight

    def teardown(self) -> None:
        """Whatever happened: in the end everything that was on disk has come, and no row is left."""
        self.kill(with_commit=True)
        self.reconnect(8)
        while self.queue.count:
            before = (self.queue.count, len(self.client.answers))
            self.send(8)
            while self.client.answers:
                self._answer_first()
            self._commit_now()
            assert (self.queue.count, len(self.client.answers)) != before, "stuck"
        self._commit_now()
        assert all(message.delivered for message in self.messages.values())
        self.qos_2_comes_once_and_all_in_order()
        assert (self.tables.of(QUEUES), self.tables.of(RELEASED)) == ({}, {})

    def _answer_first(self) -> None:
        what, packet_id = self.client.answers.pop(0)
        if what == "PUBACK":
            assert self.queue.acknowledged(packet_id)
        elif what == "PUBREC":
            assert self.queue.received(packet_id) is Received.AFTER_COMMIT
        else:
            assert self.queue.completed(packet_id)
        self.flight.pop(packet_id, None)

    def _commit_now(self) -> None:
        self.tables.apply(self.queue.take_changes())
        for packet_id in self.queue.committed():
            self._pubrel(packet_id)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)


STEPS = {"append": 4, "commit": 4, "send": 6, "answer": 8, "lose": 1, "reconnect": 3, "skip": 1, "kill": 0.4}


@pytest.mark.parametrize("seed", range(60))
def test_a_long_life(seed: int) -> None:
    """The same machine with steps weighted as in life: what needs many steps in a row comes up here."""
    dice = random.Random(seed)
    machine = QueueMachine()
    for step in dice.choices(list(STEPS), list(STEPS.values()), k=300):
        if step == "append":
            machine.append(dice.choice(KINDS), dice.choice((1, 1, 2, 5, 5, 300)))
        elif step == "commit":
            if machine.commit is None:
                machine.begin_commit()
            else:
                machine.finish_commit()
        elif step == "kill":
            machine.kill(dice.random() < 0.5)
        elif not machine.connected:
            if step == "reconnect":
                machine.reconnect(dice.randint(1, 8))
        elif step == "send":
            machine.send(dice.randint(1, 6))
        elif step == "answer":
            machine.answer(dice.choices((0, 0, 0, 1, 2), k=dice.randint(1, 6)))
        elif step == "skip":
            machine.skip()
        elif step == "lose":
            machine.disconnect()
        machine.qos_2_comes_once_and_all_in_order()
    machine.teardown()
