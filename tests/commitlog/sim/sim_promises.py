"""How a broken promise is told."""

from __future__ import annotations

At = tuple[str, int]
"""A topic and a partition's number."""


class WrongError(AssertionError):
    """The log broke a promise."""


def hold(condition: object, promise: str, *details: object) -> None:
    """Fail with the promise that was broken."""
    if not condition:
        raise WrongError(": ".join((promise, *map(str, details))))
