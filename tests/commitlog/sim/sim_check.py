"""After a recovery: what came back, held against the model.

Everything acknowledged is there, whole, in its place and in order, rows included; an append is there whole or not at
all, and what is there is a prefix of what was appended. Only a power cut at a level below `fsync` may take more, one by
one: records after which no sync was acknowledged. What it took is told as a range of offsets, and stays away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commitlog.base import Record
from commitlog.durability import Durability
from commitlog.gaps import LEFT_OUT
from commitlog.reader import FileLogReader
from commitlog.report import KeptReport, RecoveryReport
from tests.commitlog.sim.sim_batches import is_of_producer
from tests.commitlog.sim.sim_model import ONE_MEANING, Append, Content, Model, partitions_of, read_on, watch_windows
from tests.commitlog.sim.sim_promises import At, hold

Rows = Mapping[str, Mapping[str, Any]]


def check(reader: FileLogReader, report: RecoveryReport, kept: KeptReport | None, rows: Rows, model: Model) -> None:
    """Hold a log that has just recovered against the model; from now on all that is there stays.

    `report` is what this recovery said, `kept` what stands beside the log for everybody else to read.
    """
    hold(kept is not None, "the report of a start is kept")
    assert kept is not None
    _note_cuts(report, kept, model)
    _check_topics(reader, model)
    content = {at: _partition(reader, at, model) for at in partitions_of(reader)}
    found = _found(content, model)
    _check_rows(found, rows, model)
    for producer in model.producers:
        producer.check(content.get(producer.at, {}))
    for topic in reader.topics():
        watch_windows(reader, topic, model)
        count = len(reader.windows(topic))
        promised = [number for name, number in model.windows if name == topic and number >= count]
        hold(not promised, "a closed window is not lost", topic, promised)
    _stays(reader, content, found, model)


def _note_cuts(report: RecoveryReport, kept: KeptReport, model: Model) -> None:
    for cut in report.cuts:
        if cut.next == cut.first:
            continue
        left_out = cut.reason.startswith(LEFT_OUT) and cut.next - cut.first == model.passed_over
        hold(model.weak and (left_out or model.cut), "no range is lost", cut)
    model.holes.clear()
    for cut in (*kept.cuts, *kept.earlier):
        model.holes.setdefault((cut.topic, cut.partition), []).append((cut.first, cut.next))
    for holes in model.holes.values():  # those that touch are met as one
        holes.sort()
        for number in range(len(holes) - 1, 0, -1):
            if holes[number][0] <= holes[number - 1][1]:
                holes[number - 1 : number + 1] = [(holes[number - 1][0], holes[number][1])]


def _check_topics(reader: FileLogReader, model: Model) -> None:
    there = reader.topics()
    for name, info in model.topics.items():
        hold(there.get(name) == info, "a topic that was made is there with its id", info, there.get(name))
    model.topics.update(there)


def _partition(reader: FileLogReader, at: At, model: Model) -> dict[int, bytes]:
    """One partition's records by offset; those that were deleted as they were read before."""
    mark = reader.watermarks(at[0])[at[1]]
    model.expect_start(at, mark.start)
    records = read_on(reader, at, mark.start, mark.high, model)
    times = [record.timestamp for record in records]
    hold(times == sorted(times), "timestamps never decrease", at)
    hold(all(r.key == (r.value or b"")[:4] for r in records), "keys are as they were", at)
    content = {offset: value for offset, value in model.there.get(at, {}).items() if offset < mark.start}
    content |= {record.offset: record.value or b"" for record in records}
    _check_seen(at, content, records, mark.high, model)
    hold(len(set(content.values())) == len(content), "nothing is there twice", at)
    return content


def _check_seen(at: At, content: Mapping[int, bytes], records: Sequence[Record], high: int, model: Model) -> None:
    seen, shown_to = model.seen.get(at, {}), model.highs.get(at, 0)
    gone = model.lost.setdefault(at, set())
    hold(gone.isdisjoint(content), "what was told as lost does not come back", at, gone)
    if not (model.weak and model.cut):
        lost = [offset for offset in seen if offset not in content and offset not in gone]
        hold(not lost, "what a reader was shown stays where it was", at, lost)
    hold(high > max(seen, default=-1), ONE_MEANING, at, high, max(seen, default=-1))
    hold(high >= shown_to, "a high watermark never goes back", at, high, shown_to)
    for record in records:
        if record.offset in seen:
            hold(seen[record.offset] == record.value, "what a reader was shown stays where it was", at, record.offset)
        else:
            hold(record.offset >= shown_to, "what was told as lost does not come back", at, record.offset)


def _found(content: Content, model: Model) -> list[Append]:
    """The appends that are there, in order, each with what is there of it."""
    places = {value: (at, offset) for at, records in content.items() for offset, value in records.items()}
    for at, records in content.items():
        own = [_number(records[offset]) for offset in sorted(records) if not is_of_producer(records[offset])]
        hold(own == sorted(own), "each partition holds its records in order", at)
    known = {value for append in model.appends.values() for _, value in append.records}
    unknown = [value for value in places if value not in known and not is_of_producer(value)]
    hold(not unknown, "what was lost or never appended is not there", unknown[:3])
    model.synced = max([model.synced, *(a.serial for a in model.appends.values() if _was_synced(a))])
    found = [append for append in model.appends.values() if _is_there(append, places, model)]
    listed = [append.serial for append in model.appends.values()]
    sure = not (model.weak and model.cut)
    prefix = [append.serial for append in found if sure or append.serial <= model.synced]
    hold(prefix == listed[: len(prefix)], "what is there is a prefix of what was appended", prefix[-5:])
    return found


def _was_synced(append: Append) -> bool:
    return append.acked and append.level is Durability.FSYNC


def _number(value: bytes) -> tuple[int, int]:
    serial, number = value.split(b":")[:2]
    return int(serial), int(number)


def _is_there(append: Append, places: Mapping[bytes, tuple[At, int]], model: Model) -> bool:
    """Whether anything of it is; what is not is taken from it."""
    for (at, value), offset in zip(append.records, append.offsets, strict=bool(append.offsets)):
        told = places.get(value, (at, offset))
        hold(told == (at, offset), "a record is where the log said", append.serial, told)
    kept = [number for number, (_, value) in enumerate(append.records) if value in places]
    if len(kept) == len(append.records):
        return True
    may_lose = model.weak and model.cut and append.serial > model.synced
    hold(may_lose or not append.acked, "what was acknowledged is there", append.serial)
    by_piece = may_lose and append.level is not Durability.FSYNC
    hold(by_piece or not kept, "an append is there whole or not at all", append.serial)
    append.records = [append.records[number] for number in kept]
    append.offsets = [append.offsets[number] for number in kept] if append.offsets else ()
    return bool(kept)


def _check_rows(found: Sequence[Append], rows: Rows, model: Model) -> None:
    last: dict[str, Any] = dict(row for append in found for row in append.rows)
    expected = {key: value for key, value in last.items() if value is not None}
    hold(dict(rows["state"]) == expected, "tables are as of the last append that is there", rows["state"], expected)
    alone = rows["alone"]
    lost = [key for key, acked in model.alone.items() if acked and key not in alone]
    hold(not lost, "an acknowledged row is there", lost)
    hold(set(alone) <= set(model.alone), "no row is there that nobody set, or that was lost before", set(alone))
    model.alone = dict.fromkeys(alone, True)


def _stays(reader: FileLogReader, content: Content, found: Sequence[Append], model: Model) -> None:
    """What this recovery brought back is durable: nothing of it may go any more."""
    model.appends = {append.serial: append for append in found}
    for append in found:
        append.acked = True
    model.synced, model.cut = model.serial, False
    model.there = content
    for at, records in content.items():
        model.highs[at] = reader.watermarks(at[0])[at[1]].high
        for offset, value in records.items():
            model.see(at, offset, value)
        model.lost[at].update(model.seen.get(at, {}).keys() - records.keys())


def check_files(names: Sequence[str], start: int, at: At) -> None:
    """After a recovery: what was deleted is gone with all its files."""
    hold(not [name for name in names if name.endswith(".deleted")], "what was deleted is gone", at, names)
    bases = sorted({int(name[:20]) for name in names if name[:20].isdigit()})
    logs = [int(name[:20]) for name in names if name[:20].isdigit() and name.endswith(".log")]
    hold(logs == bases, "no file of a segment stays alone", at, names)
    if len(bases) > 1:
        hold(bases[1] > start, "what was deleted does not come back", at, bases, start)
