"""Every truncation point and every flipped bit of a small segment and a small journal.

Recovery always starts; what is whole is kept, unchanged and in its place; what is not is told: as a gap to readers, in
the report, or both.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from commitlog.base import NewRecord
from commitlog.batch import parse_header
from commitlog.checkpoint import CHECKPOINT_NAME
from commitlog.embedded import EmbeddedLog
from commitlog.journal import ENTRY_HEADER
from commitlog.reader import FileLogReader
from commitlog.recovery import recover
from commitlog.settings import LogSettings
from commitlog.storage import LOG_DIR, RUN_DIR
from commitlog.watermarks import MAP_NAME, WatermarkWriter
from tests.commitlog.log_support import Failures
from tests.commitlog.sim.sim_disk import SimDisk, SimStorage
from tests.commitlog.sim.sim_loop import SimLoop
from tests.commitlog.sim.sim_world import SimBell, SimClock
from tests.log_fakes import FakeClock

BATCHES = 3
NOW = FakeClock()
SETTINGS = LogSettings().model_copy(
    update={
        "commit_interval_ms": 0,
        "pending_bytes": 3_000,
        "journal_size_bytes": 4_096,
        "checkpoint_bytes": 2_000,
        "flush_interval_ms": 1,
        "flush_bytes": 1,
        "reserve_bytes": 2_000,
    }
)
SEGMENT = Path("t-0") / f"{0:020}.log"
JOURNAL = Path("journal")


@dataclass(frozen=True)
class Template:
    """A log that was killed, and where the parts of the file stand that is going to be damaged."""

    disk: SimDisk
    data_dir: Path
    path: Path
    ends: tuple[int, ...]

    def damaged(self, *, size: int | None = None, bit: int | None = None) -> SimDisk:
        disk = copy.deepcopy(self.disk)
        content = disk.content(self.path)
        if size is not None:
            del content[size:]
        if bit is not None:
            content[bit // 8] ^= 1 << bit % 8
        return disk


def value_of(number: int) -> bytes:
    return b"value %d" % number


@pytest.fixture(name="template")
def _template(volatile_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Template:
    """By its name: what stands only in segments, in both, or only in the journal. Three records, a batch each."""
    (volatile_dir / RUN_DIR).mkdir()
    monkeypatch.setattr("commitlog.engine.Doorbell", lambda _: SimBell())
    return Template(SimDisk(volatile_dir), volatile_dir, volatile_dir / LOG_DIR / SEGMENT, ())


def build(template: Template, where: str) -> Template:
    """Write three records so that `where` they are is "segment", "both" or "journal"; then the process is killed."""
    rng = random.Random(1)
    loop, clock = SimLoop(rng), SimClock()
    clock.loop = loop
    storage = SimStorage(template.disk, rng)

    async def live() -> None:
        log = await EmbeddedLog.open(
            template.data_dir, SETTINGS, clock=clock, storage=storage, on_failure=Failures(), threads=loop.threads
        )
        await log.create_topic("t", 1)
        for number in range(BATCHES):
            await log.append([NewRecord(topic="t", key=None, value=value_of(number))])
        if where == "segment":
            await log.close()

    loop.run_until_complete(live())
    while loop.threads.run_one():
        pass  # the last flush
    loop.discard()
    if where == "journal":
        template.disk.content(template.path).clear()
    path = template.data_dir / LOG_DIR / (JOURNAL if where == "journal" else SEGMENT)
    return Template(template.disk, template.data_dir, path, tuple(_ends(template.disk.content(path), where)))


def _ends(content: bytearray, where: str) -> Iterator[int]:
    at = 0
    for _ in range(BATCHES):
        if where == "journal":
            at += ENTRY_HEADER.size + ENTRY_HEADER.unpack_from(content, at)[0]
        else:
            header = parse_header(bytes(content), at)
            assert header is not None
            at += header.size_bytes
        yield at


def recovered(template: Template, marks: WatermarkWriter, disk: SimDisk, whole: set[int]) -> str:
    """Recover and read; what is wrong, or an empty string. `whole` are the records that were not touched."""
    storage = SimStorage(disk, random.Random(1))
    found = recover(storage, template.data_dir / LOG_DIR, SETTINGS)
    (files,) = found.files
    marks.publish([(files.topic, 0, files.watermark())])
    marks.beat(NOW.monotonic_ms())
    there: dict[int, bytes | None] = {}
    told = {n for cut in found.report.cuts for n in range(cut.first, min(cut.next, 99))}
    with closing(FileLogReader(template.data_dir, storage=storage, clock=NOW)) as reader:
        offset = files.log_start
        for _ in range(3 * BATCHES):
            part = reader.read("t", 0, offset)
            there |= {one.offset: one.value for one in part.records}
            told |= {n for gap in part.gaps for n in range(gap.first, min(gap.next, 99))}
            if part.next_offset == offset:
                break
            offset = part.next_offset
    wrong = {n: value for n, value in there.items() if value != value_of(n)}
    lost, silent = whole - set(there), set(range(min(files.next_offset, 99))) - set(there) - told
    if wrong or lost or silent or (told & set(there)):
        return f"wrong {wrong}, lost {lost}, gone without a word {silent}, told as lost {told} beside {set(there)}"
    return ""


def troubles(template: Template, damages: Iterator[tuple[str, SimDisk, set[int]]]) -> dict[str, str]:
    (template.data_dir / RUN_DIR / MAP_NAME).unlink()
    marks = WatermarkWriter(template.data_dir / RUN_DIR, boot_id=bytes(16), capacity=1)
    found = {name: recovered(template, marks, disk, whole) for name, disk, whole in damages}
    marks.close()
    return {name: problem for name, problem in found.items() if problem}


def truncations(template: Template, *, kept_elsewhere: bool) -> Iterator[tuple[str, SimDisk, set[int]]]:
    for size in range(template.ends[-1]):
        whole = {n for n, end in enumerate(template.ends) if kept_elsewhere or end <= size}
        yield f"cut at {size}", template.damaged(size=size), whole


def flips(
    template: Template, numbers: range, fields: tuple[range, ...], *, kept_elsewhere: bool
) -> Iterator[tuple[str, SimDisk, set[int]]]:
    """Every bit of some parts of some batches or entries."""
    starts = (0, *template.ends)
    for number in numbers:
        for at in range(starts[number], template.ends[number]):
            if not any(at - starts[number] in field for field in fields):
                continue
            whole = {n for n in range(BATCHES) if kept_elsewhere or n != number}
            for bit in range(8 * at, 8 * at + 8):
                yield f"bit {bit % 8} of byte {at - starts[number]} of {number}", template.damaged(bit=bit), whole


BASE_OFFSET, EPOCH, REST = range(8), range(12, 16), (range(8, 12), range(16, 10_000))
ALL = (range(10_000),)
MIDDLE = range(1, 2)


@pytest.mark.parametrize("where", ["segment", "both", "journal"])
def test_a_file_cut_anywhere(template: Template, where: str) -> None:
    built = build(template, where)
    assert troubles(built, truncations(built, kept_elsewhere=where == "both")) == {}


def test_any_bit_of_a_segment_that_is_closed_in_order(template: Template) -> None:
    built = build(template, "segment")
    assert troubles(built, flips(built, MIDDLE, (*REST, EPOCH), kept_elsewhere=False)) == {}


def test_any_bit_of_a_base_offset_in_a_segment_that_is_closed_in_order(template: Template) -> None:
    built = build(template, "segment")
    assert troubles(built, flips(built, MIDDLE, (BASE_OFFSET,), kept_elsewhere=False)) == {}


def test_any_bit_of_a_segment_that_the_journal_has_too(template: Template) -> None:
    built = build(template, "both")
    assert troubles(built, flips(built, range(BATCHES), (*REST, EPOCH), kept_elsewhere=True)) == {}


def test_any_bit_of_a_base_offset_in_a_segment_that_the_journal_has_too(template: Template) -> None:
    built = build(template, "both")
    assert troubles(built, flips(built, MIDDLE, (BASE_OFFSET,), kept_elsewhere=True)) == {}


def test_any_bit_of_a_segment_without_a_checkpoint(template: Template) -> None:
    built = build(template, "segment")
    SimStorage(built.disk, random.Random(1)).remove(built.data_dir / LOG_DIR / CHECKPOINT_NAME)
    assert troubles(built, flips(built, MIDDLE, (*REST, EPOCH), kept_elsewhere=False)) == {}


def test_any_bit_of_the_last_entry_of_the_journal(template: Template) -> None:
    built = build(template, "journal")
    assert troubles(built, flips(built, range(BATCHES - 1, BATCHES), ALL, kept_elsewhere=False)) == {}


def test_any_bit_of_an_entry_in_the_middle_of_the_journal(template: Template) -> None:
    built = build(template, "journal")
    assert troubles(built, flips(built, MIDDLE, ALL, kept_elsewhere=False)) == {}
