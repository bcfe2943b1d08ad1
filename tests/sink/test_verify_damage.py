"""Every sort of damage, and the word that `verify` has for it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from commitlog.base import TableChange
from commitlog.ledger import LedgerEntry
from core.errors import NotFoundError
from sink.parquet.lake import LakeFile, read_lake_file
from sink.verify.report import Finding, VerifyReport
from tests.commitlog.log_support import log_settings, opened
from tests.sink.lake_box import CLOCK, Box, export, rewrite


def kinds(report: VerifyReport) -> set[str]:
    return {finding.kind for finding in report.findings.kept}


def only(report: VerifyReport, kind: str) -> list[Finding]:
    """The findings, which are all of one kind."""
    assert kinds(report) == {kind}, [finding.as_dict() for finding in report.findings.kept]
    assert not report.clean
    return report.findings.kept


def footer(box: Box, path: Path) -> LakeFile:
    found = read_lake_file(box.lake, str(path.relative_to(box.lake)))
    assert isinstance(found, LakeFile), found
    return found


def places(path: Path) -> set[tuple[int, int, int]]:
    table = pq.read_table(path, columns=["_partition", "_offset", "_row"], partitioning=None)
    return set(zip(*(column.to_pylist() for column in table.columns), strict=True))


def noted(table: pa.Table) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in table.schema.metadata.items()}


async def change_tables(box: Box, *changes: TableChange) -> None:
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        await log.append([], list(changes))


async def rows_of(box: Box, table: str) -> dict[str, Any]:
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        return dict(await log.rows(table))


# -- files


def test_a_box_that_nobody_touched_is_clean(box: Box) -> None:
    report = box.verify()
    assert report.clean, [finding.as_dict() for finding in report.findings.kept]
    assert not report.notes.count
    assert {topic.topic for topic in report.topics} == {"telemetry", "mqtt", "declared"}
    for topic in report.topics:
        numbers = topic.numbers
        assert numbers["committed"] == numbers["in_files"] > 0
        assert numbers["compared"] == numbers["rows"] + numbers["quarantined"]
        assert numbers["not_compared"] == 0


def test_a_file_that_was_removed_is_named_with_what_is_gone(box: Box) -> None:
    path = box.largest()
    gone = places(path)
    path.unlink()
    (found,) = only(box.verify(), "file-missing")
    assert found.where == box.where(path)
    assert found.topic == "telemetry"
    partition, offsets = found.partition, [offset for p, offset, _ in gone if p == found.partition]
    assert partition >= 0
    assert min(offsets) <= found.first < found.next <= max(offsets) + 1
    assert "copy" in found.mend


def test_every_file_of_a_window_removed_and_no_export_row_leaves_offsets_that_nobody_has(box: Box) -> None:
    for path in box.files("mqtt"):
        path.unlink()
    report = box.verify(topic="mqtt")
    assert {found.where for found in only(report, "file-missing")} == {f"lake/{path}" for path in _named(box, "mqtt")}
    assert report.topics[0].numbers["in_files"] == 0


def _named(box: Box, topic: str) -> list[str]:
    return [finding.where.removeprefix("lake/") for finding in box.verify(topic=topic).findings.kept]


async def test_files_and_export_rows_both_gone(box: Box) -> None:
    for path in box.files("mqtt"):
        path.unlink()
    rows = await rows_of(box, "exports")
    topic_id = next(key.split("/")[0] for key, row in rows.items() if row["topic"] == "mqtt")
    await change_tables(
        box, *(TableChange(table="exports", key=key, value=None) for key in rows if key.startswith(topic_id))
    )
    found = only(box.verify(topic="mqtt"), "offset-missing")
    assert sum(one.next - one.first for one in found) == 90


def test_the_file_that_closes_a_window(box: Box) -> None:
    closing = next(path for path in box.files() + box.files(quarantine=True) if footer(box, path).files)
    closing.unlink()
    (found,) = only(box.verify(), "file-missing")
    assert found.where == box.where(closing)


@pytest.mark.parametrize("keep", [0, 3, 100, -9, -100])
def test_a_file_that_is_cut_off_is_corrupt(box: Box, keep: int) -> None:
    path = box.largest()
    path.write_bytes(path.read_bytes()[:keep])
    (found,) = only(box.verify(), "file-corrupt")
    assert found.where == box.where(path)
    assert found.partition >= 0
    assert found.next > found.first


@pytest.mark.parametrize("share", [0.001, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
def test_a_flipped_bit_in_any_page_is_found(box: Box, share: float) -> None:
    path = box.largest()
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    path.write_bytes(data)
    report = box.verify()
    assert {found.where for found in report.findings.kept} == {box.where(path)}
    assert kinds(report) <= {"file-corrupt", "file-changed", "file-contradiction"}
    assert len(report.findings.kept) <= 2


async def test_page_checksums_find_it_where_no_export_row_is_left(box: Box) -> None:
    await change_tables(
        box, *(TableChange(table="exports", key=key, value=None) for key in await rows_of(box, "exports"))
    )
    path = box.largest()
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)
    (found,) = only(box.verify(), "file-corrupt")
    assert found.where == box.where(path)


def test_a_foreign_file_is_told_apart(box: Box) -> None:
    path = box.files()[0].with_name("mine.parquet")
    pq.write_table(pa.table({"a": [1]}), path)
    (found,) = only(box.verify(), "file-foreign")
    assert found.where == box.where(path)
    assert "move it out" in found.mend


def test_something_that_is_no_parquet(box: Box) -> None:
    path = box.lake / "telemetry" / "notes.parquet"
    path.write_text("bought milk")
    (found,) = only(box.verify(), "file-corrupt")
    assert found.where == box.where(path)


def test_a_file_in_a_folder_that_is_no_topic(box: Box) -> None:
    path = box.lake / "elsewhere" / "date=2026-01-01" / "x.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), path)
    (found,) = only(box.verify(), "file-foreign")
    assert found.where == box.where(path)


def test_a_copy_under_another_date_contradicts_itself(box: Box) -> None:
    path = box.files()[0]
    copy = box.lake / "telemetry" / "date=2001-01-01" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    (found,) = only(box.verify(), "file-contradiction")
    assert found.where == box.where(copy)


def test_a_copy_beside_the_file_doubles_its_rows(box: Box) -> None:
    path = box.files()[0]
    copy = path.with_name("copy.parquet")
    shutil.copy(path, copy)
    report = box.verify()
    assert kinds(report) <= {"row-doubled", "file-contradiction"}
    doubled = [found for found in report.findings.kept if found.kind == "row-doubled"]
    assert {(found.partition, found.first) for found in doubled} == {(p, offset) for p, offset, _ in places(path)}
    both = {box.where(path), box.where(copy)}
    assert all({found.where, found.what.split(" and in ")[1]} == both for found in doubled)


def test_files_of_another_topic_id(box: Box, tmp_path: Path) -> None:
    for path in box.files("mqtt"):
        other = path.with_name("other-" + path.name)
        shutil.copy(path, other)
        named = [str(other.relative_to(box.lake))]
        notes = {"headrace.topic_id": "f" * 32, "headrace.files": msgspec.json.encode(named).decode()}
        rewrite(other, lambda table: table, metadata=notes)
    (found,) = only(box.verify(), "other-topic")
    assert "3 files" in found.what
    assert "f" * 32 in found.what


# -- footers


CONTRADICTIONS: list[tuple[str, str]] = [
    ("headrace.rows", "1"),
    ("headrace.records", "0"),
    ("headrace.checksum", "0123456789abcdef"),
    ("headrace.topic", "mqtt"),
    ("headrace.date", "1999-01-01"),
    ("headrace.kind", "quarantine"),
    ("headrace.kind", "other"),
    ("headrace.offsets", "{}"),
    ("headrace.offsets", '{"0": [5, 1]}'),
    ("headrace.offsets", '{"0": [0, 1], "1": [0, 1], "2": [0, 1]}'),
    ("headrace.columns", "no JSON"),
    ("headrace.window", "-1"),
    ("headrace.part", "first"),
    ("headrace.files", '["another.parquet"]'),
]


@pytest.mark.parametrize(("name", "text"), CONTRADICTIONS)
def test_a_footer_that_says_what_is_not_so(box: Box, name: str, text: str) -> None:
    path = box.largest()
    rewrite(path, lambda table: table, metadata={name: text})
    report = box.verify()
    assert box.where(path) in {found.where for found in report.findings.kept}
    assert kinds(report) <= {"file-contradiction", "file-changed", "row-stray", "offset-missing", "file-missing"}


# -- rows


def doctored(box: Box, path: Path, change: Callable[[pa.Table], pa.Table]) -> VerifyReport:
    """Change a file, and what the export rows say of it, as a fault in the sink itself would have."""
    rewrite(path, change)
    return box.verify()


async def forget_export_rows(box: Box) -> None:
    await change_tables(
        box, *(TableChange(table="exports", key=key, value=None) for key in await rows_of(box, "exports"))
    )


def of_rows(box: Box, path: Path, table: pa.Table) -> dict[str, str]:
    """The notes of a footer made anew for other rows."""
    from sink.parquet.checksum import checksum, checksum_text

    at = [table.column(name).to_numpy() for name in ("_partition", "_offset", "_row")]
    records = len(set(zip(at[0].tolist(), at[1].tolist(), strict=True)))
    return {
        "headrace.rows": str(table.num_rows),
        "headrace.records": str(records),
        "headrace.checksum": checksum_text(checksum(*at)),
    }


async def forged(box: Box, path: Path, change: Callable[[pa.Table], pa.Table]) -> VerifyReport:
    """A file with other rows whose footer fits them, and no export row: only the account and the log can tell."""
    await forget_export_rows(box)
    with pq.ParquetFile(path) as file:
        changed = change(file.read())
    rewrite(path, lambda _: changed, metadata=of_rows(box, path, changed))
    return box.verify()


async def test_a_row_that_is_missing(box: Box) -> None:
    path = box.largest()
    rows = _rows_of_records(box)
    index = next(i for i, place in enumerate(_ordered(path)) if len(rows[place[:2]]) == 1)
    partition, offset, _ = _ordered(path)[index]
    report = await forged(box, path, lambda table: pa.concat_tables([table.slice(0, index), table.slice(index + 1)]))
    (found,) = only(report, "offset-missing")
    assert (found.topic, found.partition, found.first, found.next) == ("telemetry", partition, offset, offset + 1)


def _ordered(path: Path) -> list[tuple[int, int, int]]:
    table = pq.read_table(path, columns=["_partition", "_offset", "_row"], partitioning=None)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _rows_of_records(box: Box) -> dict[tuple[int, int], list[int]]:
    """The numbers of all rows of each record, wherever they are."""
    found: dict[tuple[int, int], list[int]] = {}
    for path in box.files() + box.files(quarantine=True):
        for partition, offset, row in places(path):
            found.setdefault((partition, offset), []).append(row)
    return found


@pytest.mark.parametrize("which", ["first", "last"])
async def test_a_row_of_a_record_with_several(box: Box, which: str) -> None:
    path = box.largest()
    rows = _rows_of_records(box)
    several = [place for place in _ordered(path) if len(rows[place[:2]]) > 1]
    place = next(place for place in several if place[2] == (0 if which == "first" else max(rows[place[:2]])))
    index = _ordered(path).index(place)
    report = await forged(box, path, lambda table: pa.concat_tables([table.slice(0, index), table.slice(index + 1)]))
    found = only(report, "row-missing")
    assert {(one.partition, one.first) for one in found} == {place[:2]}


async def test_a_row_that_stands_twice(box: Box) -> None:
    path = box.largest()
    report = await forged(box, path, lambda table: pa.concat_tables([table, table.slice(3, 1)]))
    (found,) = only(report, "row-doubled")
    assert (found.partition, found.first) == _ordered(path)[3][:2]
    assert found.where == box.where(path)


async def test_a_row_of_another_window(box: Box) -> None:
    path = box.largest()

    def moved(table: pa.Table) -> pa.Table:
        offsets = table.column("_offset").to_pylist()
        offsets[0] += 1_000_000
        return table.set_column(table.schema.get_field_index("_offset"), "_offset", pa.array(offsets, pa.int64()))

    report = await forged(box, path, moved)
    assert kinds(report) == {"row-stray", "offset-missing"}


VALUES: list[tuple[str, Any]] = [
    ("temp", 21.25),
    ("seq", 12_345_678),
    ("device", "press-99"),
    ("_topic", "devices/other"),
    ("on", False),
]


@pytest.mark.parametrize(("name", "value"), VALUES)
async def test_a_wrong_value_is_named_with_the_right_one(box: Box, name: str, value: Any) -> None:
    path = box.largest()
    with pq.ParquetFile(path) as file:
        before = file.read()
    index = next(i for i in range(before.num_rows) if before.column(name)[i].as_py() is not None)

    def changed(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[index] = value
        field = table.schema.field(name)
        return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))

    (found,) = only(await forged(box, path, changed), "value")
    assert found.where == box.where(path)
    assert (found.partition, found.first) == _ordered(path)[index][:2]
    assert repr(value) in found.what
    assert repr(before.column(name)[index].as_py()) in found.what


async def test_a_value_in_quarantine(box: Box) -> None:
    path = box.files(quarantine=True)[0]

    def changed(table: pa.Table) -> pa.Table:
        payloads = [b"made up", *table.column("payload").to_pylist()[1:]]
        return table.set_column(table.schema.get_field_index("payload"), "payload", pa.array(payloads, pa.binary()))

    (found,) = only(await forged(box, path, changed), "value")
    assert "made up" in found.what


async def test_a_value_that_is_gone(box: Box) -> None:
    path = box.largest()
    report = await forged(
        box,
        path,
        lambda table: table.set_column(
            table.schema.get_field_index("temp"), table.schema.field("temp"), pa.nulls(table.num_rows, pa.float64())
        ),
    )
    assert kinds(report) == {"value"}
    assert report.findings.count > 20, "all are counted"


async def test_a_time_that_is_a_microsecond_off(box: Box) -> None:
    path = box.largest()

    def changed(table: pa.Table) -> pa.Table:
        moved = pc.add(table.column("ts").cast(pa.int64()), 1).cast(table.schema.field("ts").type)
        return table.set_column(table.schema.get_field_index("ts"), table.schema.field("ts"), moved)

    report = await forged(box, path, changed)
    assert kinds(report) == {"value"}
    assert "ts is" in report.findings.kept[0].what


async def test_without_contents_values_are_not_compared(box: Box) -> None:
    path = box.largest()
    await forged(
        box,
        path,
        lambda table: table.set_column(
            table.schema.get_field_index("temp"), table.schema.field("temp"), pa.nulls(table.num_rows, pa.float64())
        ),
    )
    report = box.verify(contents=False)
    assert report.clean
    assert report.numbers["compared"] == 0


# -- tables


async def test_a_lost_checkpoint_is_named(box: Box) -> None:
    rows = await rows_of(box, "sink.parquet")
    await change_tables(box, *(TableChange(table="sink.parquet", key=key, value=None) for key in rows))
    found = only(box.verify(), "checkpoint")
    assert {one.topic for one in found} == {"telemetry", "mqtt", "declared"}
    assert all("windows 0 to 2" in one.what for one in found)


async def test_a_checkpoint_that_is_behind(box: Box) -> None:
    rows = await rows_of(box, "sink.parquet")
    key, row = next((key, row) for key, row in rows.items() if row["topic"] == "telemetry")
    exports = await rows_of(box, "exports")
    first = next(row for k, row in exports.items() if k.startswith(key) and row["number"] == 0)
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        windows = await log.rows("windows")
    offsets = {p: pair[1] for p, pair in windows[f"{key}/{0:020}"]["offsets"].items()}
    assert first["files"]
    behind = {**row, "next_window": 1, "offsets": offsets}
    await change_tables(box, TableChange(table="sink.parquet", key=key, value=behind))
    (found,) = only(box.verify(), "checkpoint")
    assert "windows 1 to 2" in found.what


def entry(box: Box, topic_id: str, **changed: Any) -> TableChange:
    facts = {"topic": "mqtt", "topic_id": topic_id, "partition": 0, "first": 0, "next": 1, "state": "lost"}
    return LedgerEntry(**{**facts, "reason": "test", "at_ms": 1, **changed}).change


async def test_what_the_ledger_has_is_accounted_for(box: Box) -> None:
    """Dropped from the lake: the ledger says so, and then the files go."""
    files = box.files("mqtt")
    topic_id = footer(box, files[0]).topic_id
    first = min((footer(box, path) for path in files), key=lambda file: file.window)
    changes = [
        entry(box, topic_id, state="dropped", partition=p, first=low, next=high)
        for p, (low, high) in first.offsets.items()
        if high > low
    ]
    await change_tables(box, *changes)
    assert box.verify().clean, "the files may still be there"
    (box.lake / first.path).unlink()
    report = box.verify(topic="mqtt")
    assert report.clean, [finding.as_dict() for finding in report.findings.kept]
    numbers = report.topics[0].numbers
    assert (numbers["dropped"], numbers["in_files"], numbers["committed"]) == (30, 60, 90)


async def test_rows_of_offsets_that_are_lost_by_the_ledger(box: Box) -> None:
    topic_id = footer(box, box.files("mqtt")[0]).topic_id
    partition = next(p for p, (low, high) in footer(box, box.files("mqtt")[0]).offsets.items() if high > low)
    await change_tables(box, entry(box, topic_id, partition=partition))
    (found,) = only(box.verify(), "ledger")
    assert (found.topic, found.partition, found.first, found.next) == ("mqtt", partition, 0, 1)


def test_a_damaged_snapshot_of_the_exports(box: Box) -> None:
    for snapshot in (box.data_dir / "log" / "tables").glob("exports-*"):
        snapshot.write_bytes(b"HRTABLE2" + bytes(30))
    (found,) = only(box.verify(), "table")
    assert "'exports'" in found.what


# -- exports under way


async def test_files_that_are_being_published_are_left_out(new_box: Box) -> None:
    """Killed between publication and commit: the plan stands, and the next start goes on with it."""
    box = new_box
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        before = await log.rows("sink.parquet")
        topic_id, row = next((key, dict(row)) for key, row in before.items() if row["topic"] == "telemetry")
        await log.roll("telemetry", "test")
        await export(log, box.data_dir)
        await log.append([], [TableChange(table="sink.parquet", key=topic_id, value=row)])
    plan = box.lake / ".plans" / f"telemetry-{3:020}.json"
    (found,) = only(box.verify(), "checkpoint")
    assert found.topic == "telemetry"
    plan.write_bytes(msgspec.json.encode({"topic_id": topic_id, "number": 3}))
    report = box.verify()
    assert report.clean, [finding.as_dict() for finding in report.findings.kept]
    assert [note.kind for note in report.notes.kept] == ["publishing"]


async def test_what_the_log_no_longer_has_is_not_compared(box: Box) -> None:
    """Segments of the first window gone from the log, as retention leaves it."""
    for path in (box.data_dir / "log").glob(f"telemetry-*/{0:020}.log"):
        path.unlink()
    report = box.verify(topic="telemetry")
    assert report.clean, [finding.as_dict() for finding in report.findings.kept]
    numbers = report.topics[0].numbers
    assert numbers["not_compared"] > 0
    assert 0 < numbers["compared"] < numbers["rows"] + numbers["quarantined"]


def test_a_topic_that_is_not_there(box: Box) -> None:
    with pytest.raises(NotFoundError, match="no topic 'telemetrie'"):
        box.verify(topic="telemetrie")


def test_without_a_lake_the_files_are_missing(box: Box) -> None:
    shutil.rmtree(box.lake)
    assert kinds(box.verify()) == {"file-missing"}


def test_any_flipped_byte_is_named_or_does_no_harm(box: Box) -> None:
    """Byte after byte over a whole small file: never an exception, and never clean."""
    path = min(box.files("mqtt"), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    rng = random.Random(7)
    for at in (*rng.sample(range(len(whole)), 60), 0, 3, len(whole) - 1, len(whole) - 5):
        data = bytearray(whole)
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        report = box.verify(topic="mqtt")
        assert {found.where for found in report.findings.kept} == {box.where(path)}, at
