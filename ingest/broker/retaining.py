"""Retained messages change with the commit of their record: the row rides in it, and subscribers see it after it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

from commitlog.base import Appender, Header
from ingest.broker.retained import RetainedMessage, RetainedMessages
from ingest.broker.rows import RETAINED
from wire.mqtt.events import Append

_ROW_BYTES: Final = 200  # what a retained message's row takes besides its topic, payload and headers


class Retaining:
    """Used on the event loop only."""

    def __init__(self, log: Appender, retained: RetainedMessages) -> None:
        self._log = log
        self._retained = retained
        self._staged: dict[str, RetainedMessage | None] = {}
        self._promised: Counter[str] = Counter()  # topics in commits under way, and what those are going to take
        self._promised_new: set[str] = set()  # those of them under which nothing is retained yet
        self._promised_bytes = 0
        self._waiting: dict[Hashable, Callable[[], None]] = {}  # for what is open
        self._in_flight: deque[dict[Hashable, Callable[[], None]]] = deque()  # for the commits under way, oldest first
        self.refused = 0
        """Messages that were taken and delivered, and not retained since there was no room."""
        log.before_commit(self._prepare)

    def target(self, topic: str, qos: int, expiry_s: int | None, headers: Sequence[Header], append: Append) -> Append:
        """`append`, and keep what is appended as the topic's retained message; an empty one removes it.

        [MQTT-3.3.1-5] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT5-3.3.1-5] [MQTT5-3.3.1-6] [MQTT5-3.3.1-7]
        """

        headers_bytes = _ROW_BYTES + 4 * len(topic) + sum(len(name) * 3 + len(v or b"") + 16 for name, v in headers)

        def put(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
            self._log.reserve(len(value or b"") + headers_bytes)
            offset = append(timestamp_ms, key, value, headers)
            if value:
                expires_ms = None if expiry_s is None else timestamp_ms + expiry_s * 1000
                self._staged[topic] = RetainedMessage(
                    topic=topic,
                    payload=value,
                    qos=qos,
                    headers=tuple(headers),
                    timestamp_ms=timestamp_ms,
                    expires_ms=expires_ms,
                )
            else:
                self._staged[topic] = None
            return offset

        return put

    def _prepare(self) -> None:
        if not self._staged:
            return
        staged, self._staged = self._staged, {}
        for topic, message in list(staged.items()):
            if message is None:
                self._log.change_reserved((RETAINED, topic, None))
            elif self._retained.has_room(message, self._promised_new, self._promised_bytes):
                self._log.change_reserved(message.row())
                self._promise(message)
            else:
                self.refused += 1
                del staged[topic]
        waiting, self._waiting = self._waiting, {}
        self._in_flight.append(waiting)
        self._log.join(self, staged)

    def _promise(self, message: RetainedMessage) -> None:
        """Its row goes into the commit: from now on there has to be room for it."""
        self._promised[message.topic] += 1
        self._promised_bytes += message.size_bytes
        if message.topic not in self._retained:
            self._promised_new.add(message.topic)

    def _keep(self, message: RetainedMessage) -> None:
        """Its row is durable."""
        topic = message.topic
        self._promised[topic] -= 1
        if not self._promised[topic]:
            del self._promised[topic]
        self._promised_bytes -= message.size_bytes
        self._promised_new.discard(topic)
        self._retained.put(message)

    def sweep(self, now_ms: int) -> Sequence[str]:
        """Retain no more what has expired; returns the topics whose rows are to go.

        Not where a new message is on its way: its row is in an earlier commit than the removal would be.
        """
        return self._retained.sweep(now_ms, but=self._staged.keys() | self._promised.keys())

    def when_settled(self, key: Hashable, call: Callable[[], None]) -> None:
        """Call when what was published by now is retained: at once, or after the commits that it is in.

        Of calls with the same key that wait for the same commit, the last is made: commits may take their time, and a
        client may subscribe again and again meanwhile.

        Otherwise somebody who subscribes between a publish and its commit would get it neither as a message nor as
        what is retained.
        """
        if self._staged:
            self._waiting[key] = call
        elif self._in_flight:
            self._in_flight[-1][key] = call
        else:
            call()

    def forget(self, key: Hashable) -> None:
        """Make no call with that key that waits."""
        for calls in (self._waiting, *self._in_flight):
            calls.pop(key, None)

    def committed(self, token: Any) -> None:
        """See `Waiter.committed`."""
        staged: dict[str, RetainedMessage | None] = token
        for topic, message in staged.items():
            if message is None:
                self._retained.remove(topic)
            else:
                self._keep(message)
        for call in self._in_flight.popleft().values():
            call()

    def failed(self, token: Any) -> None:
        """See `Waiter.failed`: nothing has changed."""
