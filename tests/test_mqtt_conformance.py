"""docs/mqtt_conformance.md is true: its clauses, its tests and what the code says of clauses belong together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.mqtt_pending import PENDING

ROOT = Path(__file__).resolve().parent.parent
CLAUSE = re.compile(r"MQTT5?-\d+(?:\.\d+)*-\d+")
NAMED_IN = ("wire/mqtt", "ingest", "devices/simulator", "tests/wire", "tests/ingest", "tests/devices")
COUNTS = {"MQTT": 143, "MQTT5": 251}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    clause: str
    where: str
    code: tuple[str, ...]
    tests: tuple[str, ...]


@cache
def rows() -> tuple[Row, ...]:
    text = (ROOT / "docs" / "mqtt_conformance.md").read_text()
    found = re.findall(r"^\| (MQTT5?-\S+) \|[^|]+\| ([a-z ]+) \|([^|]*)\|([^|]*)\|$", text, re.MULTILINE)
    return tuple(
        Row(
            clause=clause,
            where=where,
            code=tuple(re.findall(r"`([^`]+)`", code)),
            tests=tuple(re.findall(r"`([^`]+)`", tests)),
        )
        for clause, where, code, tests in found
    )


@cache
def collected() -> tuple[str, ...]:
    """The ids of every test in the files that the table names, as pytest itself gives them."""
    files = sorted({test.partition("::")[0] for row in rows() for test in row.tests})
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-o",
        "addopts=",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [*command, *files],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    ids = tuple(line for line in done.stdout.splitlines() if "::" in line)
    assert ids, done.stdout + done.stderr
    return ids


def carries(node_id: str, clause: str) -> bool:
    """The test's id has the clause in it, written as it is or as a name can hold it."""
    plain = re.escape(clause)
    name = re.escape(re.sub(r"[-.]", "_", clause).lower())
    return re.search(rf"(?:{plain}(?!\d)|{name}(?!\d))", node_id) is not None


def test_every_clause_has_one_row() -> None:
    clauses = [row.clause for row in rows()]
    assert len(set(clauses)) == len(clauses)
    counts = {version: sum(clause.startswith(f"{version}-") for clause in clauses) for version in COUNTS}
    assert counts == COUNTS
    assert {row.where for row in rows()} == {"codec", "state machine", "transport", "client"}


def test_every_named_test_is_there_and_carries_its_clause() -> None:
    ids = collected()
    missing = [
        f"{row.clause}: {test}"
        for row in rows()
        for test in row.tests
        if not any(re.match(re.escape(test) + r"(?:\[|$)", one) and carries(one, row.clause) for one in ids)
    ]
    assert missing == []


def test_what_has_no_test_is_listed() -> None:
    without = {row.clause for row in rows() if not row.tests and row.where != "client"}
    assert without == set(PENDING)


def test_what_is_tested_names_its_code() -> None:
    """Of the codec every row is in `wire/mqtt`; of the rest a row says where."""
    outside = [row for row in rows() if row.tests and row.where in ("state machine", "transport")]
    assert [row.clause for row in outside if not row.code] == []
    assert sorted({path for row in rows() for path in row.code if not (ROOT / path).is_file()}) == []


def test_the_codec_is_complete() -> None:
    assert [row.clause for row in rows() if row.where == "codec" and not row.tests] == []


def test_no_clause_is_named_that_does_not_exist() -> None:
    known = {row.clause for row in rows()}
    named = {
        (str(path.relative_to(ROOT)), clause)
        for folder in NAMED_IN
        for path in (ROOT / folder).rglob("*.py")
        for clause in CLAUSE.findall(path.read_text())
    }
    assert len(named) > 100
    assert sorted((path, clause) for path, clause in named if clause not in known) == []
