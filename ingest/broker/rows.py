"""The rows of the MQTT server's state tables: their names, their keys, and what a row that cannot be read is.

A row's key begins with the client id, then U+0000, which no MQTT string contains [MQTT-1.5.3-2, MQTT5-1.5.4-2], then
what tells the client's rows apart. docs/formats.md describes the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from core.errors import HeadraceError
from ingest.broker.subscriptions import Subscription

QUEUES: Final = "mqtt.queues"
RELEASED: Final = "mqtt.released"
RETAINED: Final = "mqtt.retained"
SUBSCRIPTIONS: Final = "mqtt.subscriptions"

Row = tuple[str, str, Any]
"""A change of a state table: table, key, and the value to set, or None to remove the row."""

_SEPARATOR: Final = "\0"
_SEQ_DIGITS: Final = 16
_SHARE_PREFIX: Final = "$share/"


class StateRowError(HeadraceError):
    """A row of the MQTT server's state cannot be read."""

    code = "mqtt-state"

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(what, where=where, mend="the session it belongs to has to end; the client subscribes again")


def seq_key(client_id: str, seq: int) -> str:
    """The key of a client's row that stands for, or begins with, sequence number `seq`. Keys sort as numbers do."""
    return f"{client_id}{_SEPARATOR}{seq:0{_SEQ_DIGITS}x}"


def rows_by_client(table: str, rows: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    """Rows with keys of `seq_key`, grouped: client id -> sequence number -> value. Raises StateRowError."""
    grouped: dict[str, dict[int, Any]] = {}
    for key, value in rows.items():
        client_id, separator, digits = key.rpartition(_SEPARATOR)
        try:
            seq = int(digits, 16)
        except ValueError:
            seq = -1
        if not separator or seq < 0 or len(digits) != _SEQ_DIGITS:
            raise StateRowError("the key of a row holds no sequence number", where=f"{table}: {key!r}")
        grouped.setdefault(client_id, {})[seq] = value
    return grouped


def subscription_key(client_id: str, full_filter: str) -> str:
    """The key of a subscription's row; `full_filter` as the client wrote it, with `$share/` where it is shared."""
    return f"{client_id}{_SEPARATOR}{full_filter}"


def subscription_row(subscription: Subscription) -> Row:
    """The row that keeps a subscription."""
    options = [
        subscription.qos,
        subscription.no_local,
        subscription.retain_as_published,
        subscription.retain_handling,
        subscription.identifier,
    ]
    return (SUBSCRIPTIONS, subscription_key(subscription.client_id, subscription.full_filter), options)


def subscription_from_row(key: str, value: Any) -> Subscription:
    """The subscription that a row keeps. Raises StateRowError."""
    where = f"{SUBSCRIPTIONS}: {key!r}"
    client_id, separator, full_filter = key.partition(_SEPARATOR)
    share, topic_filter = split_share(full_filter)
    if not separator or not topic_filter or share == "":
        raise StateRowError("the key of a row holds no client id and topic filter", where=where)
    match value:
        case [int(qos), bool(no_local), bool(as_published), int(handling), None | int() as identifier]:
            return Subscription(
                client_id=client_id,
                filter=topic_filter,
                share=share,
                qos=qos,
                no_local=no_local,
                retain_as_published=as_published,
                retain_handling=handling,
                identifier=identifier,
            )
    raise StateRowError("a subscription's row does not hold its five options", where=where)


def split_share(full_filter: str) -> tuple[str | None, str]:
    """Share name and topic filter of what a client subscribes to; no share name where it is not shared (5.0, 4.8.2).

    Nothing is checked: the share name or the filter may come out empty.
    """
    if not full_filter.startswith(_SHARE_PREFIX):
        return None, full_filter
    share, _, topic_filter = full_filter[len(_SHARE_PREFIX) :].partition("/")
    return share, topic_filter
