"""On which line of a TOML text a key stands: the standard library's parser does not say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

TomlPath = tuple[str | int, ...]
"""Names, and an index after the name of an array of tables: `("routes", 1, "filter")`."""

_HEADER: Final = re.compile(r"\s*(\[\[?)([^\]]+)\]")
_KEY: Final = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[\w-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""")
_PART: Final = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([\w-]+))\s*""")


def line_of(text: str, path: TomlPath) -> int | None:
    """The line (from 1) of the key at `path`, or of the closest table around it; None when neither is found.

    Reads line by line, so what looks like a key inside a multi-line string can mislead it: good enough for a message.
    """
    best: tuple[int, int] | None = None
    for number, here in _paths(text):
        if here[: len(path)] == path:
            return number  # the key itself, or the first thing inside the table that it is
        if path[: len(here)] == here and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return best[1] if best else None


def _paths(text: str) -> Iterator[tuple[int, TomlPath]]:
    prefix: TomlPath = ()
    seen: Counter[TomlPath] = Counter()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            prefix = _resolved(_split(header[2]), seen)
            if header[1] == "[[":
                seen[prefix] += 1
                prefix = (*prefix, seen[prefix] - 1)
            yield number, prefix
        elif key := _KEY.match(line):
            yield number, (*prefix, *_split(key[1]))


def _resolved(names: tuple[str, ...], seen: Counter[TomlPath]) -> TomlPath:
    """A header's path: what stands below an array of tables belongs to its last item so far."""
    path: TomlPath = names[:1]
    for name in names[1:]:
        path = (*path, seen[path] - 1, name) if seen[path] else (*path, name)
    return path


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(match[1] or match[2] or match[3] or "" for match in _PART.finditer(dotted))
