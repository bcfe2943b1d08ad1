"""Retained messages: the last message of each MQTT topic that was published with RETAIN, sections 3.3.1.3 and 4.7.

Topics stand in one sorted list, with U+0000 for the slash (no topic contains it), so that all topics below one follow
it at once. A filter is walked by leaping: from a topic to the next one that could match, found by bisection. So
`+/+/state` costs a leap or two for each pair of first levels, whatever else is retained below them. A walk remembers
only the text that it has come to. So the list may change between its steps: what is gone is skipped, what is new is
found if it lies ahead, and a walk can be cut into slices of any length.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from commitlog.base import Header
from core.errors import HeadraceError
from ingest.broker.rows import RETAINED, Row, StateRowError

_LEVEL_END: Final = "\0"  # in place of the slash: lower than any character of a topic
_AFTER_SUBTREE: Final = "\1"
_OVERHEAD_BYTES: Final = 500  # of a message in Python's memory, beside its texts and bytes
_SPARE_EXPIRIES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainedMessage:
    """A retained message. `headers` are those of its record; times are milliseconds since the epoch, of the box."""

    topic: str
    payload: bytes
    qos: int
    headers: Sequence[Header] = ()
    timestamp_ms: int
    expires_ms: int | None = None

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about. (A character may take four bytes, and the sorted list has its own copy.)"""
        headers = sum(len(name) + len(value or b"") + 120 for name, value in self.headers)
        return _OVERHEAD_BYTES + 2 * len(self.topic.encode()) + len(self.payload) + headers

    def row(self) -> Row:
        """The row that keeps it."""
        value = {
            "payload": self.payload,
            "qos": self.qos,
            "headers": [list(header) for header in self.headers],
            "time_ms": self.timestamp_ms,
            "expires_ms": self.expires_ms,
        }
        return (RETAINED, self.topic, value)


def retained_from_row(topic: str, value: Any) -> RetainedMessage:
    """The message that a row keeps. Raises StateRowError."""
    match value:
        case {
            "payload": bytes(payload),
            "qos": 0 | 1 | 2 as qos,
            "headers": [*headers],
            "time_ms": int(timestamp_ms),
            "expires_ms": None | int() as expires_ms,
        } if payload:
            return RetainedMessage(
                topic=topic,
                payload=payload,
                qos=qos,
                headers=tuple(_header(topic, header) for header in headers),
                timestamp_ms=timestamp_ms,
                expires_ms=expires_ms,
            )
    raise _damaged(topic)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainedLimits:
    """What may be retained. The defaults: ten MQTT topics for each of 10,000 devices, 640 bytes each."""

    max_messages: int = 100_000
    max_size_bytes: int = 64 << 20


class RetainedFullError(HeadraceError):
    """There is no room for another retained message. What was retained before still is."""

    code = "retained-full"
    http_status = 503


class RetainedMessages:
    """The retained messages, by MQTT topic. What has expired is as good as gone, and goes with the next sweep."""

    def __init__(self, messages: Iterable[RetainedMessage] = (), *, limits: RetainedLimits | None = None) -> None:
        """With what the rows hold; the limits are for what comes later: less may have been allowed since."""
        self._limits = limits or RetainedLimits()
        self._messages = {message.topic: message for message in messages}
        self._order = sorted(map(_key, self._messages))
        self._expiries: list[tuple[int, str]] = []
        self._rebuild_expiries()
        self.size_bytes = sum(message.size_bytes for message in self._messages.values())

    def __len__(self) -> int:
        """Messages retained, expired ones until they are swept."""
        return len(self._messages)

    def __contains__(self, topic: str) -> bool:
        """Whether something is retained under a topic, expired or not."""
        return topic in self._messages

    def has(self, topic: str) -> bool:
        """Whether anything is retained under a topic, expired or not."""
        return topic in self._messages

    def get(self, topic: str, now_ms: int) -> RetainedMessage | None:
        """What is retained under a topic; None also for what has expired [MQTT5-3.3.2-5]."""
        message = self._messages.get(topic)
        if message is not None and message.expires_ms is not None and message.expires_ms <= now_ms:
            return None
        return message

    def has_room(self, message: RetainedMessage, promised: Collection[str] = (), promised_size_bytes: int = 0) -> bool:
        """Whether `set` would take it, besides messages that take so many bytes, `promised` being their new topics."""
        replaced = self._messages.get(message.topic)
        size_bytes = self.size_bytes + message.size_bytes - (replaced.size_bytes if replaced is not None else 0)
        count = len(self._messages) + len(promised) + (replaced is None and message.topic not in promised)
        try:
            self._check_room(message, size_bytes + promised_size_bytes, count)
        except RetainedFullError:
            return False
        return True

    def set(self, message: RetainedMessage) -> RetainedMessage | None:
        """Retain a message; returns the one it replaced [MQTT-3.3.1-5, MQTT5-3.3.1-5].

        Raises RetainedFullError, with nothing changed, and ValueError for an empty payload, which removes what is
        retained and is never stored itself [MQTT-3.3.1-11, MQTT5-3.3.1-7].
        """
        if not message.payload:
            raise ValueError("an empty payload is not retained: remove the topic")
        replaced = self._messages.get(message.topic)
        size_bytes = self.size_bytes + message.size_bytes - (replaced.size_bytes if replaced is not None else 0)
        self._check_room(message, size_bytes, len(self._messages) + (replaced is None))
        return self.put(message)

    def put(self, message: RetainedMessage) -> RetainedMessage | None:
        """As `set`, for what there was room for when it was promised (`has_room`)."""
        replaced = self._messages.get(message.topic)
        if replaced is None:
            insort(self._order, _key(message.topic))
        else:
            self.size_bytes -= replaced.size_bytes
        self._messages[message.topic] = message
        self.size_bytes += message.size_bytes
        if message.expires_ms is not None:
            heapq.heappush(self._expiries, (message.expires_ms, message.topic))
            if len(self._expiries) > 2 * len(self._messages) + _SPARE_EXPIRIES:
                self._rebuild_expiries()  # of messages replaced since
        return replaced

    def remove(self, topic: str) -> RetainedMessage | None:
        """Retain nothing under a topic any more [MQTT-3.3.1-10, MQTT5-3.3.1-6]; returns what was."""
        removed = self._messages.pop(topic, None)
        if removed is not None:
            del self._order[bisect_left(self._order, _key(topic))]
            self.size_bytes -= removed.size_bytes
        return removed

    def sweep(self, now_ms: int, *, max_messages: int = 1000, but: Collection[str] = ()) -> Sequence[str]:
        """Remove what has expired at `now_ms`, at most so many (about 10 ms of them); returns their topics.

        Those of `but` wait for the next sweep.
        """
        swept: list[str] = []
        later: list[tuple[int, str]] = []
        while self._expiries and self._expiries[0][0] <= now_ms and len(swept) < max_messages:
            expires_ms, topic = heapq.heappop(self._expiries)
            message = self._messages.get(topic)
            if message is None or message.expires_ms != expires_ms:
                continue
            if topic in but:
                later.append((expires_ms, topic))
                continue
            self.remove(topic)
            swept.append(topic)
        for entry in later:
            heapq.heappush(self._expiries, entry)
        return swept

    def walk(self, topic_filter: str) -> Walk:
        """The topics that a filter matches, for reading in slices."""
        return Walk(self._order, topic_filter)

    def matching(self, topic_filter: str) -> Iterator[str]:
        """The topics that a filter matches, sorted level by level; each is looked for when it is asked for."""
        walk = self.walk(topic_filter)
        while not walk.done:
            yield from walk.take(1)

    def _check_room(self, message: RetainedMessage, size_bytes: int, count: int) -> None:
        limits = self._limits
        # One that makes nothing bigger is taken, also where the limits were lowered.
        if count > max(limits.max_messages, len(self._messages)):
            fault = f"{limits.max_messages} messages are retained already"
        elif size_bytes > max(limits.max_size_bytes, self.size_bytes):
            fault = f"retained messages would take {size_bytes} bytes, at most {limits.max_size_bytes} are allowed"
        else:
            return
        raise RetainedFullError(
            fault, where=ascii(message.topic[:80]), mend="clear topics that are no longer used with an empty payload"
        )

    def _rebuild_expiries(self) -> None:
        messages = self._messages.values()
        self._expiries = [(message.expires_ms, message.topic) for message in messages if message.expires_ms is not None]
        heapq.heapify(self._expiries)


class Walk:
    """A filter's way through the sorted topics."""

    def __init__(self, order: Sequence[str], topic_filter: str) -> None:
        self._order = order
        *fixed, last = topic_filter.split("/")
        self._rest = last == "#"
        self._levels = fixed if self._rest else [*fixed, last]
        first = topic_filter.split("/", 1)[0]
        self._hides_dollar = first in ("+", "#")  # [MQTT-4.7.2-1, MQTT5-4.7.2-1]
        literal: list[str] = []
        for level in self._levels:
            if level == "+":
                break
            literal.append(level)
        self._from: str | None = _LEVEL_END.join(literal)

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self._from is None

    def take(self, max_steps: int) -> Sequence[str]:
        """The matching topics of the next `max_steps` leaps (about 3 us each), at most as many."""
        found: list[str] = []
        order = self._order
        for _ in range(max_steps):
            if self._from is None:
                break
            at = bisect_left(order, self._from)
            if at == len(order):
                self._from = None
                break
            key = order[at]
            self._from, matches = self._leap(key)
            if matches:
                found.append(key.replace(_LEVEL_END, "/"))
        return found

    def _leap(self, key: str) -> tuple[str | None, bool]:
        """Where to go on behind a topic that the walk came to, and whether that one matches."""
        if self._hides_dollar and key.startswith("$"):
            return "%", False  # the character after $
        wanted = self._levels
        levels = key.split(_LEVEL_END)
        for place, (level, pattern) in enumerate(zip(levels, wanted, strict=False)):
            if pattern in ("+", level):
                continue
            before = levels[:place]
            if level < pattern:
                return _LEVEL_END.join([*before, pattern]), False
            return (_LEVEL_END.join(before) + _AFTER_SUBTREE if before else None), False
        if len(levels) > len(wanted) and not self._rest:
            return _LEVEL_END.join(levels[: len(wanted)]) + _AFTER_SUBTREE, False
        return key + _LEVEL_END, len(levels) >= len(wanted)


def _key(topic: str) -> str:
    return topic.replace("/", _LEVEL_END)


def _header(topic: str, header: Any) -> Header:
    match header:
        case [str(name), None | bytes() as value]:
            return name, value
    raise _damaged(topic)


def _damaged(topic: str) -> StateRowError:
    return StateRowError("the row of a retained message cannot be read", where=f"{RETAINED}: {topic[:80]!r}")
