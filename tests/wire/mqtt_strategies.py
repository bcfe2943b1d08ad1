"""Random packets that the protocol allows."""

from __future__ import annotations

from hypothesis import strategies as st

from wire.mqtt.packets import (
    Connect,
    Disconnect,
    PingReq,
    PubAck,
    Publish,
    PubRel,
    Subscribe,
    TopicSubscription,
    Unsubscribe,
    Will,
)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
topics = st.text(st.characters(codec="utf-8", exclude_characters="\0#+"), min_size=1, max_size=20)
packet_ids = st.integers(1, 65535)
wills = st.builds(Will, topic=topics, payload=st.binary(max_size=20), qos=st.integers(0, 2), retain=st.booleans())
connects = st.builds(
    Connect,
    client_id=texts,
    clean_session=st.booleans(),
    keep_alive_s=st.integers(0, 65535),
    will=st.none() | wills,
    username=texts,
    password=st.none() | st.binary(max_size=20),
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
publishes = qos_0 | qos_1
subscriptions = st.builds(TopicSubscription, filter=topics | st.just("+/#"), qos=st.integers(0, 2))
subscribes = st.builds(
    Subscribe, packet_id=packet_ids, subscriptions=st.lists(subscriptions, min_size=1, max_size=4).map(tuple)
)
unsubscribes = st.builds(Unsubscribe, packet_id=packet_ids, filters=st.lists(topics, min_size=1, max_size=4).map(tuple))
others = st.sampled_from([PingReq(), Disconnect(), PubAck(packet_id=1), PubRel(packet_id=65535)])
