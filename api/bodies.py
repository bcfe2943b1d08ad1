"""Bodies of requests: of a known media type, bounded in size and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from fastapi import Request
from starlette.requests import ClientDisconnect

from core.errors import BadRequestError, HeadraceError

BODY_S: Final = 60.0  # 32 MB over a slow link; a body that dawdles must not hold its memory for ever


class MediaTypeError(HeadraceError):
    """The body has a media type that the route does not take."""

    code = "media-type"
    http_status = 415


class TooLargeError(HeadraceError):
    """The body is over the limit."""

    code = "too-large"
    http_status = 413


class BodyLateError(HeadraceError):
    """The body did not arrive in time."""

    code = "body-late"
    http_status = 408


async def read_body(request: Request, media_types: Collection[str], *, max_bytes: int) -> bytes:
    """The body. Raises MediaTypeError, TooLargeError, BodyLateError, or BadRequestError when the client leaves."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in media_types:
        wanted = " or ".join(media_types)
        raise MediaTypeError(f"the body is {media_type[:80]!r}, not {wanted}", mend=f"send Content-Type: {wanted}")
    try:
        async with asyncio.timeout(BODY_S):
            return await _bounded(request, max_bytes)
    except TimeoutError:
        raise BodyLateError(f"the body did not arrive within {BODY_S:g} s", mend="send less, or faster") from None
    except ClientDisconnect:
        raise BadRequestError("the client left before its body had arrived") from None


async def _bounded(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise TooLargeError(f"the body has more than {max_bytes} bytes", mend="send less at once")
    return bytes(body)
