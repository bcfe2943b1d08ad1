from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config_keys import public_fields
from appliance.config_sources import MAX_CONFIG_BYTES, variable_of
from appliance.config_text import render_toml, toml_value
from appliance.settings import Settings, is_loopback, listening_ports, load_settings, load_with_origins
from core.errors import ConfigError
from ingest.settings import DEFAULT_ROUTES
from sink.settings import SinkSettings
from tests.conftest import REQUIRE_VARIABLE


def load(
    tmp_path: Path,
    toml: str | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
) -> Settings:
    config = None
    if toml is not None:
        config = tmp_path / "headrace.toml"
        config.write_text(toml, encoding="utf-8")
    return load_settings(config, data_dir, overrides, environ=environ or {})


def refused(
    tmp_path: Path, toml: str | None = None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml, overrides, environ)
    return caught.value


# ---- sources


def test_without_any_source_all_is_default(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings == Settings()
    assert settings.data_dir == Path("headrace-data")
    assert settings.log.commit_interval_ms == 10
    assert settings.routes == DEFAULT_ROUTES
    assert settings.topics == ()


def test_each_source_is_read(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[log]\ncommit_interval = "3ms"\n[[topics]]\nname = "telemetry"\npartitions = 2\n',
        ["mqtt.port=auto", "retention.roll_interval=15s", "sink.enabled=false"],
        {"HEADRACE_LOG__SEGMENT_SIZE": "1MB", "HEADRACE_TCP__PORT": "9001", "OTHER": "x"},
    )
    assert settings.log.commit_interval_ms == 3
    assert settings.topics[0].partitions == 2
    assert settings.mqtt.port == "auto"
    assert settings.retention.roll_interval_ms == 15_000
    assert settings.sink.enabled is False
    assert settings.log.segment_size_bytes == 1 << 20
    assert settings.tcp.port == 9001


def test_later_sources_win(tmp_path: Path) -> None:
    toml = "[log]\npartitions = 1\n"
    environ = {"HEADRACE_LOG__PARTITIONS": "2", "HEADRACE_DATA_DIR": "from-environment"}
    assert load(tmp_path, toml).log.partitions == 1
    assert load(tmp_path, toml, (), environ).log.partitions == 2
    assert load(tmp_path, toml, ["log.partitions=3"], environ).log.partitions == 3
    assert load(tmp_path, toml, ["log.partitions=3", "log.partitions=4"], environ).log.partitions == 4
    assert load(tmp_path, toml, (), environ).data_dir == Path("from-environment")
    assert load(tmp_path, None, ["data_dir=set"], environ, Path("option")).data_dir == Path("option")


def test_arrays_of_tables_are_replaced_as_a_whole(tmp_path: Path) -> None:
    toml = '[[routes]]\nfilter = "a/{device}"\n[[routes]]\nfilter = "b/{device}"\n'
    assert [route.filter for route in load(tmp_path, toml).routes] == ["a/{device}", "b/{device}"]
    routes = load(tmp_path, toml, ['routes=[{filter = "c/{device}", topic = "t"}]']).routes
    assert [(route.filter, route.topic) for route in routes] == [("c/{device}", "t")]
    topics = load(tmp_path, environ={"HEADRACE_TOPICS": '[{name = "a"}, {name = "b"}]'}).topics
    assert [topic.name for topic in topics] == ["a", "b"]


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"HEADRACE_DATA_DIR": "", "HEADRACE_LOG__PARTITIONS": ""}) == Settings()


def test_variables_of_the_tests_are_no_settings(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1].rglob("*.py")
    used = {name for path in tests for name in re.findall(r'environ\.get\(\s*"(HEADRACE_\w+)"', path.read_text())}
    used.add(REQUIRE_VARIABLE)
    assert "HEADRACE_KILL_ROUNDS" in used
    assert load(tmp_path, environ=dict.fromkeys(used, "50")) == Settings()


@pytest.mark.parametrize(
    ("text", "value"),
    [("2024", "2024"), ("true", "true"), ('"quoted dir"', "quoted dir"), ("2024-01-01", "2024-01-01"), ("a=b", "a=b")],
)
def test_a_text_setting_stays_text(tmp_path: Path, text: str, value: str) -> None:
    assert load(tmp_path, None, [f"data_dir={text}"]).data_dir == Path(value)


def test_a_value_cannot_bring_another_key_along(tmp_path: Path) -> None:
    error = refused(tmp_path, None, ["log.partitions=1\nother = 2"])
    assert "log.partitions" in error.what


def test_origins_name_the_source_of_what_was_given(tmp_path: Path) -> None:
    config = tmp_path / "box.toml"
    config.write_text('# a comment\n[log]\npartitions = 4\n\n[[topics]]\nname = "x"\n')
    loaded = load_with_origins(
        config,
        Path("d"),
        ["log.commit_interval=5ms"],
        environ={"HEADRACE_MQTT__PORT": "1884", "HEADRACE_DATA_DIR": "e"},
    )
    assert loaded.origins == {
        "log.partitions": f"{config}, line 3",
        "topics": f"{config}, line 5",
        "mqtt.port": "environment variable HEADRACE_MQTT__PORT",
        "log.commit_interval": "--set log.commit_interval=5ms",
        "data_dir": "--data-dir d",
    }


# ---- refusals


@pytest.mark.parametrize(
    ("toml", "what", "line", "mend"),
    [
        ("\n[log]\ncommit_intervall = '1ms'\n", "log.commit_intervall", 3, "log.commit_interval"),
        ("[log]\ncommit_interval_ms = 5\n", "log.commit_interval_ms", 2, "log.commit_interval"),
        ("log.partition = 5\n", "log.partition", 1, "log.partitions"),
        ("[mqqt]\nport = 1\n", "mqqt", 1, "mqtt"),
        ("roll_interval = '1h'\n", "roll_interval", 1, "retention.roll_interval"),
        ("[[routes]]\nfilter='a'\n[[routes]]\nfilter='b'\ntopics='c'\n", "topics", 5, "topic"),
        ("topics = [\n  {name = 'a', partition = 4},\n]\n", "partition", 1, "partitions"),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_nearest(
    tmp_path: Path, toml: str, what: str, line: int, mend: str
) -> None:
    error = refused(tmp_path, toml)
    assert f"unknown setting `{what}`" in error.what
    assert error.where == f"{tmp_path / 'headrace.toml'}, line {line}"
    assert f"did you mean `{mend}`?" in error.mend
    assert error.exit_code == 2


def test_a_key_like_no_other_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    error = refused(tmp_path, "[sink]\nzzzzqq = 1\n")
    assert error.mend == f"known here: {', '.join(sorted(public_fields(SinkSettings)))}"
    assert "max_clock_ahead" in error.mend


@pytest.mark.parametrize(
    ("variable", "mend"),
    [
        ("HEADRACE_LOG_COMMIT_INTERVAL", "HEADRACE_LOG__COMMIT_INTERVAL"),
        ("HEADRACE_DATADIR", "HEADRACE_DATA_DIR"),
        ("HEADRACE_MQTT__PROT", "HEADRACE_MQTT__PORT"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(tmp_path: Path, variable: str, mend: str) -> None:
    error = refused(tmp_path, environ={variable: "5"})
    assert error.what == f"unknown setting {variable}"
    assert error.where == f"environment variable {variable}"
    assert error.mend == f"did you mean {mend}?"


def test_an_unknown_override_is_refused_with_the_nearest(tmp_path: Path) -> None:
    error = refused(tmp_path, None, ["tcp.prot=auto"])
    assert (error.what, error.where, error.mend) == (
        "unknown setting `tcp.prot`",
        "--set tcp.prot=auto",
        "did you mean `tcp.port`?",
    )


@pytest.mark.parametrize("override", ["mqtt.port", "=5", "mqtt..port=5", "", ".=1"])
def test_an_override_without_a_key_or_value_is_refused(tmp_path: Path, override: str) -> None:
    error = refused(tmp_path, None, [override])
    assert error.where == f"--set {override}"
    assert "section.key=value" in error.mend


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("log.partitions=0", "must be at least 1"),
        ("log.commit_interval=20s", "must be at most 10s"),
        ("log.commit_interval=5", "5 has no unit"),
        ("log.segment_size=1KB", "must be at least 64KB"),
        ("mqtt.connect_timeout=0s", "must be more than 0"),
        ("mqtt.port=70000", "must be at most 65535, or should be 'auto'"),
        ("mqtt.port=any", "or should be 'auto'"),
        ("mqtt.port=true", "is true"),
        ("sink.enabled=perhaps", "valid boolean"),
        ("logging.level=loud", "'debug', 'info', 'warning' or 'error'"),
        ("sink=5", "is a section of settings"),
        ("topics=5", "is not an array of tables"),
        ("topics=[5]", "is not an array of tables"),
        ("topics=[{partitions = 4}]", "topics[0].name: field required"),
        ('topics=[{name = "no spaces"}]', "topics[0].name"),
    ],
)
def test_a_bad_value_is_refused_with_its_reason_and_place(tmp_path: Path, override: str, reason: str) -> None:
    error = refused(tmp_path, None, [override])
    assert reason in error.what
    assert error.where == f"--set {override}"
    assert error.mend
    assert "\n" not in error.what


def test_all_mistakes_are_listed_each_with_its_place(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        "[log]\npartitions = 0\npartition = 5\n[tcp]\nport = -1\n",
        ["mqtt.prot=1"],
        {"HEADRACE_SINK__RETRY_MAX": "soon"},
    )
    first, *listed = error.what.splitlines()
    assert first == "5 settings cannot be used:"
    for part in ("log.partitions = 0", "`log.partition`", "tcp.port = -1", "`mqtt.prot`", "sink.retry_max = 'soon'"):
        assert sum(part in line for line in listed) == 1, part
    assert "line 2" in error.what
    assert error.where == (
        f"{tmp_path / 'headrace.toml'}; --set mqtt.prot=1; environment variable HEADRACE_SINK__RETRY_MAX"
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[log\n", "not valid TOML"),
        (b"commit = 10ms\n", "not valid TOML"),
        (b"a = 1\na = 2\n", "not valid TOML"),
        (b"name = '\xff'\n", "not UTF-8"),
        (b"#" * (MAX_CONFIG_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    config = tmp_path / "bad.toml"
    config.write_bytes(content)
    with pytest.raises(ConfigError, match=what) as caught:
        load_settings(config, environ={})
    assert str(config) in caught.value.where


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the settings file") as caught:
        load_settings(tmp_path / name, environ={})
    assert caught.value.where == str(tmp_path / name)


# ---- combinations


@pytest.mark.parametrize("section", ["mqtt", "tcp", "http"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.example"])
def test_anonymous_listeners_stay_on_loopback(tmp_path: Path, section: str, host: str) -> None:
    error = refused(tmp_path, None, [f"{section}.host={host}"])
    assert f"{section}.host = {host!r} is not a loopback address" in error.what
    assert "security.allow_anonymous_network = true" in error.mend
    allowed = load(tmp_path, None, [f"{section}.host={host}", "security.allow_anonymous_network=true"])
    assert getattr(allowed, section).host == host


def test_a_listener_that_is_off_may_name_any_host(tmp_path: Path) -> None:
    assert load(tmp_path, None, ["tcp.host=0.0.0.0", "tcp.port=0"]).tcp.host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost"])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.example"])
def test_other_hosts(host: str) -> None:
    assert not is_loopback(host)


def test_a_route_that_cannot_work_is_refused_where_it_stands(tmp_path: Path) -> None:
    error = refused(tmp_path, '[[routes]]\nfilter = "a/{device}"\n[[routes]]\ntopic = "t"\nfilter = "b/#/c"\n')
    assert "the route 'b/#/c' cannot be used" in error.what
    assert error.where.endswith("line 5")


def test_two_listeners_on_one_port_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, None, ["http.port=1883"])
    assert error.what == "http.port and mqtt.port are both 1883"
    load(tmp_path, None, ["http.port=0", "tcp.port=0", "mqtt.port=auto"])
    error = refused(tmp_path, None, ["tcp.port=8083"])
    assert error.what == "mqtt.websocket_port and tcp.port are both 8083"
    load(tmp_path, None, ["tcp.port=8083", "mqtt.websocket_port=0"])


@pytest.mark.parametrize(
    ("given", "port"),
    [
        ([], 8083),
        (["mqtt.port=2883"], 8083),
        (["mqtt.port=0"], 0),
        (["mqtt.port=auto"], "auto"),
        (["mqtt.port=0", "mqtt.websocket_port=9001"], 9001),
        (["mqtt.websocket_port=0"], 0),
    ],
)
def test_the_websocket_port_goes_with_the_listeners(tmp_path: Path, given: list[str], port: object) -> None:
    settings = load(tmp_path, None, given)
    assert settings.mqtt.websocket == port
    assert [at.port for at in listening_ports(settings) if at.name == "mqtt_ws"] == ([port] if port else [])
    assert Settings.from_json(settings.to_json()).mqtt == settings.mqtt


def test_a_websocket_alone_has_to_stay_on_loopback_too(tmp_path: Path) -> None:
    error = refused(tmp_path, None, ["mqtt.port=0", "mqtt.websocket_port=9001", "mqtt.host=0.0.0.0"])
    assert "mqtt.host = '0.0.0.0' is not a loopback address" in error.what


@pytest.mark.parametrize("mode", ["rw", "0999", "01777", "7"])
def test_modes_are_octal(tmp_path: Path, mode: str) -> None:
    assert "unix_socket_mode" in refused(tmp_path, None, [f"mqtt.unix_socket_mode='{mode}'"]).where


def test_a_packet_that_no_commit_holds_is_refused(tmp_path: Path) -> None:
    small = ["log.journal_size=4MB", "log.pending_bytes=1MB", "log.checkpoint_bytes=1MB"]
    load(tmp_path, None, small)
    error = refused(tmp_path, None, [*small, "mqtt.max_packet_size=2MB"])
    assert error.what == "mqtt.max_packet_size is 2048 KB, and with log.journal_size = 4 MB a reading may have 1152 KB"
    assert "raise log.journal_size" in error.mend
    error = refused(tmp_path, None, [*small, "tcp.max_line_size=2MB"])
    assert error.what.startswith("tcp.max_line_size is 2048 KB")
    load(tmp_path, None, ["mqtt.max_packet_size=4MB", "tcp.max_line_size=4MB"])


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ('[[routes]]\nfilter = "a/{device}"\n[[routes]]\nfilter = "a/{device}"\n', 4),
        ('[[topics]]\nname = "a"\n\n[[topics]]\nname = "b"\n[[topics]]\nname = "a"\n', 7),
    ],
)
def test_repeated_entries_are_refused_at_the_later_one(tmp_path: Path, toml: str, line: int) -> None:
    error = refused(tmp_path, toml)
    assert "has 2 entries" in error.what
    assert error.where.endswith(f"line {line}")


# ---- handing on


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().log.partitions = 3  # type: ignore[misc]


def test_json_carries_public_keys_with_units() -> None:
    text = Settings().to_json()
    assert '"commit_interval": "10ms"' in text
    assert '"roll_bytes": "1GB"' in text
    assert "_ms" not in text


def test_json_that_is_no_settings_is_refused() -> None:
    for text in ("", "[]", '{"log": {"commit_interval": 10}}', '{"logg": {}}'):
        with pytest.raises(ConfigError, match="not settings as JSON"):
            Settings.from_json(text)


ports = st.one_of(st.just("auto"), st.integers(0, 65535))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


declared_fields = st.fixed_dictionaries(
    {"name": texts.filter(bool), "type": st.sampled_from(["double", "list<string>", "json"])},
    optional={"unit": texts, "description": texts, "required": st.booleans()},
)


@st.composite
def some_settings(draw: st.DrawFn) -> Settings:
    milliseconds = st.integers(1, 10_000).map(lambda count: f"{count}ms")
    return Settings.model_validate(
        {
            "data_dir": draw(texts.filter(lambda text: "\0" not in text)),
            "log": {"commit_interval": draw(milliseconds), "segment_size": f"{draw(st.integers(65536, 1 << 30))}b"},
            "mqtt": {"port": draw(ports), "connect_timeout": draw(milliseconds), "host": draw(texts)},
            "sink": {"enabled": draw(st.booleans())},
            "topics": draw(
                st.lists(
                    st.fixed_dictionaries(
                        {"name": st.from_regex(r"[a-z]{1,9}", fullmatch=True), "timestamp_field": texts},
                        optional={
                            "partitions": st.integers(1, 256),
                            "decoder": st.sampled_from(["json", "raw"]),
                            "fields": st.lists(declared_fields, max_size=3),
                        },
                    ),
                    max_size=3,
                )
            ),
            "routes": [{"filter": draw(texts), "device": draw(texts), "key": draw(st.none() | texts)}],
        }
    )


@given(some_settings())
def test_json_round_trip(settings: Settings) -> None:
    assert Settings.from_json(settings.to_json()) == settings


@given(some_settings())
def test_what_is_shown_as_toml_reads_back(settings: Settings) -> None:
    shown = render_toml(settings, {"log.commit_interval": "--set x=\ny", "routes": "a file, line 3"})
    again = Settings.model_validate(tomllib.loads(shown))
    assert again == settings


@given(st.recursive(st.booleans() | st.integers() | texts, lambda inner: st.lists(inner, max_size=3)))
def test_toml_values_read_back(value: object) -> None:
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value


def test_variable_names() -> None:
    assert variable_of(("log", "commit_interval")) == "HEADRACE_LOG__COMMIT_INTERVAL"
    assert variable_of(("data_dir",)) == "HEADRACE_DATA_DIR"


FIELDS = """\
[[topics]]
name = "a"
{}
[[topics]]
name = "b"
[[topics.fields]]
name = "first"
type = "double"
[[topics.fields]]
{}
"""


@pytest.mark.parametrize(
    ("first", "second", "what", "line"),
    [
        ("", 'name = "x"\ntyp = "double"', "unknown setting `typ` in [[topics.fields]]", 11),
        ("", 'name = "x"\ntype = "float"', "topics[1].fields[1].type", 11),
        ("", 'name = "x"', "topics[1].fields[1].type: field required", 9),
        ("", 'name = "first"\ntype = "bool"', "topic 'b': field 'first' is declared twice", 10),
        ("", 'name = "first.x"\ntype = "bool"', "field 'first.x' is inside of field 'first'", 10),
        ("", 'name = "ts"\ntype = "int64"', "field 'ts' is the topic's timestamp_field", 10),
        ('decoder = "raw"\nunknown_fields = "quarantine"', 'name = "x"\ntype = "bool"', "have no fields", 4),
        ("fields = 5", 'name = "x"\ntype = "bool"', "`topics.fields` is not an array of tables", 3),
        ("fields = [{nam = 1}]", 'name = "x"\ntype = "bool"', "unknown setting `nam` in [[topics.fields]]", 3),
    ],
)
def test_mistakes_in_declared_fields_are_named_with_their_line(
    tmp_path: Path, first: str, second: str, what: str, line: int
) -> None:
    error = refused(tmp_path, FIELDS.format(first, second))
    assert what in error.what
    assert error.where.endswith(f"line {line}")


def test_declared_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "h.toml"
    path.write_text(FIELDS.format("", 'name = "motor.temp"\ntype = "list<int64>"\nunit = "°C"\nrequired = true'))
    topic = load_settings(path, environ={}).topics[1]
    assert [(field.name, field.type, field.unit, field.required) for field in topic.fields] == [
        ("first", "double", "", False),
        ("motor.temp", "list<int64>", "°C", True),
    ]
