from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from commitlog.base import Slice
from devices.payload_fields import FieldNames
from devices.status import StatusView
from devices.status_keeper import SLICE_DEVICES, SNAPSHOT_NAME
from devices.status_model import DeviceStatus
from tests.devices.status_box import StatusBox
from tests.log_fakes import FakeReader


@pytest.fixture
def box(tmp_path: Path) -> StatusBox:
    return StatusBox(tmp_path)


def traffic(box: StatusBox, random_: random.Random, count: int, devices: int = 40) -> None:
    """Readings of several shapes, resends, sessions that open and end, and edges that start anew."""
    for _ in range(count):
        box.after(random_.choice([0, 3, 40, 700, 9000]))
        device = f"d{random_.randrange(devices)}"
        kind = random_.random()
        if kind < 0.1:
            box.log.event(device, random_.choice(["connected", "disconnected"]), f"s{random_.randrange(4)}")
        elif kind < 0.11:
            box.log.edge_started(f"b{random_.randrange(3)}")
        elif kind < 0.14:
            box.log.reading(device, random_.choice([b"", b"{", b"x" * 2000, b'[{"seq":1,"a":2},{"seq":2,"b":3}]']))
        else:
            reading = {"seq": random_.randrange(200), "ts": box.clock.now_ms - random_.randrange(5000)}
            reading |= {random_.choice("abc"): random_.random()}
            box.log.reading(device, reading)


def same_but_for_records(one: DeviceStatus | None) -> object:
    """A status with what can be compared: sessions and headers by their values."""
    assert one is not None
    last = one.last and (one.last.place, one.last.offset, one.last.received_ms, one.last.value, list(one.last.headers))
    return (last, [repr(getattr(one, name)) for name in DeviceStatus.__slots__ if name != "last"])


def comparable(box: StatusBox) -> dict[bytes, object]:
    return {key: same_but_for_records(one) for key, one in box.everything().items()}


def rebuilt(box: StatusBox) -> dict[bytes, object]:
    """What the log alone says."""
    fresh = StatusBox(partitions=box.log.default_partitions, max_devices=box.max_devices)
    fresh.clock, fresh.log = box.clock, box.log
    fresh.begin()
    return comparable(fresh)


@pytest.mark.parametrize("seed", range(5))
def test_a_snapshot_and_what_followed_agree_with_the_log_alone(box: StatusBox, seed: int) -> None:
    random_ = random.Random(seed)
    for _ in range(4):
        traffic(box, random_, 300)
        box.step()
        box.restart()
        traffic(box, random_, random_.randrange(100))
        assert comparable(box) == rebuilt(box)


@pytest.mark.parametrize("seed", range(5))
def test_a_snapshot_taken_while_the_view_is_fed_agrees_too(
    box: StatusBox, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_ = random.Random(seed)
    monkeypatch.setattr("devices.status_keeper.SLICE_DEVICES", 3)
    traffic(box, random_, 400)
    box.step()
    assert box.keeper is not None
    copy = box.view.copy

    def fed_meanwhile(keys: list[bytes]) -> object:
        traffic(box, random_, random_.randrange(30), devices=60)  # new devices too
        box.step()
        return copy(keys)

    monkeypatch.setattr(box.view, "copy", fed_meanwhile)
    assert box.keeper.write()
    traffic(box, random_, 50)
    box.begin()  # killed: nothing is written at the end
    box.tail.round(FakeReader(box.log, max_records=7))
    assert box.view.settled
    assert comparable(box) == rebuilt(box)


def test_a_restart_reads_only_what_is_newer(box: StatusBox) -> None:
    for number in range(100):
        box.log.reading(f"d{number}")
    box.step()
    box.restart()
    box.log.reading("new")
    box.step()
    assert (box.view.fed_records, box.view.devices) == (1, 101)
    assert box.status("d7").messages == 1


def test_a_device_silent_for_longer_than_the_log_is_kept_does_not_vanish(box: StatusBox) -> None:
    partition, offset = box.log.reading("quiet", b'{"temp": 21.5}')
    box.log.event("quiet", "connected", "s1")
    box.step()
    box.restart()
    box.log.expire("telemetry", partition, offset + 1)
    for partition in range(4):
        box.log.skip("device.events", partition, 1)
        box.log.expire("device.events", partition, box.log.highs["device.events", partition])
    box.restart()
    status = box.status("quiet")
    assert (status.messages, box.fields("quiet")) == (1, {"temp": (0, b"21.5")})
    assert status.connected is None  # whether it went, the log does not say any more


def test_sessions_live_on_over_a_restart_of_the_console(box: StatusBox) -> None:
    box.log.event("here", "connected", "s1", client_id="c", protocol="mqtt", peer="127.0.0.1:5")
    box.log.event("gone", "connected", "s2")
    box.step()
    box.restart()
    box.log.event("gone", "disconnected", "s2", reason="keep-alive passed")
    assert (box.status("here").connected, box.status("gone").connected) == (True, False)
    assert box.status("here").sessions[0].peer == "127.0.0.1:5"
    assert box.view.connected_devices == 1


def test_after_a_killed_edge_nobody_stays_connected(box: StatusBox) -> None:
    for number in range(40):
        box.log.event(f"d{number}", "connected", f"s{number}", boot_id="b1")
    box.step()
    box.restart()
    box.log.edge_started("b2")
    assert {box.status(f"d{number}").connected for number in range(40)} == {False}


@pytest.mark.parametrize("cut", ["magic", "middle", "end", "flipped", "empty"])
def test_a_damaged_snapshot_is_put_aside_and_the_log_read(box: StatusBox, tmp_path: Path, cut: str) -> None:
    traffic(box, random.Random(1), 200)
    box.step()
    box.stop()
    path = tmp_path / "state" / SNAPSHOT_NAME
    data = bytearray(path.read_bytes())
    damaged: dict[str, Callable[[], bytes]] = {
        "magic": lambda: b"HRSTAT99" + data[8:],
        "middle": lambda: data[: len(data) // 2],
        "end": lambda: data[:-1],
        "flipped": lambda: data[:300] + bytes([data[300] ^ 1]) + data[301:],
        "empty": lambda: b"",
    }
    path.write_bytes(damaged[cut]())
    box.begin()
    assert comparable(box) == rebuilt(box)
    assert box.keeper is not None
    assert box.keeper.failures == 1
    assert sorted(one.name for one in path.parent.iterdir()) == [SNAPSHOT_NAME + ".aside"]


@pytest.mark.parametrize("length", range(8, 600, 37))
def test_a_snapshot_cut_anywhere_is_nothing(box: StatusBox, tmp_path: Path, length: int) -> None:
    box.log.reading("d", {"a": 1})
    box.step()
    box.stop()
    path = tmp_path / "state" / SNAPSHOT_NAME
    data = path.read_bytes()
    path.write_bytes(data[: min(length, len(data) - 1)])
    box.begin()
    assert comparable(box) == rebuilt(box)


def test_a_snapshot_of_another_log_is_put_aside(tmp_path: Path) -> None:
    box = StatusBox(tmp_path)
    box.log.reading("other")
    box.step()
    box.stop()
    here = StatusBox(tmp_path)
    here.log.infos["telemetry"] = type(here.log.infos["telemetry"])(name="telemetry", topic_id="f" * 32, partitions=4)
    here.log.reading("mine")
    assert list(here.everything()) == [b"mine"]


def test_a_log_that_was_put_back_does_not_reach_as_far(tmp_path: Path) -> None:
    box = StatusBox(tmp_path)
    for number in range(10):
        box.log.reading("d", {"n": number})
    box.step()
    box.stop()
    older = StatusBox(tmp_path)
    older.log.reading("d")
    assert older.status("d").messages == 1


def test_without_news_nothing_is_written(box: StatusBox) -> None:
    box.log.reading("d")
    box.step()
    assert box.keeper is not None
    assert box.keeper.write()
    assert not box.keeper.write()
    box.log.reading("d")
    box.step()
    assert box.keeper.write()


def test_a_view_that_still_reads_what_its_snapshot_knew_writes_none(
    box: StatusBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entries are ahead of the offsets that it would note."""
    box.log.reading("d", partition=0)
    box.step()
    assert box.keeper is not None
    copy = box.view.copy

    def fed_meanwhile(keys: list[bytes]) -> object:
        box.log.reading("d", partition=0)
        box.log.reading("d", partition=0)
        box.step()
        return copy(keys)

    monkeypatch.setattr(box.view, "copy", fed_meanwhile)
    assert box.keeper.write()
    box.begin()
    box.view.restore  # noqa: B018 - the new view is still empty: it reads its snapshot at the first round

    class Stopping(FakeReader):
        def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
            if topic == "telemetry":
                box.tail._stop.set()
                return Slice(records=[], next_offset=offset)
            return super().read(topic, partition, offset)

    box.tail.round(Stopping(box.log))
    assert box.view.devices == 1
    assert not box.view.settled
    assert not box.keeper.write()


def test_a_table_that_became_smaller_keeps_who_was_heard_last(tmp_path: Path) -> None:
    box = StatusBox(tmp_path)
    for number in range(10):
        box.after(1000)
        box.log.reading(f"d{number}")
    box.step()
    box.stop()
    box.max_devices = 3
    box.begin()
    box.step()
    assert [one.device for one in box.view.page(current=True)[0]] == ["d7", "d8", "d9"]
    assert box.view.evicted_devices == 7


def test_other_names_of_fields_make_it_useless(tmp_path: Path) -> None:
    box = StatusBox(tmp_path)
    box.log.reading("d", {"n": 5})
    box.step()
    box.stop()
    box.begin()
    box.view = StatusView(max_devices=10, names_of=lambda _topic: FieldNames(sequence="n"))
    box.keeper = type(box.keeper)(box.view, tmp_path / "state", box.storage, box.clock)  # type: ignore[misc,call-arg]
    box.tail = type(box.tail)(box.view, box.log.reader, box.clock, box.keeper)
    numbering = box.status("d").numbering
    assert numbering is not None
    assert numbering.newest == 5


def test_slices_are_small() -> None:
    assert SLICE_DEVICES <= 500
