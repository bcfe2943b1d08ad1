"""`/api/v1/registry`, `/api/v1/registry.csv`, `/api/v1/tags`: what people say of devices.

Two editors cannot overwrite each other unseen: an entry's `ETag` is its version, and what replaces or removes an entry
has to say which version it means (`If-Match`, or `*` for whichever), else 428; 412 says that somebody was faster. A
merge patch names the fields that it changes and needs no condition: what others changed meanwhile stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from api.answers import entry_fields, key_from_path, path_of_key
from api.bodies import read_body
from api.context import Injected
from api.models import answer
from api.models_registry import ImportAnswer, RegistryItem, RegistryList, TagCount, TagList, body
from api.problems import CONDITION_NEEDED, NOT_FOUND, PROBLEMS, UNAVAILABLE, WRITING
from api.tag_filter import TagFilter
from core.errors import HeadraceError, OutdatedError, UnavailableError
from devices.registry import RegistryView
from devices.registry_client import no_entry
from devices.registry_csv import csv_header, csv_lines, read_csv
from devices.registry_entry import MAX_ENTRY_BYTES, RegistryRow, device_key, entry_from_json, patch_from_json
from devices.registry_import import MAX_IMPORT_BYTES, carry_out, plan
from devices.registry_store import ABSENT, PRESENT

_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_CSV: Final = "text/csv"
_MAX_BODY_BYTES: Final = 4 * MAX_ENTRY_BYTES  # with white space and escapes
_EXPORT_PAGE: Final = 500  # entries between two turns of a thread
_ETAG: Final = {"ETag": {"description": "The entry's version.", "schema": {"type": "string"}}}

router = APIRouter(prefix="/api/v1", tags=["registry"], responses={**PROBLEMS, **UNAVAILABLE})

RegisteredPath = Annotated[
    str,
    Path(
        description='The device id, percent-encoded as one path segment: "/" is `%2F`.',
        min_length=1,
        max_length=2048,
        examples=["press-17", "line%2F4%2Fpress"],
    ),
]
IfMatch = Annotated[
    str,
    Header(
        alias="If-Match",
        pattern=r'^(\*|"[1-9][0-9]{0,17}")$',
        description="The `ETag` of the entry as it was read; `*`: whichever is there.",
    ),
]
IfNoneMatch = Annotated[
    str, Header(alias="If-None-Match", pattern=r"^\*$", description="`*`: only if there is no entry yet.")
]


class ConditionNeededError(HeadraceError):
    """Something is there already, and the request does not say whether it may go."""

    code = "condition-needed"
    http_status = 428


@router.get("/registry", response_model=RegistryList, summary="List entries")
def list_entries(
    services: Injected,
    tag: TagFilter = (),
    search: Annotated[
        str, Query(max_length=256, description="Only entries with this text in id, name, location or a tag.")
    ] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str, Query(max_length=2048, description="`next` of the previous page.")] = "",
) -> Response:
    """Entries by device id, whether or not their devices ever spoke."""
    view = services.registry.view
    found, after = view.page(tags=tag, search=search, after=key_from_path(cursor), limit=limit)
    shape = RegistryList(
        entries=[_item(one.device, one.row) for one in found],
        total=view.devices,
        next=None if after is None else path_of_key(after),
    )
    return answer(shape)


@router.get("/tags", response_model=TagList, summary="List tags")
def list_tags(services: Injected) -> Response:
    """Every tag in use, and how many devices have it."""
    return answer(TagList(tags=[TagCount(tag=tag, devices=count) for tag, count in services.registry.view.tags()]))


@router.get(
    "/registry.csv",
    response_class=StreamingResponse,
    responses={200: {"description": "The file.", "content": {_CSV: {"schema": {"type": "string"}}}}},
    summary="Export as CSV",
)
def export_entries(services: Injected, tag: TagFilter = ()) -> Response:
    """Entries as CSV for spreadsheets; what is imported again is what was exported.

    Each entry is whole; what changes during the export is in it as it was or as it is.
    """
    services.registry.view.check()
    headers = {"Content-Disposition": 'attachment; filename="devices.csv"'}
    return StreamingResponse(_export(services.registry.view, tag), media_type=_CSV, headers=headers)


def _export(view: RegistryView, tags: tuple[str, ...]) -> Iterator[str]:
    yield csv_header()
    after: bytes | None = b""
    while after is not None:
        found, after = view.page(tags=tags, after=after, limit=_EXPORT_PAGE)
        yield "".join(csv_lines(found))


@router.post(
    "/registry.csv",
    response_model=ImportAnswer,
    responses=WRITING,
    openapi_extra={"requestBody": {"required": True, "content": {_CSV: {"schema": {"type": "string"}}}}},
    summary="Import CSV",
)
async def import_entries(
    services: Injected,
    request: Request,
    dry_run: Annotated[bool, Query(description="Judge the file and say what would change; write nothing.")] = False,
) -> Response:
    """Set the columns that the file has, of the devices that it has; an empty cell empties the field.

    With one row that cannot be taken nothing is written, and `errors` says which. The rest is written some devices at a
    time: should the box fail meanwhile, the first of them are done, and importing the file again does what is missing.
    """
    importing: asyncio.Lock = request.app.state.importing
    if importing.locked():
        raise UnavailableError("another import is under way", where="device registry", mend="try again when it is over")
    async with importing:
        content = await read_body(request, (_CSV,), max_bytes=MAX_IMPORT_BYTES)
        rows = await asyncio.to_thread(read_csv, content, max_rows=services.max_registered)
        await services.registry.catch_up()
        view, max_devices = services.registry.view, services.max_registered
        counts, planned = await asyncio.to_thread(plan, view, rows, max_devices=max_devices)
        if not dry_run:
            await carry_out(services.registry, planned)
    shape = ImportAnswer(
        dry_run=dry_run,
        rows=counts.rows,
        created=counts.created,
        changed=counts.changed,
        unchanged=counts.unchanged,
    )
    return answer(shape)


@router.get(
    "/registry/{device}",
    response_model=RegistryItem,
    responses={200: {"headers": _ETAG}, **NOT_FOUND},
    summary="Show an entry",
)
def show_entry(services: Injected, device: RegisteredPath) -> Response:
    """What people say of a device. A change made on the command line may take some seconds to be seen."""
    key = key_from_path(device)
    row = services.registry.view.get(key)
    if row is None:
        raise no_entry(key)
    return _entry(key, row)


@router.put(
    "/registry/{device}",
    response_model=RegistryItem,
    responses={
        200: {"headers": _ETAG},
        201: {"description": "There was no entry before.", "headers": _ETAG, "model": RegistryItem},
        **NOT_FOUND,
        **WRITING,
        **CONDITION_NEEDED,
    },
    openapi_extra=body("RegistryEntry", _JSON),
    summary="Set an entry",
)
async def put_entry(
    services: Injected,
    request: Request,
    device: RegisteredPath,
    if_match: IfMatch = "",
    if_none_match: IfNoneMatch = "",
) -> Response:
    """Set all fields of an entry; those left out are empty then. An entry that is there needs `If-Match`."""
    key = _key(device)
    entry = entry_from_json(await read_body(request, (_JSON,), max_bytes=_MAX_BODY_BYTES))
    expected = _expected(if_match) if if_match and not if_none_match else ABSENT
    try:
        row = await services.registry.put(key, entry, expected)
    except OutdatedError as error:
        if not if_match and not if_none_match:
            raise _condition_needed(error) from None
        raise
    return _entry(key, row, status=201 if expected == ABSENT else 200)


@router.patch(
    "/registry/{device}",
    response_model=RegistryItem,
    responses={200: {"headers": _ETAG}, **NOT_FOUND, **WRITING},
    openapi_extra=body("RegistryPatch", _MERGE_PATCH, _JSON),
    summary="Change an entry",
)
async def patch_entry(services: Injected, request: Request, device: RegisteredPath, if_match: IfMatch = "") -> Response:
    """Change some fields of an entry, by a JSON merge patch (RFC 7396); makes one where there is none."""
    key = _key(device)
    patch = patch_from_json(await read_body(request, (_MERGE_PATCH, _JSON), max_bytes=_MAX_BODY_BYTES))
    row = await services.registry.patch(key, patch, _expected(if_match) if if_match else None)
    return _entry(key, row)


@router.delete(
    "/registry/{device}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "It is gone."}, **NOT_FOUND, **WRITING, **CONDITION_NEEDED},
    summary="Remove an entry",
)
async def delete_entry(services: Injected, device: RegisteredPath, if_match: IfMatch = "") -> Response:
    """Forget what people say of a device; its readings stay. Needs `If-Match`."""
    key = _key(device)
    if not if_match:
        await services.registry.catch_up()
        row = services.registry.view.get(key)
        if row is None:
            raise no_entry(key)
        raise _condition_needed(OutdatedError(f"there is an entry, of version {row.revision}"))
    await services.registry.remove(key, _expected(if_match))
    return Response(status_code=204)


def _key(segment: str) -> bytes:
    """The device that a path names. Raises NotFoundError for what no device can be called."""
    return device_key(key_from_path(segment).decode("utf-8", "surrogateescape"))


def _expected(if_match: str) -> int:
    return PRESENT if if_match == "*" else int(if_match.strip('"'))


def _condition_needed(error: HeadraceError) -> ConditionNeededError:
    mend = "send its ETag as If-Match, so that nobody's change is lost; If-Match: * means whichever is there"
    return ConditionNeededError(error.what, mend=mend)


def _entry(key: bytes, row: RegistryRow, *, status: int = 200) -> Response:
    response = answer(_item(key, row))
    response.status_code = status
    response.headers["ETag"] = f'"{row.revision}"'
    return response


def _item(key: bytes, row: RegistryRow) -> RegistryItem:
    fields: dict[str, Any] = entry_fields(row)
    href = f"/api/v1/registry/{path_of_key(key)}"
    return RegistryItem(device=key.decode(), href=href, version=row.revision, **fields)
