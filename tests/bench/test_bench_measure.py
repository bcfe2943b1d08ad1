from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.measure import BenchmarkError, DiskCounters, MachineCpu, Spread

DISKSTATS = """\
   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 254       0 vda 55870 9770 3109162 8507 25798 21464 3711280 9850 0 6372 18930 8245 55 671680 461 3509 111
 254       1 vda1 10 0 20 0 30 0 40 0 0 0 0 0 0 0 0
"""
MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /run rw,nosuid - tmpfs tmpfs rw
31 22 254:1 / /srv/data\\040store rw,noatime shared:9 master:2 - xfs /dev/vda1 rw,attr2
32 22 0:40 / /srv ro - btrfs /dev/vdb rw
"""


def test_cpu_ticks_survive_a_command_with_spaces_and_parentheses() -> None:
    stat = "42 (a) b (c) R 1 42 42 0 -1 4194304 100 0 0 0 731 254 0 0 20 0 3 0 12345 1000 200"
    assert measure.parse_cpu_ticks(stat) == (731, 254)


def test_total_cpu_of_this_process_is_what_its_own_clock_says() -> None:
    before = time.process_time()
    seen = measure.process_cpu(os.getpid()).total_s
    assert before <= seen <= time.process_time()


def test_memory_of_this_process() -> None:
    memory = measure.process_memory(os.getpid())
    assert 0 < memory.pss_bytes <= memory.rss_bytes <= memory.peak_rss_bytes


def test_a_missing_line_is_an_error_not_a_zero() -> None:
    with pytest.raises(BenchmarkError, match="VmHWM"):
        measure.parse_kb("VmRSS:\t  12 kB\n", "VmHWM")


def test_diskstats_finds_the_device_by_number() -> None:
    found = measure.parse_diskstats(DISKSTATS, 254, 0)
    assert found == ("vda", DiskCounters(writes=25798, written_bytes=3711280 * 512, flushes=3509))


def test_diskstats_of_a_kernel_without_flush_counts() -> None:
    found = measure.parse_diskstats(DISKSTATS, 254, 1)
    assert found == ("vda1", DiskCounters(writes=30, written_bytes=40 * 512, flushes=0))


def test_diskstats_without_the_device() -> None:
    assert measure.parse_diskstats(DISKSTATS, 8, 0) is None


@pytest.mark.parametrize(
    ("path", "point", "filesystem"),
    [
        ("/opt/box", "/", "ext4"),
        ("/running", "/", "ext4"),
        ("/run", "/run", "tmpfs"),
        ("/srv/x", "/srv", "btrfs"),
        ("/srv/data store/log", "/srv/data store", "xfs"),
    ],
)
def test_mountinfo_picks_the_longest_mount_point(path: str, point: str, filesystem: str) -> None:
    mount = measure.parse_mountinfo(MOUNTINFO, path)
    assert mount is not None
    assert (mount.point, mount.filesystem) == (point, filesystem)


def test_a_directory_without_block_device_has_none() -> None:
    assert measure.block_device_of(Path("/proc/self")) is None


def test_a_directory_that_is_still_to_be_made_is_where_its_parent_is(tmp_path: Path) -> None:
    assert measure.block_device_of(tmp_path / "build" / "data") == measure.block_device_of(tmp_path)


def test_machine_cpu_leaves_out_idle_and_waiting() -> None:
    seen = measure.parse_machine_cpu("cpu  100 20 30 9999 888 5 15 70 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    ticks = measure.TICKS_PER_S
    assert seen == MachineCpu(busy_s=170 / ticks, steal_s=70 / ticks)


def test_spread_of_an_even_number_of_rounds() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 8.0]) == Spread(median=3.0, low=1.0, high=8.0)
