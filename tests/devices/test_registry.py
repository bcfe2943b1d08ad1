"""The device registry: entries, versions, two writers, followers, restarts."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from commitlog.base import TableChange
from core.errors import BadRequestError, NotFoundError, OutdatedError, UnavailableError
from devices import registry, registry_store
from devices.registry_entry import (
    MAX_ENTRY_BYTES,
    MAX_TAGS,
    REVISION_KEY,
    TABLE,
    RegistryEntry,
    device_key,
    device_of_key,
    entry_from_json,
    patched,
    row_key,
)
from devices.registry_store import ABSENT, PRESENT, Change, RegistryStore
from tests.commitlog.log_support import opened
from tests.devices.registry_box import RegistryBox, named


@pytest.fixture
def box() -> RegistryBox:
    return RegistryBox()


def change(device: str, entry: RegistryEntry | None, expected: int | None = None) -> Change:
    return Change(device=device.encode(), expected=expected, entry=entry)


# -- entries


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "truncated"),
        (b"7", "object"),
        (b'{"nam": ""}', "nam"),
        (b'{"name": 7}', "$.name"),
        (b'{"name": "a\\u0007"}', "name: contains a control character"),
        (b'{"name": "%s"}' % (b"n" * 129), "$.name"),
        (b'{"tags": ["a", "a"]}', "each may stand once"),
        (b'{"tags": [" a"]}', "space"),
        (b'{"tags": ["a;b"]}', "semicolon"),
        (b'{"tags": ["a,b"]}', "comma"),
        (b'{"tags": ["=1+1"]}', "spreadsheets"),
        (b'{"tags": ["a\\nb"]}', "control character"),
        (b'{"tags": [""]}', "$.tags"),
        (b'{"tags": [%s]}' % b",".join(b'"%d"' % n for n in range(MAX_TAGS + 1)), "$.tags"),
        (b'{"location": "a\\nb"}', "location"),
        (b'{"position": {"latitude": 1}}', "longitude"),
        (b'{"position": {"latitude": 90.1, "longitude": 0}}', "$.position.latitude"),
        (b'{"expected_interval_ms": 99}', "$.expected_interval_ms"),
        (b'{"expected_interval_ms": 1e400}', "this is no entry"),
        (b'{"units": {"a": "="}}', "a unit contains no"),
        (b'{"units": {"a;b": "m"}}', "semicolon"),
        (b'{"units": {" a": "m"}}', "space"),
        (b'{"units": {"": "m"}}', "$.units"),
        (b'{"notes": "\\u0000"}', "notes"),
        (b'{"name": "\xff"}', "this is no entry"),
        (b'{"name": ' + b"[" * 100_000, "this is no entry"),
    ],
)
def test_what_is_no_entry_is_refused_with_the_reason(body: bytes, says: str) -> None:
    with pytest.raises(BadRequestError, match="this is no entry of the registry") as raised:
        entry_from_json(body)
    assert says in raised.value.what


def test_an_entry_over_the_whole_limit_is_refused() -> None:
    units = {f"{'é' * 120}{number}": "°" * 32 for number in range(60)}
    with pytest.raises(BadRequestError, match=f"the limit is {MAX_ENTRY_BYTES}"):
        patched(RegistryEntry(), {"units": units})


@pytest.mark.parametrize("number", ["1000", "1000.0", "1e3"])
def test_a_whole_number_is_one_however_it_is_written(number: str) -> None:
    assert entry_from_json(f'{{"expected_interval_ms": {number}}}'.encode()).expected_interval_ms == 1000


def test_a_merge_patch_sets_empties_and_leaves() -> None:
    entry = named("n", "t", location="l", units={"a": "A", "b": "B"}, notes="x")
    patch = {"name": "m", "location": None, "units": {"a": None, "c": "C"}, "position": {"latitude": 1, "longitude": 2}}
    after = patched(entry, patch)
    assert (after.name, after.tags, after.location, after.notes) == ("m", ("t",), "", "x")
    assert after.units == {"b": "B", "c": "C"}
    assert after.position is not None
    assert after.position.latitude == 1.0
    assert patched(entry, {}) == entry
    with pytest.raises(BadRequestError, match="unknown field"):
        patched(entry, {"color": "red"})


def test_a_patch_as_deep_as_it_gets_is_refused_not_crashed_on() -> None:
    patch: dict[str, Any] = {"units": {"a": "A"}}
    for _ in range(100_000):
        patch = {"position": patch}
    with pytest.raises(BadRequestError, match="this is no entry"):
        patched(RegistryEntry(), patch)


@pytest.mark.parametrize("device", ["press-17", "line/4", "..", "é" * 128, "%2F", "!revision", "a b", "<b>"])
def test_keys_of_devices_come_back_and_are_never_the_revisions(device: str) -> None:
    key = row_key(device.encode())
    assert device_of_key(key) == device.encode()
    assert key != REVISION_KEY
    assert len(key) <= 1024


@pytest.mark.parametrize("device", ["", "a\nb", "é" * 129, "\ud800"])
def test_what_no_device_can_be_called_is_said(device: str) -> None:
    with pytest.raises(NotFoundError, match="no device can be called"):
        device_key(device)


# -- versions


async def test_versions_grow_and_never_come_twice(box: RegistryBox) -> None:
    assert await box.store.write([change("a", named("1"), ABSENT), change("b", named("1"), ABSENT)]) == [1, 2]
    assert await box.store.write([change("b", None, 2)]) == [0]
    box.restart()
    assert await box.store.write([change("b", named("2"), ABSENT)]) == [4]
    with pytest.raises(OutdatedError, match="version 4, not 2"):
        await box.store.write([change("b", named("3"), 2)])


@pytest.mark.parametrize(
    ("expected", "says"), [(ABSENT, "there is an entry"), (7, "has version 1, not 7"), (2, "has version 1, not 2")]
)
async def test_an_unexpected_version_is_refused(box: RegistryBox, expected: int, says: str) -> None:
    await box.store.write([change("a", named("1"))])
    before = dict(box.tables.rows_now(TABLE))
    with pytest.raises(OutdatedError, match=says):
        await box.store.write([change("b", named("2")), change("a", named("2"), expected)])
    assert box.tables.rows_now(TABLE) == before


@pytest.mark.parametrize("expected", [3, PRESENT])
async def test_an_entry_that_is_gone_is_not_made_again(box: RegistryBox, expected: int) -> None:
    with pytest.raises(OutdatedError, match="no entry of 'a' any more"):
        await box.store.write([change("a", named("1"), expected)])


async def test_of_two_who_read_the_same_version_one_wins(box: RegistryBox) -> None:
    await box.store.write([change("a", named("0"))])
    clients = [box.client(), box.client()]
    results = await asyncio.gather(
        *(client.put(b"a", named(str(n)), 1) for n, client in enumerate(clients)), return_exceptions=True
    )
    refused = [one for one in results if isinstance(one, OutdatedError)]
    assert len(refused) == 1
    for client in clients:
        await client.catch_up()
        row = client.view.get(b"a")
        assert row is not None
        assert row in results


async def test_patches_at_once_all_stay(box: RegistryBox) -> None:
    clients = [box.client() for _ in range(4)]
    patches = [{"name": "n"}, {"location": "l"}, {"units": {"a": "A"}}, {"notes": "x"}]
    await asyncio.gather(*(client.patch(b"a", patch) for client, patch in zip(clients, patches, strict=True)))
    await clients[0].catch_up()
    row = clients[0].view.get(b"a")
    assert row is not None
    assert row.entry == named("n", location="l", units={"a": "A"}, notes="x")


async def test_a_patch_with_a_version_is_refused_when_another_was_faster(box: RegistryBox) -> None:
    client, other = box.client(), box.client()
    version = (await client.patch(b"a", {"name": "1"}, None)).revision

    async def faster() -> None:
        await other.patch(b"a", {"name": "2"})

    box.before_write = faster
    with pytest.raises(OutdatedError):
        await client.patch(b"a", {"name": "3"}, version)
    row = client.view.get(b"a")  # what was in the way can be read at once
    assert row is not None
    assert row.entry.name == "2"


async def test_a_writer_that_is_cancelled_leaves_feed_and_rows_agreeing(box: RegistryBox) -> None:
    writing = asyncio.ensure_future(box.store.write([change("a", named("1"))]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it is in the commit now
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await box.store.write([change("b", named("1"))]) == [2]
    assert [device for device, _ in box.store.feed(0, 0)["rows"]] == [b"a", b"b"]


async def test_a_commit_that_fails_changes_nothing(box: RegistryBox) -> None:
    box.tables.failure = UnavailableError("the disk is full")
    with pytest.raises(UnavailableError):
        await box.store.write([change("a", named("1"))])
    box.tables.failure = None
    assert box.store.feed(0, 0)["rows"] == []
    assert await box.store.write([change("a", named("1"))]) == [1]


# -- bounds


async def test_devices_are_bounded_and_full_still_takes_changes() -> None:
    box = RegistryBox(max_devices=2)
    await box.store.write([change("a", named("1")), change("b", named("1"))])
    with pytest.raises(BadRequestError, match="more than 2 devices") as raised:
        await box.store.write([change("c", named("1"))])
    assert raised.value.where == "http.max_devices"
    await box.store.write([change("a", named("2"))])
    await box.store.write([change("a", None), change("c", named("1"))])


async def test_bytes_are_bounded_and_less_is_always_taken(box: RegistryBox, monkeypatch: pytest.MonkeyPatch) -> None:
    await box.store.write([change("a", named("1", notes="x" * 1000))])
    monkeypatch.setattr(registry_store, "MAX_TOTAL_BYTES", 500)
    with pytest.raises(BadRequestError, match="the limit is 500"):
        await box.store.write([change("b", named("1"))])
    await box.store.write([change("a", named("1", notes="x" * 900))])
    box.restart()
    size_bytes = box.store.size_bytes
    await box.store.write([change("a", None)])
    assert (size_bytes > 900, box.store.size_bytes) == (True, 0)


@pytest.mark.parametrize("changes", [[], [change("a", None), change("a", None)], [change("a", None)] * 101])
async def test_a_write_of_nothing_too_much_or_a_device_twice_is_refused(
    box: RegistryBox, changes: list[Change]
) -> None:
    with pytest.raises(BadRequestError):
        await box.store.write(changes)


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("registry_write", {}),
        ("registry_write", {"changes": 7}),
        ("registry_write", {"changes": [[b"a"]]}),
        ("registry_write", {"changes": [["a", None, None]]}),
        ("registry_write", {"changes": [[b"a", "1", None]]}),
        ("registry_write", {"changes": [[b"a", None, b"{"]]}),
        ("registry_write", {"changes": [[b"\xff", None, b"{}"]]}),
        ("registry_write", {"changes": [[b"a\n", None, b"{}"]]}),
        ("registry_feed", {}),
        ("registry_feed", {"since": "0", "known": 0}),
        ("registry_feed", {"since": 0, "known": None}),
    ],
)
async def test_arguments_that_are_none_are_bad_requests(box: RegistryBox, verb: str, args: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        await box.ask(verb, **args)


# -- followers


async def test_a_follower_sees_changes_removals_and_restarts(box: RegistryBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_store, "_PAGE_ROWS", 3)
    follower = box.client()
    for number in range(10):
        await box.store.write([change(f"d{number}", named(str(number), "t", f"t{number % 2}"))])
    await follower.catch_up()
    assert follower.view.devices == 10
    assert follower.view.tags() == [("t", 10), ("t0", 5), ("t1", 5)]
    await box.store.write([change("d3", None), change("d4", named("four", "u"))])
    await follower.catch_up()
    assert follower.view.get(b"d3") is None
    assert follower.view.tags() == [("t", 8), ("t0", 4), ("t1", 4), ("u", 1)]
    box.restart()
    await box.store.write([change("d5", None)])
    box.restart()  # which forgets that d5 was removed: the follower is told to begin anew
    await follower.catch_up()
    assert follower.view.get(b"d5") is None
    assert follower.view.devices == 8


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_is_removed_while_everything_is_read_is_not_kept(
    box: RegistryBox, monkeypatch: pytest.MonkeyPatch, *, restarted: bool
) -> None:
    monkeypatch.setattr(registry_store, "_PAGE_ROWS", 3)
    await box.store.write([change(f"d{number}", named("x")) for number in range(10)])
    client = box.client()
    ask, pages = client._ask, 0

    async def removing(verb: str, **args: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages == 3:
            await box.store.write([change("d0", None)])
            if restarted:
                box.restart()
        return await ask(verb, **args)

    client._ask = removing
    await client.catch_up()
    assert [one.device for one in client.view.page()[0]] == [b"d%d" % number for number in range(1, 10)]


async def test_a_follower_that_knows_too_much_begins_anew(box: RegistryBox) -> None:
    follower = box.client()
    await box.store.write([change("a", named("1")), change("b", named("1"))])
    await follower.catch_up()
    box.tables.tables.clear()
    box.restart()  # on an older copy of the log
    await box.store.write([change("c", named("1"))])
    await follower.catch_up()
    assert (follower.view.devices, follower.view.get(b"c") is not None) == (1, True)


async def test_the_feed_stays_small_however_often_entries_change(
    box: RegistryBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_store, "_SPARE_KEYS", 10)
    follower, late = box.client(), box.client()
    await box.store.write([change("gone", named("1"))])
    await late.catch_up()
    await box.store.write([change("gone", None)])
    for number in range(200):
        await box.store.write([change(f"d{number % 3}", named(str(number)))])
        if number % 7 == 0:
            await follower.catch_up()
    assert len(box.store._keys) <= 2 * 4 + 10 + 1
    for client in (follower, late):
        await client.catch_up()
        names = [one.row.entry.name for one in client.view.page()[0]]
        assert names == ["198", "199", "197"]


async def test_rows_that_cannot_be_read_are_counted_and_can_be_set_anew(box: RegistryBox) -> None:
    await box.store.write([change("a", named("1"))])
    bad = [
        TableChange(table=TABLE, key=key, value=value)
        for key, value in (("b", b"{"), ("c", 7), ("d", b'{"revision":9}'))
    ]
    await box.tables.append([], bad)
    box.restart()
    assert box.store.bad_rows == 2
    follower = box.client()
    await follower.catch_up()
    assert follower.view.devices == 1
    assert follower.bad_rows == 1
    assert await box.store.write([change("b", named("2"), ABSENT)]) == [10]


async def test_following_survives_an_edge_that_is_away(box: RegistryBox) -> None:
    client = box.client()
    seen: list[int] = []

    async def pause(_seconds: float) -> None:
        seen.append(client.view.devices if client.view.loaded else -1)
        if len(seen) == 1:
            box.away = False
            await box.store.write([change("a", named("1"))])
        if len(seen) == 2:
            box.away = True
        if len(seen) == 3:
            raise asyncio.CancelledError

    box.away = True
    with pytest.raises(asyncio.CancelledError):
        await client.follow(pause)
    assert seen == [-1, 1, 1]
    assert client.failed_looks == 2


# -- the view


async def test_before_it_is_loaded_the_view_says_so(box: RegistryBox) -> None:
    view = box.client().view
    for ask in (view.tags, view.page, lambda: view.get(b"a"), lambda: view.among(("t",), b"")):
        with pytest.raises(UnavailableError, match="not loaded yet"):
            ask()
    assert view.known(b"a") is None
    assert view.expected_interval_ms(b"a") is None


async def test_pages_by_tags_and_text(box: RegistryBox) -> None:
    client = box.client()
    for number in range(9):
        tags = ["all", "even" if number % 2 == 0 else "odd"]
        await client.patch(f"d{number}".encode(), {"name": f"Preß {number}", "tags": tags, "location": "Hall 4"})
    view = client.view
    first, after = view.page(tags=("all", "even"), limit=3)
    assert [one.device for one in first] == [b"d0", b"d2", b"d4"]
    assert after == b"d4"
    rest, end = view.page(tags=("all", "even"), after=after, limit=3)
    assert ([one.device for one in rest], end) == ([b"d6", b"d8"], None)
    assert [one.device for one in view.page(search="PRESS 7")[0]] == [b"d7"]
    assert len(view.page(search="hall 4")[0]) == 9
    assert len(view.page(search="ODD")[0]) == 4
    assert view.page(tags=("none",)) == ([], None)


async def test_a_page_looks_at_a_bounded_number(box: RegistryBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_LOOKED_AT", 4)
    client = box.client()
    for number in range(10):
        await client.patch(f"d{number}".encode(), {"name": "last" if number == 9 else "x"})
    pages = 0
    after: bytes | None = b""
    found = []
    while after is not None:
        page, after = client.view.page(search="last", after=after)
        found += page
        pages += 1
    assert ([one.device for one in found], pages) == ([b"d9"], 3)


async def test_the_interval_that_people_expect(box: RegistryBox) -> None:
    client = box.client()
    await client.patch(b"a", {"expected_interval_ms": 10_000})
    assert client.view.expected_interval_ms(b"a") == 10_000
    await client.remove(b"a")
    assert client.view.expected_interval_ms(b"a") is None
    with pytest.raises(NotFoundError):
        await client.remove(b"a")


# -- on a real log


async def test_what_was_answered_is_there_after_a_kill(tmp_path: Path) -> None:
    async with opened(tmp_path / "live") as log:
        store = RegistryStore(log, max_devices=10)
        await store.write([change("line/4", named("Press", "t")), change("b", named("x"))])
        await store.write([change("b", None)])
        rows = dict(log.rows_now(TABLE))
        # What a killed process leaves: the files as they are, nothing flushed or closed.
        shutil.copytree(tmp_path / "live", tmp_path / "killed", ignore=shutil.ignore_patterns("*.sock"))
    async with opened(tmp_path / "killed") as log:
        assert dict(log.rows_now(TABLE)) == rows
        again = RegistryStore(log, max_devices=10)
        assert again.revision == 3
        assert [device for device, _ in again.feed(0, 0)["rows"]] == [b"line/4"]
        assert await again.write([change("b", named("y"), ABSENT)]) == [4]
