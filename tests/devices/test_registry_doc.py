"""docs/registry.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from devices.registry_csv import COLUMNS, read_csv
from devices.registry_entry import (
    MAX_LOCATION_CHARS,
    MAX_NAME_CHARS,
    MAX_NOTES_CHARS,
    MAX_PATH_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_UNIT_CHARS,
    MAX_UNITS,
    RegistryEntry,
)

DOC = (Path(__file__).parents[2] / "docs" / "registry.md").read_text()


def test_every_field_is_described_with_its_bounds() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)$", DOC, re.MULTILINE))
    assert list(rows) == [field.name for field in msgspec.structs.fields(RegistryEntry)]
    bounds = {
        "name": [MAX_NAME_CHARS],
        "tags": [MAX_TAGS, MAX_TAG_CHARS],
        "location": [MAX_LOCATION_CHARS],
        "units": [MAX_UNITS, MAX_PATH_CHARS, MAX_UNIT_CHARS],
        "notes": [MAX_NOTES_CHARS],
    }
    for field, numbers in bounds.items():
        for number in numbers:
            assert f"{number:,}" in rows[field], (field, number)


def test_the_file_shown_is_one_that_is_read() -> None:
    match = re.search(r"```\n(device,.*?)```", DOC, re.DOTALL)
    assert match is not None
    assert match[1].splitlines()[0] == ",".join(COLUMNS)
    (row,) = read_csv(match[1].encode(), max_rows=1)
    assert row.fields["location"] == "Hall 4, row C"
