"""A topic's declared schema: columns that are always there, pinned in order and type, and explained.

What a record's row violates refuses that row, with the reason `schema` and a detail that names the field. A value is
taken when its column holds it exactly: an integer for a double up to 2**53; for a `timestamp` whatever a device's own
time may be (`sink.payload.times`); for `json` anything. Nothing is converted beyond that: a text of digits is no
number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from commitlog.settings import FieldSettings, FieldType, TopicSettings, UnknownFields
from sink.payload.kinds import Fields, Json, describe, fits, json_text
from sink.payload.reasons import UndecodableError, shown
from sink.payload.times import time_us

UNIT_KEY: Final = "headrace.unit"
DESCRIPTION_KEY: Final = "description"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredField:
    """One declared column; `name` is the field's path."""

    name: str
    type: FieldType
    unit: str = ""
    description: str = ""
    required: bool = False

    @property
    def metadata(self) -> Mapping[str, str]:
        """Key-value metadata of the Parquet column."""
        words = {UNIT_KEY: self.unit, DESCRIPTION_KEY: self.description}
        return {key: text for key, text in words.items() if text}


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Declared fields in order, and what becomes of rows with others."""

    fields: tuple[DeclaredField, ...]
    unknown_fields: UnknownFields = "keep"

    @classmethod
    def of(cls, topic: TopicSettings) -> Schema | None:
        """A topic's schema; None where it declares nothing."""
        if not topic.fields and topic.unknown_fields == "keep":
            return None
        return cls(fields=tuple(_declared(field) for field in topic.fields), unknown_fields=topic.unknown_fields)

    @classmethod
    def from_canonical(cls, text: str) -> Schema:
        """The schema whose `canonical` text this is. Raises ValueError, KeyError or TypeError for another text."""
        found = json.loads(text)
        fields = tuple(DeclaredField(**field) for field in found["fields"])
        return cls(fields=fields, unknown_fields=found["unknown_fields"])

    @cached_property
    def canonical(self) -> str:
        """The schema as JSON, the same text for equal schemas."""
        fields = [
            {
                "name": field.name,
                "type": field.type,
                "unit": field.unit,
                "description": field.description,
                "required": field.required,
            }
            for field in self.fields
        ]
        value = {"fields": fields, "unknown_fields": self.unknown_fields}
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @cached_property
    def version(self) -> str:
        """16 hexadecimal digits that change with anything declared."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]

    @cached_property
    def names(self) -> frozenset[str]:
        """Paths that are declared; they are not followed into what is nested below them."""
        return frozenset(field.name for field in self.fields)

    def conform(self, fields: Fields, timestamp_field: str) -> None:
        """Hold a row against the schema, and turn its values into those of its columns.

        The time field is never unknown: where it is still in the row it could not be used, and stays as its mark.
        Raises UndecodableError.
        """
        for declared in self.fields:
            value = fields.get(declared.name)
            if value is None:
                if declared.required:
                    found = "null" if declared.name in fields else "nothing"
                    raise UndecodableError("schema", f"{shown(declared.name)}: {declared.type} required, found {found}")
            elif (taken := _taken(value, declared.type)) is None:
                found = _found(value, declared.type)
                raise UndecodableError("schema", f"{shown(declared.name)}: {declared.type} expected, found {found}")
            else:
                fields[declared.name] = taken
        if self.unknown_fields == "quarantine":
            self._refuse_unknown(fields, timestamp_field)

    def _refuse_unknown(self, fields: Fields, timestamp_field: str) -> None:
        unknown = min((name for name in fields if name not in self.names and name != timestamp_field), default=None)
        if unknown is not None:
            raise UndecodableError("schema", f"{shown(unknown)}: not declared")


def _declared(field: FieldSettings) -> DeclaredField:
    return DeclaredField(
        name=field.name, type=field.type, unit=field.unit, description=field.description, required=field.required
    )


def _taken(value: Any, kind: str) -> Any:
    """The value as a column of a declared kind holds it; None when it does not."""
    if kind == "timestamp":
        return time_us(value)
    if kind == "json":
        return Json(json_text(value))
    return value if fits(value, kind) else None


def _found(value: Any, kind: str) -> str:
    found = describe(value)
    if (found, kind) in (("int64", "double"), ("list<int64>", "list<double>")):
        return f"{found} beyond 2**53, which would be rounded"
    if kind == "timestamp" and found in ("int64", "double", "string"):
        return f"{found} that is no time"
    return found
