"""The simulated disk keeps what was synced, and may forget anything else."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from tests.commitlog.sim.sim_disk import GO, SECTOR_BYTES, CrashError, Fate, Loss, SimDisk, SimStorage, Stop

ROOT = Path("/data")
FILE = ROOT / "log" / "file"


def made(*, synced: bool) -> tuple[SimDisk, SimStorage]:
    disk = SimDisk(ROOT)
    storage = SimStorage(disk, random.Random(1))
    storage.make_dir(FILE.parent)
    file = storage.open(FILE, create=True)
    file.write(b"one", 0)
    if synced:
        file.sync()
        storage.sync_dir(FILE.parent)
        storage.sync_dir(ROOT)
    return disk, storage


def content(disk: SimDisk) -> bytes | None:
    storage = SimStorage(disk, random.Random(1))
    try:
        return storage.open_read(FILE).read(100_000, 0)
    except FileNotFoundError:
        return None


def test_what_was_synced_with_its_names_outlives_a_power_cut() -> None:
    disk, _ = made(synced=True)
    disk.power_cut(Loss.ALL, random.Random(1))
    assert content(disk) == b"one"


@pytest.mark.parametrize("forgotten", ["contents", "name", "directory's name"])
def test_each_of_three_syncs_is_needed(forgotten: str) -> None:
    disk, storage = made(synced=False)
    if forgotten != "contents":
        storage.open(FILE).sync()
    if forgotten != "name":
        storage.sync_dir(FILE.parent)
    if forgotten != "directory's name":
        storage.sync_dir(ROOT)
    disk.power_cut(Loss.ALL, random.Random(1))
    assert content(disk) == (b"" if forgotten == "contents" else None)


def test_some_of_what_was_not_synced_is_lost_in_any_order() -> None:
    seen = set()
    for seed in range(200):
        disk, storage = made(synced=True)
        file = storage.open(FILE)
        file.write(b"1" * SECTOR_BYTES, 0)
        file.write(b"2" * SECTOR_BYTES, SECTOR_BYTES)
        disk.power_cut(Loss.SOME, random.Random(seed))
        found = (content(disk) or b"").ljust(2 * SECTOR_BYTES, b"\0")
        seen.add((found[0:1], found[SECTOR_BYTES : SECTOR_BYTES + 1]))
    assert seen == {(b"o", b"\0"), (b"1", b"\0"), (b"o", b"2"), (b"1", b"2")}


def test_a_write_is_torn_between_sectors_only() -> None:
    seen = set()
    for seed in range(300):
        disk, storage = made(synced=True)
        storage.open(FILE).write(b"2" * 3 * SECTOR_BYTES, 100)
        disk.power_cut(Loss.SOME, random.Random(seed))
        found = (content(disk) or b"").ljust(100 + 3 * SECTOR_BYTES, b"\0")
        sectors = [found[100:512], found[512:1024], found[1024:1536], found[1536 : 100 + 1536]]
        assert all(len(set(sector)) == 1 for sector in sectors)
        seen.add(tuple(sector[:1] for sector in sectors))
    assert len(seen) == 16


def test_a_rename_is_lost_or_whole() -> None:
    seen = set()
    for seed in range(50):
        disk, storage = made(synced=True)
        new = storage.open(FILE.with_name("new"), create=True)
        new.write(b"two", 0)
        new.sync()
        storage.sync_dir(FILE.parent)
        storage.rename(FILE.with_name("new"), FILE)
        disk.power_cut(Loss.SOME, random.Random(seed))
        seen.add((content(disk), tuple(SimStorage(disk, random.Random(1)).names(FILE.parent))))
    assert seen == {(b"one", ("file", "new")), (b"two", ("file",))}


def test_after_a_failed_sync_the_next_one_says_nothing_of_what_was_written_before() -> None:
    disk, _ = made(synced=True)
    fates = {"sync": Fate(error=errno.EIO)}
    storage = SimStorage(disk, random.Random(1), lambda operation, _: fates.pop(operation, GO))
    file = storage.open(FILE)
    for sector in range(20):
        file.write(b"2" * SECTOR_BYTES, sector * SECTOR_BYTES)
    with pytest.raises(OSError, match="seed"):
        file.sync()
    file.sync()
    assert set(content(disk) or b"") == {ord("2")}
    disk.power_cut(Loss.NONE, random.Random(1))
    assert set(content(disk) or b"") != {ord("2")}


@pytest.mark.parametrize(("stop", "left"), [(Stop.BEFORE, {3}), (Stop.MIDDLE, set(range(3, 12))), (Stop.AFTER, {11})])
def test_a_process_ends_at_a_call_and_stays_ended(stop: Stop, left: set[int]) -> None:
    sizes = set()
    for seed in range(100):
        disk, _ = made(synced=True)
        storage = SimStorage(disk, random.Random(seed), lambda op, _: Fate(stop=stop) if op == "write" else GO)
        with pytest.raises(CrashError):
            storage.open(FILE).write(b"more bytes!", 0)
        with pytest.raises(CrashError):
            storage.names(ROOT)
        sizes.add(len(content(disk) or b""))
    assert sizes == left


def test_a_full_disk_takes_what_it_has_room_for_and_no_more() -> None:
    disk, storage = made(synced=True)
    disk.capacity = lambda: 10
    file = storage.open(FILE)
    assert storage.free_bytes(ROOT) == 7
    with pytest.raises(OSError, match="full"):
        file.write(b"far too many bytes", 1)
    assert (content(disk), storage.free_bytes(ROOT)) == (b"ofar too m", 0)
    file.write(b"in place", 0)
    for refused in (lambda: file.allocate(11), lambda: storage.open(FILE.with_name("new"), create=True)):
        with pytest.raises(OSError, match="full"):
            refused()
    storage.remove(FILE)
    assert storage.free_bytes(ROOT) == 10
    storage.open(FILE, create=True).write(b"ten bytes!", 0)
