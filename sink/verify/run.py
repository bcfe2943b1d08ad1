"""`headrace verify`: the log is the lake. Every offset below the committed ones is in one place, with what it held.

Proved for each topic and partition, below the sink's committed offsets:

* the offsets of rows, of quarantine and of the ledger (lost, left out, dropped) leave nothing out, and no row - offset
  and number in its record - stands twice;
* every file that an export made is there and is what its footer, its pages' checksums, its own checksum of places and
  the row of `exports` say;
* as long as the log holds the records, each row says what its record does, decoded anew by the plain decoder.

It takes no lock and writes nothing. Beside a running appliance, where windows are exported and dropped meanwhile, what
is looked at fits together by its order (`sink.verify.look`); what still seems wrong in a topic is looked at once more,
unless nothing has changed, and told if it is still so.

Memory is bounded by a piece of one window (`sink.verify.places`), one page of each column, and `MAX_KEPT` findings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Final

from commitlog.base import ClosedWindow, LogReader, WriterState
from commitlog.rest_reader import open_reader
from core.errors import NotFoundError
from sink.parquet.lake import QUARANTINE, BadFile
from sink.parquet.plan import topic_folder
from sink.verify.group import Log
from sink.verify.look import Look, TopicLook, look
from sink.verify.report import TopicReport, VerifyReport
from sink.verify.rules import Decoders
from sink.verify.topic import TopicCheck

PAUSE_S: Final = 0.5  # between two looks at what seems wrong: longer than a commit and a rename take
Progress = Callable[[int, int], None]
"""Called with bytes of files read and bytes in all."""


def verify_lake(
    data_dir: Path,
    *,
    topic: str | None = None,
    contents: bool = True,
    pause: Callable[[float], object] = time.sleep,
    progress: Progress = lambda _done, _total: None,
) -> VerifyReport:
    """Verify the lake below `data_dir`, of one topic or all.

    Blocks; not to be called on an event loop. Raises DataDirError when there is no log or it may not be read,
    NotFoundError for an unknown topic, UnavailableError when the log's state cannot be had.
    """
    with closing(open_reader(data_dir)) as reader:
        return _Verifier(data_dir, reader, topic, contents, pause, progress).run()


class _Verifier:
    def __init__(
        self,
        data_dir: Path,
        reader: LogReader,
        topic: str | None,
        contents: bool,
        pause: Callable[[float], object],
        progress: Progress,
    ) -> None:
        self._data_dir = data_dir
        self._reader = reader
        self._decoders = Decoders()
        self._topic = topic
        self._contents = contents
        self._pause = pause
        self._progress = progress
        self._done = self._total = 0

    def run(self) -> VerifyReport:
        first = self._look(self._topic)
        report = VerifyReport(contents=self._contents)
        report.live = self._reader.writer_state() is WriterState.LIVE
        for table, problem in first.problems.items():
            what = f"the snapshot of state table {table!r} is damaged: {problem}"
            mend = "`headrace log check` names it; what it said of exports is lost until the appliance starts again"
            report.general.find("table", what, "log/tables", mend)
        self._total = sum(file.size_bytes for one in first.topics.values() for file in one.files)
        of_topics = {topic_id: self._bad_of(first, topic_id) for topic_id in first.topics}
        for bad in first.bad:
            if not any(bad in found for found in of_topics.values()):
                mend = "move it out of the lake: readers of the whole lake meet it"
                report.general.find(f"file-{bad.trouble}", bad.what, f"lake/{bad.path}", mend)
        for one in first.topics.values():
            report.topics.append(self._certain(first, one))
        self._progress(self._total, self._total)
        return report

    def _look(self, topic: str | None) -> Look:
        ids = {name: info.topic_id for name, info in self._reader.topics().items()}
        return look(self._data_dir, topic, ids)

    def _certain(self, first: Look, one: TopicLook) -> TopicReport:
        """One topic's report; its findings are there on a second look, too, or nothing has changed in between."""
        found = self._check(first, one)
        if not found.findings.count:
            return found
        self._pause(PAUSE_S)
        try:
            second = self._look(one.topic)
        except NotFoundError:  # its last file went meanwhile, and the log never had it
            second = Look()
        now = second.topics.get(one.topic_id)
        if now is None or (now == one and self._bad_of(second, one.topic_id) == self._bad_of(first, one.topic_id)):
            return found
        again = self._check(second, now)
        again.findings = found.findings.seen_again(again.findings)
        return again

    def _check(self, seen: Look, one: TopicLook) -> TopicReport:
        known = self._known().get(one.topic) == one.topic_id
        reader = self._reader if known else None
        starts: Mapping[int, int] = {}
        windows: Mapping[int, ClosedWindow] = {}
        if reader is not None:
            starts = {p: mark.start for p, mark in enumerate(reader.watermarks(one.topic))}
            windows = {window.number: window for window in reader.windows(one.topic)}
        log = Log(reader=reader, starts=starts, contents=self._contents)
        bad = self._bad_of(seen, one.topic_id)
        lake = self._data_dir / "lake"
        return TopicCheck(lake, one, bad, log, windows, self._decoders, self._read).run()

    def _known(self) -> Mapping[str, str]:
        return {name: info.topic_id for name, info in self._reader.topics().items()}

    def _bad_of(self, seen: Look, topic_id: str) -> list[BadFile]:
        """The files in a topic's folders that are none of its exports; of two ids of one name the log's has them."""
        topic = seen.topics[topic_id].topic if topic_id in seen.topics else ""
        same = [other.topic_id for other in seen.topics.values() if other.topic == topic]
        owner = self._known().get(topic, same[0] if same else "")
        return [bad for bad in seen.bad if topic and owner == topic_id and _folder_of(bad.path) == topic_folder(topic)]

    def _read(self, size_bytes: int) -> None:
        self._done += size_bytes
        self._progress(min(self._done, self._total), self._total)


def _folder_of(path: str) -> str:
    """The topic's folder that a file stands in."""
    parts = PurePosixPath(path).parts
    return parts[1] if parts[0] == QUARANTINE and len(parts) > 1 else parts[0]
