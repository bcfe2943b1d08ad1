"""What the validation of settings found, in the words and with the names of the person who wrote them."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from appliance.config_keys import BOUND_WORDS, KeyPath, key_tree, kind_of, public_default, public_value
from appliance.config_sources import Collected, Given, Problem
from appliance.toml_lines import TomlPath


def bad_values(error: ValidationError, found: Collected) -> Iterator[Problem]:
    """pydantic's details, alternatives of one value (a port: number or `auto`) taken together, as one Problem each."""
    reasons: dict[TomlPath, list[str]] = {}
    for detail in error.errors():
        at = _written_path(detail, found)
        reasons.setdefault(at, []).append(_reason(detail, at, found))
    for at, texts in reasons.items():
        given = given_at(at, found)
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".")
        shown = f" = {given.value!r}" if given and len(at) == len(given.path) else ""
        yield Problem(
            what=f"{name}{shown}: {', or '.join(dict.fromkeys(texts))}",
            where=given.locate(at) if given else "defaults",
            mend=_what_it_is(given, found),
        )


def _written_path(detail: ErrorDetails, found: Collected) -> TomlPath:
    """The part of pydantic's location that a person wrote: without the names of the alternatives of a union."""
    at = detail["loc"]
    for length in range(1, len(at) + 1):
        key = found.tree.keys.get(tuple(str(part) for part in at[:length]))
        if key is not None:
            return at[: length + _written_in_table(at[length:], key.table)] if key.table else at[:length]
    return at


def _written_in_table(at: TomlPath, table: type[BaseModel]) -> int:
    """How many parts of a path into an array of tables were written: the item's number, its key, and so on below."""
    inner = key_tree(table).keys.get((str(at[1]),)) if len(at) > 1 else None
    return 2 + _written_in_table(at[2:], inner.table) if inner and inner.table else 2


def given_at(at: TomlPath, found: Collected) -> Given | None:
    """Who gave the value at `at`, or the array of tables that it stands in; None for a default."""
    paths: Iterator[KeyPath] = (tuple(str(part) for part in at[:length]) for length in range(len(at), 0, -1))
    return next((found.given[path] for path in paths if path in found.given), None)


def _reason(detail: ErrorDetails, at: TomlPath, found: Collected) -> str:
    bounds = detail.get("ctx", {})
    key = found.tree.keys.get(tuple(str(part) for part in at))
    for name, words in BOUND_WORDS.items():
        if name in bounds and key is not None:
            return f"must be {words} {public_value(key.field, bounds[name])}"
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]


def _what_it_is(given: Given | None, found: Collected) -> str:
    if given is None:
        return ""
    field = found.tree.keys[given.path].field
    if found.tree.keys[given.path].table:
        return field.description or ""
    return f"{field.description} ({kind_of(field)}, default {public_default(field)!r})"
