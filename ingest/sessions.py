"""Sessions: who is connected, and which devices speak through whom.

A session is one connection; a device is connected while any session is open in which it has published. The topic
`device.events` tells: `connected` at a device's first publish in a session, `disconnected` for each of its devices at
the session's end, and `edge.started` at the start of this process, in every partition, which ends all older sessions.
Events are ordinary records, appended to the open commit like the readings beside them; those at a session's end wait
while the log is congested, so that a fleet that leaves at once is no commit of a size that nobody bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from commitlog.base import Appender
from commitlog.partitioner import partition_for_key
from ingest.limits import RECORD_OVERHEAD_BYTES
from ingest.roster import Roster

EVENTS_TOPIC: Final = "device.events"
MAX_DEVICES: Final = 500_000  # followed in all sessions together, some 100 MB; each session follows one in any case
_encode: Final = msgspec.json.Encoder().encode


class Session:
    """One open connection and the devices that have published in it."""

    __slots__ = ("client_id", "devices", "number", "peer", "protocol", "session_id", "since_ms", "username")

    def __init__(
        self,
        *,
        session_id: str,
        protocol: str,
        peer: str,
        since_ms: int,
        client_id: str = "",
        username: str | None = None,
    ) -> None:
        self.session_id = session_id
        self.protocol = protocol
        self.peer = peer
        self.since_ms = since_ms
        self.client_id = client_id
        self.username = username
        self.number = 0  # in its protocol's roster
        self.devices: dict[str, None] = {}  # in the order of their first publish


class Sessions:
    """All open sessions, and the device events that they cause."""

    def __init__(self, log: Appender, boot_id: str, *, max_devices: int = MAX_DEVICES) -> None:
        self._log = log
        self._max_devices = max_devices
        self._devices = 0
        self._boot_id = boot_id
        self._partitions = log.partitions(EVENTS_TOPIC)
        self._rosters: dict[str, Roster[Session]] = {}
        self._last_number = 0

    def __len__(self) -> int:
        return sum(map(len, self._rosters.values()))

    @property
    def rosters(self) -> Mapping[str, Roster[Session]]:
        """The open sessions of each protocol that has had any, by its name."""
        return self._rosters

    def edge_started(self) -> None:
        """End every session of an older boot: one record in every partition."""
        value = _encode({"event": "edge.started", "boot_id": self._boot_id})
        now = self._log.now_ms()
        for partition in self._partitions:
            partition.append(now, None, value, [])
        self._log.appended(len(self._partitions), len(value) * len(self._partitions))

    def open(self, protocol: str, peer: str, *, client_id: str = "", username: str | None = None) -> Session:
        """A connection is accepted."""
        self._last_number += 1
        session = Session(
            session_id=f"{self._boot_id[:8]}-{self._last_number}",
            protocol=protocol,
            peer=peer,
            since_ms=self._log.now_ms(),
            client_id=client_id,
            username=username,
        )
        session.number = self._rosters.setdefault(protocol, Roster()).add(session)
        return session

    def device_seen(self, session: Session, device: str) -> bool:
        """A device publishes; its first time in a session is an event.

        True if another device of the session had to give way: its next publish must come by here again.
        """
        if device in session.devices:
            return False
        gives_way = self._devices >= self._max_devices and bool(session.devices)
        if gives_way:
            oldest = next(iter(session.devices))
            del session.devices[oldest]
            self._disconnected(session.session_id, oldest, "too many devices are followed")
        else:
            self._devices += 1
        session.devices[device] = None
        self._append(
            device,
            {
                "event": "connected",
                "device": device,
                "session": session.session_id,
                "client_id": session.client_id,
                "protocol": session.protocol,
                "peer": session.peer,
                "boot_id": self._boot_id,
            },
        )
        return gives_way

    def close(self, session: Session, reason: str) -> None:
        """A connection has ended: an event for each of its devices, as fast as the log takes them."""
        self._rosters[session.protocol].remove(session.number)
        self._devices -= len(session.devices)
        self._release(session.session_id, sorted(session.devices), 0, reason)
        session.devices.clear()

    def _release(self, session_id: str, devices: Sequence[str], at: int, reason: str) -> None:
        for index in range(at, len(devices)):
            if self._log.congested:
                self._log.when_clear(partial(self._release, session_id, devices, index, reason))
                return
            self._disconnected(session_id, devices[index], reason)

    def _disconnected(self, session_id: str, device: str, reason: str) -> None:
        event = {
            "event": "disconnected",
            "device": device,
            "session": session_id,
            "reason": reason,
            "boot_id": self._boot_id,
        }
        self._append(device, event)

    def _append(self, device: str, event: dict[str, str]) -> None:
        key = device.encode()
        value = _encode(event)
        partition = self._partitions[partition_for_key(key, len(self._partitions))]
        partition.append(self._log.now_ms(), key, value, [])
        self._log.appended(1, len(value) + RECORD_OVERHEAD_BYTES)
