"""What the parts of the MQTT server work on together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from commitlog.base import Appender
from core.logs import LimitedLog
from ingest.broker.counters import BrokerCounters
from ingest.broker.rows import Row, row_bytes
from ingest.broker.session_book import SessionBook
from ingest.broker.subscriptions import SubscriptionTree
from ingest.broker.wills import Wills
from ingest.settings import MqttSettings

_TOGETHER_BYTES: Final = 256 << 10  # of rows in one commit: a sixteenth of the smallest journal


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
        """Put rows into the open commit, in their order; where they take too much for one, into those after it as well.

        So what they come to must hold at any row: what others refer to is put before them. A session is taken away
        before what belongs to it: it is never continued with a hole, and the next start removes the rest.
        """
        at = 0
        while at < len(rows):
            size_bytes, end = row_bytes(rows[at]), at + 1
            while end < len(rows) and (more_bytes := size_bytes + row_bytes(rows[end])) <= _TOGETHER_BYTES:
                size_bytes, end = more_bytes, end + 1
            with self.log.whole(0, 0, size_bytes):
                for row in rows[at:end]:
                    self.log.change_reserved(row)
            self.log.appended(1, size_bytes)
            at = end
