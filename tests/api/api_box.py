"""The application over a log in memory, for the API's tests."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from msgspec import msgpack
from starlette.testclient import TestClient

from api.app import create_app
from api.context import Services
from api.reader_pool import ReaderPool
from commitlog.storage import SystemStorage
from core.errors import UnavailableError
from devices.registry_client import RegistryClient
from devices.registry_store import RegistryStore, registry_handlers
from devices.status import StatusView
from devices.status_keeper import StatusKeeper
from devices.tail import StatusTail
from sink.attempts import Trouble
from sink.standing import STANDING_FILE, Standing, TopicStanding, Waiting, write_standing
from tests.log_fakes import FakeClock, FakeLog, FakeTables


class ApiBox:
    """Everything the application answers from; `step` brings the view up to date."""

    def __init__(self, data_dir: Path, *, max_devices: int = 1000, allowed_hosts: tuple[str, ...] = ()) -> None:
        self.clock = FakeClock()
        self.log = FakeLog(self.clock)
        self.log.topic("telemetry")
        self.log.topic("device.events")
        self.view = StatusView(max_devices=max_devices)
        self.keeper = StatusKeeper(self.view, data_dir / "state", SystemStorage(), self.clock)
        self.tail = StatusTail(self.view, self.log.reader, self.clock)
        self.run_dir = data_dir / "run"
        self.run_dir.mkdir(exist_ok=True)
        self.edge: dict[str, Any] = {
            "metrics": "",
            "sessions": {"sessions": [], "connected": 0, "away": 0, "next": None},
        }
        self.edge_away = False
        self.tables = FakeTables()
        self.store = RegistryStore(self.tables, max_devices=1000)
        self.asked: list[dict[str, Any]] = []
        self.pool = ReaderPool(self.log.reader, wait_s=0.05)
        self.services = Services(
            view=self.view,
            tail=self.tail,
            keeper=self.keeper,
            readers=self.pool,
            log=self.log,
            ask=self.ask,
            run_dir=self.run_dir,
            lake_dir=Path("lake"),
            clock=self.clock,
            registry=RegistryClient(self.ask_registry),
            max_registered=1000,
            allowed_hosts=allowed_hosts,
        )
        self.app: FastAPI = create_app(self.services)
        self.client = TestClient(self.app, base_url="http://localhost")

    async def ask(self, verb: str, **args: Any) -> Any:
        self.asked.append(args)
        if verb not in self.edge:
            raise UnavailableError("the edge process does not answer", where="edge.sock", mend="start it")
        return self.edge[verb]

    async def ask_registry(self, verb: str, **args: Any) -> Any:
        """The edge's verbs of the registry, over the same log; what goes through the channel is what comes out."""
        if self.edge_away:
            raise UnavailableError("the edge process does not answer", where="edge.sock", mend="start it")
        handlers = registry_handlers(self.store)
        return msgpack.decode(msgpack.encode(await handlers[verb](msgpack.decode(msgpack.encode(args)))))

    def load_registry(self) -> None:
        asyncio.run(self.services.registry.catch_up())

    def step(self) -> None:
        self.tail.round(self.log.reader())

    def sink_reports(self, text: str, age_ms: int = 0) -> None:
        path = self.run_dir / "sink.prom"
        path.write_text(text)
        at_ns = (self.clock.time_ms() - age_ms) * 1_000_000
        os.utime(path, ns=(at_ns, at_ns))

    def sink_stands(self, *topics: TopicStanding, age_ms: int = 0, **facts: Any) -> None:
        """The sink's other file, with how it stands."""
        facts = {"at_ms": self.clock.time_ms() - age_ms, "state": "idle", "topics": topics, **facts}
        write_standing(Standing(**facts), self.run_dir / STANDING_FILE)

    def failing(self, topic: str, what: str, *, for_ms: int, failures: int = 3) -> TopicStanding:
        """A topic whose exports have failed for a while, with three windows that wait and one of them held back."""
        now_ms = self.clock.time_ms()
        trouble = Trouble(event="export failed", code="storage", what=what, where="lake", mend="mend it", at_ms=now_ms)
        return TopicStanding(
            topic=topic,
            topic_id="0" * 32,
            waiting=Waiting(windows=3, held=1, oldest_end_ms=now_ms - for_ms, counted_at_ms=now_ms - 7),
            failures=failures,
            failing_since_ms=now_ms - for_ms,
            last_error=trouble,
            next_attempt_ms=now_ms + 30_000,
        )

    def get(self, path: str, status: int = 200, **options: Any) -> Any:
        response = self.client.get(path, **options)
        assert response.status_code == status, response.text
        expected = "application/json" if status == 200 else "application/problem+json"
        assert response.headers["content-type"] == expected
        return response.json()
