"""All settings of an appliance, in one frozen value, and how they are gathered and checked.

A setting is one key of one section (`[log] commit_interval`), with its unit in the value. It is given in a TOML file,
as an environment variable (`HEADRACE_LOG__COMMIT_INTERVAL`), or on the command line (`--set log.commit_interval=5ms`);
the later of these wins. `load_settings` reads and checks all of them once, in the process that a person started; child
processes get the result as JSON (`Settings.to_json`, `Settings.from_json`) and look at no file or environment, so that
all processes of a box agree.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from api.settings import HttpSettings
from appliance.config_errors import bad_values, given_at
from appliance.config_keys import key_tree, public_tree
from appliance.config_sources import (
    Collected,
    Problem,
    raise_problems,
    read_environment,
    read_file,
    read_overrides,
)
from appliance.toml_lines import TomlPath
from commitlog.durability import DurabilityName, weaker_levels
from commitlog.settings import LogSettings, TopicSettings, topic_mistakes
from core.errors import ConfigError
from core.settings import Section
from core.units import format_duration_ms
from ingest.routing import Route
from ingest.settings import DEFAULT_ROUTES, MqttSettings, Port, RouteSettings, TcpSettings
from retention.limits import TopicLimits
from retention.settings import RetentionSettings
from sink.settings import SinkSettings

LISTENERS: Final = ("mqtt", "tcp", "http")
"""Sections with a host and a port."""
MQTT_WEBSOCKET: Final = "mqtt_ws"
"""The name under which the MQTT listener's port for WebSocket is published."""


class LoggingSettings(Section):
    """What the processes say of themselves, on standard error."""

    format: Literal["auto", "console", "json"] = Field(
        "auto", description="`console` for people, `json` one object a line; `auto`: console on a terminal, else json."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is written.")


class SecuritySettings(Section):
    """Who may reach the box while it has no credentials."""

    allow_anonymous_network: bool = Field(
        False,
        description="Lets listeners use other addresses than loopback; anybody who reaches them can write and read.",
    )


class Settings(Section):
    """Every setting of an appliance."""

    data_dir: Path = Field(Path("headrace-data"), description="Directory that holds the log, the lake and all state.")
    allow_network_filesystem: bool = Field(
        False,
        description="Start even where the data directory is on a network file system, whose fsync and locks "
        "may promise what they do not keep.",
    )
    log: LogSettings = Field(default_factory=LogSettings)
    mqtt: MqttSettings = Field(default_factory=MqttSettings)
    tcp: TcpSettings = Field(default_factory=TcpSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    sink: SinkSettings = Field(default_factory=SinkSettings)
    security: SecuritySettings = Field(default_factory=SecuritySettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    routes: tuple[RouteSettings, ...] = Field(
        DEFAULT_ROUTES,
        max_length=1000,
        description="Where MQTT messages go, by MQTT topic; the first route that matches decides. Giving any "
        "replaces the default one.",
    )
    topics: tuple[TopicSettings, ...] = Field(
        (), max_length=1024, description="What single topics of the log do differently."
    )

    def weaker_durability(self) -> Mapping[str, DurabilityName]:
        """Where acknowledged does not mean synced, and what it means there."""
        listeners = {"mqtt": self.mqtt.durability, "tcp": self.tcp.durability}
        return weaker_levels(self.log.durability, listeners, [(topic.name, topic.durability) for topic in self.topics])

    def to_json(self) -> str:
        """The settings as JSON, keys and units as in a settings file; `from_json` makes an equal value of it."""
        return json.dumps(public_tree(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """What `to_json` wrote. Raises ConfigError when it is something else."""
        try:
            return cls.model_validate(json.loads(text))
        except (ValidationError, json.JSONDecodeError) as error:
            raise ConfigError(f"not settings as JSON: {error}", where="settings handed to this process") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """The settings, and for each that somebody gave (by dotted name) where it was given."""

    settings: Settings
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListeningPort:
    """A port that is to be listened on. `name` is the one under which it is published in `ports.json`."""

    name: str
    section: str
    key: str
    host: str
    port: Port

    @property
    def setting(self) -> str:
        """The setting's dotted name."""
        return f"{self.section}.{self.key}"


def listening_ports(settings: Settings) -> Sequence[ListeningPort]:
    """Every port that these settings switch on."""
    sections = [(name, getattr(settings, name)) for name in LISTENERS]
    ports = [
        ListeningPort(name=name, section=name, key="port", host=section.host, port=section.port)
        for name, section in sections
    ]
    mqtt = settings.mqtt
    ports.append(
        ListeningPort(name=MQTT_WEBSOCKET, section="mqtt", key="websocket_port", host=mqtt.host, port=mqtt.websocket)
    )
    return [port for port in ports if port.port != 0]


def load_settings(
    config: Path | None = None,
    data_dir: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """The checked settings of a TOML file, the environment, and `section.key=value` overrides; the later wins.

    `data_dir`, where given, is the strongest. Raises ConfigError that lists every mistake found.
    """
    return load_with_origins(config, data_dir, overrides, environ=environ).settings


def load_with_origins(
    config: Path | None = None,
    data_dir: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] = os.environ,
) -> LoadedSettings:
    """`load_settings`, with where each value came from."""
    found = Collected(tree=key_tree(Settings))
    if config is not None:
        read_file(config, found)
    read_environment(environ, found)
    read_overrides(overrides, found)
    if data_dir is not None:
        found.add_table({"data_dir": data_dir}, lambda _at: f"--data-dir {data_dir}")
    try:
        settings = Settings.model_validate(found.nested())
    except ValidationError as error:
        raise_problems([*found.problems, *bad_values(error, found)])
        raise  # not reached: a validation error has at least one detail
    raise_problems([*found.problems, *_bad_combinations(settings, found)])
    return LoadedSettings(settings=settings, origins={".".join(p): given.where for p, given in found.given.items()})


def _bad_combinations(settings: Settings, found: Collected) -> Iterator[Problem]:
    """What is wrong although each value alone is right."""
    yield from _routes_that_cannot_work(settings, found)
    yield from _repeated(found, "routes", "filter", [route.filter for route in settings.routes])
    yield from _repeated(found, "topics", "name", [topic.name for topic in settings.topics])
    yield from _fields_that_cannot_be(settings, found)
    yield from _larger_than_a_commit(settings, found)
    yield from _younger_than_a_window(settings, found)
    yield from _marks_out_of_order(settings, found)
    ports = listening_ports(settings)
    if not settings.security.allow_anonymous_network:
        for name in dict.fromkeys(port.section for port in ports):
            yield from _open_to_network(name, settings, found)
    yield from _same_port(ports, found)


def _routes_that_cannot_work(settings: Settings, found: Collected) -> Iterator[Problem]:
    for number, route in enumerate(settings.routes):
        try:
            Route(route)
        except ConfigError as error:
            yield Problem(what=error.what, where=_where(found, ("routes", number, "filter")), mend=error.mend)


def _repeated(found: Collected, table: str, key: str, values: Sequence[str]) -> Iterator[Problem]:
    for value, count in Counter(values).items():
        if count > 1:
            last = len(values) - 1 - values[::-1].index(value)
            yield Problem(
                what=f"[[{table}]] has {count} entries with {key} = {value!r}",
                where=_where(found, (table, last, key)),
                mend=f"keep one of them: each {key} stands once",
            )


def _fields_that_cannot_be(settings: Settings, found: Collected) -> Iterator[Problem]:
    for number, topic in enumerate(settings.topics):
        for mistake in topic_mistakes(topic):
            where = _where(found, ("topics", number, *mistake.at))
            yield Problem(what=f"topic {topic.name!r}: {mistake.what}", where=where, mend=mistake.mend)


def _larger_than_a_commit(settings: Settings, found: Collected) -> Iterator[Problem]:
    limit_bytes = settings.log.record_limit_bytes
    for section, key, size_bytes in (
        ("mqtt", "max_packet_size", settings.mqtt.max_packet_size_bytes),
        ("tcp", "max_line_size", settings.tcp.max_line_size_bytes),
    ):
        if size_bytes > limit_bytes:
            yield Problem(
                what=f"{section}.{key} is {size_bytes >> 10} KB, and with log.journal_size = "
                f"{settings.log.journal_size_bytes >> 20} MB a reading may have {limit_bytes >> 10} KB",
                where=_where(found, (section, key)),
                mend="raise log.journal_size: three eighths of what checkpoint_bytes leaves of it are for one reading",
            )


def _younger_than_a_window(settings: Settings, found: Collected) -> Iterator[Problem]:
    """Windows that would expire before they close."""
    limits = TopicLimits(settings.retention, settings.topics)
    topics = {f"topic {topic.name!r}": (limits.of(topic.name), number) for number, topic in enumerate(settings.topics)}
    every = TopicLimits(settings.retention).of("")
    for name, (own, number) in {"the log": (every, None), **topics}.items():
        if not own.max_age_ms or own.max_age_ms >= own.roll_interval_ms:
            continue
        if number is not None and (own.max_age_ms, own.roll_interval_ms) == (every.max_age_ms, every.roll_interval_ms):
            continue  # said already
        section: TomlPath = ("retention",) if number is None else ("topics", number)
        given = next((key for key in ("max_age", "roll_interval") if given_at((*section, key), found)), "max_age")
        yield Problem(
            what=f"{name} is kept for {format_duration_ms(own.max_age_ms)}, and its windows "
            f"close every {format_duration_ms(own.roll_interval_ms)}",
            where=_where(found, (*section, given)),
            mend="max_age must be at least roll_interval: whole windows expire, or 0 for never",
        )


def _marks_out_of_order(settings: Settings, found: Collected) -> Iterator[Problem]:
    low, high = settings.retention.low_mark_percent, settings.retention.high_mark_percent
    if low >= high:
        paths: list[TomlPath] = [("retention", "low_mark_percent"), ("retention", "high_mark_percent")]
        yield Problem(
            what=f"retention.low_mark_percent is {low}, and retention.high_mark_percent is {high}",
            where=_where(found, next((path for path in paths if given_at(path, found)), paths[0])),
            mend="the low mark must be below the high mark: deleting goes on until it is reached",
        )


def _open_to_network(name: str, settings: Settings, found: Collected) -> Iterator[Problem]:
    host = getattr(settings, name).host
    if not is_loopback(host):
        yield Problem(
            what=f"{name}.host = {host!r} is not a loopback address, and the box has no credentials yet",
            where=_where(found, (name, "host")),
            mend=f'keep {name}.host = "127.0.0.1", or set security.allow_anonymous_network = true '
            "to let everybody in who reaches that address",
        )


def _same_port(ports: Sequence[ListeningPort], found: Collected) -> Iterator[Problem]:
    taken: dict[int, str] = {}
    for at in ports:
        if isinstance(at.port, int) and (other := taken.setdefault(at.port, at.setting)) != at.setting:
            yield Problem(
                what=f"{at.setting} and {other} are both {at.port}",
                where=_where(found, (at.section, at.key)),
                mend=f"give {at.setting} another number, or `auto` for any free one",
            )


def _where(found: Collected, at: TomlPath) -> str:
    given = given_at(at, found)
    return given.locate(at) if given else "defaults"


def is_loopback(host: str) -> bool:
    """Whether a listener on `host` can be reached from this machine only. Names other than localhost count as not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
