"""What the parts of the MQTT server work on together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from commitlog.base import Appender
from core.logs import LimitedLog
from ingest.broker.counters import BrokerCounters
from ingest.broker.rows import Row, row_bytes
from ingest.broker.session_book import SessionBook
from ingest.broker.subscriptions import SubscriptionTree
from ingest.broker.wills import Wills
from ingest.settings import MqttSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """See the module."""

    log: Appender
    settings: MqttSettings
    counters: BrokerCounters
    lines: LimitedLog
    book: SessionBook
    tree: SubscriptionTree
    wills: Wills

    def change(self, rows: Sequence[Row]) -> None:
        """Put rows into the open commit."""
        if rows:
            size_bytes = [row_bytes(row) for row in rows]
            with self.log.whole(0, 0, sum(size_bytes)):
                for row in rows:
                    self.log.change_reserved(row)
            self.log.appended(1, sum(size_bytes))
