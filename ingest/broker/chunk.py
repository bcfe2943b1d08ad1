"""A chunk: the places of consecutive messages of one delivery queue, packed; one row of `mqtt.queues`.

A place is where a message stands, never the message: a partition's offset, or the MQTT topic whose retained message is
to be sent. What many messages of a session have in common is their `Kind`; a chunk lists its kinds once, and an item is

    varint  index of its kind
    varint  for a place in the log: offset minus the last one of the same kind in the chunk (or 0), zigzag
    varint, bytes  for a retained message: length of the MQTT topic, the topic in UTF-8

with varints of seven bits a byte, lowest first, the high bit set on all but the last. So an item is two bytes where a
session reads a few partitions as they grow. A row is the msgpack of `[count, kinds, items]`, kept as bytes so that a
million places weigh the same in the table as on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from ingest.broker.rows import QUEUES, StateRowError, seq_key

_Fields = tuple[str, int, int, bool, tuple[int, ...], str | None]
_decode: Final = msgspec.msgpack.Decoder(tuple[int, list[_Fields], bytes]).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class Kind(NamedTuple):
    """What a message for a session has in common with others. A tuple: one is hashed for every message of a queue.

    `log_topic` and `partition` say where its offset counts; an empty `log_topic` means a retained message.
    `qos` (1 or 2), `retain` and `identifiers` are those of the PUBLISH that goes out. `group` is the shared
    subscription that it came by, as `<share name>/<filter>`, None for one of the client's own.
    """

    log_topic: str
    partition: int
    qos: int
    retain: bool = False
    identifiers: tuple[int, ...] = ()
    group: str | None = None


class Chunk:
    """Places of the messages `first_seq` <= seq < `end_seq`. Grows at its end until it is sealed.

    `size_bytes` of items and kinds is what a row takes, but for a few bytes. `row_count` is how many of its messages
    the row held that was last taken, 0 for none.
    """

    __slots__ = ("count", "data", "first_seq", "index", "kinds", "kinds_size_bytes", "last", "next", "row_count")

    def __init__(self, first_seq: int) -> None:
        self.first_seq = first_seq
        self.count = 0
        self.data: bytearray | bytes = bytearray()
        self.kinds: Sequence[Kind] = []
        self.kinds_size_bytes = 0
        self.index: dict[Kind, int] | None = {}
        self.last: list[int] | None = []
        self.next: Chunk | None = None
        self.row_count = 0

    @property
    def end_seq(self) -> int:
        """One more than the sequence number of its last message."""
        return self.first_seq + self.count

    @property
    def size_bytes(self) -> int:
        """What it takes: items and kinds."""
        return len(self.data) + self.kinds_size_bytes

    def append(self, kind: Kind, offset: int) -> None:
        """Put a place in the log behind the others."""
        index, last, data = self.index, self.last, self.data
        assert index is not None
        assert last is not None
        assert type(data) is bytearray
        number = index.get(kind)
        if number is None:
            number = self._add_kind(kind)
        delta = offset - last[number]
        last[number] = offset
        zigzag = delta << 1 if delta >= 0 else (-delta << 1) - 1
        if number < 0x80 and zigzag < 0x80:
            data.append(number)
            data.append(zigzag)
        else:
            _put_varint(data, number)
            _put_varint(data, zigzag)
        self.count += 1

    def append_retained(self, kind: Kind, mqtt_topic: str) -> None:
        """Put a retained message behind the others: what is retained under `mqtt_topic` when its turn has come."""
        index, data = self.index, self.data
        assert index is not None
        assert type(data) is bytearray
        number = index.get(kind)
        text = mqtt_topic.encode()
        _put_varint(data, self._add_kind(kind) if number is None else number)
        _put_varint(data, len(text))
        data += text
        self.count += 1

    def seal(self) -> None:
        """Nothing is appended any more: what only appending needs is let go."""
        self.data = bytes(self.data)
        self.kinds = tuple(self.kinds)
        self.index = self.last = None

    def row(self) -> bytes:
        """The value of its row."""
        return _encode((self.count, [tuple(kind) for kind in self.kinds], bytes(self.data)))

    @classmethod
    def from_row(cls, client_id: str, first_seq: int, row: object, known: dict[Kind, Kind]) -> Chunk:
        """The sealed chunk that a row holds. Its items are looked at when they are read. Raises StateRowError.

        Kinds in `known` are shared, and new ones added to it: the chunks of a queue mostly have the same ones.
        """
        chunk = cls(first_seq)
        try:
            count, kinds, chunk.data = _decode(row if isinstance(row, bytes) else b"")
        except msgspec.MsgspecError as error:
            raise _damaged(client_id, first_seq, str(error)) from error
        chunk.count = chunk.row_count = count
        chunk.kinds = tuple(known.setdefault(kind, kind) for kind in (Kind(*fields) for fields in kinds))
        chunk.kinds_size_bytes = sum(map(_kind_size_bytes, chunk.kinds))
        chunk.index = chunk.last = None
        if not 0 < 2 * count <= len(chunk.data):  # no item is shorter than two bytes
            raise _damaged(client_id, first_seq, f"{count} items in {len(chunk.data)} bytes")
        return chunk

    def _add_kind(self, kind: Kind) -> int:
        index, last, kinds = self.index, self.last, self.kinds
        assert index is not None
        assert last is not None
        assert type(kinds) is list
        index[kind] = number = len(kinds)
        kinds.append(kind)
        last.append(0)
        self.kinds_size_bytes += _kind_size_bytes(kind)
        return number


class ChunkReader:
    """Reads the items of a chunk in order; the chunk may grow meanwhile. `seq` is the one that comes next."""

    __slots__ = ("_at", "_client_id", "_last", "chunk", "seq")

    def __init__(self, client_id: str, chunk: Chunk) -> None:
        self.chunk = chunk
        self.seq = chunk.first_seq
        self._client_id = client_id
        self._at = 0
        self._last: dict[int, int] = {}

    def read(self) -> tuple[Kind, int | str]:
        """The next item: its kind, and an offset or an MQTT topic. Raises StateRowError where there is none."""
        try:
            number = self._varint()
            kind = self.chunk.kinds[number]
            value = self._varint()
            place: int | str
            if kind.log_topic:
                place = self._last.get(number, 0) + (value >> 1 if not value & 1 else -((value + 1) >> 1))
                self._last[number] = place
            else:
                text = self.chunk.data[self._at : self._at + value]
                if len(text) < value:
                    raise IndexError
                place = text.decode()
                self._at += value
        except (IndexError, UnicodeDecodeError) as error:
            raise _damaged(self._client_id, self.chunk.first_seq, f"no item at byte {self._at}") from error
        self.seq += 1
        return kind, place

    def _varint(self) -> int:
        data, at = self.chunk.data, self._at
        value = data[at]
        at += 1
        if value >= 0x80:
            value, shift, more = value & 0x7F, 7, True
            while more:
                byte = data[at]
                at += 1
                value |= (byte & 0x7F) << shift
                shift, more = shift + 7, byte >= 0x80
        self._at = at
        return value


def _put_varint(data: bytearray, value: int) -> None:
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)


def _kind_size_bytes(kind: Kind) -> int:
    """At most what the kind takes in a row: its texts (four bytes a character) and numbers."""
    texts = len(kind.log_topic) + (len(kind.group) if kind.group is not None else 0)
    return (
        16
        + (texts if kind.log_topic.isascii() and (kind.group or "").isascii() else 4 * texts)
        + 5 * len(kind.identifiers)
    )


def _damaged(client_id: str, first_seq: int, what: str) -> StateRowError:
    return StateRowError(
        f"a chunk of a delivery queue is damaged: {what}", where=f"{QUEUES}: {seq_key(client_id, first_seq)!r}"
    )
