from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sink.sink_fakes import database


@pytest.fixture(scope="session", autouse=True)
def _close_database() -> Iterator[None]:
    """DuckDB reports what is still open when Python ends, at length."""
    yield
    database().close()
    database.cache_clear()
