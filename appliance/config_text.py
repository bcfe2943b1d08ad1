"""Settings as text: the effective ones as TOML (`headrace config show`), all of them as docs/configuration.md."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from appliance.config_keys import Key, KeyTree, bounds_of, key_tree, kind_of, public_default, public_fields, public_tree
from appliance.config_sources import variable_of


def render_toml(model: BaseModel, origins: Mapping[str, str]) -> str:
    """The model as a TOML file that reads back as the same settings; a comment names the origin of what was given."""
    tree = key_tree(type(model))
    values = public_tree(model)
    lines = list(_plain_lines(tree, values, (), origins))
    for path in tree.sections:
        lines += ["", f"[{'.'.join(path)}]", *_plain_lines(tree, _at(values, path), path, origins)]
    for path, key in tree.keys.items():
        if key.table is not None:
            lines += _table_lines(key.name, _at(values, path), origins.get(key.name))
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A plain value as TOML writes it."""
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{name} = {toml_value(item)}" for name, item in value.items() if item is not None)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _plain_lines(
    tree: KeyTree, values: Mapping[str, Any], section: tuple[str, ...], origins: Mapping[str, str]
) -> Iterator[str]:
    for path, key in tree.keys.items():
        if path[:-1] == section and key.table is None and values[path[-1]] is not None:
            origin = f"  # {_one_line(origins[key.name])}" if key.name in origins else ""
            yield f"{path[-1]} = {toml_value(values[path[-1]])}{origin}"


def _table_lines(name: str, items: list[dict[str, Any]], origin: str | None) -> Iterator[str]:
    if not items:
        yield from ("", f"# no [[{name}]]")
    for item in items:
        yield from ("", f"[[{name}]]" + (f"  # {_one_line(origin)}" if origin else ""))
        inner = {key: value for key, value in item.items() if _is_tables(value)}
        plain = {key: value for key, value in item.items() if value is not None and key not in inner}
        yield from (f"{key} = {toml_value(value)}" for key, value in plain.items())
        for key, tables in inner.items():  # after the plain ones, which would else belong to the last of them
            yield from _table_lines(f"{name}.{key}", tables, None)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _at(values: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = values
    for name in path:
        found = found[name]
    return found


def render_markdown(model: type[BaseModel]) -> str:
    """docs/configuration.md: every key with its kind, default, meaning and environment variable."""
    tree = key_tree(model)
    parts = [_OPENING]
    parts += ["## Top level\n", *_rows(tree, ())]
    for path, section in tree.sections.items():
        parts += [f"\n## `[{'.'.join(path)}]`\n", f"{_summary(section)}\n", *_rows(tree, path)]
    for key in tree.keys.values():
        if key.table is not None:
            parts += _table_parts(key.name, key, key.table)
    return "\n".join(parts) + "\n"


def _table_parts(name: str, key: Key, table: type[BaseModel]) -> Iterator[str]:
    yield f"\n## `[[{name}]]`\n"
    yield f"{_summary(table)} {key.field.description}"
    yield f"\nDefault: `{toml_value(public_default(key.field))}`\n"
    yield from _item_rows(table)
    for inner in key_tree(table).keys.values():
        if inner.table is not None:
            yield from _table_parts(f"{name}.{inner.name}", inner, inner.table)


def _summary(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "")


def _rows(tree: KeyTree, section: tuple[str, ...]) -> Iterator[str]:
    yield "| key | value | default | meaning | environment |"
    yield "|---|---|---|---|---|"
    for path, key in tree.keys.items():
        if path[:-1] == section and key.table is None:
            yield f"{_row(path[-1], key.field)} `{variable_of(path)}` |"


def _item_rows(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    yield from (_row(name, field) for name, field in public_fields(model).items())


def _row(name: str, field: FieldInfo) -> str:
    default = public_default(field)
    shown = {PydanticUndefined: "required", None: "none"}.get(default) if _is_absent(default) else None
    bounds = bounds_of(field)
    value = kind_of(field).replace('"', "`") + (f", {bounds}" if bounds else "")
    return f"| `{name}` | {value} | {shown or f'`{toml_value(default)}`'} | {field.description} |"


def _is_absent(default: Any) -> bool:
    return default is None or default is PydanticUndefined


_OPENING = """# Configuration

This file is generated from the settings themselves (`make docs`).

Settings come from a TOML file (`headrace run --config FILE`), from environment variables and from `--set key=value`;
the later of these wins, and `--data-dir` wins over all. `headrace config show` prints the effective settings and where
each came from; `headrace config check` reads and checks them. An unknown key is refused, wherever it stands.

- Durations and sizes are texts with a unit: `us`, `ms`, `s`, `m`, `h`, `d`; `B`, `KB`, `MB`, `GB`, `TB` (1 KB is
  1024 bytes).
- On the command line the key is dotted: `--set log.commit_interval=5ms`. A value there and in the environment is
  read as TOML, and taken as text where it is none, so `5ms` and `auto` need no quotes.
- An empty environment variable counts as not set. `[[routes]]` and `[[topics]]` are replaced as a whole by a later
  source: `HEADRACE_TOPICS='[{name = "telemetry", partitions = 16}]'`.
- A port is a number, `0` for off, or `auto` for any free one; the real ones stand in `<data>/run/ports.json`.
- Listeners on other addresses than loopback are refused as long as `security.allow_anonymous_network` is false,
  because there are no credentials yet: whoever reaches such a listener may write and read.
"""
