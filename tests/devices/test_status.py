from __future__ import annotations

import random

import pytest

from devices.status import MAX_KEPT_BYTES, MAX_SESSIONS, StatusView
from devices.tail import StatusTail
from tests.log_fakes import FakeClock, FakeLog


class Box:
    """A log, a view and a tail that is stepped by hand."""

    def __init__(self, *, max_devices: int = 1000, partitions: int = 4) -> None:
        self.clock = FakeClock()
        self.log = FakeLog(self.clock, partitions)
        self.log.topic("telemetry")
        self.view = StatusView(max_devices=max_devices)
        self.tail = StatusTail(self.view, self.log.reader, self.clock)

    def step(self) -> None:
        self.tail.round(self.log.reader())

    def connected(self, device: str) -> bool | None:
        self.step()
        status = self.view.get(device.encode(), current=True)
        assert status is not None
        return status.connected


@pytest.fixture
def box() -> Box:
    return Box()


def test_last_reading_counts_and_times(box: Box) -> None:
    box.log.reading("press-17", b'{"a": 1}', time_ms=1000)
    partition, offset = box.log.reading("press-17", b'{"a": 22}', time_ms=3000)
    box.step()
    status = box.view.get(b"press-17", current=True)
    assert status is not None
    assert status.last is not None
    assert (status.last.value, status.last.offset, status.last.place) == (
        b'{"a": 22}',
        offset,
        ("telemetry", partition),
    )
    assert (status.messages, status.size_bytes) == (2, 17)
    assert (status.first_seen_ms, status.last_seen_ms) == (1000, 3000)
    assert dict(status.last.headers)["mqtt.topic"] == b"devices/press-17/telemetry"


def test_an_older_record_of_another_partition_does_not_replace_a_newer_one(box: Box) -> None:
    box.log.append("telemetry", b"d", b"new", partition=0, time_ms=5000)
    box.log.append("telemetry", b"d", b"old", partition=1, time_ms=2000)
    box.step()
    status = box.view.get(b"d", current=True)
    assert status is not None
    assert status.last is not None
    assert (status.last.value, status.last.place.partition) == (b"new", 0)
    assert (status.first_seen_ms, status.last_seen_ms, status.messages) == (2000, 5000, 2)
    assert {place.partition for place in status.places} == {0, 1}


def test_the_device_header_overrides_the_key_and_an_empty_one_means_no_device(box: Box) -> None:
    box.log.append("telemetry", b"group-1", b"x", [("headrace.device", b"pump")])
    box.log.append("telemetry", b"group-1", b"x", [("headrace.device", b"")])
    box.log.append("telemetry", None, b"x")
    box.step()
    assert box.view.devices == 1
    assert box.view.get(b"pump", current=True) is not None
    assert box.view.records_without_device == 2


def test_topics_without_devices_are_left_out(box: Box) -> None:
    box.log.append("mqtt", b"some/topic", b"x")
    box.log.append("alerts", b"press", b"{}")
    box.log.append("other.topic", b"press", b"{}")
    box.step()
    status = box.view.get(b"press", current=True)
    assert status is not None
    assert (box.view.devices, status.messages) == (1, 1)


def test_a_large_reading_is_not_kept(box: Box) -> None:
    partition, offset = box.log.reading("d", b"x" * (MAX_KEPT_BYTES + 1))
    box.step()
    status = box.view.get(b"d", current=True)
    assert status is not None
    assert status.last is not None
    assert (status.last.large, status.last.value) == (True, None)
    assert (status.last.place.partition, status.last.offset) == (partition, offset)
    assert status.size_bytes == MAX_KEPT_BYTES + 1


def test_a_device_is_connected_while_any_session_is_open(box: Box) -> None:
    box.log.event("d", "connected", "s1", client_id="c", protocol="mqtt", peer="127.0.0.1:5")
    assert box.connected("d") is True
    box.log.event("d", "connected", "s2")
    box.log.event("d", "disconnected", "s1", reason="client left")
    assert box.connected("d") is True
    box.log.event("d", "disconnected", "s2", reason="keep-alive passed")
    assert box.connected("d") is False
    status = box.view.get(b"d", current=True)
    assert status is not None
    assert status.last_disconnect_reason == "keep-alive passed"
    assert (status.first_seen_ms, status.last_seen_ms) == (None, None)  # it never sent a reading


def test_session_facts_are_told(box: Box) -> None:
    box.log.event("d", "connected", "s1", client_id="c", protocol="mqtt", peer="127.0.0.1:5")
    box.step()
    status = box.view.get(b"d", current=True)
    assert status is not None
    (session,) = status.sessions
    assert (session.session, session.client_id, session.protocol, session.peer) == ("s1", "c", "mqtt", "127.0.0.1:5")
    assert session.since_ms == box.clock.time_ms()


@pytest.mark.parametrize("order", [("connected s2", "disconnected s1"), ("disconnected s1", "connected s2")])
def test_a_takeover_in_either_order_leaves_the_new_session(box: Box, order: tuple[str, str]) -> None:
    box.log.event("d", "connected", "s1")
    for step in order:
        event, session = step.split()
        box.log.event("d", event, session)
    assert box.connected("d") is True
    box.log.event("d", "disconnected", "s2")
    assert box.connected("d") is False


def test_edge_started_ends_sessions_of_older_boots_only(box: Box) -> None:
    for number in range(40):  # in every partition
        box.log.event(f"old-{number}", "connected", f"s{number}", boot_id="b1")
        box.log.event(f"new-{number}", "connected", f"t{number}", boot_id="b2")
    box.log.edge_started("b2")
    assert {box.connected(f"old-{number}") for number in range(40)} == {False}
    assert {box.connected(f"new-{number}") for number in range(40)} == {True}
    assert box.view.connected_devices == 40


def test_a_late_disconnect_of_an_older_boot_changes_nothing(box: Box) -> None:
    box.log.event("d", "connected", "s1", boot_id="b1")
    box.log.edge_started("b2")
    box.log.event("d", "connected", "s2", boot_id="b2")
    box.log.event("d", "disconnected", "s1", boot_id="b1")
    assert box.connected("d") is True


def test_a_reconnect_storm_ends_with_the_truth() -> None:
    random_ = random.Random(7)
    box = Box()
    open_sessions: dict[str, set[str]] = {f"d{n}": set() for n in range(30)}
    for number in range(5000):
        device = random_.choice(list(open_sessions))
        sessions = open_sessions[device]
        if sessions and random_.random() < 0.5:
            gone = random_.choice(sorted(sessions))
            sessions.remove(gone)
            box.log.event(device, "disconnected", gone)
        elif len(sessions) < MAX_SESSIONS:
            sessions.add(f"s{number}")
            box.log.event(device, "connected", f"s{number}")
    for device, sessions in open_sessions.items():
        assert box.connected(device) is bool(sessions)
        status = box.view.get(device.encode(), current=True)
        assert status is not None
        assert {session.session for session in status.sessions} == sessions
    assert box.view.connected_devices == sum(map(bool, open_sessions.values()))


def test_sessions_beyond_the_limit_are_counted(box: Box) -> None:
    for number in range(MAX_SESSIONS + 3):
        box.log.event("d", "connected", f"s{number}")
    box.step()
    status = box.view.get(b"d", current=True)
    assert status is not None
    assert (len(status.sessions), status.further_sessions) == (MAX_SESSIONS, 3)
    for number in range(MAX_SESSIONS + 2):
        box.log.event("d", "disconnected", f"s{number}")
    assert box.connected("d") is True
    box.log.event("d", "disconnected", f"s{MAX_SESSIONS + 2}")
    assert box.connected("d") is False


def test_connected_is_not_told_unless_current(box: Box) -> None:
    box.log.event("d", "connected", "s1")
    box.step()
    status = box.view.get(b"d", current=False)
    assert status is not None
    assert status.connected is None
    assert status.sessions == ()


def test_a_device_without_events_is_not_connected_when_the_events_are_whole(box: Box) -> None:
    box.log.topic("device.events")
    box.log.reading("d")
    assert box.connected("d") is False


def test_nothing_is_told_without_a_topic_of_events(box: Box) -> None:
    box.log.reading("d")
    assert box.connected("d") is None


def test_expired_events_leave_a_silent_session_unknown_until_the_next_boot() -> None:
    box = Box(partitions=1)
    box.log.event("d", "connected", "s1")
    box.log.event("e", "connected", "s2")
    box.log.expire("device.events", 0, 1)
    box.log.reading("d")
    assert box.connected("d") is None
    assert box.connected("e") is True
    box.log.event("e", "disconnected", "s2")
    assert box.connected("e") is None  # an older session of it may have expired
    box.log.edge_started("b2")
    assert box.connected("d") is False


def test_a_gap_in_the_events_makes_sessions_before_it_unknown() -> None:
    box = Box(partitions=1)
    box.log.event("before", "connected", "s1")
    box.log.skip("device.events", 0, 3)
    box.log.event("after", "connected", "s2")
    assert box.connected("before") is None
    assert box.connected("after") is True
    box.log.skip("device.events", 0, 1)
    assert box.connected("after") is None
    assert box.view.connected_devices == 0


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"event": 3}', b'{"event": "connected"}', b"\xff"])
def test_events_that_cannot_be_read_are_counted(box: Box, value: bytes) -> None:
    box.log.append("device.events", b"d" if value != b'{"event": "connected"}' else None, value)
    box.step()
    assert box.view.bad_events == 1


def test_the_longest_silent_gives_way() -> None:
    box = Box(max_devices=3)
    for time_ms, device in enumerate(["a", "b", "c", "a", "b"], start=1):
        box.log.reading(device, time_ms=time_ms * 1000)
        box.step()
    box.log.reading("d", time_ms=9000)
    box.step()
    names = [status.device for status in box.view.page(current=True)[0]]
    assert names == ["a", "b", "d"]
    assert (box.view.devices, box.view.evicted_devices) == (3, 1)


def test_giving_way_agrees_with_a_plain_model() -> None:
    random_ = random.Random(3)
    box = Box(max_devices=20, partitions=1)
    heard: dict[str, int] = {}
    for time_ms in range(2000):
        device = f"d{random_.randrange(60)}"
        if device not in heard and len(heard) == 20:
            del heard[min(heard, key=lambda name: heard[name])]
        heard[device] = time_ms
        box.log.reading(device, time_ms=time_ms)
    box.step()
    assert [status.device for status in box.view.page(current=True)[0]] == sorted(heard)


def test_a_connected_device_that_gave_way_is_not_said_to_be_disconnected() -> None:
    box = Box(max_devices=1, partitions=1)
    box.log.event("a", "connected", "s1", boot_id="b1")
    box.step()
    box.clock.now_ms += 1
    box.log.reading("b")
    box.step()
    box.clock.now_ms += 1
    box.log.reading("a")
    assert box.connected("a") is None
    assert box.view.connected_devices == 0


def test_pages_are_in_byte_order_and_whole(box: Box) -> None:
    names = sorted((f"d-{n}/ü" for n in range(25)), key=str.encode)
    for name in random.Random(1).sample(names, len(names)):
        box.log.reading(name)
    box.step()
    seen: list[str] = []
    after: bytes | None = b""
    while after is not None:
        page, after = box.view.page(current=True, after=after, limit=10)
        seen += [status.device for status in page]
    assert seen == names


def test_search_matches_ascii_in_either_case_and_pages(box: Box) -> None:
    for name in ("Press-1", "press-2", "pump-1", "PRESS-3", "überpress"):
        box.log.reading(name)
    box.step()
    first, after = box.view.page(current=True, search="pReSS", limit=2)
    assert after is not None
    rest, end = box.view.page(current=True, search="press", after=after, limit=2)
    assert [one.device for one in (*first, *rest)] == ["PRESS-3", "Press-1", "press-2", "überpress"]
    assert end is None


def test_a_page_that_ends_exactly_at_the_limit_has_no_next(box: Box) -> None:
    for name in "abc":
        box.log.reading(name)
    box.step()
    assert box.view.page(current=True, limit=3)[1] is None
