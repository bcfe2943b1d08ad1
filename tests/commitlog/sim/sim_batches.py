"""Idempotent producers: what they sent, what they were answered, and what has to be there of it.

A producer sends numbered batches, up to five at a time, and after a crash again what it has no answer for, as a Kafka
client does. So each batch is there once or not at all, in order, without one missing in between; a batch that is there
is answered with its place however often it is sent.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from commitlog.base import AppendedBatch
from commitlog.batch_errors import DuplicateSequenceError, OutOfOrderSequenceError
from commitlog.foreign import SEQUENCES
from commitlog.producers import KEPT_BATCHES
from core.errors import UnavailableError
from tests.commitlog.batch_support import client_batch
from tests.commitlog.sim.sim_promises import At, hold

NO_TIME = -1  # what a batch sent again is answered where its time is not known any more
Answer = AppendedBatch | BaseException


def is_of_producer(value: bytes) -> bool:
    """Whether a record came in a batch from outside."""
    return value.startswith(b"P")


@dataclass(slots=True, kw_only=True, eq=False)
class SentBatch:
    """A batch; `offset` is where it is, as an answer or a recovery said; `answered`: its producer knows."""

    first: int
    values: list[bytes]
    offset: int | None = None
    timestamp_ms: int | None = None
    answered: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Producer:
    """One producer of one partition. `sent` in the order of sequences; what is not there and not answered is resent."""

    number: int
    producer_id: int
    at: At
    next_sequence: int
    sent: list[SentBatch] = field(default_factory=list)
    busy: bool = False

    def make(self, values: list[bytes]) -> SentBatch:
        """The next batch."""
        first = self.next_sequence
        self.next_sequence = (first + len(values)) % SEQUENCES
        one = SentBatch(first=first, values=values)
        self.sent.append(one)
        return one

    def encoded(self, batch: SentBatch, codec: int) -> bytes:
        """Its bytes, as a client sends them; the key is what the check of keys expects."""
        producer = (self.producer_id, 0, batch.first)
        return client_batch(batch.values, codec=codec, producer=producer, key=batch.values[0][:4])

    def unanswered(self) -> list[SentBatch]:
        """What has to be sent, again or for the first time."""
        return [one for one in self.sent if not one.answered]

    @property
    def is_known(self) -> bool:
        """Whether the log has certainly taken a batch of it: only then are sequences judged."""
        return any(one.answered for one in self.sent)

    def lose_answers(self, rng: random.Random) -> None:
        """The log's process has ended: its last answers may not have come through, and its batches are sent again."""
        for one in self.sent[-rng.choice((1, 2, KEPT_BATCHES)) :]:
            one.answered = False

    def hear(self, batch: SentBatch, answer: Answer, *, may_be_early: bool) -> None:
        """What a batch that was sent was answered; `may_be_early`: one before it was turned away in the same breath."""
        if isinstance(answer, AppendedBatch):
            hold((answer.topic, answer.partition) == self.at, "a batch is where it was sent", answer)
            known = batch.offset
            hold(known in (None, answer.offset), "a batch sent again is answered with its place", known, answer)
            times = {batch.timestamp_ms, answer.timestamp_ms} - {None, NO_TIME}
            hold(len(times) <= 1, "a batch sent again is answered with its time", batch, answer)
            batch.offset, batch.answered = answer.offset, True
            if answer.timestamp_ms != NO_TIME:
                batch.timestamp_ms = answer.timestamp_ms
        elif isinstance(answer, OutOfOrderSequenceError):
            hold(may_be_early and batch.offset is None, "a batch in order is taken", self.number, batch, answer)
        elif not isinstance(answer, UnavailableError):
            raise answer

    def hear_old(self, batch: SentBatch, answer: Answer) -> None:
        """What a batch was answered that is no longer among the last ones."""
        right = isinstance(answer, (DuplicateSequenceError, UnavailableError))
        hold(right, "a batch of long ago is known for a duplicate", self.number, batch, answer)

    def old(self) -> list[SentBatch]:
        """Batches so long ago that their places are no longer known."""
        return [one for one in self.sent if one.answered][: -KEPT_BATCHES - 1]

    def check(self, content: Mapping[int, bytes]) -> None:
        """After a recovery."""
        where = {value: offset for offset, value in content.items() if value.startswith(b"P%03d" % self.number)}
        present = []
        for batch in self.sent:
            offsets = [where.pop(value, None) for value in batch.values]
            first = offsets[0]
            if all(offset is None for offset in offsets):
                hold(batch.offset is None, "a batch that was acknowledged or shown is there", self.number, batch)
                present.append(False)
                continue
            whole = first is not None and offsets == list(range(first, first + len(offsets)))
            hold(whole, "a batch is there whole or not at all", self.number, batch, offsets)
            hold(batch.offset in (None, first), "a batch is where the log said", self.number, batch, first)
            batch.offset = first
            present.append(True)
        hold(not where, "no batch is there that was refused", self.number, where)
        hold(present == sorted(present, reverse=True), "no batch is missing before one that is there", self.number)
        places = [batch.offset for batch in self.sent if batch.offset is not None]
        hold(places == sorted(places), "batches are in the order of their sequences", self.number, places)
