"""docs/promises.md names tests: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = re.findall(r"`(tests/[^`]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "promises.md").read_text())


def test_every_promise_names_tests() -> None:
    rows = [line for line in (ROOT / "docs" / "promises.md").read_text().splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 7
    assert all("`tests/" in row for row in rows)


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_the_named_test_is_there(path: str, name: str) -> None:
    source = (ROOT / path).read_text()
    assert not name or re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE)
