"""Which files there should be: those that rows of `exports` name, and those that each unit's last file names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from commitlog.base import ClosedWindow
from sink.parquet.checksum import file_crc32c
from sink.parquet.lake import LakeFile, Unit
from sink.parquet.plan import topic_folder
from sink.verify.look import TopicLook
from sink.verify.ranges import Range, without
from sink.verify.report import RESTORE

Windows = tuple[int, int]
"""First and last window of an export."""
Trouble = tuple[str, str, str]
"""Kind, words and mend of what is wrong with a file."""
_MISSING: Final = ("file-missing", "window {} was exported to it, and it is not there", RESTORE)


class NamedFiles:
    """The files of one topic id. `next_window` is the first that is not exported."""

    def __init__(
        self, look: TopicLook, units: list[Unit], windows: Mapping[int, ClosedWindow], gone: Mapping[int, list[Range]]
    ) -> None:
        """`windows` are those that the log still knows; `gone` the ledger's offsets, dropped ones too."""
        self._look = look
        self._windows = windows
        self._gone = gone
        self._next_window = max((unit.window + 1 for unit in units), default=0)
        if look.committed is not None:
            self._next_window = look.committed.next_window
        self._units = units
        self.named: dict[str, Windows] = {file.path: (file.first_window, file.window) for file in look.files}
        for number, row in look.exports.items():
            if number < self._next_window:
                self.named |= {file["path"]: (row.get("first_number", number), number) for file in row["files"]}
        closing = {file.unit: file.files for file in look.replaced if file.files}
        self._closed = frozenset(closing)
        for unit in units:
            self.named |= dict.fromkeys(unit.named, (unit.first_window, unit.window))
        for (_, first, last, _), paths in closing.items():
            self.named |= dict.fromkeys(paths, (first, last))

    def missing(self) -> dict[str, Trouble]:
        """What should be there and is not, by path; retention and replays take files away in their own ways."""
        there = {file.path for file in self._look.files} | self._look.superseded
        found = {
            path: (_MISSING[0], _MISSING[1].format(windows[1]), _MISSING[2])
            for path, windows in sorted(self.named.items())
            if path not in there and not self._is_dropped(windows)
        }
        for unit in self._units:
            windows = (unit.first_window, unit.window)
            known = unit.named or unit.window in self._look.exports or unit.files[0].unit in self._closed
            if not known and not self._is_dropped(windows):
                what = f"the last file of window {unit.window}, which names its others, is not there"
                path = f"{topic_folder(unit.topic)}/window-{unit.window}"
                self.named[path] = windows
                found[path] = ("file-missing", what, RESTORE)
        return found

    def offsets_of(self, windows: Windows) -> Mapping[int, Range] | None:
        """The offsets of an export, from its other files or from the log's windows; None where nobody knows them."""
        for unit in self._units:
            if (unit.first_window, unit.window) == windows and not unit.replays:
                return unit.offsets
        first, last = self._windows.get(windows[0]), self._windows.get(windows[1])
        if first is None or last is None:
            return None
        return {p: (first.offsets.get(p, (low, 0))[0], high) for p, (low, high) in last.offsets.items()}

    def _is_dropped(self, windows: Windows) -> bool:
        """Whether retention took these windows from the lake, or is about to: it enters them in the ledger first."""
        if not self._look.ledger.get("dropped"):
            return False
        offsets = self.offsets_of(windows)
        if offsets is None:  # so old that neither the log nor a file tells where they were: the account will
            return True
        return not any(without([range_], self._gone.get(p, [])) for p, range_ in offsets.items())

    def changed(self, lake: Path) -> dict[str, Trouble]:
        """Files that are not what the rows of `exports` say: window, rows, size, and the checksum of all bytes."""
        found: dict[str, Trouble] = {}
        files = {file.path: file for file in self._look.files}
        for number, row in sorted(self._look.exports.items()):
            for told in row["files"] if number < self._next_window else ():
                file = files.get(told["path"])
                problem = "" if file is None else _disagreement(lake, file, number, told)
                if problem:
                    found[told["path"]] = ("file-changed", f"{problem}, by the export row of window {number}", RESTORE)
        return found


def _disagreement(lake: Path, file: LakeFile, number: int, told: Mapping[str, Any]) -> str:
    if file.window != number:
        return f"it says window {file.window}, and is of another"
    if (file.rows, file.size_bytes) != (told["rows"], told["bytes"]):
        return f"it has {file.rows} rows in {file.size_bytes} bytes, and should have {told['rows']} in {told['bytes']}"
    wanted = told.get("crc32c")
    if wanted is None:
        return ""
    try:
        found = file_crc32c(lake / file.path)
    except OSError:
        return ""  # told when it is read
    return f"its CRC-32C is {found}, and should be {wanted}" if found != wanted else ""
