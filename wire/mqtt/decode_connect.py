"""The CONNECT packet, section 3.1: the one packet whose fields decide which other fields there are."""

from __future__ import annotations

from typing import Final

from wire.mqtt.errors import MalformedPacketError, ProtocolError, UnacceptableLevelError
from wire.mqtt.fields import PacketReader
from wire.mqtt.packets import PROTOCOL_LEVEL_3_1_1, Connect, Will
from wire.mqtt.topics import check_topic_name

# Connect flags, section 3.1.2.3.
RESERVED: Final = 0b0000_0001
CLEAN_SESSION: Final = 0b0000_0010
WILL: Final = 0b0000_0100
WILL_QOS: Final = 0b0001_1000
WILL_RETAIN: Final = 0b0010_0000
PASSWORD: Final = 0b0100_0000
USER_NAME: Final = 0b1000_0000

PROTOCOL_NAME: Final = "MQTT"
_OLDER_PROTOCOL_NAME: Final = "MQIsdp"  # 3.1; such a client understands return code 1


def decode_connect(packet: bytes, body: int) -> Connect:
    """A CONNECT whose variable header begins at `body`. Raises ProtocolError, UnacceptableLevelError first."""
    reader = PacketReader(packet, body)
    _check_version(reader)
    at = reader.offset
    flags = reader.byte("connect flags")
    _check_connect_flags(flags, at)
    keep_alive_s = reader.uint16("keep alive")
    client_id = reader.string("client identifier")  # [MQTT-3.1.3-3] [MQTT-3.1.3-4]
    will = _read_will(reader, flags) if flags & WILL else None
    username = reader.string("user name") if flags & USER_NAME else None  # [MQTT-3.1.2-19] [MQTT-3.1.3-11]
    password = reader.binary("password") if flags & PASSWORD else None  # [MQTT-3.1.2-21]
    reader.finish()
    return Connect(
        client_id=client_id,
        clean_session=bool(flags & CLEAN_SESSION),
        keep_alive_s=keep_alive_s,
        will=will,
        username=username,
        password=password,
    )


def _check_version(reader: PacketReader) -> None:
    at = reader.offset
    name = reader.string("protocol name")
    if name not in (PROTOCOL_NAME, _OLDER_PROTOCOL_NAME):
        raise ProtocolError("MQTT-3.1.2-1", f"the protocol name is {name[:20]!a}", offset=at)
    at = reader.offset
    level = reader.byte("protocol level")
    if name != PROTOCOL_NAME or level != PROTOCOL_LEVEL_3_1_1:
        raise UnacceptableLevelError(
            "MQTT-3.1.2-2",
            f"the client speaks {name} level {level}",
            offset=at,
            mend=f"set the client to MQTT 3.1.1 (level {PROTOCOL_LEVEL_3_1_1})",
        )


def _check_connect_flags(flags: int, at: int) -> None:
    faults = (
        (flags & RESERVED, "MQTT-3.1.2-3", "the reserved connect flag is set"),
        (not flags & WILL and flags & WILL_QOS, "MQTT-3.1.2-13", "a will QoS without a will"),
        (flags & WILL_QOS == WILL_QOS, "MQTT-3.1.2-14", "the will QoS is 3"),
        (not flags & WILL and flags & WILL_RETAIN, "MQTT-3.1.2-15", "will retain without a will"),
        (not flags & USER_NAME and flags & PASSWORD, "MQTT-3.1.2-22", "a password without a user name"),
    )
    for broken, clause, what in faults:
        if broken:
            raise MalformedPacketError(clause, what, offset=at)


def _read_will(reader: PacketReader, flags: int) -> Will:
    topic = reader.string("will topic")  # [MQTT-3.1.2-9] [MQTT-3.1.3-10]
    check_topic_name(topic)
    payload = reader.binary("will message")
    return Will(topic=topic, payload=payload, qos=(flags & WILL_QOS) >> 3, retain=bool(flags & WILL_RETAIN))
