"""Why a sink does not get on, for whoever waits for it: `<data>/run/sink.json`, beside its metrics.

`{"troubles": [{"topic", "what", "where", "mend", "failures", "at_ms"}]}`: the last error of each topic whose newest
attempt failed (an empty topic: nothing can be exported at all; a quarantine file's path: its replay). Replaced
whole; gone with the next success.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from core.errors import HeadraceError

TROUBLES_NAME: Final = "sink.json"
MAX_SHOWN: Final = 100  # topics; they mostly fail for the same reason
_TEXT_CHARS: Final = 1_000  # of an error that is not ours


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A topic's last error."""

    topic: str
    what: str
    where: str
    mend: str
    failures: int
    at_ms: int


class _File(msgspec.Struct):
    troubles: list[Trouble]


class Troubles:
    """The sink's side: what fails now."""

    def __init__(self) -> None:
        self._by_topic: dict[str, Trouble] = {}

    def note(self, topic: str, error: Exception, failures: int, now_ms: int) -> None:
        """An attempt failed."""
        what, where, mend = (str(error) or repr(error))[:_TEXT_CHARS], "", "the sink's log output has the whole error"
        if isinstance(error, HeadraceError):
            what, where, mend = error.what, error.where, error.mend
        self._by_topic[topic] = Trouble(topic=topic, what=what, where=where, mend=mend, failures=failures, at_ms=now_ms)

    def clear(self, topic: str) -> None:
        """An attempt went well."""
        self._by_topic.pop(topic, None)

    def write(self, path: Path) -> None:
        """Replace the file. Raises OSError; on a full disk the old one stays."""
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            temporary.write_bytes(msgspec.json.encode(_File(list(self._by_topic.values())[:MAX_SHOWN])))
            temporary.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()


def read_troubles(run_dir: Path) -> Mapping[str, Trouble]:
    """What a sink said last, by topic; nothing where there is no such file, or none of ours."""
    try:
        found = msgspec.json.decode((run_dir / TROUBLES_NAME).read_bytes(), type=_File)
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
    return {trouble.topic: trouble for trouble in found.troubles}
