"""SUBSCRIBE and UNSUBSCRIBE: who may, how much, and the rows of those that outlive their connection."""

from __future__ import annotations

from typing import Final

from ingest.broker.authorizer import Authorizer, Client
from ingest.broker.publisher import MAX_TOPIC_LEVELS
from ingest.broker.retaining import Retaining
from ingest.broker.rows import SUBSCRIPTIONS, Row, split_share, subscription_key, subscription_row
from ingest.broker.sender import Sender
from ingest.broker.session import MqttSession
from ingest.broker.shared import Shared
from ingest.broker.subscriptions import Subscription, TooManyLevelsError
from ingest.limits import MAX_FILTER_BYTES
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.packets import RetainHandling, Subscribe, TopicSubscription, Unsubscribe
from wire.mqtt.reasons import ReasonCode

_GRANTED: Final = (ReasonCode.GRANTED_QOS_0, ReasonCode.GRANTED_QOS_1, ReasonCode.GRANTED_QOS_2)


class Subscribing:
    """See the module."""

    def __init__(self, shared: Shared, authorizer: Authorizer, retaining: Retaining, sender: Sender) -> None:
        self._shared = shared
        self._tree = shared.tree
        self._authorizer = authorizer
        self._retaining = retaining
        self._sender = sender

    def subscribe(self, session: MqttSession, client: Client, subscribe: Subscribe) -> list[ReasonCode]:
        """One reason per filter [MQTT-3.8.4-5] [MQTT5-3.8.4-6]."""
        changes: list[Row] = []
        reasons = [self._subscribe(session, client, subscribe, wanted, changes) for wanted in subscribe.subscriptions]
        self._shared.change(changes)
        return reasons

    def _subscribe(
        self,
        session: MqttSession,
        client: Client,
        subscribe: Subscribe,
        wanted: TopicSubscription,
        changes: list[Row],
    ) -> ReasonCode:
        share, topic_filter = split_share(wanted.filter) if session.level == LEVEL_5 else (None, wanted.filter)
        if topic_filter.count("/") >= MAX_TOPIC_LEVELS:
            return ReasonCode.TOPIC_FILTER_INVALID
        if not self._authorizer.may_subscribe(client, topic_filter):
            return ReasonCode.UNSPECIFIED_ERROR  # 0x80, which clients of both versions know; some 5.0 ones no other
        if not self._tree.has(session.client_id, topic_filter, share) and (
            self._tree.count_of(session.client_id) >= self._shared.settings.max_subscriptions_per_client
            or len(self._tree) >= self._shared.settings.max_subscriptions
            or self._tree.size_bytes + len(wanted.filter) > MAX_FILTER_BYTES
        ):
            return ReasonCode.QUOTA_EXCEEDED
        subscription = Subscription(
            client_id=session.client_id,
            filter=topic_filter,
            qos=wanted.qos,
            no_local=wanted.no_local,
            retain_as_published=wanted.retain_as_published,
            retain_handling=int(wanted.retain_handling),
            identifier=subscribe.properties.subscription_identifier,
            share=share,
        )
        try:
            replaced = self._tree.add(subscription)
        except TooManyLevelsError:  # no room for wildcards: one client's many levels must not end another's connection
            return ReasonCode.QUOTA_EXCEEDED
        if session.durable:
            changes.append(subscription_row(subscription))
        if share is None and (
            wanted.retain_handling is RetainHandling.SEND
            or (wanted.retain_handling is RetainHandling.SEND_IF_NEW and replaced is None)
        ):
            self._retaining.when_settled(
                (session, topic_filter), lambda: self._sender.send_retained(session, subscription)
            )
        return _GRANTED[wanted.qos]

    def unsubscribe(self, session: MqttSession, unsubscribe: Unsubscribe) -> list[ReasonCode]:
        """One reason per filter [MQTT5-3.11.3-1]."""
        changes: list[Row] = []
        reasons: list[ReasonCode] = []
        for full_filter in unsubscribe.filters:
            share, topic_filter = split_share(full_filter) if session.level == LEVEL_5 else (None, full_filter)
            removed = self._tree.remove(session.client_id, topic_filter, share)
            reasons.append(ReasonCode.SUCCESS if removed else ReasonCode.NO_SUBSCRIPTION_EXISTED)
            if removed and share is None:
                self._retaining.forget((session, topic_filter))
                self._sender.forget_retained(session, topic_filter)
            if removed and session.durable:
                changes.append((SUBSCRIPTIONS, subscription_key(session.client_id, full_filter), None))
        self._shared.change(changes)
        return reasons
