"""Why a record, or a part of it, is in quarantine instead of in a row."""

from __future__ import annotations

from typing import Final, Literal, get_args

Reason = Literal[
    "empty",
    "not-json",
    "invalid-utf8",
    "number-out-of-range",
    "too-deep",
    "duplicate-field",
    "not-an-object",
    "no-rows",
    "too-many-rows",
    "schema",
]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
"""All of them; docs/formats-parquet.md says what each means."""

_SHOWN_CHARS: Final = 200  # of a device's own text in a detail: enough to know it by


class UndecodableError(Exception):
    """These bytes cannot be read as a row. `detail` says what exactly, for people; it may be empty."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason
        self.detail = detail


def shown(name: str) -> str:
    """A field's name as it stands in a detail: cut where a device made it long."""
    return name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}..."
