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

_PIECE_BYTES: Final = 256 << 10  # of rows that change together; far below what a commit of the smallest journal takes


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
        """Put rows into the open commit. More than a commit takes go in pieces, in their order."""
        piece: list[Row] = []
        size_bytes = 0
        for row in rows:
            row_size_bytes = row_bytes(row)
            if piece and size_bytes + row_size_bytes > _PIECE_BYTES:
                self._change_at_once(piece, size_bytes)
                piece, size_bytes = [], 0
            piece.append(row)
            size_bytes += row_size_bytes
        if piece:
            self._change_at_once(piece, size_bytes)

    def _change_at_once(self, rows: Sequence[Row], size_bytes: int) -> None:
        with self.log.whole(0, 0, size_bytes):
            for row in rows:
                self.log.change_reserved(row)
        self.log.appended(1, size_bytes)
