"""The MQTT server behind its connections: sessions, subscriptions, retained messages and wills, put together.

What outlives a connection stands in state tables of the log (docs/formats.md), changed in the same commit as the
records it belongs to; what an answer promises is durable before the answer goes out, since answers wait for that
commit (`ingest.mqtt.output`). The tables are read once, at the start; from then on everything is decided from memory,
at once.

Data flows one way: connections call in here; `FanOut` and `Sender` write to connections; nothing waits for anything
but a commit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from commitlog.base import Appender, LogReader
from core.clock import Clock
from core.logs import LimitedLog
from core.threads import Worker
from ingest.broker.authorizer import Authorizer
from ingest.broker.backlog import Backlog
from ingest.broker.catch_up import CatchUp
from ingest.broker.clock_steps import ClockSteps
from ingest.broker.counters import BrokerCounters, BrokerFigures
from ingest.broker.ending import Ending
from ingest.broker.fan_out import FanOut
from ingest.broker.forced_ends import ForcedEnds
from ingest.broker.opening import Opening
from ingest.broker.publisher import Publisher
from ingest.broker.queue import QueueLimits
from ingest.broker.receiving import Receiving
from ingest.broker.retained import RetainedLimits, RetainedMessage, RetainedMessages, retained_from_row
from ingest.broker.retaining import Retaining
from ingest.broker.rows import RETAINED, StateRowError
from ingest.broker.sender import Sender
from ingest.broker.session_book import SessionBook
from ingest.broker.shared import Shared
from ingest.broker.state import restore_sessions, session_row
from ingest.broker.subscribing import Subscribing
from ingest.broker.subscriptions import SubscriptionTree
from ingest.broker.will_publisher import WillPublisher
from ingest.broker.wills import WILLS, Wills
from ingest.routing import Router
from ingest.settings import MqttSettings

_MAX_PLACE_BYTES: Final = 8  # of a queued message: two to four are usual


class Broker:
    """The parts put together, and what they all do at the start, once a second and at the end.

    Used on the event loop only.
    """

    def __init__(
        self,
        log: Appender,
        router: Router,
        authorizer: Authorizer,
        settings: MqttSettings,
        *,
        clock: Clock,
        reading: Worker,
        open_reader: Callable[[], LogReader],
    ) -> None:
        """`reading` is the thread in which subscribers' slices of the log are read, by what `open_reader` gives."""
        self.counters = BrokerCounters()
        self.lines = LimitedLog(structlog.get_logger("headrace.mqtt"))
        self.tree = SubscriptionTree()
        self.wills = Wills(settings.max_will_bytes)
        self._book = SessionBook()
        self.sessions = self._book.by_client_id
        self.roster = self._book.roster
        self._log = log
        self._shared = Shared(
            log=log,
            settings=settings,
            counters=self.counters,
            lines=self.lines,
            book=self._book,
            tree=self.tree,
            wills=self.wills,
        )
        self._queue_limits = QueueLimits(
            max_messages=settings.max_queued_messages,
            max_size_bytes=_MAX_PLACE_BYTES * settings.max_queued_messages,
        )
        self._faults: list[StateRowError] = []
        self.retained = self._restored_retained(
            RetainedLimits(max_messages=settings.max_retained_messages, max_size_bytes=settings.max_retained_size_bytes)
        )
        self._retaining = Retaining(log, self.retained)
        self._catch_up = CatchUp(reading, open_reader, self.lines)
        self.fan_out, self.sender = self._outgoing()
        self.publisher = Publisher(log, router, authorizer, self.fan_out, self._retaining)
        self.will_publisher = WillPublisher(self._shared, self.publisher)
        self.ending = Ending(self._shared, self.fan_out, self.sender, self.will_publisher)
        self._forced_ends = ForcedEnds(self._shared, self.sender, self.ending)
        self.opening = Opening(self._shared, authorizer, self.publisher, self.sender, self.ending, self._queue_limits)
        self.subscribing = Subscribing(self._shared, authorizer, self._retaining, self.sender)
        self.receiving = Receiving(self._shared)
        self._backlog = Backlog(
            self.fan_out.waiting, max_size_bytes=settings.max_queued_bytes, overflowed=self._forced_ends.overflowed
        )
        self._steps = ClockSteps(log.now_ms, clock.monotonic_ms)
        self._restore()

    def _outgoing(self) -> tuple[FanOut, Sender]:
        """What sends. Each tells the other, and those who end sessions, of what it cannot do."""
        fan_out = FanOut(
            self._log,
            self.tree,
            self.sessions.get,
            self.counters,
            behind=lambda session: self.sender.soon(session),
            overflowed=lambda session: self._forced_ends.overflowed(session),
            released=lambda session, packet_ids: self.sender.released(session, packet_ids),
        )
        sender = Sender(
            fan_out,
            self._catch_up,
            self.retained,
            self.counters,
            now_ms=self._log.now_ms,
            behind_the_log=lambda session, lost: self._forced_ends.behind_the_log(session, lost),
            unreadable=lambda session, error: self._forced_ends.unreadable(session, error),
        )
        return fan_out, sender

    def _restore(self) -> None:
        """Take over what the tables hold. Every session's connection is gone, and its expiry counts from now."""
        restored = restore_sessions(self._log.rows_now, self._queue_limits)
        now_ms = self._log.now_ms()
        self._faults += [*restored.faults, *self.wills.restore(self._log.rows_now(WILLS))]
        for fault in self._faults:
            self.lines.warning("state left out", what=fault.what, where=fault.where, mend=fault.mend)
        for session in sorted(restored.sessions.values(), key=lambda session: session.created_ms):
            self._book.add(session)
            if session.has_queue and session.queue.count:
                self.fan_out.waiting[session] = None
        for subscription in restored.subscriptions:
            self.tree.add(subscription)
        changes = list(restored.removals)
        changes += ((WILLS, key, None) for key in self._log.rows_now(WILLS) if self.wills.get(key) is None)
        changes += ((RETAINED, key, None) for key in self._log.rows_now(RETAINED) if not self.retained.has(key))
        for session in restored.sessions.values():
            if session.ended_ms is None:  # its connection ended with the process before this one
                session.ended_ms = now_ms
                changes.append(session_row(session))
            self._book.expire_later(session)
        for will in self.wills.all():
            if will.due_ms is None:
                changes.append(self.wills.keep(replace(will, due_ms=now_ms + will.delay_s * 1000)))
        self._shared.change(changes)

    def _restored_retained(self, limits: RetainedLimits) -> RetainedMessages:
        messages: list[RetainedMessage] = []
        for topic, value in self._log.rows_now(RETAINED).items():
            try:
                messages.append(retained_from_row(topic, value))
            except StateRowError as error:
                self._faults.append(error)
        return RetainedMessages(messages, limits=limits)

    async def close(self) -> None:
        """Write what the queues have still to write, and read no more."""
        for session in self.sessions.values():
            if session.has_queue and session.queue.changed:
                self.fan_out.touch(session)
        await self._catch_up.close()
        self.lines.flush()

    def tick(self) -> None:
        """A second has passed: wills that are due, sessions and retained messages that have expired."""
        step_ms = self._steps.take()
        if step_ms:
            self._book.shift(step_ms)
            self.wills.shift(step_ms)
        now_ms = self._log.now_ms()
        for will in self.wills.take_due(now_ms):
            self.will_publisher.publish(will)
        self.ending.expire(now_ms)
        self._shared.change([(RETAINED, topic, None) for topic in self._retaining.sweep(now_ms)])
        self._backlog.look()

    def figures(self) -> BrokerFigures:
        """How much there is of everything, now."""
        return BrokerFigures(
            connected=self._book.connected,
            away=len(self.sessions) - self._book.connected,
            subscriptions=len(self.tree),
            retained_messages=len(self.retained),
            retained_bytes=self.retained.size_bytes,
            retained_refused=self._retaining.refused,
            queued_messages=self._backlog.messages,
            queued_bytes=self._backlog.size_bytes,
            wills=len(self.wills),
            will_bytes=self.wills.size_bytes,
            catch_up_slices=self._catch_up.slices,
            state_left_out=len(self._faults),
        )
