"""`/api/v1/storage`: the disk, what retention has done, and what it may not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.context import Injected
from api.models import answer
from api.models_storage import ExpiredWindows, StorageState, StoredTopic
from api.problems import PROBLEMS, UNAVAILABLE
from api.times import to_datetime

router = APIRouter(prefix="/api/v1", tags=["log"], responses={**PROBLEMS, **UNAVAILABLE})


@router.get("/storage", response_model=StorageState, summary="Show disk and retention")
async def show_storage(services: Injected) -> Response:
    """What log and lake take, when the disk is full at this rate, what left the log lately, what cannot go and why."""
    told = await services.ask("storage")
    return answer(
        StorageState(
            as_of=to_datetime(told["as_of_ms"]),
            topics=[_stored(row) for row in told["topics"]],
            expired=[
                ExpiredWindows(at=to_datetime(row["at_ms"]), **{name: row[name] for name in row if name != "at_ms"})
                for row in told["expired"]
            ],
            **{name: told[name] for name in ("clock", "disk", "held", "lake_retention", "lake_files_left_alone")},
        )
    )


def _stored(row: Mapping[str, Any]) -> StoredTopic:
    oldest_ms = row["oldest_ms"]
    rest = {name: row[name] for name in row if name != "oldest_ms"}
    return StoredTopic(oldest=None if oldest_ms is None else to_datetime(oldest_ms), **rest)
