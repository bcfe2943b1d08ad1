"""What a simulated fleet sent and what became of it: the file that tests compare the box with."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from core.errors import BadRequestError
from devices.simulator.ranges import Ranges, size_of

FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """One device. `acked`, `refused` and `unacked` do not overlap and make up 1..`sent`.

    `sent` counts readings made, and is the highest sequence number. Ranges are `(first, last)`, both included.
    `refused` maps a number to the reason the box gave; `resent` holds the numbers that went out more than once,
    `resends` how often that happened in all; `skipped` counts readings that were due but not made (the device
    remembers only so many unacked ones), they have no number. `connections` were accepted by the box,
    `failed_connections` were not; `last_error` says why the last one failed or ended.
    """

    protocol: Literal["mqtt", "tcp"]
    sent: int
    acked: Ranges
    unacked: Ranges
    refused: dict[int, str]
    resent: Ranges
    resends: int
    skipped: int
    connections: int
    failed_connections: int
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over the devices, in readings (`resends`: transmissions)."""

    devices: int
    sent: int
    acked: int
    unacked: int
    refused: int
    resent: int
    resends: int
    skipped: int
    connections: int
    failed_connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """A whole run. `final` is false in a report written while the fleet was still at work.

    Times are milliseconds since the epoch; `ended_ms` is when the report was made.
    """

    seed: int
    rate_hz: float
    started_ms: int
    ended_ms: int
    final: bool
    devices: dict[str, DeviceReport]

    @property
    def totals(self) -> Totals:
        """Sums over all devices."""
        devices = self.devices.values()
        return Totals(
            devices=len(devices),
            sent=sum(device.sent for device in devices),
            acked=sum(size_of(device.acked) for device in devices),
            unacked=sum(size_of(device.unacked) for device in devices),
            refused=sum(len(device.refused) for device in devices),
            resent=sum(size_of(device.resent) for device in devices),
            resends=sum(device.resends for device in devices),
            skipped=sum(device.skipped for device in devices),
            connections=sum(device.connections for device in devices),
            failed_connections=sum(device.failed_connections for device in devices),
        )

    def to_json(self) -> bytes:
        """The report as JSON: a format number, the totals, then everything."""
        return msgspec.json.encode(_Document(format=FORMAT, totals=self.totals, report=self)) + b"\n"

    @classmethod
    def from_json(cls, text: bytes | str, *, where: str = "report") -> FleetReport:
        """Read what `to_json` wrote. Raises BadRequestError for anything else."""
        try:
            document = msgspec.json.decode(text, type=_Document)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequestError(f"not a simulator's report: {error}", where=where) from error
        if document.format != FORMAT:
            raise BadRequestError(f"a report of format {document.format}; this reads format {FORMAT}", where=where)
        return document.report

    def write(self, path: Path) -> None:
        """Put the report at `path` atomically, on disk when this returns. Raises BadRequestError if it cannot be."""
        ReportFile(path).write(self)

    @classmethod
    def read(cls, path: Path) -> FleetReport:
        """Read a report file. Raises BadRequestError for one that is not, OSError if it cannot be read."""
        return cls.from_json(path.read_bytes(), where=str(path))


class ReportFile:
    """Where the reports of one run go, one after the other; may be written from any thread.

    Each takes the place of the one before atomically: a reader, or a crash, meets one or the other, whole. Nothing
    replaces a final one, so that an earlier report that was slow to be written cannot.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._finished = False

    def write(self, report: FleetReport) -> None:
        """Blocks until the report is on disk. Raises BadRequestError if it cannot be written."""
        with self._lock:
            if self._finished:
                return
            try:
                self._replace(report.to_json())
            except OSError as error:
                raise BadRequestError(f"the report cannot be written: {error}", where=str(self._path)) from error
            self._finished = report.final

    def _replace(self, content: bytes) -> None:
        temporary = self._path.with_name(self._path.name + ".tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    format: int
    totals: Totals
    report: FleetReport
