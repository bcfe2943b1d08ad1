"""Which web pages may speak to a listener: a browser lets any page open a WebSocket to the machine that it runs on.

A browser names the page's origin in the request, and no page can make it say something else. Programs that are no
browsers name none and may always; some name the host that they connect to. So by default these may:

* no `Origin`;
* a page of this machine: `localhost`, an address of its loopback, with any port;
* a page from the address that the request is for. A name counts as one only where the request came to an address that
  others can reach: there is no name that a page elsewhere could not point at 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import urlsplit

ANY: Final = "*"


def origin_allowed(origins: Sequence[str], hosts: Sequence[str], listed: Collection[str], *, on_loopback: bool) -> bool:
    """Whether a request may come from where its `Origin` headers say, of which there may be one at most.

    `hosts` are its `Host` headers, `listed` what is allowed besides (`*`: anything); `on_loopback`: the request came to
    an address of this machine alone, or to a unix socket.
    """
    if not origins or ANY in listed:
        return True
    if len(origins) > 1:
        return False
    origin = origins[0]
    if origin in listed:
        return True
    host = _host(origin)
    if host is None:
        return False
    if is_loopback(host):
        return True
    if len(hosts) != 1 or host != _host(f"//{hosts[0]}"):
        return False
    return _is_address(host) or not on_loopback


def is_loopback(host: str) -> bool:
    """Whether a host, as a URL names it but without brackets, is this machine and no other."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _host(url: str) -> str | None:
    """The host in a URL, in lower case and without brackets; None if it has none that can be read (`null`)."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return host.rstrip(".") or None if host else None
