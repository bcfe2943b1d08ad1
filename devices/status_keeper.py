"""Keeps a durable snapshot of the status view: written every minute while there is something new, and at the stop.

The copying is done in a thread of its own, in slices, with a pause after each: the feeding thread waits about a
millisecond for one, and not for the disk. What is written each minute wears the disk, so a large fleet's snapshot comes
less often: on average no more than `MAX_WRITE_BYTES_PER_S`.

A snapshot of another log, of other settings, or a damaged one is put aside with a line in the log output, and the view
is built from the log alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from commitlog.base import TopicInfo, Watermark
from commitlog.storage import Storage, read_whole
from core.clock import Clock
from devices.status import StatusView
from devices.status_snapshot import Snapshot, SnapshotError, SnapshotWriter

SNAPSHOT_NAME: Final = "status.snapshot"
ASIDE_SUFFIX: Final = ".aside"
INTERVAL_MS: Final = 60_000
MAX_WRITE_BYTES_PER_S: Final = 128 << 10
"""About what the journal writes for a quiet fleet of 1,000 devices."""
SLICE_DEVICES: Final = 250
"""Copied in one hold of the view's lock: about a millisecond."""
_PAUSE_S: Final = 0.01
_LOOK_S: Final = 1.0

_log = structlog.get_logger("headrace.status")


class StatusKeeper:
    """Writes and reads the snapshots of one view in `directory`."""

    def __init__(self, view: StatusView, directory: Path, storage: Storage, clock: Clock) -> None:
        self._view = view
        self._path = directory / SNAPSHOT_NAME
        self._storage = storage
        self._clock = clock
        self._topic_ids: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status-keeper", daemon=True)
        self._written_ms = clock.monotonic_ms()
        self._pause_ms = INTERVAL_MS
        self._written_fed = -1
        self.snapshots = 0
        """Written since the start."""
        self.failures = 0
        """Snapshots that could not be written, or not be used."""
        self.size_bytes = 0
        """Of the snapshot there is, as far as this process wrote or read it."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread and write what is known by now. The view should not be fed any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self.write()

    # Reading

    def load(
        self, topics: Mapping[str, TopicInfo], marks: Mapping[str, Sequence[Watermark]]
    ) -> Mapping[tuple[str, int], int]:
        """Bring the view to what the snapshot knows of this log; says from which offsets to read on (empty: none)."""
        self.follow(topics)
        try:
            data = read_whole(self._storage, self._path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._fail("the status snapshot cannot be read; the view is built from the log", str(error))
            return {}
        try:
            snapshot = Snapshot(data)
            self._check(snapshot, topics, marks)
            self._view.restore(snapshot)
        except SnapshotError as error:
            self._fail(
                "the status snapshot cannot be used and is put aside; the view is built from the log", str(error)
            )
            self._put_aside()
            return {}
        self.size_bytes = len(data)
        _log.info("status snapshot read", devices=snapshot.end.devices, taken_ms=snapshot.head.taken_ms)
        return {(topic, partition): offset for topic, partition, offset in snapshot.head.fed}

    def follow(self, topics: Mapping[str, TopicInfo]) -> None:
        """These topics there are: a snapshot names their ids."""
        self._topic_ids = {name: info.topic_id for name, info in topics.items()}

    def _check(
        self, snapshot: Snapshot, topics: Mapping[str, TopicInfo], marks: Mapping[str, Sequence[Watermark]]
    ) -> None:
        head = snapshot.head
        for topic, partition, offset in head.fed:
            info = topics.get(topic)
            known = head.topics.get(topic)
            if info is None or known is None or info.topic_id != known.topic_id:
                raise SnapshotError(f"it is of another log: topic {topic!r} is not the one that it knew")
            if partition >= len(marks[topic]) or offset > marks[topic][partition].high:
                raise SnapshotError(f"it is of another log: {topic}-{partition} does not reach to offset {offset}")

    def _put_aside(self) -> None:
        try:
            self._storage.rename(self._path, self._path.with_name(self._path.name + ASIDE_SUFFIX))
        except OSError as error:
            _log.warning("the status snapshot cannot be put aside", where=str(self._path), what=str(error))

    # Writing

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            if self._clock.monotonic_ms() - self._written_ms >= self._pause_ms:
                self.write(pause_s=_PAUSE_S)

    def write(self, *, pause_s: float = 0.0) -> bool:
        """Write a snapshot unless nothing was fed since the last; False when there was nothing to do, or it failed."""
        fed = self._view.fed_records
        if fed == self._written_fed or not self._view.settled or not self._topic_ids:
            return False
        self._written_ms = self._clock.monotonic_ms()
        try:
            self.size_bytes = self._write(pause_s)
        except OSError as error:
            self._fail("no status snapshot could be written; it is tried again", str(error))
            return False
        self._written_fed = fed
        self.snapshots += 1
        self._pause_ms = max(INTERVAL_MS, self.size_bytes * 1000 // MAX_WRITE_BYTES_PER_S)
        return True

    def _write(self, pause_s: float) -> int:
        head, keys = self._view.begin_snapshot(self._topic_ids, self._clock.time_ms())
        writer = SnapshotWriter(self._storage, self._path, head)
        try:
            for start in range(0, len(keys), SLICE_DEVICES):
                writer.add(self._view.copy(keys[start : start + SLICE_DEVICES]))
                if pause_s and not self._stop.is_set():
                    self._stop.wait(pause_s)
            writer.finish(self._view.events_complete)
        except BaseException:
            writer.abandon()
            raise
        return writer.size_bytes

    def _fail(self, event: str, what: str) -> None:
        self.failures += 1
        _log.warning(event, where=str(self._path), what=what)
