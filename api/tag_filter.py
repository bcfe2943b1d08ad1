"""The parameter by which lists are narrowed to devices with some tags."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from devices.registry_entry import MAX_TAG_CHARS, MAX_TAGS

TagFilter = Annotated[
    tuple[Annotated[str, Query(max_length=MAX_TAG_CHARS)], ...],
    Query(max_length=MAX_TAGS, description="Only devices with this tag; repeated: with all of them."),
]
