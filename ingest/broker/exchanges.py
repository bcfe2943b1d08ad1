"""The exchanges of one session's messages with its client: what is under way, and what the client's answers complete.

Every message has a sequence number, `seq`, one more than the message before. Three of them divide the queue:

    head <= sent <= next      below head: complete.   head..sent: in flight.   sent..next: to be sent

**packet id = seq % 65535 + 1.** So a message keeps its id when it is sent again, after a kill too, with nothing stored
for it [MQTT-4.4.0-1, MQTT5-4.4.0-1]. Two messages in flight never share an id, since no message is sent that is 65,535
or more ahead of the oldest one that could come back after a kill.

A QoS 1 message is complete with its PUBACK. A QoS 2 message is *released* with its PUBREC and complete with its
PUBCOMP; from the PUBREC on it is never sent as a PUBLISH again, only its PUBREL is [MQTT-4.3.3-1, MQTT5-4.3.3-6].
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ingest.broker.released import ReleasedMessages

PACKET_IDS: Final = 65_535  # 1 to 65,535 [MQTT-2.3.1-1, MQTT5-2.2.1-3]
AWAITS_PUBACK: Final = 1  # in flight at QoS 1
AWAITS_PUBREC: Final = 2  # in flight at QoS 2
AWAITS_PUBCOMP: Final = 3


class Received(Enum):
    """What a PUBREC calls for."""

    UNKNOWN = "unknown"  # nothing is in flight under that id (5.0: PUBREL with 0x92)
    RELEASE = "release"  # send PUBREL now
    AFTER_COMMIT = "after commit"  # `committed` will name the id
    COMPLETE = "complete"  # the client refused the message: it is done with


class Exchanges:
    """See the module; `DeliveryQueue` is the whole, with what waits. (A base, since it is in every message's way.)"""

    def __init__(self, client_id: str, *, durable: bool, receive_maximum: int) -> None:
        self.client_id = client_id
        self.durable = durable
        self.receive_maximum = receive_maximum
        self._head = self._sent = self._next = 0
        self._floor = 0  # first of what a kill may bring back
        self._again_until = 0  # what is below may have been sent on an earlier connection
        self._flight: dict[int, int] = {}  # packet id -> what it awaits, of this connection
        self._done: set[int] = set()  # complete, above head
        self._released = ReleasedMessages(client_id)

    @property
    def in_flight(self) -> int:
        """Messages sent on this connection, or released, that are not complete."""
        return len(self._flight)

    @property
    def window_open(self) -> bool:
        """Whether another message may be sent [MQTT5-3.3.4-9]; the ids allow for 65,535 from the floor on."""
        floor = self._floor if self.durable else self._head
        return len(self._flight) < self.receive_maximum and self._sent - floor < PACKET_IDS

    def acknowledged(self, packet_id: int) -> bool:
        """A PUBACK: the message is complete. False where no QoS 1 message is in flight under the id."""
        if self._flight.get(packet_id) != AWAITS_PUBACK:
            return False
        del self._flight[packet_id]
        head = self._head
        if not self._done and packet_id == head % PACKET_IDS + 1:
            self._head = head + 1
        else:
            self._complete(self._seq_of(packet_id))
        return True

    def received(self, packet_id: int, *, refused: bool = False) -> Received:
        """A PUBREC; `refused`: with a reason code of 0x80 or more (5.0), which completes the message."""
        awaits = self._flight.get(packet_id)
        if awaits not in (AWAITS_PUBREC, AWAITS_PUBCOMP):
            return Received.UNKNOWN
        seq = self._seq_of(packet_id)
        if refused:
            del self._flight[packet_id]
            self._complete(seq)
            if self.durable:
                self._released.put(seq, complete=True)
            return Received.COMPLETE
        self._flight[packet_id] = AWAITS_PUBCOMP
        if not self.durable:
            return Received.RELEASE
        if awaits == AWAITS_PUBREC:
            self._released.put(seq, complete=False)
        return Received.AFTER_COMMIT if self._released.awaits_commit(seq) else Received.RELEASE

    def completed(self, packet_id: int) -> bool:
        """A PUBCOMP: the message is complete. False where no message that was released is in flight under the id."""
        if self._flight.get(packet_id) != AWAITS_PUBCOMP:
            return False
        del self._flight[packet_id]
        self._complete(self._seq_of(packet_id))
        return True

    # -- within

    def _seq_of(self, packet_id: int) -> int:
        head = self._head
        return head + (packet_id - 1 - head) % PACKET_IDS

    def _complete(self, seq: int) -> None:
        done = self._done
        if seq != self._head:
            done.add(seq)
            return
        seq += 1
        while seq in done:
            done.remove(seq)
            seq += 1
        self._head = seq

    def _pass_settled(self) -> None:
        """Go past what does not have to be sent again."""
        sent, done, released = self._sent, self._done, self._released.seqs
        while sent in done or sent in released:
            sent += 1
        self._sent = sent
