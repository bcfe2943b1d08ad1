"""docs/tools.md lists every finding and note there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tools.md").read_text()
SOURCES = "".join(
    (ROOT / "commitlog" / f"{name}.py").read_text()
    for name in ("check", "check_reasons", "check_segment", "check_state")
)


def test_every_kind_of_finding_is_documented() -> None:
    tables = re.findall(r"\| (?:finding|note) \|.*?\n\n", TEXT, re.DOTALL)
    documented = set(re.findall(r"^\| `([a-z-]+)`", "".join(tables), re.MULTILINE))
    told = re.findall(
        r'(?:_find|_note)\(\s*"([a-z-]+)"|kind="([a-z-]+)"|return "([a-z]+-[a-z]+)",|KIND: Final = "([a-z-]+)"', SOURCES
    )
    assert documented == {next(filter(None, one)) for one in told} | {"index", "timeindex"}
