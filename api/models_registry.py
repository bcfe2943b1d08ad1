"""The shapes of the registry's answers, as OpenAPI documents them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from pydantic import ConfigDict, Field

from api import examples
from api.examples import example
from api.models import Registration, Shape
from devices.registry_entry import RegistryEntry

_REF: Final = "#/components/schemas/{name}"


class RegistryItem(Registration):
    """An entry of the registry."""

    model_config = ConfigDict(json_schema_extra=example(examples.REGISTRY_ITEM))

    device: str = Field(examples=["press-17"])
    href: str = Field(description="Where the entry is.", examples=["/api/v1/registry/press-17"])


class RegistryList(Shape):
    """A page of entries, in order of their devices' ids."""

    model_config = ConfigDict(json_schema_extra=example(examples.REGISTRY_LIST))

    entries: list[RegistryItem]
    total: int = Field(description="Entries there are, whatever was asked for.")
    next: str | None = Field(
        description="`cursor` of the next page; null at the end. A page may be shorter than `limit` and still have a "
        "next: a request looks at some thousands of entries, then answers with what it found."
    )


class TagCount(Shape):
    """A tag in use."""

    tag: str = Field(examples=["hall-4"])
    devices: int = Field(description="Devices that have it.")


class TagList(Shape):
    """All tags, in order."""

    model_config = ConfigDict(json_schema_extra=example(examples.TAG_LIST))

    tags: list[TagCount]


class ImportAnswer(Shape):
    """What an import did, or with `dry_run` would do."""

    model_config = ConfigDict(json_schema_extra=example(examples.REGISTRY_IMPORT))

    dry_run: bool
    rows: int = Field(description="Rows of the file: devices.")
    created: int = Field(description="Entries that were not there before.")
    changed: int
    unchanged: int = Field(description="Entries that were as the file says, and were not written.")


def body_schemas() -> dict[str, Any]:
    """Schemas of bodies, by name: made from the types that read them."""
    (_,), schemas = msgspec.json.schema_components([RegistryEntry], ref_template=_REF)
    entry = schemas["RegistryEntry"]
    entry["examples"] = [examples.REGISTRY_ENTRY]
    patch = {
        **entry,
        "title": "RegistryPatch",
        "description": "A JSON merge patch of an entry (RFC 7396): null empties a field.",
        "properties": {name: _nullable(schema) for name, schema in entry["properties"].items()},
        "examples": [examples.REGISTRY_PATCH],
    }
    return {**schemas, "RegistryPatch": patch}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    within = {name: value for name, value in schema.items() if name not in ("description", "default", "examples")}
    if "additionalProperties" in within:
        within["additionalProperties"] = {"anyOf": [within["additionalProperties"], {"type": "null"}]}
    about = {"description": schema["description"]} if "description" in schema else {}
    return {**about, "anyOf": [within, {"type": "null"}]}


def body(name: str, *media_types: str) -> dict[str, Any]:
    """The description of an operation's body."""
    schema = {"$ref": _REF.format(name=name)}
    return {"requestBody": {"required": True, "content": {one: {"schema": schema} for one in media_types}}}
