"""The simulator's pure parts: sets of numbers, the outbox, the report."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadRequestError
from devices.simulator.outbox import MAX_PENDING_SPAN, MAX_REASON_CHARS, Outbox
from devices.simulator.ranges import SeqSet, numbers_in, size_of
from devices.simulator.report import DeviceReport, FleetReport, ReportFile


@given(st.lists(st.integers(1, 40)))
def test_a_seq_set_is_a_set_in_the_fewest_ranges(seqs: list[int]) -> None:
    found = SeqSet(seqs)
    ranges = found.ranges()
    assert list(numbers_in(ranges)) == sorted(set(seqs))
    assert size_of(ranges) == len(set(seqs))
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(ranges))
    assert found.fragments == len(ranges)
    assert [seq in found for seq in range(42)] == [seq in set(seqs) for seq in range(42)]


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_every_reading_made_is_in_exactly_one_place(seed: int, max_unacked: int) -> None:
    draw = random.Random(seed)
    outbox = Outbox(max_unacked)
    due = 0
    for _ in range(200):
        act = draw.choice(("make", "make", "send", "ack", "refuse"))
        some = draw.randint(1, outbox.sent + 2)
        if act == "make":
            due += 1
            outbox.put(b"{}") if outbox.has_room else outbox.skip()
        elif act == "send":
            for pending in outbox.pending():
                outbox.going_out(pending)
        elif act == "ack":
            outbox.ack(some)
        else:
            outbox.refuse(some, "no")
        acked, pending = set(numbers_in(outbox.acked_ranges())), set(numbers_in(outbox.pending_ranges()))
        assert len(acked) + len(outbox.refused) + len(pending) == outbox.sent
        assert acked | set(outbox.refused) | pending == set(range(1, outbox.sent + 1))
        assert len(pending) <= max_unacked
        assert outbox.sent + outbox.skipped == due
        assert outbox.decided == outbox.sent - len(pending)
        assert outbox.oldest == min(pending, default=outbox.sent + 1)
        assert outbox.empty == (not pending)


def test_only_what_went_out_can_be_decided_and_only_once() -> None:
    outbox = Outbox(3)
    first = outbox.put(b"1")
    assert not outbox.ack(1), "it was not sent"
    assert not outbox.going_out(first)
    assert outbox.ack(1)
    assert not outbox.ack(1)
    assert not outbox.refuse(1, "late")
    assert outbox.refused == {}
    assert not outbox.ack(2)


def test_a_resend_is_noted_each_time() -> None:
    outbox = Outbox(3)
    pending = outbox.put(b"1")
    assert [outbox.going_out(pending) for _ in range(3)] == [False, True, True]
    assert outbox.resent_ranges() == ((1, 1),)
    assert outbox.resends == 2


def test_pending_numbers_stay_closer_than_there_are_packet_ids() -> None:
    outbox = Outbox(10)
    outbox.going_out(outbox.put(b"stuck"))
    while outbox.has_room:
        outbox.going_out(outbox.put(b"x"))
        outbox.ack(outbox.sent)
    assert outbox.sent == MAX_PENDING_SPAN
    outbox.ack(1)
    assert outbox.has_room


def test_a_book_of_fragments_closes_before_it_grows_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devices.simulator.outbox.MAX_FRAGMENTS", 20)
    outbox = Outbox(5)
    while outbox.has_room:
        outbox.going_out(outbox.put(b"x"))
        if outbox.sent % 2:
            outbox.ack(outbox.sent)
        else:
            outbox.refuse(outbox.sent, "y" * 1000)
    assert outbox.sent == 20
    assert all(len(reason) == MAX_REASON_CHARS for reason in outbox.refused.values())


def _report(*, final: bool = True, seed: int = 7) -> FleetReport:
    device = DeviceReport(
        protocol="tcp",
        sent=9,
        acked=((1, 3), (5, 7)),
        unacked=((8, 9),),
        refused={4: "line 4: not wanted"},
        resent=((2, 3),),
        resends=5,
        skipped=2,
        connections=3,
        failed_connections=1,
        last_error="gone",
    )
    return FleetReport(
        seed=seed,
        rate_hz=2.5,
        started_ms=1,
        ended_ms=2,
        final=final,
        devices={"pump-0001": device, "press-0002": device},
    )


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    report = _report()
    report.write(tmp_path / "report.json")
    assert FleetReport.read(tmp_path / "report.json") == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_totals_are_sums_over_devices() -> None:
    totals = _report().totals
    assert (totals.devices, totals.sent, totals.acked, totals.unacked, totals.refused) == (2, 18, 12, 4, 2)
    assert (totals.resent, totals.resends, totals.skipped) == (4, 10, 4)
    assert (totals.connections, totals.failed_connections) == (6, 2)


def test_nothing_replaces_a_final_report(tmp_path: Path) -> None:
    file = ReportFile(tmp_path / "report.json")
    for report in (_report(final=False, seed=1), _report(final=True, seed=2), _report(final=False, seed=3)):
        file.write(report)
    assert FleetReport.read(tmp_path / "report.json").seed == 2


def test_a_report_that_cannot_be_written_says_where_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    _report(seed=1).write(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("devices.simulator.report.os.fsync", full)
    with pytest.raises(BadRequestError, match="No space left") as caught:
        _report(seed=2).write(path)
    assert caught.value.where == str(path)
    assert FleetReport.read(path).seed == 1


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"{}", b'{"format":1}', b"\xff\xfe", _report().to_json().replace(b'"format":1', b'"format":2')],
    ids=["empty", "cut", "array", "fieldless", "no report", "not utf-8", "later format"],
)
def test_what_is_not_a_report_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequestError):
        FleetReport.from_json(text, where="x")
