"""What Linux says about a process, a block device and the machine: readings of `/proc`, and their differences.

Every counter here only grows, so a figure is the difference of two readings. The total CPU time of a process is read
from its own clock, to the nanosecond; how it divides into user and system comes in clock ticks (10 ms on common
kernels), which says little about a process that is idle most of the time.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import HeadraceError

PROC: Final = Path("/proc")
SECTOR_BYTES: Final = 512  # /proc/diskstats counts in these whatever the device's own sector size is
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED: Final = 2  # the clock of a process that counts its time on a processor (Linux posix-timers.h)


class BenchmarkError(HeadraceError):
    """The benchmark cannot be run, or a run of it broke off."""

    code = "benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of some rounds, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Raises ValueError for no values."""
        return Spread(median=statistics.median(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessCpu:
    """CPU seconds that a process, with all its threads, has used since its start."""

    user_s: float
    system_s: float
    total_s: float

    def since(self, before: ProcessCpu) -> ProcessCpu:
        return ProcessCpu(
            user_s=self.user_s - before.user_s,
            system_s=self.system_s - before.system_s,
            total_s=self.total_s - before.total_s,
        )


def parse_cpu_ticks(stat: str) -> tuple[int, int]:
    """User and system ticks of `/proc/<pid>/stat` (proc_pid_stat(5), fields 14, 15); the command may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


def process_cpu(pid: int) -> ProcessCpu:
    user, system = parse_cpu_ticks((PROC / str(pid) / "stat").read_text())
    clock = (~pid << 3) | _CPUCLOCK_SCHED  # what clock_getcpuclockid(3) returns; Python has no call for it
    return ProcessCpu(user_s=user / TICKS_PER_S, system_s=system / TICKS_PER_S, total_s=time.clock_gettime(clock))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident memory: now, as a proportional share (shared pages divided among their users), and its peak so far."""

    rss_bytes: int
    pss_bytes: int
    peak_rss_bytes: int


def parse_kb(text: str, name: str) -> int:
    """Bytes of a `Name:   123 kB` line in a file of `/proc`."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise BenchmarkError(f"no line {name} to be found", where="a file of /proc")
    return int(match[1]) * 1024


def process_memory(pid: int) -> Memory:
    status = (PROC / str(pid) / "status").read_text()
    rollup = (PROC / str(pid) / "smaps_rollup").read_text()
    return Memory(
        rss_bytes=parse_kb(status, "VmRSS"),
        pss_bytes=parse_kb(rollup, "Pss"),
        peak_rss_bytes=parse_kb(status, "VmHWM"),
    )


def process_write_bytes(pid: int) -> int:
    """Bytes that the process has made dirty in the page cache on their way to a device (proc_pid_io(5))."""
    match = re.search(r"^write_bytes: (\d+)$", (PROC / str(pid) / "io").read_text(), re.MULTILINE)
    if match is None:
        raise BenchmarkError("no line write_bytes to be found", where=f"/proc/{pid}/io")
    return int(match[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCounters:
    """What a block device has completed: write requests, bytes written, flush requests."""

    writes: int
    written_bytes: int
    flushes: int

    def since(self, before: DiskCounters) -> DiskCounters:
        return DiskCounters(
            writes=self.writes - before.writes,
            written_bytes=self.written_bytes - before.written_bytes,
            flushes=self.flushes - before.flushes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDevice:
    """The device below a directory, by its number and by its name in `/proc/diskstats`."""

    major: int
    minor: int
    name: str
    filesystem: str
    mount_options: str

    def counters(self) -> DiskCounters:
        found = parse_diskstats((PROC / "diskstats").read_text(), self.major, self.minor)
        if found is None:
            raise BenchmarkError(f"device {self.name} has left /proc/diskstats")
        return found[1]

    @property
    def rotational(self) -> bool | None:
        """Whether the kernel takes the device for a spinning disk; None if it does not say."""
        try:
            return Path(f"/sys/dev/block/{self.major}:{self.minor}/queue/rotational").read_text().strip() == "1"
        except FileNotFoundError:  # a partition has no queue of its own
            return None


def parse_diskstats(text: str, major: int, minor: int) -> tuple[str, DiskCounters] | None:
    """Name and counters of one device (kernel Documentation/admin-guide/iostats.rst); None if it is not listed."""
    for line in text.splitlines():
        fields = line.split()
        if fields[:2] == [str(major), str(minor)]:
            flushes = int(fields[18]) if len(fields) > 18 else 0  # counted since Linux 5.5
            counted = DiskCounters(writes=int(fields[7]), written_bytes=int(fields[9]) * SECTOR_BYTES, flushes=flushes)
            return fields[2], counted
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of `/proc/self/mountinfo`."""

    point: str
    filesystem: str
    source: str
    options: str


def parse_mountinfo(text: str, path: str) -> Mount | None:
    """The mount that `path` (absolute, resolved) stands on: of the longest mount points the last (proc(5))."""
    best: Mount | None = None
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        filesystem, source, _ = right.split(" ", 2)
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best.point)):
            best = Mount(point=point, filesystem=filesystem, source=source, options=left.split()[5])
    return best


def block_device_of(directory: Path) -> BlockDevice | None:
    """The block device that `directory` is stored on, or will be: it may still have to be made.

    None where there is none to be seen (tmpfs, overlay, network).
    """
    resolved = next(path for path in (directory.resolve(), *directory.resolve().parents) if path.exists())
    mount = parse_mountinfo((PROC / "self" / "mountinfo").read_text(), str(resolved))
    if mount is None:
        return None
    number = os.stat(resolved).st_dev  # noqa: PTH116 - os.major and os.minor go with it
    if os.major(number) == 0 and Path(mount.source).is_block_device():
        number = os.stat(mount.source).st_rdev  # noqa: PTH116 - btrfs and the like have numbers of their own
    found = parse_diskstats((PROC / "diskstats").read_text(), os.major(number), os.minor(number))
    if found is None:
        return None
    return BlockDevice(
        major=os.major(number),
        minor=os.minor(number),
        name=found[0],
        filesystem=mount.filesystem,
        mount_options=mount.options,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRate:
    """What a device is written per second when nothing is measured."""

    bytes_per_s: float = 0.0
    writes_per_s: float = 0.0
    flushes_per_s: float = 0.0


def idle_disk_rate(device: BlockDevice, seconds: float) -> DiskRate:
    """What the device is written by everything else on the machine, seen over `seconds`."""
    os.sync()
    before, started = device.counters(), time.monotonic()
    time.sleep(seconds)
    os.sync()
    seen, elapsed_s = device.counters().since(before), time.monotonic() - started
    return DiskRate(
        bytes_per_s=seen.written_bytes / elapsed_s,
        writes_per_s=seen.writes / elapsed_s,
        flushes_per_s=seen.flushes / elapsed_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCpu:
    """CPU seconds of the whole machine since boot: in use, and taken by the hypervisor for others."""

    busy_s: float
    steal_s: float

    def since(self, before: MachineCpu) -> MachineCpu:
        return MachineCpu(busy_s=self.busy_s - before.busy_s, steal_s=self.steal_s - before.steal_s)


def parse_machine_cpu(stat: str) -> MachineCpu:
    """From the first line of `/proc/stat` (proc_stat(5)): user, nice, system, irq and softirq are in use."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    return MachineCpu(busy_s=(user + nice + system + irq + softirq) / TICKS_PER_S, steal_s=steal / TICKS_PER_S)


def machine_cpu() -> MachineCpu:
    return parse_machine_cpu((PROC / "stat").read_text())


def cpu_model() -> str:
    match = re.search(r"^model name\s*: (.+)$", (PROC / "cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def describe_machine(device: BlockDevice | None) -> dict[str, str]:
    """What the figures were measured on, for a reader elsewhere."""
    kinds = {True: "rotational, says the kernel", False: "solid state, says the kernel", None: "kind unknown"}
    storage = "no block device to be seen: no device figures"
    if device is not None:
        storage = f"{device.filesystem} ({device.mount_options}) on {device.name}, {kinds[device.rotational]}"
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": f"{os.cpu_count()} x {cpu_model()}",
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "storage": storage,
        "load average at start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }
