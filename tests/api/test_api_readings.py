from __future__ import annotations

import random
from typing import Any

import pytest

from api.history import Budget, device_history, parse_cursor
from api.times import parse_time_ms
from core.errors import BadRequestError
from devices.status_model import Place
from tests.api.api_box import ApiBox
from tests.log_fakes import FakeClock, FakeLog, FakeReader

NOW_MS = 1_800_000_000_000


def fill(box: ApiBox, count: int = 200) -> None:
    """One reading of each of ten devices a second, the last ones now."""
    for number in range(count):
        for device in range(10):
            box.log.reading(f"d{device}", {"n": number}, time_ms=NOW_MS - (count - 1 - number) * 1000)
    box.step()


def numbers(page: Any) -> list[int]:
    return [one["payload"]["n"] for one in page["readings"]]


def test_newest_first(box: ApiBox) -> None:
    fill(box)
    page = box.get("/api/v1/devices/d3/readings?limit=5")
    assert numbers(page) == [199, 198, 197, 196, 195]
    assert page["device"] == "d3"
    assert page["readings"][0]["received_at"] == "2027-01-15T08:00:00Z"


def test_paging_tells_each_reading_once(box: ApiBox) -> None:
    fill(box)
    seen: list[int] = []
    query: dict[str, Any] = {"limit": 7}
    while True:
        page = box.get("/api/v1/devices/d3/readings", params=query)
        seen += numbers(page)
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert seen == list(range(199, -1, -1))


def test_a_cursor_stays_valid_while_the_log_grows(box: ApiBox) -> None:
    fill(box)
    page = box.get("/api/v1/devices/d3/readings?limit=3")
    box.log.reading("d3", {"n": 200})
    box.step()
    assert numbers(box.get("/api/v1/devices/d3/readings", params={"limit": 2, "cursor": page["next"]})) == [196, 195]


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("-10s", None, list(range(199, 188, -1))),
        (None, str(NOW_MS - 195_000), [3, 2, 1, 0]),
        (str(NOW_MS - 10_000), str(NOW_MS - 8_000), [190, 189]),
        ("2027-01-15T07:59:58Z", None, [199, 198, 197]),
        ("2027-01-15T08:59:58+01:00", "2027-01-15T08:00:00Z", [198, 197]),
        ("-1h", "-2h", []),
        ("9999-01-01T00:00:00Z", None, []),
        ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", []),
    ],
)
def test_since_and_until(box: ApiBox, since: str | None, until: str | None, expected: list[int]) -> None:
    fill(box)
    query = {name: value for name, value in (("since", since), ("until", until)) if value}
    page = box.get("/api/v1/devices/d3/readings", params=query)
    assert numbers(page) == expected
    assert page["next"] is None


@pytest.mark.parametrize("text", ["yesterday", "1h", "-1w", "2026-02-30T00:00:00Z", "2026-11-20", "-", "", "١٢"])
def test_what_is_no_time_is_refused_by_name(box: ApiBox, text: str) -> None:
    fill(box, 1)
    problem = box.get("/api/v1/devices/d3/readings", 422, params={"since": text})
    assert "query since" in problem["detail"]
    assert "RFC 3339" in problem["mend"]


def test_times_before_the_epoch_are_its_start() -> None:
    assert parse_time_ms("1969-12-31T23:00:00Z", 0, name="since") == 0
    assert parse_time_ms("-999999999d", NOW_MS, name="since") == 0
    with pytest.raises(BadRequestError):
        parse_time_ms("2026-13-01T00:00:00Z", NOW_MS, name="since")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=nonsense", "cursor=telemetry:0"])
def test_bad_parameters_are_refused(box: ApiBox, query: str) -> None:
    fill(box, 1)
    problem = box.get(f"/api/v1/devices/d3/readings?{query}", 422)
    assert problem["errors"][0]["where"] == f"query {query.partition('=')[0]}"


def test_readings_of_several_topics_are_merged_by_time(box: ApiBox) -> None:
    for number in range(50):
        topic = ("telemetry", "vibration", "energy")[number % 3]
        box.log.append(topic, b"d", b'{"n": %d}' % number, time_ms=NOW_MS + number)
    box.step()
    seen: list[int] = []
    cursor = None
    while True:
        page = box.get("/api/v1/devices/d/readings", params={"limit": 9, **({"cursor": cursor} if cursor else {})})
        seen += numbers(page)
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == list(range(49, -1, -1))


def test_a_device_under_another_key_is_found_where_it_was_met(box: ApiBox) -> None:
    box.log.append("telemetry", b"line-4", b'{"n": 1}', [("headrace.device", b"pump")])
    box.log.append("telemetry", b"line-4", b'{"n": 2}', [("headrace.device", b"press")])
    box.step()
    assert numbers(box.get("/api/v1/devices/pump/readings")) == [1]


def test_readings_are_there_while_the_view_still_replays(box: ApiBox) -> None:
    box.log.reading("d3", {"n": 1})
    assert numbers(box.get("/api/v1/devices/d3/readings")) == [1]


def test_a_device_that_gave_way_still_has_its_readings(tmp_path: Any) -> None:
    box = ApiBox(tmp_path, max_devices=1)
    box.log.reading("d1", {"n": 1}, time_ms=NOW_MS - 1)
    box.log.reading("d2", {"n": 2})
    box.step()
    assert numbers(box.get("/api/v1/devices/d1/readings")) == [1]


def test_busy_readers_are_said(box: ApiBox) -> None:
    fill(box, 1)
    with box.pool.reader(), box.pool.reader():
        problem = box.get("/api/v1/devices/d3/readings", 503)
    assert problem["type"] == "urn:headrace:problem:unavailable"
    assert box.get("/api/v1/devices/d3/readings")["readings"]


class SlowClock(FakeClock):
    """Time passes whenever somebody looks."""

    def monotonic_ms(self) -> int:
        self.now_ms += 40
        return self.now_ms


def test_a_spent_budget_gives_a_cursor_and_every_request_gets_further() -> None:
    clock = SlowClock()
    log = FakeLog(clock, partitions=1)
    log.reading("rare", {"n": 0})
    for _ in range(20_000):
        log.reading("common")
    found = []
    cursor = None
    requests = 0
    while True:
        history = device_history(
            FakeReader(log, max_records=500),
            b"rare",
            [Place("telemetry", 0)],
            since_ms=None,
            until_ms=None,
            limit=10,
            cursor=cursor,
            budget=Budget(clock, scan_ms=100),
        )
        found += history.found
        requests += 1
        before, cursor = cursor, history.cursor
        if cursor is None:
            break
        assert cursor != before
    assert [one.record.offset for one in found] == [0]
    assert requests > 1


def test_large_records_are_scanned_in_small_pieces() -> None:
    clock = FakeClock()
    log = FakeLog(clock, partitions=1)
    block = b"x" * (1 << 18)
    for number in range(600):
        log.append("telemetry", b"d" if number % 50 == 0 else b"other", block)
    reader = FakeReader(log, max_records=4)
    history = device_history(
        reader,
        b"d",
        [Place("telemetry", 0)],
        since_ms=None,
        until_ms=None,
        limit=3,
        cursor=None,
        budget=Budget(clock),
    )
    assert [one.record.offset for one in history.found] == [550, 500, 450]
    assert history.scanned_records < 400


def test_a_scan_agrees_with_a_plain_model() -> None:
    random_ = random.Random(11)
    clock = FakeClock()
    log = FakeLog(clock, partitions=3)
    for number in range(3000):
        if random_.random() < 0.1:
            log.skip(log.topic("telemetry").name, random_.randrange(3), random_.randrange(1, 40))
        log.append("telemetry", random_.choice([b"a", b"b", b"c"]), b"", partition=random_.randrange(3), time_ms=number)
    places = [Place("telemetry", partition) for partition in range(3)]
    expected = sorted(
        (one.timestamp for partition in range(3) for one in log.records["telemetry", partition] if one.key == b"b"),
        reverse=True,
    )
    seen: list[int] = []
    cursor = None
    while True:
        history = device_history(
            FakeReader(log),
            b"b",
            places,
            since_ms=None,
            until_ms=None,
            limit=random_.randrange(1, 60),
            cursor=cursor,
            budget=Budget(clock),
        )
        seen += [one.record.timestamp for one in history.found]
        cursor = history.cursor
        if cursor is None:
            break
    assert seen == expected


def test_cursors_are_read_back() -> None:
    assert parse_cursor("a.b-c:1:20~d:0:3") == {Place("a.b-c", 1): 20, Place("d", 0): 3}
    assert parse_cursor("a:1:2\n") == {}
