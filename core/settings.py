"""What every settings section has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings.

    A field that carries a unit is named for it (`commit_interval_ms`) and has the public key as its alias
    (`commit_interval`); every field has a `description`, which becomes docs/configuration.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False, validate_default=True)
