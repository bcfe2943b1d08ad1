"""A store over tables in memory, and clients as other processes have them: all passes the channel's packing."""

from __future__ import annotations

from typing import Any

from msgspec import msgpack

from core.errors import UnavailableError
from devices.registry_client import RegistryClient
from devices.registry_entry import RegistryEntry
from devices.registry_store import RegistryStore, registry_handlers
from tests.log_fakes import FakeTables


class RegistryBox:
    def __init__(self, *, max_devices: int = 1000) -> None:
        self.tables = FakeTables()
        self.max_devices = max_devices
        self.store = RegistryStore(self.tables, max_devices=max_devices)
        self.away = False
        self.asked: list[str] = []
        self.before_write: Any = None

    async def ask(self, verb: str, **args: Any) -> Any:
        self.asked.append(verb)
        if self.away:
            raise UnavailableError("the edge process does not answer")
        if verb == "registry_write" and self.before_write is not None:
            before, self.before_write = self.before_write, None
            await before()
        handler = registry_handlers(self.store)[verb]
        return msgpack.decode(msgpack.encode(await handler(msgpack.decode(msgpack.encode(args)))))

    def client(self) -> RegistryClient:
        return RegistryClient(self.ask)

    def restart(self) -> None:
        """The edge starts again on what is stored."""
        self.store = RegistryStore(self.tables, max_devices=self.max_devices)


def named(name: str, *tags: str, **fields: Any) -> RegistryEntry:
    return RegistryEntry(name=name, tags=tags, **fields)
