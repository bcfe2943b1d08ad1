"""A fleet whose readings change all the time, on a whole appliance: every value that was sent is found.

Every few readings fields appear, disappear and change their type; some are nested, some are lists; a message may be
several rows, and some cannot be read at all. It has to end in one file per window and date, and value by value the
lake has to have what was sent: what should be there is put down here, when a payload is made, and not decoded by
anything of the appliance.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from sink.parquet.lake import LakeFile, look_at_lake
from tests.e2e.appliance_process import Appliance, appliance

WINDOWS, MESSAGES = 3, 400
DAY_S = 86_400
PATIENCE_S = 30.0
Key = tuple[str, int]
"""MQTT topic, which no two messages share, and row."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message: its rows by number, as values by path, and what is to be refused of it: reason and bytes."""

    payload: bytes
    rows: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    refused: Mapping[int, tuple[str, bytes]] = field(default_factory=dict)


class Drift:
    """Makes messages. What a field holds changes every few of them."""

    def __init__(self, seed: int, now_s: int) -> None:
        self._rng = random.Random(seed)
        self._now_s = now_s
        self._left = 0
        self._era: dict[str, str] = {}

    def message(self, number: int) -> Sent:
        if not self._left:
            names = ["temp", "state", "motor", "tags", f"only_{number}", "mixed", "Temp"]
            self._era = {name: self._rng.choice(list(KINDS)) for name in names if self._rng.random() < 0.7}
            self._left = self._rng.randint(1, 6)
        self._left -= 1
        sorts = [self._one, self._array, self._envelope, self._lines, self._broken]
        (make,) = self._rng.choices(sorts, [70, 8, 8, 7, 7])
        return make(number)

    def _object(self, number: int) -> dict[str, Any]:
        found = {"n": number} | {name: KINDS[kind](self._rng) for name, kind in self._era.items()}
        if self._rng.random() < 0.5:
            found["ts"] = self._now_s - self._rng.choice([0, 0, 0, 2]) * DAY_S
        return found

    def _one(self, number: int) -> Sent:
        made = self._object(number)
        return Sent(text(made), {0: flat(made)})

    def _array(self, number: int) -> Sent:
        items: list[Any] = [self._object(number), 7, self._object(number), "no row"]
        refused = {1: ("not-an-object", b"7"), 3: ("not-an-object", b'"no row"')}
        return Sent(text(items), {0: flat(items[0]), 2: flat(items[2])}, refused)

    def _envelope(self, number: int) -> Sent:
        readings = [self._object(number) for _ in range(self._rng.randint(1, 4))]
        made = {"site": f"hall-{number}", "readings": readings}
        return Sent(text(made), {i: flat(one) | {"site": f"hall-{number}"} for i, one in enumerate(readings)})

    def _lines(self, number: int) -> Sent:
        first, last = self._object(number), self._object(number)
        payload = b"\n".join([text(first), b"{half", text(last)])
        return Sent(payload, {0: flat(first), 2: flat(last)}, {1: ("not-json", b"{half")})

    def _broken(self, number: int) -> Sent:
        reason, payload = self._rng.choice(
            [
                ("not-json", b"ready"),
                ("not-json", b'{"n": %d' % number),
                ("not-json", b'{"n": NaN}'),
                ("invalid-utf8", b'{"n": "\xff"}'),
                ("duplicate-field", b'{"n": 1, "n": 2}'),
                ("no-rows", b"[]"),
            ]
        )
        return Sent(payload, {}, {0: (reason, payload)})


KINDS: Mapping[str, Any] = {
    "int": lambda rng: rng.randint(-1000, 1000),
    "float": lambda rng: rng.uniform(-50, 50),
    "wide": lambda rng: 2**60 + rng.randint(0, 9),
    "huge": lambda rng: 2**70 + rng.randint(0, 9),
    "text": lambda rng: rng.choice(["on", "off", "17", "null", "", "ünïcode"]),
    "bool": lambda rng: rng.random() < 0.5,
    "null": lambda rng: None,
    "ints": lambda rng: [rng.randint(0, 9) for _ in range(rng.randint(0, 3))],
    "floats": lambda rng: [0.5, rng.randint(0, 9), None],
    "texts": lambda rng: ["a", "b"][: rng.randint(1, 2)],
    "mixed list": lambda rng: [1, "a", [2], {"k": None}],
    "object": lambda rng: {"x": rng.randint(0, 9), "axis": {"y": rng.random(), "name": "left"}, "none": {}},
    "other object": lambda rng: {"x": "text", "axis": rng.random()},
}


def text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def flat(made: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Values by path; a time that devices may give is a column of ours."""
    found: dict[str, Any] = {}
    for name, value in made.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{before}{name}.")
        elif value is not None and (before or name != "ts"):
            found[before + name] = value
    return found


# -- the lake


def stored_rows(lake: Path, files: list[LakeFile]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Every row with its values by path, each looked for where its file says that they are."""
    for file in files:
        table = pq.read_table(lake / file.path, partitioning=None).to_pylist()
        for row in table:
            values: dict[str, Any] = {}
            for name, note in file.columns.items():
                cells = [json.loads(row[name]) if note.kind == "json" and row[name] is not None else row[name]]
                if note.other is not None and row[note.other] is not None:
                    cells.append(json.loads(row[note.other]))
                there = [cell for cell in cells if cell is not None]
                assert len(there) <= 1, f"{file.path}: {note.field} has two values: {there}"
                if there:
                    values[note.field] = there[0]
            yield (row["_topic"], row["_row"]), values


def same(one: Any, other: Any) -> bool:
    """Equal, with no text, truth value and number taken for each other."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def publish(box: Appliance, messages: Mapping[str, Sent]) -> None:
    client = Client(CallbackAPIVersion.VERSION2, client_id="drifting")
    client.max_inflight_messages_set(50)
    client.connect("127.0.0.1", box.ports["mqtt"])
    client.loop_start()
    try:
        for sent in [client.publish(topic, message.payload, qos=1) for topic, message in messages.items()]:
            sent.wait_for_publish(PATIENCE_S)
            assert sent.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def test_every_value_that_was_sent_is_found(tmp_path: Path) -> None:
    drift = Drift(23, int(time.time()))
    messages: dict[str, Sent] = {}
    with appliance(tmp_path / "data", ["retention.roll_interval=1h"]) as box:
        box.wait_ready()
        for _ in range(WINDOWS):
            count = len(messages)
            made = {f"devices/press-{n % 9}/{n}": drift.message(n) for n in range(count, count + MESSAGES)}
            publish(box, made)
            messages |= made
            box.export_now()
        assert box.stop() == 0
    assert box.run_command("verify").splitlines()[-1] == "clean"
    lake = box.data_dir / "lake"
    look = look_at_lake(lake, "telemetry")
    assert not look.bad
    files = Counter((file.kind, file.window, file.date) for file in look.files)
    assert set(files.values()) == {1}
    assert len({(kind, window) for kind, window, _ in files}) == 2 * WINDOWS
    _compare_rows(messages, lake, [file for file in look.files if file.kind == "rows"])
    _compare_refused(messages, lake)


def _compare_rows(messages: Mapping[str, Sent], lake: Path, files: list[LakeFile]) -> None:
    expected = {(topic, row): values for topic, sent in messages.items() for row, values in sent.rows.items()}
    stored = dict(stored_rows(lake, files))
    assert stored.keys() == expected.keys()
    assert len(stored) == sum(file.rows for file in files)
    for key, values in expected.items():
        assert stored[key].keys() == values.keys(), key
        for path, value in values.items():
            assert same(stored[key][path], value), f"{key} {path}: {stored[key][path]!r}, and {value!r} was sent"


def _compare_refused(messages: Mapping[str, Sent], lake: Path) -> None:
    expected = {(topic, row): what for topic, sent in messages.items() for row, what in sent.refused.items()}
    with duckdb.connect() as connection:
        sql = f"SELECT _topic, _row, reason, payload FROM read_parquet('{lake}/_quarantine/telemetry/**/*.parquet')"
        found = connection.execute(sql).fetchall()
        assert {(topic, row): (reason, bytes(payload)) for topic, row, reason, payload in found} == expected
        assert len(found) == len(expected) > 50
        everything = f"read_parquet('{lake}/telemetry/**/*.parquet', union_by_name = true)"
        ((rows,),) = connection.execute(
            f"SELECT count(DISTINCT (_partition, _offset, _row)) FROM {everything}"
        ).fetchall()
    assert rows == sum(len(sent.rows) for sent in messages.values())
