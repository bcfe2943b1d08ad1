from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sink.lake_box import Box, copy_box, make_box
from tests.sink.sink_fakes import database


@pytest.fixture(scope="session", autouse=True)
def _close_database() -> Iterator[None]:
    """DuckDB reports what is still open when Python ends, at length."""
    yield
    database().close()
    database.cache_clear()


@pytest.fixture(scope="session")
def made_box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box at rest, made once."""
    data_dir = tmp_path_factory.mktemp("box") / "data"
    asyncio.run(make_box(data_dir))
    return data_dir


@pytest.fixture
def box(made_box: Path, tmp_path: Path) -> Box:
    """A copy of it, to be damaged."""
    return copy_box(made_box, tmp_path / "data")


@pytest.fixture
async def new_box(tmp_path: Path) -> Box:
    """A box of its own, whose log goes on where it ended: that of a copy would take itself for restored."""
    await make_box(tmp_path / "data")
    return Box(tmp_path / "data")
