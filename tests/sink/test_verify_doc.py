"""docs/verify.md lists every finding and note there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "verify.md").read_text()
SOURCES = "".join(path.read_text() for path in sorted((ROOT / "sink" / "verify").glob("*.py")))
TROUBLES = ("foreign", "corrupt", "contradiction")


def documented(sort: str) -> set[str]:
    (table,) = re.findall(rf"\| {sort} \|.*?\n\n", TEXT, re.DOTALL)
    return set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE))


def test_every_kind_of_finding_is_documented() -> None:
    told = set(re.findall(r'(?:find|_find|_problem)\(\s*"([a-z-]+)"', SOURCES))
    told |= set(re.findall(r'"((?:file|row|offset)-[a-z]+|value)"[,)]', SOURCES))
    assert documented("finding") == told | {f"file-{trouble}" for trouble in TROUBLES}


def test_every_kind_of_note_is_documented() -> None:
    assert documented("note") == set(re.findall(r'\.note\(\s*"([a-z-]+)"', SOURCES))
