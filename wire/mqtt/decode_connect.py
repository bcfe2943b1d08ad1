"""CONNECT and CONNACK, sections 3.1 and 3.2. CONNECT is the one packet whose fields decide which others there are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from wire.mqtt import property_codec
from wire.mqtt.clauses import CLAUSES, LEVEL_3_1_1, LEVEL_5, LEVELS
from wire.mqtt.errors import MalformedPacketError, ProtocolError, UnacceptableLevelError
from wire.mqtt.fields import PacketReader
from wire.mqtt.packets import ConnAck, Connect, Will
from wire.mqtt.properties import NO_CONNACK_PROPERTIES, NO_CONNECT_PROPERTIES, NO_WILL_PROPERTIES
from wire.mqtt.reasons import REASON_OF_RETURN_CODE, REASONS, PacketType, ReasonCode
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
_VERSIONS: Final = {LEVEL_3_1_1: "3.1.1", LEVEL_5: "5.0"}


def decode_connect(packet: bytes, body: int, offered: Collection[int] = LEVELS) -> Connect:
    """A CONNECT whose variable header begins at `body`, of a level in `offered`.

    Raises ProtocolError; UnacceptableLevelError before anything behind the level is looked at.
    """
    reader = _reader_of_level(packet, body, offered)
    at = reader.at
    flags = reader.byte("connect flags")
    _check_connect_flags(flags, at, reader)
    keep_alive_s = reader.uint16("keep alive")
    properties = NO_CONNECT_PROPERTIES
    if reader.level == LEVEL_5:
        properties, reader.at = property_codec.CONNECT.read(packet, reader.at, len(packet))
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
        protocol_level=reader.level,
        properties=properties,
    )


def _reader_of_level(packet: bytes, body: int, offered: Collection[int]) -> PacketReader:
    reader = PacketReader(packet, body)
    at = reader.at
    name = reader.string("protocol name")
    if name not in (PROTOCOL_NAME, _OLDER_PROTOCOL_NAME):
        clauses = CLAUSES[LEVEL_5 if packet[reader.at : reader.at + 1] == b"\x05" else LEVEL_3_1_1]
        what = f"the protocol name is {name[:20]!a}"
        code = ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        raise ProtocolError(clauses.protocol_name, what, offset=at, reason_code=code)
    at = reader.at
    level = reader.byte("protocol level")
    if name != PROTOCOL_NAME or level not in offered:
        versions = " or ".join(f"{_VERSIONS[known]} (level {known})" for known in sorted(offered))
        raise UnacceptableLevelError(
            CLAUSES[LEVEL_3_1_1 if level & 0x7F <= LEVEL_5 else LEVEL_5].protocol_level,
            f"the client speaks {name} level {level}",
            level=level,
            offset=at,
            mend=f"set the client to MQTT {versions}",
        )
    return reader if level == LEVEL_3_1_1 else PacketReader(packet, reader.at, level)


def _check_connect_flags(flags: int, at: int, reader: PacketReader) -> None:
    clauses = reader.clauses
    for broken, clause, what in (
        (flags & RESERVED, clauses.connect_reserved, "the reserved connect flag is set"),
        (not flags & WILL and flags & WILL_QOS, clauses.will_qos_without_will, "a will QoS without a will"),
        (flags & WILL_QOS == WILL_QOS, clauses.will_qos, "the will QoS is 3"),
        (not flags & WILL and flags & WILL_RETAIN, clauses.will_retain_without_will, "will retain without a will"),
    ):
        if broken:
            raise MalformedPacketError(clause, what, offset=at)
    if reader.level == LEVEL_3_1_1 and flags & PASSWORD and not flags & USER_NAME:  # 5.0 allows it
        raise MalformedPacketError("MQTT-3.1.2-22", "a password without a user name", offset=at)


def _read_will(reader: PacketReader, flags: int) -> Will:
    properties = NO_WILL_PROPERTIES
    if reader.level == LEVEL_5:
        properties, reader.at = property_codec.WILL.read(reader.packet, reader.at, len(reader.packet))
    topic = reader.string("will topic")  # [MQTT-3.1.2-9] [MQTT-3.1.3-10] [MQTT5-3.1.2-9] [MQTT5-3.1.3-11]
    check_topic_name(topic, reader.level)
    payload = reader.binary("will message")
    qos = (flags & WILL_QOS) >> 3
    return Will(topic=topic, payload=payload, qos=qos, retain=bool(flags & WILL_RETAIN), properties=properties)


def decode_connack(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> ConnAck:
    """A CONNACK, section 3.2."""
    reader = PacketReader(packet, body, level)
    clauses = reader.clauses
    flags = reader.byte("acknowledge flags")
    if flags > 1:
        raise MalformedPacketError(clauses.connack_flags, f"the acknowledge flags are {flags:#04x}", offset=body)
    code = reader.byte("reason code")
    reason = (REASON_OF_RETURN_CODE if level == LEVEL_3_1_1 else REASONS[PacketType.CONNACK]).get(code)
    if reason is None:
        fault = MalformedPacketError if level == LEVEL_3_1_1 else ProtocolError
        raise fault(clauses.connack_code, f"{code:#04x} is no code of a CONNACK", offset=body + 1)
    properties = NO_CONNACK_PROPERTIES
    if level == LEVEL_5:
        properties, reader.at = property_codec.CONNACK.read(packet, reader.at, len(packet))
    reader.finish()
    if flags and reason:
        raise MalformedPacketError(clauses.connack_session, "a refusal that claims a present session", offset=body)
    return ConnAck(reason_code=reason, session_present=bool(flags), properties=properties)
