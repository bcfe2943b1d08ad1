"""The keys of a settings model as people write them: dotted names, aliases instead of unit-named fields, units as text.

Works on any model made of `core.settings.Section`s: a field is a plain value, a section (another model) or an array
of tables (`tuple[Model, ...]`), whose items may hold arrays of tables themselves. Knows nothing of where values come
from (appliance/config_sources.py) or how they are shown (appliance/config_text.py).
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from core.units import (
    format_duration_ms,
    format_duration_s,
    format_size_bytes,
    parse_duration_ms,
    parse_duration_s,
    parse_optional_duration_ms,
    parse_optional_size_bytes,
    parse_size_bytes,
)

KeyPath = tuple[str, ...]
"""`("log", "commit_interval")` for what is written `log.commit_interval`."""

BOUND_WORDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
"""pydantic's names of bounds, in words."""

_WRITERS: Final[Mapping[object, tuple[str, Callable[[Any], str]]]] = {
    parse_duration_ms: ("duration", format_duration_ms),
    parse_duration_s: ("duration", format_duration_s),
    parse_size_bytes: ("size", format_size_bytes),
    parse_optional_duration_ms: ("duration", format_duration_ms),
    parse_optional_size_bytes: ("size", format_size_bytes),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting: its path and field; `table` is the model of the items where it is an array of tables."""

    path: KeyPath
    field: FieldInfo
    table: type[BaseModel] | None = None

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.path)

    def accepts(self, kind: type) -> bool:
        """Whether the annotation names `kind` itself (so a text stays text, and true is not taken for 1)."""
        return kind in _members(self.field.annotation)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTree:
    """All keys of a model, and the sections they stand in."""

    keys: Mapping[KeyPath, Key]
    sections: Mapping[KeyPath, type[BaseModel]]

    def nearest(self, path: KeyPath) -> str | None:
        """The dotted name that was probably meant: alike among its siblings, of the same name elsewhere, or alike."""
        known = [*self.keys, *self.sections]
        siblings = {other[-1]: other for other in known if other[:-1] == path[:-1]}
        if close := difflib.get_close_matches(path[-1], siblings, n=1):
            return ".".join(siblings[close[0]])
        if elsewhere := [other for other in known if other[-1] == path[-1]]:
            return ".".join(elsewhere[0])
        close = difflib.get_close_matches(".".join(path), [".".join(other) for other in known], n=1)
        return close[0] if close else None


def key_tree(model: type[BaseModel]) -> KeyTree:
    """The keys of `model`, sections flattened to any depth."""
    keys: dict[KeyPath, Key] = {}
    sections: dict[KeyPath, type[BaseModel]] = {}
    for path, field in _walk(model, ()):
        inner = field.annotation
        if _is_model(inner):
            sections[path] = inner
        else:
            keys[path] = Key(path=path, field=field, table=_table_of(inner))
    return KeyTree(keys=keys, sections=sections)


def table_name(at: Sequence[str | int]) -> str:
    """The dotted name of an array of tables at a path with the numbers of items in it: `topics.fields`."""
    return ".".join(part for part in at if isinstance(part, str))


def public_name(name: str, field: FieldInfo) -> str:
    """What a field is called in files and on the command line."""
    return field.alias or name


def public_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's own fields by public name."""
    return {public_name(name, field): field for name, field in model.model_fields.items()}


def public_value(field: FieldInfo, value: Any) -> Any:
    """A field's value as it is written: text with a unit for quantities, plain TOML and JSON types otherwise."""
    if isinstance(value, BaseModel):
        return public_tree(value)
    if isinstance(value, tuple):
        return [public_value(field, item) for item in value]
    if isinstance(value, Path):
        return str(value)
    unit = _unit_of(field)
    return value if unit is None or value is None else unit[1](value)


def public_tree(model: BaseModel) -> dict[str, Any]:
    """A whole model as nested tables of public names; reading it back gives an equal model."""
    return {
        public_name(name, field): public_value(field, getattr(model, name))
        for name, field in type(model).model_fields.items()
    }


def public_default(field: FieldInfo) -> Any:
    """The default as it is written; PydanticUndefined when there is none."""
    default = field.get_default(call_default_factory=True, validated_data={})
    return default if _unit_of(field) else public_value(field, default)


def kind_of(field: FieldInfo) -> str:
    """What a value of the field looks like, in words a person uses: `duration`, `integer`, `"a"` or `"b"`, ..."""
    if unit := _unit_of(field):
        return unit[0]
    return " or ".join(_kind(member) for member in _members(field.annotation) if member is not types.NoneType)


def bounds_of(field: FieldInfo) -> str:
    """The bounds of a number or quantity in words, units included; empty when it has none."""
    return ", ".join(
        f"{words} {public_value(field, getattr(item, name))}"
        for item in field.metadata
        for name, words in BOUND_WORDS.items()
        if hasattr(item, name)
    )


def _walk(model: type[BaseModel], prefix: KeyPath) -> Iterator[tuple[KeyPath, FieldInfo]]:
    for name, field in public_fields(model).items():
        yield (*prefix, name), field
        if _is_model(field.annotation):
            yield from _walk(field.annotation, (*prefix, name))


def _is_model(annotation: object) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _table_of(annotation: object) -> type[BaseModel] | None:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and arguments and _is_model(arguments[0]):
        return arguments[0]
    return None


def _members(annotation: object) -> Sequence[object]:
    """The alternatives of an annotation, `Annotated` taken off."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(annotation) for member in _members(part)]
    return [annotation]


def _unit_of(field: FieldInfo) -> tuple[str, Callable[[Any], str]] | None:
    parsers = [item.func for item in field.metadata if isinstance(item, BeforeValidator)]
    return next((_WRITERS[parser] for parser in parsers if parser in _WRITERS), None)


def _kind(annotation: object) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f'"{choice}"' for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        item = typing.get_args(annotation)[0]
        return "array of tables" if _is_model(item) else f"array of {_kind(item)}s"
    names = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}
    return names.get(annotation, annotation.__name__) if isinstance(annotation, type) else str(annotation)
