"""What a row says, as one 64-bit number, the same whether the row comes from a Parquet file or anew from the payload.

`headrace verify` compares the lake with the log through it: a sum of such numbers stands for millions of rows, in any
order, in a few bytes. A row is its device, times and MQTT topic, and the values of its fields by path; that a field has
no value and that its value is null are the same. A value is what it means, not how a column keeps it: 5 and 5.0 are one
number as long as a double holds it exactly, and what stands as JSON text in a side column is the value of that text.

A value becomes 64 bits that depend on its kind, these are mixed with the field's path, and summed up over the fields;
the sum is mixed with the row's place. The numbers are compared within one run only: they stand in no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sink.parquet.checksum import mixed
from sink.parquet.lake import OWN_TEXTS, ColumnNote, FileKind
from sink.payload.columns import MORE
from sink.payload.kinds import EXACT, Json, is_list

Hashes = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

_OWN: Final = "\0"  # begins the paths of what is no field of the payload; ours are at most a few
_INT64: Final = range(-(2**63), 2**63)
_decode: Final = msgspec.json.Decoder().decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_pack: Final = msgspec.msgpack.Encoder().encode


def _bits(data: bytes, kind: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=kind).digest(), "little")


@cache
def _seed(path: str) -> np.uint64:
    return np.uint64(_bits(path.encode("utf-8", "surrogatepass"), b"path"))


class Sums:
    """Hashes of rows under way: what each field adds."""

    def __init__(self, rows: int) -> None:
        self.hashes: Hashes = np.zeros(rows, np.uint64)

    def add(self, path: str, values: Hashes, rows: Int64s | npt.NDArray[np.bool_] | None = None) -> None:
        """Add one field's values; `rows` says of which rows (indexes without a repeat, or a mask), None: of all."""
        told = mixed(values ^ _seed(path))
        if rows is None:
            self.hashes += told
        else:
            self.hashes[rows] += told

    def add_own(self, name: str, values: Hashes, rows: npt.NDArray[np.bool_] | None = None) -> None:
        """Add what a row says beside its fields."""
        self.add(_OWN + name, values, rows)

    def add_values(self, path: str, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Add values as the decoder gives them, of the rows at those indexes; none of them is None."""
        where = np.array(rows, np.int64)
        kinds = set(map(type, values))
        if len(kinds) == 1:
            self.add(path, hash_values(values, next(iter(kinds))), where)
            return
        for kind in kinds:
            chosen = [index for index, value in enumerate(values) if type(value) is kind]
            self.add(path, hash_values([values[index] for index in chosen], kind), where[chosen])

    def placed(self, partitions: npt.NDArray[Any] | int, offsets: Int64s, rows: npt.NDArray[Any]) -> Hashes:
        """The rows' numbers, each mixed with its place."""
        place = offsets.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        place += np.asarray(partitions, np.int64).astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
        place += rows.astype(np.int64).astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        return mixed(mixed(place) ^ mixed(self.hashes.copy()))


def hash_values(values: Sequence[Any], kind: type) -> Hashes:
    """Values of one type, as decoders give them."""
    if kind is float:
        return _floats(np.array(values, np.float64))
    if kind is int:
        return _integers(values)
    if kind is bool:
        return np.array(values, np.uint64) + _seed("\0bool")
    if kind is str:
        return _texts(pa.array(values, pa.string()), b"text")
    if kind is bytes:
        return _texts(pa.array(values, pa.binary()), b"bytes")
    if kind is list:
        return np.array([_bits(_pack(_plain_list(value)), b"list") for value in values], np.uint64)
    return np.array([_bits(value.encode(), b"json") for value in values], np.uint64)


def _floats(values: npt.NDArray[np.float64]) -> Hashes:
    return (values + 0.0).view(np.uint64)  # -0 and 0 are one number, whichever type a parser gives them


def _integers(values: Sequence[int]) -> Hashes:
    try:
        return int64_hashes(np.array(values, np.int64))
    except OverflowError:
        return np.concatenate([_integer(value) for value in values])


def _integer(value: int) -> Hashes:
    if value in _INT64:
        return int64_hashes(np.array([value], np.int64))
    return np.array([_bits(str(value).encode(), b"huge")], np.uint64)


def int64_hashes(values: Int64s) -> Hashes:
    """Whole numbers; those that a double holds are the same as doubles."""
    hashes = _floats(values.astype(np.float64)).copy()
    wide = (values > EXACT) | (values < -EXACT)
    if wide.any():
        hashes[wide] = mixed(values[wide].view(np.uint64) ^ _seed("\0wide"))
    return hashes


def _texts(array: pa.Array, kind: bytes) -> Hashes:
    """Texts or bytes without nulls; each different one is hashed once."""
    encoded = array.dictionary_encode()
    names = [text.as_py() for text in encoded.dictionary]
    known = np.array([_bits(name if isinstance(name, bytes) else name.encode(), kind) for name in names], np.uint64)
    found: Hashes = known[encoded.indices.to_numpy()] if names else np.zeros(0, np.uint64)
    return found


def _plain_list(items: Sequence[Any]) -> list[Any]:
    """A list as its items mean: numbers as doubles where these hold them."""
    return [item + 0.0 if _is_double(item) else _packable(item) for item in items]


def _is_double(item: Any) -> bool:
    """Whether a double holds it."""
    return type(item) is float or (type(item) is int and -EXACT <= item <= EXACT)


def _packable(item: Any) -> Any:
    return str(item) if type(item) is int and item not in _INT64 else item


def value_of_text(text: str) -> Any:
    """The value that a side column's JSON text stands for, as the decoder gave it."""
    value = _decode(text)
    if type(value) is dict or (type(value) is list and not is_list(value)):
        return Json(text)
    return value


# -- rows of a file


def file_hashes(table: pa.Table | pa.RecordBatch, kind: FileKind, notes: Mapping[str, ColumnNote]) -> Hashes:
    """The hashes of a file's rows. `table` has all columns of the file, each in one piece."""
    sums = Sums(table.num_rows)
    times = ("ts", "received_at") if kind == "rows" else ("received_at",)
    for name in times:
        sums.add_own(name, _array(table, name).cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64))
    for name in OWN_TEXTS[kind]:
        _add_column(sums, _OWN + name, _array(table, name), "binary" if name == "payload" else "string")
    if kind == "rows":
        for name, note in notes.items():
            _add_column(sums, note.field, _array(table, name), note.kind)
            if note.other is not None:
                _add_column(sums, note.field, _array(table, note.other), "other")
        if MORE in table.schema.names and MORE not in notes:
            _add_more(sums, _array(table, MORE))
    else:
        sums.hashes += _seed("\0quarantine")
    places = [_array(table, name).to_numpy() for name in ("_partition", "_offset", "_row")]
    return sums.placed(*places)


def _array(table: pa.Table | pa.RecordBatch, name: str) -> pa.Array:
    column = table.column(name)
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [_empty(column)])
    return column


def _empty(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([], column.type)


def _add_column(sums: Sums, path: str, array: pa.Array, kind: str) -> None:
    """Add one column of a kind, `other` for a side column."""
    if array.null_count == len(array):
        return
    rows = None if array.null_count == 0 else array.is_valid().to_numpy(zero_copy_only=False)
    values = array if rows is None else array.drop_null()
    if kind in ("int64", "timestamp"):
        hashes = int64_hashes(values.cast(pa.int64()).to_numpy())
    elif kind == "double":
        hashes = _floats(values.to_numpy())
    elif kind == "bool":
        hashes = values.cast(pa.uint8()).to_numpy().astype(np.uint64) + _seed("\0bool")
    elif kind in ("string", "binary"):
        hashes = _texts(values, b"text" if kind == "string" else b"bytes")
    else:
        indexes = np.arange(len(array)) if rows is None else np.flatnonzero(rows)
        found = values.to_pylist()
        if kind in ("json", "other"):
            found = [value_of_text(text) for text in found]
        sums.add_values(path, indexes.tolist(), found)
        return
    sums.add(path, hashes, rows)


def _add_more(sums: Sums, array: pa.Array) -> None:
    by_path: dict[str, tuple[list[int], list[Any]]] = {}
    for index, text in enumerate(array.to_pylist()):
        for path, raw in _decode_members(text).items() if text is not None else ():
            rows, values = by_path.setdefault(path, ([], []))
            rows.append(index)
            values.append(value_of_text(bytes(raw).decode()))
    for path, (rows, values) in by_path.items():
        sums.add_values(path, rows, values)


# -- rows of the log


class Expected:
    """Rows as the decoder gives them, gathered until they are hashed together."""

    def __init__(self, kind: FileKind) -> None:
        self._kind = kind
        self._own: dict[str, tuple[list[int], list[Any]]] = {}
        self._fields: dict[str, tuple[list[int], list[Any]]] = {}
        self._times: dict[str, list[int]] = {"ts": [], "received_at": []} if kind == "rows" else {"received_at": []}
        self.offsets: list[int] = []
        self.rows: list[int] = []

    def __len__(self) -> int:
        return len(self.offsets)

    def add(
        self, offset: int, row: int, times: Sequence[int], own: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> None:
        """Add a row: `times` in the order of the columns, `own` the other columns of ours."""
        index = len(self.offsets)
        self.offsets.append(offset)
        self.rows.append(row)
        for column, time in zip(self._times.values(), times, strict=True):
            column.append(time)
        for store, named in ((self._own, own), (self._fields, fields)):
            for path, value in named.items():
                if value is not None:
                    try:
                        indexes, values = store[path]
                    except KeyError:
                        indexes, values = store[path] = [], []
                    indexes.append(index)
                    values.append(value)

    def hashes(self, partition: int) -> tuple[Int64s, Hashes]:
        """Offsets and hashes of all rows, which are of one partition."""
        sums = Sums(len(self.offsets))
        for name, times in self._times.items():
            sums.add_own(name, np.array(times, np.int64).view(np.uint64))
        for name, (rows, values) in self._own.items():
            sums.add_values(_OWN + name, rows, values)
        for path, (rows, values) in self._fields.items():
            sums.add_values(path, rows, values)
        if self._kind == "quarantine":
            sums.hashes += _seed("\0quarantine")
        offsets = np.array(self.offsets, np.int64)
        return offsets, sums.placed(partition, offsets, np.array(self.rows, np.int64))
