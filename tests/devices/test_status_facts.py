"""Silence, clocks, rates, sequences and fields, step by step on a clock that is moved by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp

import pytest

from devices.field_store import MAX_FIELDS, MAX_STORE_BYTES, MAX_VALUE_BYTES, unpack
from devices.readings import MAX_KEPT_BYTES
from devices.rhythm import MARGIN_MS, Reporting
from devices.sequence import MAX_LEAP, WINDOW
from devices.status_model import Numbering
from tests.devices.status_box import START_MS, StatusBox


@pytest.fixture
def box() -> StatusBox:
    return StatusBox()


def silence(box: StatusBox, device: str = "d") -> tuple[Reporting, int | None]:
    """State, and since when after the start."""
    told = box.status(device).silence
    return told.state, None if told.since_ms is None else told.since_ms - START_MS


def every(box: StatusBox, ms: int, times: int, device: str = "d") -> None:
    for _ in range(times):
        box.after(ms)
        box.log.reading(device)


# Silence


def test_heard_once_is_no_rhythm(box: StatusBox) -> None:
    box.log.reading("d")
    box.after(86_400_000)
    assert silence(box) == (Reporting.UNKNOWN, None)
    assert box.status("d").silence.interval_ms is None


def test_one_burst_is_no_rhythm_either(box: StatusBox) -> None:
    for _ in range(5):
        box.after(100)
        box.log.reading("d")
    box.after(86_400_000)
    assert silence(box)[0] is Reporting.UNKNOWN


def test_a_device_without_a_reading_is_neither(box: StatusBox) -> None:
    box.log.event("d", "connected", "s1")
    box.expected[b"d"] = 1000
    box.after(60_000)
    assert silence(box) == (Reporting.UNKNOWN, None)
    assert box.status("d").connected is True


def test_silence_begins_when_its_time_is_up_and_ends_with_a_reading(box: StatusBox) -> None:
    box.log.reading("d")
    every(box, 10_000, 5)
    assert silence(box) == (Reporting.REPORTING, 0)
    assert box.status("d").silence.interval_ms == 10_000
    due = 3 * 10_000 + MARGIN_MS
    box.after(due)
    assert silence(box) == (Reporting.REPORTING, 0)
    box.after(1)
    assert silence(box) == (Reporting.SILENT, 50_000 + due)
    box.after(3_600_000)
    assert silence(box) == (Reporting.SILENT, 50_000 + due)
    assert box.status("d").last_seen_ms == START_MS + 50_000
    box.log.reading("d")
    back = box.clock.now_ms - START_MS
    assert silence(box) == (Reporting.REPORTING, back)
    every(box, 10_000, 3)
    assert silence(box) == (Reporting.REPORTING, back)


def test_one_outage_does_not_hide_the_next(box: StatusBox) -> None:
    box.log.reading("d")
    every(box, 1000, 30)
    every(box, 3_600_000, 1)
    assert box.status("d").silence.interval_ms == 4000
    every(box, 1000, 10)
    box.after(3 * 4000 + MARGIN_MS + 1)
    assert silence(box)[0] is Reporting.SILENT


def test_a_rest_between_bursts_is_no_silence(box: StatusBox) -> None:
    for cycle in range(20):
        every(box, 600, 40)
        box.after(30_000)
        assert silence(box)[0] is Reporting.REPORTING or cycle < 6
    box.after(70_000)
    assert silence(box)[0] is Reporting.SILENT


def test_a_slower_rhythm_is_learned(box: StatusBox) -> None:
    box.log.reading("d")
    every(box, 1000, 20)
    every(box, 60_000, 6)
    box.after(60_000)
    assert silence(box)[0] is Reporting.REPORTING
    assert box.status("d").silence.interval_ms == 60_000


def test_what_an_operator_expects_counts_more_than_what_was_learned(box: StatusBox) -> None:
    box.log.reading("d")
    every(box, 10_000, 5)
    box.expected[b"d"] = 2000
    box.after(2000 + 1000 + MARGIN_MS)
    assert silence(box)[0] is Reporting.REPORTING
    box.after(1)
    assert silence(box) == (Reporting.SILENT, 50_000 + 5000)
    told = box.status("d").silence
    assert (told.interval_ms, told.configured) == (2000, True)
    box.expected[b"d"] = 3_600_000
    assert silence(box)[0] is Reporting.REPORTING
    del box.expected[b"d"]
    assert box.status("d").silence.interval_ms == 10_000


def test_an_expected_interval_makes_a_device_heard_once_silent(box: StatusBox) -> None:
    box.expected[b"d"] = 10_000
    box.log.reading("d")
    assert silence(box) == (Reporting.REPORTING, 0)
    box.after(60_000)
    assert silence(box) == (Reporting.SILENT, 17_000)


def test_silence_is_not_told_of_a_view_that_is_not_up_to_date(box: StatusBox) -> None:
    box.log.reading("d")
    every(box, 1000, 5)
    box.step()
    status = box.view.get(b"d", current=False, as_of_ms=box.clock.now_ms + 3_600_000)
    assert status is not None
    assert (status.silence.state, status.connected) == (Reporting.UNKNOWN, None)
    assert status.last_seen_ms == box.clock.now_ms


def test_connected_and_silent_are_two_things(box: StatusBox) -> None:
    box.log.event("d", "connected", "s1")
    box.log.reading("d")
    every(box, 1000, 5)
    box.after(60_000)
    status = box.status("d")
    assert (status.connected, status.silence.state) == (True, Reporting.SILENT)
    box.log.event("d", "disconnected", "s1")
    box.log.reading("d")  # what was on its way
    status = box.status("d")
    assert (status.connected, status.silence.state) == (False, Reporting.REPORTING)


def test_flapping_moves_the_connection_alone(box: StatusBox) -> None:
    box.log.reading("d")
    for number in range(20):
        box.log.event("d", "connected", f"s{number}")
        assert box.status("d").connected is True
        every(box, 1000, 1)
        box.log.event("d", "disconnected", f"s{number}")
        status = box.status("d")
        assert (status.connected, status.silence.state) == (False, Reporting.REPORTING)
        assert status.silence.since_ms == START_MS


def test_a_gateway_carries_many_and_each_has_its_own_facts(box: StatusBox) -> None:
    for device in ("a", "b", "c"):
        box.log.event(device, "connected", "gateway", client_id="gw")
        box.log.reading(device)
    for _ in range(10):
        box.after(1000)
        box.log.reading("a")
        box.log.reading("b")
    box.after(1000)
    box.log.reading("c")
    for _ in range(40):
        box.after(1000)
        box.log.reading("a")
    states = {device: silence(box, device)[0] for device in ("a", "b", "c")}
    assert states == {"a": Reporting.REPORTING, "b": Reporting.SILENT, "c": Reporting.SILENT}
    assert [box.status(device).connected for device in ("a", "b", "c")] == [True] * 3
    for device in ("a", "b", "c"):
        box.log.event(device, "disconnected", "gateway")
    assert [box.status(device).connected for device in ("a", "b", "c")] == [False] * 3


# Clocks


@pytest.mark.parametrize(
    ("ahead_ms", "as_told"),
    [
        (0, lambda ms: ms),
        (-1500, lambda ms: ms),
        (3_600_000, lambda ms: ms * 1000),
        (-86_400_000, lambda ms: ms * 1_000_000),
        (2000, lambda ms: ms // 1000),
        (0, lambda ms: "2027-01-15T09:00:00+01:00"),
    ],
)
def test_a_clock_is_told_by_how_far_it_is_ahead(
    box: StatusBox, ahead_ms: int, as_told: Callable[[int], object]
) -> None:
    box.log.reading("d", {"ts": as_told(box.clock.now_ms + ahead_ms)})
    assert box.status("d").clock_skew_ms == ahead_ms


def test_a_clock_of_1970_is_told_and_touches_nothing_else(box: StatusBox) -> None:
    for second in range(10):
        box.after(1000)
        box.log.reading("d", {"ts": second})
    status = box.status("d")
    assert status.clock_skew_ms == -START_MS - 1000
    assert (status.last_seen_ms, status.silence.state) == (START_MS + 10_000, Reporting.REPORTING)


@pytest.mark.parametrize("told", [None, "yesterday", -5, True, [1], {"s": 1}, 10**30])
def test_what_is_no_time_says_nothing_of_the_clock(box: StatusBox, told: object) -> None:
    box.log.reading("d", {"ts": told})
    assert box.status("d").clock_skew_ms is None


def test_a_few_buffered_readings_do_not_make_a_wrong_clock(box: StatusBox) -> None:
    for number in range(30):
        box.after(1000)
        late_ms = 7_200_000 if number in (22, 24, 26, 28) else 40
        box.log.reading("d", {"ts": box.clock.now_ms - late_ms})
        assert box.status("d").clock_skew_ms == -40


def test_a_burst_of_buffered_readings_counts_once(box: StatusBox) -> None:
    for _ in range(5):
        box.after(1000)
        box.log.reading("d", {"ts": box.clock.now_ms})
    box.after(1000)
    for number in range(500):
        box.log.reading("d", {"ts": box.clock.now_ms - 500_000 + number})
    assert box.status("d").clock_skew_ms == 0


def test_a_clock_that_is_put_right_is_believed_after_five_readings(box: StatusBox) -> None:
    for ahead_ms in (90_000,) * 20 + (0,) * 5:
        box.after(1000)
        box.log.reading("d", {"ts": box.clock.now_ms + ahead_ms})
    assert box.status("d").clock_skew_ms == 0


# Rates


def test_rates_are_those_of_the_documented_formula(box: StatusBox) -> None:
    random_ = random.Random(5)
    expected = {60: 0.0, 900: 0.0}
    for _ in range(200):
        readings = random_.choice([0, 0, 1, 7])
        for _ in range(readings):
            box.log.reading("d")
        box.after(5000)
        for over_s in expected:
            keep = exp(-5 / over_s)
            expected[over_s] = expected[over_s] * keep + readings / 5 * (1 - keep)
    status = box.status("d")
    assert (status.rate_1m, status.rate_15m) == pytest.approx((expected[60], expected[900]))


def test_a_steady_rate_is_reached_and_fades(box: StatusBox) -> None:
    every(box, 100, 10 * 600)
    assert box.status("d").rate_1m == pytest.approx(10, rel=0.01)
    box.after(60_000)
    assert box.status("d").rate_1m == pytest.approx(10 * exp(-1), rel=0.1)
    box.after(3_600_000)
    assert box.status("d").rate_1m == pytest.approx(0, abs=1e-9)


# Sequences


def numbering(box: StatusBox, *numbers: object, dup: bool = False) -> Numbering | None:
    for number in numbers:
        value = b'{"seq": %s}' % str(number).encode()
        box.log.append("telemetry", b"d", value, [("mqtt.dup", b"1")] if dup else [])
    return box.status("d").numbering


def told(newest: int, missing: int = 0, duplicates: int = 0, restarts: int = 0) -> Numbering:
    return Numbering(newest=newest, missing=missing, duplicates=duplicates, restarts=restarts)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([5, 6, 7], told(7)),
        ([5, 8], told(8, missing=2)),
        ([5, 8, 6], told(8, missing=1)),
        ([5, 8, 7, 6], told(8)),
        ([5, 6, 6, 7], told(7, duplicates=1)),
        ([5, 6, 7, 6, 7, 8], told(8, duplicates=2)),
        ([5, 8, 6, 6], told(8, missing=1, duplicates=1)),
        ([100, 99, 101], told(101)),
        ([50, 51, 0, 1, 2], told(2, restarts=1)),
        ([50, 51, 1, 2], told(2, restarts=1)),
        ([0, 1, 0, 1, 2], told(2, duplicates=2)),
        ([1000, 1000 - WINDOW - 1], told(1000 - WINDOW - 1, restarts=1)),
        ([900, *range(901, 1001), 1000 - WINDOW + 1], told(1000, duplicates=1)),
        ([5, 5 + 1 + MAX_LEAP], told(6 + MAX_LEAP, missing=MAX_LEAP)),
        ([5, 5 + 2 + MAX_LEAP], told(7 + MAX_LEAP, restarts=1)),
        ([5, 200, 6], told(6, missing=194, restarts=1)),
        ([5, '"6"', 6.5, "true", -1, "null", 2**63, 6], told(6)),
        ([2**63 - 1], told(2**63 - 1)),
    ],
)
def test_what_sequence_numbers_tell(box: StatusBox, numbers: list[object], expected: Numbering) -> None:
    assert numbering(box, *numbers) == expected


def test_a_marked_resend_is_a_duplicate_however_old(box: StatusBox) -> None:
    numbering(box, *range(300))
    assert numbering(box, 0, 1, 299, dup=True) == told(299, duplicates=3)
    assert box.status("d").resends == 3


def test_without_numbers_nothing_is_told(box: StatusBox) -> None:
    box.log.reading("d", {"a": 1})
    assert box.status("d").numbering is None


# Fields


def test_the_newest_value_of_every_field_and_its_time(box: StatusBox) -> None:
    box.log.reading("d", b'{"a": 1, "b": "x"}')
    box.after(1000)
    box.log.reading("d", b'{"b": 2.50, "motor": {"temp": 60, "on": null}}')
    box.after(1000)
    box.log.reading("d", b'[{"a": 3}, {"motor": {"temp": 61}}]')
    assert box.fields("d") == {
        "a": (2000, b"3"),
        "b": (1000, b"2.50"),
        "motor.on": (1000, b"null"),
        "motor.temp": (2000, b"61"),
    }


def test_scalars_belong_to_the_field_their_route_names(box: StatusBox) -> None:
    for field, value in ((b"temp", b"21.5"), (b"rpm", b"1480"), (b"temp", b"22"), (None, b'"on"')):
        box.after(1)
        box.log.append("telemetry", b"d", value, [] if field is None else [("headrace.field", field)])
    assert box.fields("d") == {"temp": (3, b"22"), "rpm": (2, b"1480"), "value": (4, b'"on"')}


@pytest.mark.parametrize("value", [b"", b"{", b"on", b"\xff", b"NaN", b'{"a": 1e999}', b"[" * 5000])
def test_what_cannot_be_read_is_counted_and_takes_no_field_away(box: StatusBox, value: bytes) -> None:
    box.log.reading("d", b'{"a": 1}')
    box.log.reading("d", value)
    status = box.status("d")
    assert (status.undecodable, status.messages, box.view.undecodable_records) == (1, 2, 1)
    assert box.fields("d") == {"a": (0, b"1")}


def test_a_reading_too_large_to_keep_leaves_its_fields(box: StatusBox) -> None:
    box.log.reading("d", b'{"a": 1, "c": 3}')
    box.after(1)
    box.log.reading("d", b'{"a": 2, "long": "%s"}' % (b"x" * MAX_KEPT_BYTES))
    assert box.fields("d") == {"a": (1, b"2"), "c": (0, b"3"), "long": (1, None)}


def test_fields_are_bounded_and_the_newest_stay(box: StatusBox) -> None:
    for number in range(MAX_FIELDS + 10):
        box.after(1)
        box.log.reading("d", {f"f{number}": number})
    fields = box.fields("d")
    assert sorted(fields) == sorted(f"f{number}" for number in range(9, MAX_FIELDS + 10))
    assert box.status("d").fields_cut


def test_bytes_of_fields_are_bounded(box: StatusBox) -> None:
    for number in range(40):
        box.after(1)
        box.log.reading("d", {f"f{number}": "x" * (MAX_VALUE_BYTES - 2)})
    box.step()
    device = box.view._table.devices[b"d"]
    assert len(device.older) <= MAX_STORE_BYTES
    assert "f39" in box.fields("d")
    assert "f38" in unpack(device.older)


def test_an_older_record_of_another_partition_takes_no_newer_value(box: StatusBox) -> None:
    box.log.append("telemetry", b"d", b'{"a": "new"}', partition=0, time_ms=START_MS + 5000)
    box.log.append("telemetry", b"d", b'{"a": "old", "b": 1}', partition=1, time_ms=START_MS + 2000)
    box.log.append("telemetry", b"d", b'{"c": 1}', partition=0, time_ms=START_MS + 6000)
    assert box.fields("d") == {"a": (5000, b'"new"'), "b": (2000, b"1"), "c": (6000, b"1")}
