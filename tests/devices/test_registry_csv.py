"""The registry as CSV: round trip, formulas, errors by row; imports that end in the middle."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from core.errors import BadRequestError, HeadraceError, UnavailableError
from devices.registry import Registered
from devices.registry_client import RegistryClient
from devices.registry_csv import COLUMNS, MAX_ERRORS, CsvError, csv_header, csv_lines, read_csv
from devices.registry_entry import RegistryEntry, RegistryPosition, RegistryRow
from devices.registry_import import Imported, carry_out, plan
from devices.registry_store import MAX_CHANGES, RegistryStore, registry_handlers
from tests.commitlog.log_support import opened
from tests.devices.registry_box import RegistryBox, named

NO_CONTROL = st.characters(exclude_categories=["Cc", "Cs"])
TEXT = st.text(st.one_of(st.sampled_from("=+-@'\"',; "), NO_CONTROL), max_size=12)
NOTES = st.text(st.one_of(st.sampled_from("=+-@'\",;\r\n\t"), NO_CONTROL), max_size=20)
LISTED = TEXT.filter(lambda text: text and text == text.strip() and text[0] not in "=+-@" and not set(text) & set(",;"))
ENTRIES = st.builds(
    RegistryEntry,
    name=TEXT,
    tags=st.lists(LISTED, unique=True, max_size=4).map(tuple),
    location=TEXT,
    position=st.none()
    | st.builds(
        RegistryPosition,
        latitude=st.floats(-90, 90),
        longitude=st.floats(-180, 180),
    ),
    expected_interval_ms=st.none() | st.integers(100, 10**9),
    units=st.dictionaries(LISTED, LISTED.filter(lambda text: "=" not in text), max_size=4),
    notes=NOTES,
)
DEVICES = st.text(st.one_of(st.sampled_from("=+-@'/\","), NO_CONTROL), min_size=1, max_size=20)


def text_of(entries: dict[str, RegistryEntry]) -> str:
    rows = [
        Registered(device=device.encode(), row=RegistryRow(revision=1, entry=entry))
        for device, entry in entries.items()
    ]
    return csv_header() + "".join(csv_lines(rows))


@seed(20261120)
@settings(max_examples=300, deadline=None, database=None)
@given(entries=st.dictionaries(DEVICES, ENTRIES, max_size=4))
def test_what_is_written_is_what_is_read_and_nothing_calculates(entries: dict[str, RegistryEntry]) -> None:
    text = text_of(entries)
    rows = read_csv(text.encode(), max_rows=10)
    assert {row.device.decode(): RegistryEntry(**row.fields) for row in rows} == entries
    for cells in list(csv.reader(io.StringIO(text, newline="")))[1:]:
        for column, cell in zip(COLUMNS, cells, strict=True):
            assert column in ("latitude", "longitude") or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_spreadsheets_make_of_it_is_read(delimiter: str, mark: str) -> None:
    lines = [
        ["Device", "Expected_Interval", "latitude", "longitude", "tags", "units"],
        ["press-17", "10s", "48,5", "11.5", " press ; hall-4;", "temperature = °C; a=b=c"],
        ["", "", "", "", "", ""],
        ["line/4", "", "", "", "", ""],
    ]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(lines)
    first, second = read_csv((mark + out.getvalue()).encode(), max_rows=10)
    assert (first.number, first.device) == (2, b"press-17")
    assert first.fields == {
        "expected_interval_ms": 10_000,
        "position": RegistryPosition(latitude=48.5, longitude=11.5),
        "tags": ("press", "hall-4"),
        "units": {"temperature": "°C", "a=b": "c"},
    }
    assert (second.number, second.device, second.fields["position"]) == (4, b"line/4", None)


@pytest.mark.parametrize(
    ("body", "says", "where"),
    [
        (b"", "`device` is missing", "row 1"),
        (b"name\nx\n", "`device` is missing", "row 1"),
        (b"device,colour\n", "no column 'colour'", "row 1"),
        (b"device,name,name\n", "stands twice", "row 1"),
        (b"device,latitude\n", "belong together", "row 1"),
        (b"device,name\na,\xff\n", "not UTF-8", "line 2"),
        (b'device,name\na,"b\n', "no CSV", "line"),
        (b'device,name\na,"b"c\n', "no CSV", "line 2"),
        (b"device\na\nb\nc\n", "more than 2 rows", "http.max_devices"),
    ],
)
def test_what_is_no_such_file_is_said(body: bytes, says: str, where: str) -> None:
    with pytest.raises(BadRequestError, match=says) as raised:
        read_csv(body, max_rows=2)
    assert where in raised.value.where


def test_every_bad_cell_is_told_with_its_row_and_column() -> None:
    body = (
        "device,name,tags,expected_interval,latitude,longitude,units\n"
        "a,\x07,=x,10,91,0,m\n"
        ",,,,,,\n"
        "b,,,,1,,\n"
        "c,,\n"
        "d,,,,north,1,a=m;a=s\n"
        "d2,,,,,,\n"
        "d2,,,,,,\n"
    )
    body += f"{'x' * 257},,,,,,\ne,{'n' * 40000},,,,,\n"
    with pytest.raises(CsvError) as raised:
        read_csv(body.encode(), max_rows=100)
    assert [error.where for error in raised.value.errors] == [
        "row 2, column name",
        "row 2, column tags",
        "row 2, column expected_interval",
        "row 2, column units",
        "row 2, columns latitude and longitude",
        "row 4, columns latitude and longitude",
        "row 5",
        "row 6, column units",
        "row 6, columns latitude and longitude",
        "row 8, column device",
        "row 9, column device",
        "row 10, column name",
    ]
    assert "row 7" in raised.value.errors[9].what
    assert "nothing was written" in raised.value.what


def test_errors_beyond_a_number_are_counted() -> None:
    body = "device,tags\n" + "".join(f"d{number},=\n" for number in range(MAX_ERRORS + 50))
    with pytest.raises(CsvError, match="and 149 more") as raised:
        read_csv(body.encode(), max_rows=1000)
    assert len(raised.value.errors) == MAX_ERRORS


# -- imports


async def imported(client: RegistryClient, body: str, **options: Any) -> Imported:
    rows = read_csv(body.encode(), max_rows=1000)
    await client.catch_up()
    counts, planned = plan(client.view, rows, max_devices=options.get("max_devices", 1000))
    await carry_out(client, planned)
    return counts


async def test_columns_that_are_there_are_set_and_others_stay() -> None:
    client = RegistryBox().client()
    await client.patch(b"a", {"name": "old", "notes": "n", "tags": ["t"]})
    assert await imported(client, "device,name,tags\na,new,\nb,,\n") == Imported(
        rows=2, created=1, changed=1, unchanged=0
    )
    row = client.view.get(b"a")
    assert row is not None
    assert row.entry == named("new", notes="n")
    assert await imported(client, "device,name,tags\na,new,\nb,,\n") == Imported(
        rows=2, created=0, changed=0, unchanged=2
    )


FILE = "device,name\n" + "".join(f"d{number:04},n{number}\n" for number in range(5 * MAX_CHANGES + 7))


@pytest.mark.parametrize("commits", range(6))
async def test_killed_between_commits_the_first_are_whole_and_a_second_import_does_the_rest(commits: int) -> None:
    box = RegistryBox()
    client = box.client()
    done = 0

    async def die() -> None:
        nonlocal done
        if done == commits:
            box.away = True
            raise UnavailableError("the edge was killed")
        done += 1
        box.before_write = die

    box.before_write = die
    with pytest.raises(UnavailableError, match=f"^{commits * MAX_CHANGES} of 507 entries were written") as raised:
        await imported(client, FILE)
    assert "import the same file again" in raised.value.mend
    box.away = False
    box.restart()
    other = box.client()
    await other.catch_up()
    found = other.view.page(limit=1000)[0]
    assert [one.device.decode() for one in found] == [f"d{n:04}" for n in range(commits * MAX_CHANGES)]
    assert [one.row.entry.name for one in found] == [f"n{n}" for n in range(commits * MAX_CHANGES)]
    counts = await imported(other, FILE)
    assert counts == Imported(rows=507, created=507 - len(found), changed=0, unchanged=len(found))
    assert other.view.devices == 507


async def test_killed_on_a_real_log_at_any_commit_of_an_import(tmp_path: Path) -> None:
    """Copies of the files, taken while the process lives, are what a kill at that moment leaves."""
    body = "device,name\n" + "".join(f"d{number:04},n\n" for number in range(2 * MAX_CHANGES + 7))
    async with opened(tmp_path / "live") as log:
        store = RegistryStore(log, max_devices=1000)
        copies: list[Path] = []

        async def ask(verb: str, **args: Any) -> Any:
            answer = await registry_handlers(store)[verb](args)
            if verb == "registry_write":
                copies.append(tmp_path / f"killed-{len(copies)}")
                shutil.copytree(tmp_path / "live", copies[-1], ignore=shutil.ignore_patterns("*.sock"))
            return answer

        await imported(RegistryClient(ask), body)
    assert len(copies) == 3
    for copy, found in zip(copies, (MAX_CHANGES, 2 * MAX_CHANGES, 2 * MAX_CHANGES + 7), strict=True):
        async with opened(copy) as log:
            handlers = registry_handlers(RegistryStore(log, max_devices=1000))
            client = RegistryClient(lambda verb, handlers=handlers, **args: handlers[verb](args))
            await client.catch_up()
            first = [f"d{number:04}".encode() for number in range(found)]
            assert [one.device for one in client.view.page(limit=1000)[0]] == first
            assert (await imported(client, body)).created == 2 * MAX_CHANGES + 7 - found
            assert client.view.devices == 2 * MAX_CHANGES + 7


async def test_another_who_writes_meanwhile_is_not_overwritten() -> None:
    box = RegistryBox()
    client, other = box.client(), box.client()
    await client.patch(b"a", {"name": "1"})

    async def meanwhile() -> None:
        await other.patch(b"a", {"notes": "theirs"})
        await other.patch(b"b", {"tags": ["theirs"]})

    box.before_write = meanwhile
    await imported(client, "device,name\na,ours\nb,ours\nc,ours\n")
    entries = {one.device: one.row.entry for one in client.view.page()[0]}
    assert entries == {b"a": named("ours", notes="theirs"), b"b": named("ours", "theirs"), b"c": named("ours")}


async def test_one_bad_row_or_one_device_too_many_and_nothing_is_written() -> None:
    box = RegistryBox()
    with pytest.raises(CsvError):
        await imported(box.client(), "device,name\na,x\nb,\x07\n")
    with pytest.raises(BadRequestError, match="would hold 2 devices, the limit is 1"):
        await imported(box.client(), "device,name\na,x\nb,y\n", max_devices=1)
    client = box.client()
    await client.catch_up()
    body = "device,units\n" + "a," + ";".join(f"{'é' * 120}{n}={'°' * 32}" for n in range(60)) + "\n"
    with pytest.raises(HeadraceError, match="16384"):
        await imported(client, body)
    assert box.tables.commits == 0
