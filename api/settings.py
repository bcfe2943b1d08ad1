"""Settings of the console process (`[http]`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.settings import Section


class HttpSettings(Section):
    """The HTTP API and console page."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback until credentials exist.")
    port: Annotated[int, Field(ge=0, le=65535)] | Literal["auto"] = Field(
        8080, description="Port; 0 turns the console off, `auto` takes any free one."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Names besides `localhost` and IP addresses under which the console answers; "
        "others are refused, so that a web page elsewhere cannot reach it by renaming itself (DNS rebinding).",
    )
    max_devices: int = Field(
        200_000, ge=1, description="Devices the status view keeps; the longest silent give way to new ones."
    )
