"""What is held in memory is bounded, whatever devices send."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sink.base import CancelFlag, Export, joined
from sink.parquet import held, writer
from sink.parquet.held import Limits
from sink.parquet.sink import ParquetSink
from sink.payload import chunks
from sink.payload import decoding as decoding_module
from sink.payload.columns import MAX_FIELDS
from sink.payload.decoding import BATCH_ROWS, Decoding
from sink.payload.reading import json_reading
from sink.payload.times import Skew
from tests.sink.sink_fakes import DAY_MS, T0, FakeLog, lake_rows
from tests.sink.test_sink_decoding import chunk_of


def export(lake: Path, log: FakeLog, limits: Limits) -> Export:
    sink = ParquetSink(lake, reading_of=lambda _topic: json_reading(Skew()), limits=limits, software="headrace 0")
    sink.open({})
    try:
        return sink.write(joined([log.close_window()]), log, CancelFlag())
    finally:
        sink.close()


def test_a_flood_of_broken_payloads_is_written_out_on_the_way(tmp_path: Path) -> None:
    log = FakeLog()
    log.topic(partitions=1)
    for number in range(50):
        log.put(b"{" + b"x" * 100_000 + b"%d" % number, raw=True)
    done = export(tmp_path, log, Limits(memory_bytes=3_000_000))
    assert [file.kind for file in done.files] == ["quarantine", "quarantine"]
    assert done.quarantined == {"not-json": 50}
    offsets = [offset for file in done.files for offset in pq.read_table(tmp_path / file.path)["_offset"].to_pylist()]
    assert sorted(offsets) == list(range(50))


@pytest.mark.parametrize("payload", [b"[" + b"1," * 9_999 + b"{}]", b"[" + b"{}," * 9_999 + b"{}]"])
def test_records_of_many_rows_are_handed_out_a_few_at_a_time(payload: bytes) -> None:
    decoding = Decoding(json_reading(Skew()))
    most = rows = refused = 0
    for batch in decoding.rows(chunk_of([payload] * 12, 0)):
        most = max(most, len(batch) + len(decoding.refused))
        rows, refused = rows + len(batch), refused + len(decoding.refused)
        decoding.refused.clear()
    assert most < BATCH_ROWS + 10_000
    assert rows + refused + len(decoding.refused) == 12 * 10_000


@pytest.mark.parametrize("value", [1, None, [1, 2], "x"])
def test_names_made_up_by_a_device_take_no_column_each(value: object) -> None:
    values: list[bytes | None] = [
        json.dumps({f"n{number}.{each}": value for each in range(50)} | {"k": 1}).encode() for number in range(200)
    ]
    decoding = Decoding(json_reading(Skew()))
    found = []
    for batch in decoding.rows(chunk_of(values, 0)):
        assert len(batch.fields) <= MAX_FIELDS
        assert len(batch) * len(batch.fields) <= decoding_module.BATCH_CELLS
        more = [None] * len(batch) if batch.more is None else batch.more.to_pylist()
        for index in range(len(batch)):
            row = {
                path: json.loads(got) if kind == "text" else got
                for path, stored in batch.fields.items()
                for kind, array in stored.items()
                if (got := array[index].as_py()) is not None
            }
            found.append(row | json.loads(more[index] or "{}"))
    sent = [{k: v for k, v in json.loads(each or b"").items() if v is not None} for each in values]
    assert found == sent


def test_a_record_over_several_batches_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_module, "BATCH_CELLS", 4)
    log = FakeLog()
    log.topic(partitions=2)
    for partition in (0, 0, 1):
        log.put([{"a": number, "b": number} for number in range(7)], partition=partition)
    done = export(tmp_path, log, Limits())
    assert len(lake_rows(tmp_path)) == 21
    metadata = pq.read_metadata(tmp_path / done.files[0].path).metadata
    assert (metadata[b"headrace.rows"], metadata[b"headrace.records"]) == (b"21", b"3")


def test_batches_of_a_chunk_keep_their_rows_places() -> None:
    values: list[bytes | None] = [b'[{"a":1},2,{"a":3}]', b'{"a":4}', b'[{"a":5}]', b"6"]
    decoding = Decoding(json_reading(Skew()))
    batches = list(decoding.rows(chunk_of(values, 10)))
    offsets = np.concatenate([batch.offsets for batch in batches]).tolist()
    rows = np.concatenate([batch.rows for batch in batches]).tolist()
    assert sorted(zip(offsets, rows, strict=True)) == [(10, 0), (10, 2), (11, 0), (12, 0), (13, 0)]
    assert [(part.offset, part.row) for part in decoding.refused] == [(10, 1)]


def test_a_file_has_no_names_of_devices_that_it_has_no_rows_of(tmp_path: Path) -> None:
    log = FakeLog(batch=1_000)
    log.topic(partitions=1)
    for number in range(2_000):
        day = 0 if number < 10 else 1
        log.put({"ts": T0 - day * DAY_MS}, key=b"a-device-with-a-long-name-%04d" % number)
    done = export(tmp_path, log, Limits())
    sizes = [_device_column_bytes(tmp_path / file.path) for file in done.files]
    rows = [file.rows for file in done.files]
    assert sorted(rows) == [10, 1_990]
    assert all(size < 60 * count + 200 for size, count in zip(sizes, rows, strict=True))


def test_a_row_group_has_no_texts_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROW_GROUP_ROWS", 100)
    log = FakeLog(batch=1_000)
    log.topic(partitions=1)
    for number in range(1_000):
        log.put({"text": f"some long text {number % 300:04d}"}, key=b"a-device-with-a-long-name-%04d" % number)
    (file,) = export(tmp_path, log, Limits()).files
    metadata = pq.read_metadata(tmp_path / file.path)
    assert metadata.num_row_groups == 10
    columns = [metadata.row_group(group).column(index) for group in range(10) for index in (0, 3)]
    assert {column.path_in_schema for column in columns} == {"device", "text"}
    assert all(column.total_uncompressed_size < 60 * 100 for column in columns)
    read = {(row["device"], row["text"]) for row in lake_rows(tmp_path)}
    assert read == {(f"a-device-with-a-long-name-{n:04d}", f"some long text {n % 300:04d}") for n in range(1_000)}


def test_texts_that_compress_well_do_not_outgrow_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "MAX_TABLE_BYTES", 1_000_000)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 500_000)
    log = FakeLog()
    log.topic(partitions=1)
    for _ in range(40):
        log.put({"text": "x" * 100_000})
    done = export(tmp_path, log, Limits(memory_bytes=1 << 40))
    assert [file.rows for file in done.files] == [14, 14, 12]


def _device_column_bytes(path: Path) -> int:
    metadata = pq.read_metadata(path)
    return sum(metadata.row_group(group).column(0).total_uncompressed_size for group in range(metadata.num_row_groups))
