"""SQL for one view over many Parquet files whose columns differ: the union of their columns, with one type each.

A field may be a number in one window and a text in the next. Where the types of a column differ, whole numbers and
doubles become double, and everything else text (lists as JSON). Files are read together as long as they agree on such
columns; the groups are joined by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sink.parquet.lake import FileKind, LakeFile
from sink.payload.columns import MORE

_SQL_TYPES: Final[Mapping[str, str]] = {
    "int64": "BIGINT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "json": "VARCHAR",
    "binary": "BLOB",
    "timestamp": "TIMESTAMPTZ",
    "list<int64>": "BIGINT[]",
    "list<double>": "DOUBLE[]",
    "list<string>": "VARCHAR[]",
    "list<bool>": "BOOLEAN[]",
}
_FIRST: Final[Mapping[FileKind, Mapping[str, str]]] = {
    "rows": {"device": "VARCHAR", "ts": "TIMESTAMPTZ", "received_at": "TIMESTAMPTZ"},
    "quarantine": {
        "device": "VARCHAR",
        "received_at": "TIMESTAMPTZ",
        "payload": "BLOB",
        "payload_is": "VARCHAR",
        "field": "VARCHAR",
        "reason": "VARCHAR",
        "detail": "VARCHAR",
    },
}
_LAST: Final[Mapping[str, str]] = {
    "_topic": "VARCHAR",
    "_partition": "INTEGER",
    "_offset": "BIGINT",
    "_row": "INTEGER",
    "date": "DATE",
}
_NUMBERS: Final = frozenset({"BIGINT", "DOUBLE"})


def name_sql(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def text_sql(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def view_sql(files: Sequence[tuple[Path, LakeFile]], kind: FileKind) -> str:
    """A SELECT over all files, which are of one topic and kind; without a file it has the columns that all have."""
    types = _types(files)
    order = {**_FIRST[kind], **{name: _common(found) for name, found in sorted(types.items())}}
    if any(file.more for _, file in files):
        order[MORE] = "VARCHAR"
    order |= _LAST
    if not files:
        columns = ", ".join(f"CAST(NULL AS {sql}) AS {name_sql(name)}" for name, sql in order.items())
        return f"SELECT {columns} WHERE false"
    doubtful = {name.casefold(): name for name, found in types.items() if len(found) > 1}
    groups: dict[tuple[tuple[str, str], ...], list[Path]] = {}
    for path, file in files:
        own = {name: sql for name, sql in _columns(file).items() if name.casefold() in doubtful}
        groups.setdefault(tuple(sorted(own.items())), []).append(path)
    wanted = {folded: order[name] for folded, name in doubtful.items()}
    parts = [_group_sql(paths, dict(own), wanted) for own, paths in groups.items()]
    columns = ", ".join(map(name_sql, order))
    return f"SELECT {columns} FROM ({' UNION ALL BY NAME '.join(parts)})"


def _group_sql(paths: Sequence[Path], own: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Files that agree on every column in doubt; `wanted` has the types of these, by the folded name."""
    listed = ", ".join(text_sql(str(path)) for path in paths)
    source = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = true, hive_types = {{'date': DATE}})"
    casts = [
        f"{_cast(name, sql, wanted[name.casefold()])} AS {name_sql(name)}"
        for name, sql in own.items()
        if sql != wanted[name.casefold()]
    ]
    replaced = f" REPLACE ({', '.join(casts)})" if casts else ""
    return f"SELECT *{replaced} FROM {source}"


def _cast(name: str, found: str, wanted: str) -> str:
    quoted = name_sql(name)
    return f"CAST({f'to_json({quoted})' if found.endswith('[]') else quoted} AS {wanted})"


def _columns(file: LakeFile) -> dict[str, str]:
    """SQL types of a file's payload columns."""
    found: dict[str, str] = {}
    if file.kind == "rows":
        for name, note in file.columns.items():
            found[name] = _SQL_TYPES[note.kind]
            if note.other is not None:
                found[note.other] = "VARCHAR"
    return found


def _types(files: Sequence[tuple[Path, LakeFile]]) -> dict[str, set[str]]:
    """For each payload column, as it is spelt first (SQL does not tell names apart by case): its types in the files."""
    spelt: dict[str, str] = {}
    types: dict[str, set[str]] = {}
    for _, file in files:
        for name, sql in _columns(file).items():
            types.setdefault(spelt.setdefault(name.casefold(), name), set()).add(sql)
    return types


def _common(types: set[str]) -> str:
    if len(types) == 1:
        return next(iter(types))
    return "DOUBLE" if types == _NUMBERS else "VARCHAR"
