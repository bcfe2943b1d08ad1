"""What idempotent producers have written last: the reason why a batch sent twice is stored once.

A producer numbers its records per partition, from 0 to 2^31-1 and round again. Per (producer id, topic id, partition)
the sequence ranges of its last five batches are kept, since a client has at most five under way: a batch that is among
them was appended before and gets the offset and the time that it got then. Any other has to begin where the last one
ended. A newer epoch begins at 0 and shuts out the older ones. A producer that is not known may begin anywhere: its
state may have been forgotten here. A client takes DUPLICATE_SEQUENCE_NUMBER for an acknowledgement, so that is said
only of numbers that were certainly appended: the length of the unbroken run up to the last one is kept for it. Source:
Kafka `ProducerStateManager`, `ProducerAppendInfo.checkSequence`, KIP-98, KIP-360.

The state is the table `producers`, key `<producer id>/<topic id>/<partition>`, and a row changes in the commit that
holds the batch: after a kill both are there or neither. It is bounded twice. A row is dropped when its producer has not
written for a day (Kafka's `producer.id.expiration.ms`), measured by the clock that no one sets, from the start of the
process for rows that were there before; and there are at most 10,000 rows, the one that rested longest goes first: 1 MB
in the snapshot that a checkpoint writes.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from commitlog.base import ProducerIdentity
from commitlog.batch_errors import DuplicateSequenceError, InvalidProducerEpochError, OutOfOrderSequenceError
from commitlog.foreign import SEQUENCES, Sequenced
from commitlog.journal import Change

PRODUCERS_TABLE: Final = "producers"
KEPT_BATCHES: Final = 5  # max.in.flight.requests.per.connection of an idempotent producer
MAX_ROWS: Final = 10_000
EXPIRE_AFTER_MS: Final = 24 * 3_600_000
_DROPPED_AT_ONCE: Final = 8  # per batch: rows go faster than they come, and no batch waits for many
MAX_RUN: Final = SEQUENCES // 2  # of two numbers on a circle, the one less than half of it behind is the earlier
_ID_BITS: Final = 53
ROWS_BYTES: Final = 320 + _DROPPED_AT_ONCE * 80  # generous: what the rows that change with a batch take in the journal
UNKNOWN_MS: Final = -1  # rows of before times were kept do not have it


@dataclass(frozen=True, slots=True)
class Written:
    """A batch that was appended: its sequence numbers, where it stands, and the time that its records got."""

    first: int
    last: int
    base_offset: int
    timestamp_ms: int = UNKNOWN_MS

    def as_row(self) -> tuple[int, int, int, int]:
        """As it stands in the table."""
        return self.first, self.last, self.base_offset, self.timestamp_ms


@dataclass(frozen=True, slots=True)
class _Row:
    epoch: int
    run: int
    """Sequence numbers appended one after another up to the last, as far back as can be told apart."""
    written: tuple[Written, ...]
    seen_ms: int
    """Monotonic: when it was written last, or when the process began."""


class Producers:
    """All rows of the table, the one that rested longest first. Used on the event loop only."""

    def __init__(self, rows: Mapping[str, Any], now_monotonic_ms: int) -> None:
        """`rows` as the table holds them."""
        by_age = sorted(rows.items(), key=lambda item: int(item[1]["last_ms"]))
        self._rows: OrderedDict[str, _Row] = OrderedDict((key, _row(row, now_monotonic_ms)) for key, row in by_age)

    def __len__(self) -> int:
        return len(self._rows)

    def duplicate_of(self, topic_id: str, partition: int, batch: Sequenced) -> Written | None:
        """This very batch as it was appended before; None when it is to be appended.

        Raises InvalidProducerEpochError, OutOfOrderSequenceError, or DuplicateSequenceError when it was appended before
        the ones that are kept.
        """
        row = self._rows.get(row_key(batch.producer_id, topic_id, partition))
        if row is None:
            return None
        where = f"producer {batch.producer_id}, partition {partition}"
        if batch.epoch < row.epoch:
            raise InvalidProducerEpochError(f"epoch {batch.epoch}, {row.epoch} has written since", where=where)
        if batch.epoch > row.epoch:
            if batch.first != 0:
                raise OutOfOrderSequenceError(f"epoch {batch.epoch} begins at sequence {batch.first}", where=where)
            return None
        for written in row.written:
            if (written.first, written.last) == (batch.first, batch.last):
                return written
        expected = (row.written[-1].last + 1) % SEQUENCES
        if batch.first == expected:
            return None
        back = (expected - batch.first) % SEQUENCES
        if back <= row.run and batch.count <= back:
            raise DuplicateSequenceError(
                f"sequences {batch.first} to {batch.last} were appended long ago; {expected} is next", where=where
            )
        raise OutOfOrderSequenceError(f"sequence {batch.first} where {expected} is next", where=where)

    def appended(
        self, topic_id: str, partition: int, batch: Sequenced, base_offset: int, *, now_ms: int, now_monotonic_ms: int
    ) -> Iterator[Change]:
        """The table changes that go into the commit with the batch, which `duplicate_of` has let through."""
        key = row_key(batch.producer_id, topic_id, partition)
        before = self._rows.pop(key, None)
        if before is None or before.epoch != batch.epoch:
            before = _Row(batch.epoch, 0, (), now_monotonic_ms)
        written = (*before.written[1 - KEPT_BATCHES :], Written(batch.first, batch.last, base_offset, now_ms))
        run = min(before.run + batch.count, MAX_RUN)
        self._rows[key] = _Row(batch.epoch, run, written, now_monotonic_ms)
        batches = [one.as_row() for one in written]
        yield PRODUCERS_TABLE, key, {"epoch": batch.epoch, "run": run, "last_ms": now_ms, "batches": batches}
        for _ in range(_DROPPED_AT_ONCE):
            oldest, row = next(iter(self._rows.items()))
            if len(self._rows) <= MAX_ROWS and now_monotonic_ms - row.seen_ms < EXPIRE_AFTER_MS:
                return
            del self._rows[oldest]
            yield PRODUCERS_TABLE, oldest, None


def new_producer() -> ProducerIdentity:
    """A producer nobody has been yet.

    The id is drawn, not counted: it needs no commit, and one that was handed out before the data directory was set back
    to an older copy does not come again. 53 bits, so that tools which read JSON numbers as doubles show it right.
    """
    return ProducerIdentity(producer_id=secrets.randbits(_ID_BITS), epoch=0)


def row_key(producer_id: int, topic_id: str, partition: int) -> str:
    """The row's key in the table."""
    return f"{producer_id}/{topic_id}/{partition}"


def _row(row: Mapping[str, Any], seen_ms: int) -> _Row:
    return _Row(row["epoch"], row["run"], tuple(Written(*written) for written in row["batches"]), seen_ms)
