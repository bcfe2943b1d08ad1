"""What the tests of the log share as fixtures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def volatile_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: for what has to be quick and need not last."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK | os.X_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="headrace-test-", dir=memory) as name:
        yield Path(name)
