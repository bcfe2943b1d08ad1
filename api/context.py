"""What the routes are handed: everything they answer from, so that tests hand them fakes."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from api.reader_pool import ReaderPool
from core.clock import Clock
from devices.registry_client import RegistryClient
from devices.status import StatusView
from devices.tail import TailStatus


class Tail(Protocol):
    """What the routes need of the status tail."""

    def status(self) -> TailStatus:
        """State, lag and rate now."""
        ...


class Keeper(Protocol):
    """What the routes need of what keeps the view over a restart."""

    @property
    def snapshots(self) -> int:
        """Written since the start."""
        ...

    @property
    def failures(self) -> int:
        """Snapshots that could not be written, or not be used."""
        ...

    @property
    def size_bytes(self) -> int:
        """Of the snapshot there is; 0: none yet."""
        ...


class TableRows(Protocol):
    """What the routes need of the log."""

    async def rows(self, table: str) -> Mapping[str, Any]:
        """All rows of a state table by key. Raises UnavailableError."""
        ...


class Ask(Protocol):
    """Calls a verb of the edge over the local channel."""

    def __call__(self, verb: str, **args: Any) -> Awaitable[Any]:
        """The verb's result. Raises UnavailableError while the edge is away, BadRequestError for what it refuses."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The sources of every answer.

    `ask` calls a verb of the edge over the local channel (UnavailableError while it is away). `allowed_hosts` are
    names the console answers to besides localhost and addresses. `max_registered`: entries that the registry may hold.
    `sink_expected`: exporting is switched on, so its silence makes the box not ready. `weaker_durability`: where
    acknowledged does not mean synced, and the level there.
    """

    view: StatusView
    tail: Tail
    keeper: Keeper
    readers: ReaderPool
    log: TableRows
    ask: Ask
    run_dir: Path
    lake_dir: Path
    clock: Clock
    registry: RegistryClient
    max_registered: int
    allowed_hosts: Collection[str] = ()
    sink_expected: bool = True
    weaker_durability: Mapping[str, str] = field(default_factory=dict)


def services_of(request: Request) -> Services:
    """The services of the application that serves this request."""
    services: Services = request.app.state.services
    return services


Injected = Annotated[Services, Depends(services_of)]
