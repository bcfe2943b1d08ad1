from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from appliance.config_keys import bounds_of, key_tree, kind_of, public_default, public_tree
from appliance.config_text import render_markdown, render_toml
from core.settings import Section, quantity
from core.units import DurationMs, DurationS, SizeBytes


class Item(Section):
    """One item."""

    name: str = Field(description="Its name.")
    weight: int | None = Field(None, description="Its weight.")


class Inner(Section):
    """The inner part."""

    wait_ms: DurationMs = quantity("10ms", alias="wait", ge=1, le=60_000, description="How long.")
    pause_s: DurationS = quantity("1.5s", alias="pause", gt=0, description="How long in between.")
    room_bytes: SizeBytes = quantity("64KB", description="How much.")
    port: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(5, description="Where.")
    names: tuple[str, ...] = Field((), description="Which.")


class Outer(Section):
    """The whole."""

    place: Path = Field(Path("here"), description="Where it is.")
    inner: Inner = Field(default_factory=Inner)
    items: tuple[Item, ...] = Field((), description="What there is.")


TREE = key_tree(Outer)


def test_keys_are_public_names_and_sections_are_flattened() -> None:
    assert [key.name for key in TREE.keys.values()] == [
        "place",
        "inner.wait",
        "inner.pause",
        "inner.room_bytes",
        "inner.port",
        "inner.names",
        "items",
    ]
    assert list(TREE.sections) == [("inner",)]
    assert TREE.keys["items",].table is Item


@pytest.mark.parametrize(
    ("name", "kind", "bounds"),
    [
        ("place", "path", ""),
        ("inner.wait", "duration", "at least 1ms, at most 1m"),
        ("inner.pause", "duration", "more than 0"),
        ("inner.room_bytes", "size", ""),
        ("inner.port", 'integer or "auto"', ""),
        ("inner.names", "array of texts", ""),
        ("items", "array of tables", ""),
    ],
)
def test_kinds_and_bounds_are_told_in_words(name: str, kind: str, bounds: str) -> None:
    field = TREE.keys[tuple(name.split("."))].field
    assert (kind_of(field), bounds_of(field)) == (kind, bounds)


def test_values_are_written_with_their_units() -> None:
    outer = Outer.model_validate({"inner": {"wait": "9s", "names": ["a", "b"]}, "items": [{"name": "x"}]})
    assert public_tree(outer) == {
        "place": "here",
        "inner": {"wait": "9s", "pause": "1500ms", "room_bytes": "64KB", "port": 5, "names": ["a", "b"]},
        "items": [{"name": "x", "weight": None}],
    }
    assert public_default(TREE.keys["inner", "pause"].field) == "1.5s"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("inner.wiat", "inner.wait"),
        ("wait", "inner.wait"),
        ("iner", "inner"),
        ("inner.wait_ms", "inner.wait"),
        ("q", None),
    ],
)
def test_nearest(written: str, meant: str | None) -> None:
    assert TREE.nearest(tuple(written.split("."))) == meant


def test_toml_leaves_out_what_is_none() -> None:
    outer = Outer.model_validate({"items": [{"name": "x"}]})
    assert render_toml(outer, {}).endswith('\n[[items]]\nname = "x"\n')
    assert render_toml(Outer(), {}).endswith("\n# no [[items]]\n")


def test_the_document_has_a_row_for_each_key() -> None:
    text = render_markdown(Outer)
    assert '| `wait` | duration, at least 1ms, at most 1m | `"10ms"` | How long. | `HEADRACE_INNER__WAIT` |' in text
    assert "| `port` | integer or `auto` | `5` | Where. | `HEADRACE_INNER__PORT` |" in text
    assert "| `name` | text | required | Its name. |" in text
    assert "| `weight` | integer | none | Its weight. |" in text
