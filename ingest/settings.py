"""Settings of the listeners (`[mqtt]`, `[tcp]`) and of routing (`[[routes]]`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from commitlog.durability import DurabilityName
from core.settings import Section, quantity
from core.units import DurationS, SizeBytes

Port = Annotated[int, Field(ge=0, le=65535)] | Literal["auto"]
"""A port number; 0 = listener off; `auto` = any free port (the real one stands in `<data>/run/ports.json`)."""


def listener_durability() -> Any:
    """The field that every listener has."""
    return Field(
        None, description="When its records are acknowledged (see `log.durability`, which it is if not given)."
    )


class MqttSettings(Section):
    """The MQTT listener. Every limit is per box unless it says per connection."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback until credentials exist.")
    port: Port = Field(1883, description="Port; 0 turns the listener off, `auto` takes any free one.")
    max_connections: int = Field(20_000, ge=1, description="Connections at most; further ones are closed at once.")
    max_packet_size_bytes: SizeBytes = quantity(
        "1MB",
        alias="max_packet_size",
        ge=1024,
        le=4 << 20,
        description="Largest packet a client may send; a commit has to hold it (`log.journal_size`).",
    )
    connect_timeout_s: DurationS = quantity(
        "10s", alias="connect_timeout", gt=0, description="Time a new connection has to send its CONNECT."
    )
    max_keep_alive_s: DurationS = quantity(
        "28h",
        alias="max_keep_alive",
        gt=0,
        description="Silence after which a client is taken for dead whatever keep-alive it asked for. The default is "
        "longer than 1.5 times the longest keep-alive there is.",
    )
    max_topics_per_connection: int = Field(
        10_000,
        ge=1,
        description="MQTT topics remembered per connection; beyond it the memory "
        "is started anew (slower, never refused).",
    )
    durability: DurabilityName | None = listener_durability()


class TcpSettings(Section):
    """The raw TCP listener: one JSON object per line."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback until credentials exist.")
    port: Port = Field(9000, description="Port; 0 turns the listener off, `auto` takes any free one.")
    topic: str = Field("telemetry", description="Topic the lines are appended to.")
    max_connections: int = Field(20_000, ge=1, description="Connections at most; further ones are closed at once.")
    max_line_size_bytes: SizeBytes = quantity(
        "256KB",
        alias="max_line_size",
        ge=64,
        le=4 << 20,
        description="Longest line; longer ones are refused. A commit has to hold it (`log.journal_size`).",
    )
    idle_timeout_s: DurationS = quantity(
        "15m", alias="idle_timeout", gt=0, description="Silence after which a connection is closed."
    )
    durability: DurabilityName | None = listener_durability()


class RouteSettings(Section):
    """One route: an MQTT topic filter with captures, and where what it matches goes."""

    filter: str = Field(
        description="MQTT topic filter; a level may be a capture: {device}, {field} or any other {name}."
    )
    topic: str = Field(
        "telemetry", pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="Topic of the log that records go to."
    )
    device: str | None = Field("{device}", description="Template of the device id; none if it has no device.")
    key: str | None = Field(None, description="Template of the record key; the device id if not given.")
    field: str | None = Field(None, description="Template of the column a scalar payload goes to; `value` if none.")


DEFAULT_ROUTES = (RouteSettings(filter="devices/{device}/#"),)
