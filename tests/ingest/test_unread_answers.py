"""A client that publishes and does not read its answers: it is not read from either, and nothing grows."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from tests.conftest import wait_until_async
from tests.ingest.edge_box import EdgeBox, edge_box

LINES = b"[1]\n" * 1000  # refused: an answer is ten times as long as its line
WAITING_BYTES = 4 << 20  # the 64 KB mark and the answers to one chunk, which is at most 256 KB of lines


async def test_who_does_not_read_its_answers_is_not_read_from(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        with socket.socket() as device:
            device.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            device.connect(("127.0.0.1", box.tcp_port))
            device.setblocking(False)
            sent_bytes = await _send_until_stuck(box, device)
            (connection,) = box.tcp._all()
            assert connection.transport.get_write_buffer_size() < WAITING_BYTES
            refused = box.tcp.counters.refused_lines["no-device"]
            assert refused < sent_bytes // 4, "what it sent waits in the kernel, and it has to wait"
            answers = await _read_until_it_is_read_from(box, device, refused)
        numbers = [int(answer.split()[1]) for answer in answers]
        assert numbers == list(range(1, len(numbers) + 1)), "no answer is missing"


async def _send_until_stuck(box: EdgeBox, device: socket.socket) -> int:
    """Whole lines only, until the kernel takes no more while the box does not read; the bytes sent."""
    sent_bytes, at = 0, 0

    def stuck() -> bool:
        nonlocal sent_bytes, at
        try:
            count = device.send(LINES[at:])
        except BlockingIOError:
            return all(connection._unread for connection in box.tcp._all())
        sent_bytes += count
        at = (at + count) % len(LINES)
        return False

    await wait_until_async(stuck, 30, describe=lambda: f"the device has to wait, after {sent_bytes} bytes")
    return sent_bytes


async def _read_until_it_is_read_from(box: EdgeBox, device: socket.socket, refused: int) -> list[bytes]:
    """The answers, without the last, which may have come in part."""
    device.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    loop, received = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(30):
        while box.tcp.counters.refused_lines["no-device"] == refused:
            received += await loop.sock_recv(device, 1 << 20)
    return bytes(received).split(b"\n")[:-1]
