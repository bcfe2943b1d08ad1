"""The line framer: numbers and limits hold wherever the stream is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.lines import LineFramer

LIMIT = 8


def numbered(chunks: list[bytes], limit: int = LIMIT) -> list[tuple[int, bytes | None]]:
    framer = LineFramer(limit)
    found = []
    for chunk in chunks:
        lines = framer.split(chunk)
        found += list(enumerate(lines, framer.first_number))
        assert framer.unfinished_size_bytes <= limit
    return found


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        (b"", []),
        (b"a", []),
        (b"a\n", [b"a"]),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"\n\r\na\n", [b"", b"", b"a"]),
        (b"a\rb\n", [b"a\rb"]),
        (b"a\r\r\n", [b"a\r"]),
        (b"12345678\n", [b"12345678"]),
        (b"1234567\r\n", [b"1234567"]),
        (b"123456789\nb\n", [None, b"b"]),
        (b"12345678\r\nb\n", [None, b"b"]),
        (b"123456789", [None]),
        (b"123456789" * 9 + b"\nb\n" + b"x" * 50 + b"\n\nc\n", [None, b"b", None, b"", b"c"]),
        (b"\xff\x00\n", [b"\xff\x00"]),
    ],
    ids=repr,
)
def test_lines_wherever_the_stream_is_cut(stream: bytes, lines: list[bytes | None]) -> None:
    expected = list(enumerate(lines, 1))
    assert numbered([stream]) == expected
    assert numbered([stream[at : at + 1] for at in range(len(stream))]) == expected
    for at in range(len(stream) + 1):
        assert numbered([stream[:at], stream[at:]]) == expected


@given(st.lists(st.sampled_from([b"a", b"bcd", b"\n", b"\r", b"\r\n", b"x" * 9])), st.lists(st.integers(0, 200)))
def test_random_streams_do_not_depend_on_chunks(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    chunks = [stream[begin:end] for begin, end in pairwise(edges)]
    assert numbered(chunks) == numbered([stream])
    assert len([line for _, line in numbered([stream])]) - stream.count(b"\n") in (0, 1)


def test_a_long_line_is_reported_once_and_not_kept() -> None:
    framer = LineFramer(LIMIT)
    assert framer.split(b"ok\n" + b"x" * 9) == [b"ok", None]
    for _ in range(100):
        assert framer.split(b"x" * 1000) == []
        assert framer.unfinished_size_bytes == 0
    assert framer.split(b"x\nnext\n") == [b"next"]
    assert framer.first_number == 3


def test_many_lines_of_one_chunk_beyond_the_limit() -> None:
    chunk = b"".join(b"%d\n" % number for number in range(1000))
    framer = LineFramer(LIMIT)
    assert framer.split(chunk) == [b"%d" % number for number in range(1000)]
    assert (framer.first_number, framer.split(b"z\n"), framer.first_number) == (1, [b"z"], 1001)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LineFramer(0)
