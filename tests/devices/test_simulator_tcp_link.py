"""The raw TCP link against answers it may and may not be given."""

from __future__ import annotations

import pytest

from devices.simulator.link import Timing
from devices.simulator.outbox import Outbox
from devices.simulator.ranges import numbers_in
from devices.simulator.tcp_link import MAX_ANSWER_BYTES, TcpLink
from tests.devices.simulator_transport import FakeTransport


def _link(outbox: Outbox, readings: int) -> tuple[TcpLink, FakeTransport]:
    link = TcpLink(outbox, Timing(), lambda: None)
    transport = FakeTransport(link)
    link.connection_made(transport)
    for number in range(readings):
        link.send(outbox.put(b'{"n":%d}' % number))
    return link, transport


def _acked(outbox: Outbox) -> list[int]:
    return list(numbers_in(outbox.acked_ranges()))


async def test_each_reading_is_a_line() -> None:
    _, transport = _link(Outbox(9), 2)
    assert transport.written == b'{"n":0}\n{"n":1}\n'


async def test_ok_decides_all_lines_up_to_it() -> None:
    outbox = Outbox(9)
    link, _ = _link(outbox, 5)
    link.data_received(b"OK 3\n")
    assert _acked(outbox) == [1, 2, 3]
    link.data_received(b"OK 3\nOK 2\n")
    assert _acked(outbox) == [1, 2, 3]
    assert link.is_up


async def test_err_refuses_its_line_alone_and_acks_nothing() -> None:
    outbox = Outbox(9)
    link, _ = _link(outbox, 4)
    link.data_received(b"ERR 2 no such field: x\n")
    assert _acked(outbox) == []
    assert outbox.refused == {2: "no such field: x"}
    link.data_received(b"OK 4\n")
    assert _acked(outbox) == [1, 3, 4]
    assert outbox.empty


async def test_answers_may_be_cut_anywhere() -> None:
    answers = b"OK 1\r\nERR 2 a reason\nERR 3 \xc3\xbc\nOK 5\n"
    for cut in range(len(answers) + 1):
        outbox = Outbox(9)
        link, _ = _link(outbox, 5)
        link.data_received(answers[:cut])
        link.data_received(answers[cut:])
        assert (_acked(outbox), outbox.refused) == ([1, 4, 5], {2: "a reason", 3: "ü"})


async def test_a_box_that_only_refuses_leaves_nothing_behind() -> None:
    outbox = Outbox(2)
    link, _ = _link(outbox, 0)
    for number in range(1, 50):
        link.send(outbox.put(b"x"))
        link.data_received(b"ERR %d no\n" % number)
    assert len(link._undecided) == 0
    assert len(outbox.refused) == 49


async def test_lines_are_numbered_anew_on_each_connection() -> None:
    outbox = Outbox(9)
    first, _ = _link(outbox, 3)
    first.data_received(b"OK 1\n")
    second, transport = _link(outbox, 0)
    second.send_pending()
    assert transport.written == b'{"n":1}\n{"n":2}\n'
    second.data_received(b"OK 1\nERR 2 no\n")
    assert _acked(outbox) == [1, 2]
    assert list(outbox.refused) == [3]
    assert outbox.resent_ranges() == ((2, 3),)


@pytest.mark.parametrize(
    "answer",
    [
        b"OK 3\n",
        b"OK 0\n",
        b"OK -1\n",
        b"OK\n",
        b"OK \xd9\xa1\n",
        b"OK 1" + b"1" * 5000,
        b"OK " + b"1" * 4000 + b"\n",
        b"ok 1\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\n",
        b"ERR 3 x\n",
        b"ERR x\n",
        b"OK 1\nERR 1 late\n",
        b"ERR 2 once\nERR 2 twice\n",
        b"x" * (MAX_ANSWER_BYTES + 1),
    ],
)
async def test_what_is_no_answer_ends_the_connection(answer: bytes) -> None:
    outbox = Outbox(9)
    link, transport = _link(outbox, 2)
    link.data_received(answer)
    assert transport.aborted
    assert link.closed.done()
    decided = outbox.decided
    link.data_received(b"OK 2\n")
    assert outbox.decided == decided, "nothing more is believed"
