"""What happens to every request before and after its route.

* Host names. The console asks nobody for a password as long as it listens on loopback, so a web page elsewhere must
  not reach it through the visitor's browser. Such a page can point its own name at 127.0.0.1 (DNS rebinding), but the
  browser then still sends that name as Host. Hence only `localhost`, IP addresses (nobody can rebind one) and
  configured names are answered; others get 421 Misdirected Request (RFC 9110 15.5.20).
* Writing. A page elsewhere may also send requests to an address of the box as it is; it cannot read the answer, but the
  request would have been carried out. A browser says where a request comes from, and no page can make it say something
  else: what would write is refused with 403 unless it says this very origin (`Sec-Fetch-Site`, or in older browsers
  `Origin`), or nothing, as programs do. Besides, every route that takes a body asks for a media type no form sends.
* Headers that keep a browser from running, framing or guessing anything.
* Raw paths. A device id may contain "/": under the prefixes below the router is given the path as it was sent, still
  percent-encoded, so that `%2F` stays within its segment.
* Errors nobody planned for become a problem answer and a log line with the traceback.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem
from core.tasks import log_unexpected

RAW_PREFIXES: Final = (b"/api/v1/devices/", b"/api/v1/registry/", b"/devices/", b"/fragments/devices/")
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 9.2.1
_PORTS: Final = {"http": 80, "https": 443}

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str], requests: Counter[tuple[str, int]]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower().rstrip(".") for name in allowed_hosts)
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = _Answer(scope, send, self._requests)
        host = _header(scope, b"host")
        if not host_allowed(host, self._allowed):
            refusal = problem(
                421,
                "misdirected",
                f"the host name {host[:100]!r} is not one of this box",
                instance=scope["path"],
                mend="use localhost or an address, or add the name to http.allowed_hosts",
            )
            await refusal(scope, receive, answered.send)
            return
        if scope["method"] not in SAFE_METHODS and not may_write(scope, host):
            refusal = problem(
                403,
                "foreign-origin",
                "a web page from elsewhere sent this",
                instance=scope["path"],
                mend="use the box's own pages, or a program that is no browser",
            )
            await refusal(scope, receive, answered.send)
            return
        use_raw_path(scope)
        try:
            await self._app(scope, receive, answered.send)
        except Exception as error:
            # The last resort: logged with its traceback, answered in the one shape.
            log_unexpected("request failed", error, path=scope["path"])
            if answered.started:
                raise
            detail = "an error that nobody planned for; the console's log has the details"
            await problem(500, "internal", detail, instance=scope["path"])(scope, receive, answered.send)


class _Answer:
    """Adds headers to a response on its way out and counts it."""

    def __init__(self, scope: Scope, send: Send, requests: Counter[tuple[str, int]]) -> None:
        self._scope = scope
        self._send = send
        self._requests = requests
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault(
                "Cache-Control", "no-cache" if self._scope["path"].startswith("/static/") else "no-store"
            )
            route = getattr(self._scope.get("route"), "path", "other")  # templates only: bounded label values
            self._requests[route, message["status"]] += 1
        await self._send(message)


def host_allowed(host: str, allowed: Collection[str]) -> bool:
    """Whether a Host header names this box: localhost, an IP address, or one of `allowed` (lower case)."""
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") <= 1:
        name = name.partition(":")[0]
    name = name.rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name in allowed:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def may_write(scope: Scope, host: str) -> bool:
    """Whether a request comes from a page of this box, or from no page at all."""
    sites, origins = _headers(scope, b"sec-fetch-site"), _headers(scope, b"origin")
    if len(sites) > 1 or len(origins) > 1:
        return False  # no browser sends that
    if sites:
        return sites[0] in ("same-origin", "none")
    if not origins:
        return True
    return _authority(origins[0]) == _authority(f"{origins[0].partition(':')[0]}://{host}") is not None


def _authority(origin: str) -> tuple[str, int] | None:
    """Host and port of an origin (RFC 6454 7); None for what is none, such as `null`."""
    try:
        parts = urlsplit(origin.lower())
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.hostname.rstrip("."), port) if parts.hostname else None


def use_raw_path(scope: Scope) -> None:
    """Route on the path as it was sent, where device ids stand in it."""
    raw = (scope.get("raw_path") or b"").partition(b"?")[0]
    if raw.startswith(RAW_PREFIXES):
        scope["path"] = raw.decode("latin-1")


def _header(scope: Scope, wanted: bytes) -> str:
    return next(iter(_headers(scope, wanted)), "")


def _headers(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
