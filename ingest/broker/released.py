"""Outgoing QoS 2 messages whose PUBREC came, and the rows of `mqtt.released` that remember them.

The PUBREL of such a message goes out only when its row is durable. Before that, a kill would bring the message back as
a PUBLISH, and a client that had answered the PUBREL with its PUBCOMP would take it for a new one. For the same reason a
row stays until the row of the message's places is removed, in one commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ingest.broker.rows import RELEASED, Row, StateRowError, seq_key

_ROW_RELEASED: Final = 1  # PUBREL is to be sent
_ROW_COMPLETE: Final = 2  # the client refused the message: nothing is


class ReleasedMessages:
    """Sequence numbers of one queue's released messages, as long as they have, or are to get, a row."""

    def __init__(self, client_id: str) -> None:
        self.seqs: set[int] = set()
        self._client_id = client_id
        self._rows: list[Row] = []
        self._held: dict[int, None] = {}  # released since the last take; in the order of their PUBRECs
        self._taken: dict[int, None] = {}  # their rows are in the commit under way

    @property
    def changed(self) -> bool:
        """Whether rows wait for a commit."""
        return bool(self._rows)

    def put(self, seq: int, *, complete: bool) -> None:
        """A PUBREC came for `seq`; `complete`: one that refuses the message."""
        self.seqs.add(seq)
        self._rows.append((RELEASED, seq_key(self._client_id, seq), _ROW_COMPLETE if complete else _ROW_RELEASED))
        if not complete:
            self._held[seq] = None

    def awaits_commit(self, seq: int) -> bool:
        """Whether the row of `seq` is not yet durable."""
        return seq in self._held or seq in self._taken

    def take(self) -> list[Row]:
        """The rows to set since the last call."""
        rows, self._rows = self._rows, []
        self._taken |= self._held
        self._held = {}
        return rows

    def committed(self) -> Sequence[int]:
        """What was taken is durable; returns it, in the order of the PUBRECs."""
        taken, self._taken = self._taken, {}
        return tuple(taken)

    def drop(self, first_seq: int, end_seq: int) -> Iterator[Row]:
        """Forget `first_seq` <= seq < `end_seq`; gives the rows to remove."""
        if self.seqs:
            for seq in range(first_seq, end_seq):
                if seq in self.seqs:
                    self.seqs.remove(seq)
                    yield (RELEASED, seq_key(self._client_id, seq), None)

    def clear(self) -> None:
        """Forget what waits for a commit."""
        self._rows, self._held, self._taken = [], {}, {}

    def restore(self, rows: Mapping[int, object], first_seq: int, end_seq: int) -> Sequence[int]:
        """Take over rows of messages `first_seq` <= seq < `end_seq`; returns those that are complete, ascending.

        Raises StateRowError for a row of another message or with a value that has no meaning.
        """
        for seq, value in rows.items():
            if not first_seq <= seq < end_seq or value not in (_ROW_RELEASED, _ROW_COMPLETE):
                raise StateRowError(
                    f"the row of a released message holds {value!r}; its queue has {first_seq} to {end_seq - 1}",
                    where=f"{RELEASED}: {seq_key(self._client_id, seq)!r}",
                )
        self.seqs.update(rows)
        return sorted(seq for seq, value in rows.items() if value == _ROW_COMPLETE)
