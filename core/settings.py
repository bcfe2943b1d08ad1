"""What every settings section has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen group of settings.

    A field that carries a unit is named for it (`commit_interval_ms`) and has the public key as its alias
    (`commit_interval`); every field has a `description`, which becomes docs/configuration.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False, validate_default=True)


def quantity(default: str, **options: Any) -> Any:
    """A field whose default is written with its unit, as a user would write it (`"10ms"`, `"256MB"`)."""
    return Field(default, **options)
