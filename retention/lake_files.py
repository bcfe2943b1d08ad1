"""The lake's files as retention sees them: folders by date, and what footers say of the units they belong to.

A unit is known by its topic id and its last window's number, which stand in every file of it. Which files it has stands
in the one that closes it (`headrace.files`), and in the sink's table of exports as long as that knows it. Where neither
says it, or a file says nothing of us at all, it is left alone, and counted.

Footers are read with pyarrow, which is imported when the first one is: a box that keeps its lake for ever does without.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any, Final

from retention.lake_units import LakeUnit
from retention.usage import FolderSizes

MAX_FOOTERS: Final = 200  # read in one look: a footer takes about a millisecond
MAX_KNOWN: Final = 100_000  # files whose footers are remembered, some 50 MB at most
SUPERSEDED: Final = "_superseded"
_ROOTS: Final = ("", "_quarantine", SUPERSEDED, f"{SUPERSEDED}/_quarantine")
_DATE: Final = re.compile(r"date=(\d{4}-\d{2}-\d{2})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a footer says; None in place of it: not a file that we can place."""

    topic: str
    topic_id: str
    first_number: int
    number: int
    end_ms: int
    offsets: Mapping[int, tuple[int, int]]
    files: tuple[str, ...]


class LakeFiles:
    """See the module. Blocks; used by one thread at a time."""

    def __init__(self, lake_dir: Path) -> None:
        self.left_alone: frozenset[str] = frozenset()
        """Files in the folders last looked at that cannot be placed."""
        self._lake_dir = lake_dir
        self._sizes = FolderSizes(lake_dir)
        self._known: dict[str, _Facts | None] = {}

    def size_bytes(self) -> int:
        """What the lake takes now. Raises OSError."""
        return self._sizes.total_bytes()

    def oldest_units(self, *, cutoff: date | None, enough_bytes: int, exports: Mapping[str, Any]) -> Sequence[LakeUnit]:
        """The units that have files in the oldest folders: those up to `cutoff`, and on until `enough_bytes` are seen.

        `exports`: the rows of the sink's table of exports. At most `MAX_FOOTERS` footers are read, the next look goes
        on. Raises OSError.
        """
        groups: dict[tuple[str, int], dict[str, int]] = {}
        left_alone: set[str] = set()
        seen_bytes, footers = 0, 0
        for day, path, size_bytes in self._by_date():
            if (cutoff is None or day > cutoff) and seen_bytes >= enough_bytes:
                break
            if path not in self._known:
                footers += 1
                if footers > MAX_FOOTERS:
                    break
                self._remember(path)
            facts = self._known.get(path)
            if facts is None:
                left_alone.add(path)
                continue
            groups.setdefault((facts.topic_id, facts.number), {})[path] = size_bytes
            seen_bytes += size_bytes
        units = []
        for key, files in groups.items():
            named = self._named(key, files, exports)
            if named:
                units.append(self._unit(files, named))
            else:
                left_alone.update(files)
        self.left_alone = frozenset(left_alone)
        return units

    def delete(self, paths: Sequence[str]) -> int:
        """Delete files, and the date folders that they leave empty; returns how many were there. Raises OSError."""
        deleted = 0
        folders: dict[Path, None] = {}
        for path in paths:
            self._known.pop(path, None)
            full = self._lake_dir / path
            with suppress(FileNotFoundError):
                full.unlink()
                deleted += 1
            folders[full.parent] = None
        for folder in folders:
            with suppress(FileNotFoundError):
                _sync_dir(folder.parent if _removed(folder) else folder)
        return deleted

    # -- units

    def _named(self, key: tuple[str, int], seen: Iterable[str], exports: Mapping[str, Any]) -> frozenset[str]:
        """The paths of a unit's files, as its closing file names them or the table of exports; empty: nobody does."""
        topic_id, number = key
        named = {path for one in seen if (facts := self._known.get(one)) is not None for path in facts.files}
        row = exports.get(f"{topic_id}/{number:020}")
        if row is not None:
            named.update(file["path"] for file in row["files"])
        elif any((self._lake_dir / SUPERSEDED / path).exists() for path in named):
            named.update(self._replayed(key, named))
        return frozenset(named)

    def _replayed(self, key: tuple[str, int], named: Iterable[str]) -> Iterator[str]:
        """The files that replays made of a unit, whatever their dates are: their names begin with the unit's time."""
        begins = {PurePosixPath(path).stem.partition("-")[0] for path in named}
        topics = {PurePosixPath(path).parent.parent for path in named}
        for topic in sorted(topics | {root / topic.name for topic in topics for root in map(PurePosixPath, _ROOTS)}):
            for begin in sorted(begins):
                for path in sorted((self._lake_dir / topic).glob(f"date=*/{begin}*.parquet")):
                    found = str(path.relative_to(self._lake_dir))
                    if found not in self._known:
                        self._remember(found)
                    facts = self._known.get(found)
                    if facts is not None and (facts.topic_id, facts.number) == key:
                        yield found

    def _unit(self, seen: Mapping[str, int], named: frozenset[str]) -> LakeUnit:
        """All files of a unit: those seen, those that are named, and what a replay set aside of them."""
        facts = next(found for path in seen if (found := self._known.get(path)) is not None)
        files = dict(seen)
        for path in sorted([*named, *(f"{SUPERSEDED}/{path}" for path in named)]):
            if path not in files and (size_bytes := _size(self._lake_dir / path)) is not None:
                files[path] = size_bytes
        dates = [day for path in [*files, *named] if (day := date_of(path)) is not None]
        return LakeUnit(
            topic=facts.topic,
            topic_id=facts.topic_id,
            first_number=facts.first_number,
            number=facts.number,
            end_ms=facts.end_ms,
            offsets=facts.offsets,
            files=files,
            newest_date=max(dates),
        )

    # -- folders

    def _by_date(self) -> Iterator[tuple[date, str, int]]:
        """Every published file with its date and size, the oldest date first."""
        folders: list[tuple[date, str]] = []
        for root in _ROOTS:
            for topic in _folder_names(self._lake_dir / root):
                if topic.startswith(("_", ".")):
                    continue
                for name in _folder_names(self._lake_dir / root / topic):
                    if (day := date_of(name)) is not None:
                        folders.append((day, str(PurePosixPath(root) / topic / name)))
        for day, folder in sorted(folders):
            with suppress(FileNotFoundError), os.scandir(self._lake_dir / folder) as entries:
                for entry in sorted(entries, key=lambda one: one.name):
                    if entry.name.endswith(".parquet") and (size_bytes := _size(Path(entry.path))) is not None:
                        yield day, f"{folder}/{entry.name}", size_bytes

    def _remember(self, path: str) -> None:
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        with suppress(FileNotFoundError):
            self._known[path] = _facts(_footer(self._lake_dir / path))


def date_of(path: str) -> date | None:
    """The date of the folder that a path leads through; None where none does."""
    for part in PurePosixPath(path).parts:
        if match := _DATE.match(part):
            with suppress(ValueError):
                return date.fromisoformat(match[1])
    return None


def _footer(path: Path) -> Mapping[str, str]:
    """The key-value metadata of a Parquet file; empty for what is none. Raises FileNotFoundError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path).metadata or {}
        return {key.decode(): value.decode() for key, value in metadata.items()}
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return {}


def _facts(metadata: Mapping[str, str]) -> _Facts | None:
    try:
        number = int(metadata["headrace.window"])
        offsets = json.loads(metadata["headrace.offsets"])
        return _Facts(
            topic=metadata["headrace.topic"],
            topic_id=metadata["headrace.topic_id"],
            first_number=int(metadata.get("headrace.first_window", number)),
            number=number,
            end_ms=int(metadata["headrace.end_ms"]),
            offsets={int(partition): (int(first), int(following)) for partition, (first, following) in offsets.items()},
            files=tuple(str(path) for path in json.loads(metadata.get("headrace.files", "[]"))),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _folder_names(path: Path) -> Sequence[str]:
    with suppress(FileNotFoundError), os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return ()


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return None


def _removed(folder: Path) -> bool:
    """Remove a folder that is empty; most are not."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _sync_dir(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
