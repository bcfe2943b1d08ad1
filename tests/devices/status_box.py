"""A log in memory, a status view, a tail that is stepped by hand, and snapshots on a simulated disk."""

from __future__ import annotations

from pathlib import Path

from commitlog.storage import Storage, SystemStorage
from devices.status import StatusView
from devices.status_keeper import StatusKeeper
from devices.status_model import DeviceStatus
from devices.tail import StatusTail
from tests.log_fakes import FakeClock, FakeLog

START_MS = 1_800_000_000_000


class StatusBox:
    """`step` feeds what was appended; `restart` begins anew with what a stop, or a kill, left on disk."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        max_devices: int = 1000,
        partitions: int = 4,
        storage: Storage | None = None,
    ) -> None:
        self.clock = FakeClock(START_MS)
        self.log = FakeLog(self.clock, partitions)
        self.log.topic("telemetry")
        self.log.topic("device.events")
        self.expected: dict[bytes, int] = {}
        self.directory = directory
        self.storage = storage or SystemStorage()
        self.max_devices = max_devices
        self.begin()

    def begin(self) -> None:
        self.view = StatusView(max_devices=self.max_devices, expected=self.expected.get)
        self.keeper = (
            None
            if self.directory is None
            else StatusKeeper(self.view, self.directory / "state", self.storage, self.clock)
        )
        self.tail = StatusTail(self.view, self.log.reader, self.clock, self.keeper)

    def step(self) -> None:
        self.tail.round(self.log.reader())

    def stop(self) -> None:
        assert self.keeper is not None
        self.keeper.stop()

    def restart(self) -> None:
        """A stop in order, and a new start."""
        self.stop()
        self.begin()

    def after(self, ms: int) -> None:
        self.clock.now_ms += ms

    def status(self, device: str) -> DeviceStatus:
        """As of now, all that was appended being fed."""
        self.step()
        found = self.view.get(device.encode(), current=True, as_of_ms=self.clock.now_ms)
        assert found is not None
        return found

    def fields(self, device: str) -> dict[str, tuple[int, bytes | None]]:
        """Value and time since the start of each field."""
        fields = self.status(device).fields
        assert fields is not None
        return {path: (field.time_ms - START_MS, field.value) for path, field in fields.items()}

    def everything(self) -> dict[bytes, DeviceStatus | None]:
        """All devices as of now."""
        self.step()
        keys = [one.key for one in self.view.page(current=True, limit=1_000_000)[0]]
        return {key: self.view.get(key, current=True, as_of_ms=self.clock.now_ms) for key in keys}
