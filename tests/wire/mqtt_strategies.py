"""Random packets that the protocol allows, in both versions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hypothesis import strategies as st

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    RetainHandling,
    SubAck,
    Subscribe,
    TopicSubscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from wire.mqtt.properties import (
    AckProperties,
    AuthProperties,
    ConnAckProperties,
    ConnectProperties,
    DisconnectProperties,
    PublishProperties,
    SubscribeProperties,
    UnsubscribeProperties,
    WillProperties,
)
from wire.mqtt.reasons import REASON_OF_RETURN_CODE, REASONS, SUBACK_REASONS_3_1_1, PacketType, ReasonCode

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
topics = st.text(st.characters(codec="utf-8", exclude_characters="\0#+$"), min_size=1, max_size=20)
packet_ids = st.integers(1, 65535)
blobs = st.binary(max_size=20)
wills = st.builds(Will, topic=topics, payload=blobs, qos=st.integers(0, 2), retain=st.booleans())
connects = st.builds(
    Connect,
    client_id=texts,
    clean_session=st.booleans(),
    keep_alive_s=st.integers(0, 65535),
    will=st.none() | wills,
    username=texts,
    password=st.none() | blobs,
)
qos_0 = st.builds(Publish, topic=topics, payload=st.binary(max_size=300), retain=st.booleans())
qos_1 = st.builds(
    Publish,
    topic=topics,
    payload=st.binary(max_size=300),
    qos=st.just(1),
    retain=st.booleans(),
    dup=st.booleans(),
    packet_id=packet_ids,
)
qos_2 = st.builds(Publish, topic=topics, payload=blobs, qos=st.just(2), dup=st.booleans(), packet_id=packet_ids)
publishes = qos_0 | qos_1
filters = topics | st.sampled_from(["+/#", "#", "a/+/b", "$SYS/#"])
subscriptions = st.builds(TopicSubscription, filter=filters, qos=st.integers(0, 2))
subscribes = st.builds(
    Subscribe, packet_id=packet_ids, subscriptions=st.lists(subscriptions, min_size=1, max_size=4).map(tuple)
)
unsubscribes = st.builds(
    Unsubscribe, packet_id=packet_ids, filters=st.lists(filters, min_size=1, max_size=4).map(tuple)
)
others = st.sampled_from([PingReq(), Disconnect(), PubAck(packet_id=1), PubRel(packet_id=65535)])


def _reasons(codes: Any) -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from(sorted(set(codes))), max_size=4).map(tuple)


_sessions_of_success = st.builds(ConnAck, session_present=st.booleans())
_packets_3_1_1: st.SearchStrategy[Packet] = st.one_of(
    connects,
    _sessions_of_success,
    st.builds(ConnAck, reason_code=st.sampled_from(list(REASON_OF_RETURN_CODE.values()))),
    publishes,
    qos_2,
    st.builds(PubAck, packet_id=packet_ids),
    st.builds(PubRec, packet_id=packet_ids),
    st.builds(PubRel, packet_id=packet_ids),
    st.builds(PubComp, packet_id=packet_ids),
    subscribes,
    st.builds(SubAck, packet_id=packet_ids, reason_codes=_reasons(SUBACK_REASONS_3_1_1.values())),
    unsubscribes,
    st.builds(UnsubAck, packet_id=packet_ids),
    st.sampled_from([PingReq(), PingResp(), Disconnect()]),
)

_flags, _uint16, _uint32 = st.booleans(), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF_FFFF)
_identifiers = st.integers(1, 268_435_455)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "payload_format_indicator": _flags,
    "message_expiry_interval_s": _uint32,
    "content_type": texts,
    "response_topic": topics,
    "correlation_data": blobs,
    "subscription_identifier": _identifiers,
    "session_expiry_interval_s": _uint32,
    "assigned_client_identifier": texts,
    "server_keep_alive_s": _uint16,
    "request_problem_information": _flags,
    "will_delay_interval_s": _uint32,
    "request_response_information": _flags,
    "response_information": texts,
    "server_reference": texts,
    "reason_string": texts,
    "receive_maximum": st.integers(1, 0xFFFF),
    "topic_alias_maximum": _uint16,
    "topic_alias": st.integers(1, 0xFFFF),
    "maximum_qos": st.integers(0, 1),
    "retain_available": _flags,
    "maximum_packet_size_bytes": st.integers(1, 0xFFFF_FFFF),
    "wildcard_subscription_available": _flags,
    "subscription_identifier_available": _flags,
    "shared_subscription_available": _flags,
}
_LISTS: dict[str, st.SearchStrategy[Any]] = {
    "subscription_identifiers": st.lists(_identifiers, max_size=3).map(tuple),
    "user_properties": st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
}


def properties(kind: type[Any], *, with_method: bool = False) -> st.SearchStrategy[Any]:
    """Any of this class: none, some or all of its properties."""
    names = {field.name for field in fields(kind)}
    values = {name: st.none() | _VALUES[name] for name in names if name in _VALUES}
    values |= {name: _LISTS[name] for name in names if name in _LISTS}
    if "authentication_method" in names:
        some = st.builds(kind, authentication_method=texts, authentication_data=st.none() | blobs, **values)
        return some if with_method else st.builds(kind, **values) | some
    return st.just(kind()) | st.builds(kind, **values)


def _reason_of(packet_type: PacketType) -> st.SearchStrategy[ReasonCode]:
    return st.sampled_from(sorted(REASONS[packet_type].values()))


def _acknowledgements(kind: type[Any], packet_type: PacketType) -> st.SearchStrategy[Any]:
    return st.builds(
        kind, packet_id=packet_ids, reason_code=_reason_of(packet_type), properties=properties(AckProperties)
    )


_subscriptions_5 = st.builds(
    TopicSubscription,
    filter=filters,
    qos=st.integers(0, 2),
    no_local=st.booleans(),
    retain_as_published=st.booleans(),
    retain_handling=st.sampled_from(RetainHandling),
) | st.builds(TopicSubscription, filter=filters.map(lambda topic: f"$share/group/{topic}"), qos=st.integers(0, 2))
_publish_properties = properties(PublishProperties)
_packets_5: st.SearchStrategy[Packet] = st.one_of(
    st.builds(
        Connect,
        client_id=texts,
        clean_session=st.booleans(),
        keep_alive_s=_uint16,
        will=st.none()
        | st.builds(
            Will,
            topic=topics,
            payload=blobs,
            qos=st.integers(0, 2),
            retain=st.booleans(),
            properties=properties(WillProperties),
        ),
        username=st.none() | texts,
        password=st.none() | blobs,
        protocol_level=st.just(LEVEL_5),
        properties=properties(ConnectProperties),
    ),
    st.builds(ConnAck, session_present=st.booleans(), properties=properties(ConnAckProperties)),
    st.builds(ConnAck, reason_code=_reason_of(PacketType.CONNACK), properties=properties(ConnAckProperties)),
    st.builds(Publish, topic=topics, payload=blobs, retain=st.booleans(), properties=_publish_properties),
    st.builds(
        Publish,
        topic=topics,
        payload=st.binary(max_size=300),
        qos=st.integers(1, 2),
        dup=st.booleans(),
        packet_id=packet_ids,
        properties=_publish_properties,
    ),
    st.builds(
        Publish,
        topic=st.just(""),
        payload=blobs,
        properties=st.builds(PublishProperties, topic_alias=_VALUES["topic_alias"]),
    ),
    _acknowledgements(PubAck, PacketType.PUBACK),
    _acknowledgements(PubRec, PacketType.PUBREC),
    _acknowledgements(PubRel, PacketType.PUBREL),
    _acknowledgements(PubComp, PacketType.PUBCOMP),
    st.builds(
        Subscribe,
        packet_id=packet_ids,
        subscriptions=st.lists(_subscriptions_5, min_size=1, max_size=4).map(tuple),
        properties=properties(SubscribeProperties),
    ),
    st.builds(
        SubAck,
        packet_id=packet_ids,
        reason_codes=_reasons(REASONS[PacketType.SUBACK].values()),
        properties=properties(AckProperties),
    ),
    st.builds(
        Unsubscribe,
        packet_id=packet_ids,
        filters=st.lists(filters, min_size=1, max_size=4).map(tuple),
        properties=properties(UnsubscribeProperties),
    ),
    st.builds(
        UnsubAck,
        packet_id=packet_ids,
        reason_codes=_reasons(REASONS[PacketType.UNSUBACK].values()),
        properties=properties(AckProperties),
    ),
    st.sampled_from([PingReq(), PingResp(), Auth()]),
    st.builds(Disconnect, reason_code=_reason_of(PacketType.DISCONNECT), properties=properties(DisconnectProperties)),
    st.builds(Auth, reason_code=_reason_of(PacketType.AUTH), properties=properties(AuthProperties, with_method=True)),
)


def packets(level: int) -> st.SearchStrategy[Packet]:
    """Every packet type that the version has."""
    return _packets_3_1_1 if level == LEVEL_3_1_1 else _packets_5
