"""Standard MQTT clients as the load: each notes what was acknowledged to it, comes back after a kill, and goes on.

Three of them, as each has habits of its own. paho sends again by itself what had no answer, marked as DUP, before
anything new. mosquitto_pub is a process and a connection per reading. The load generator of the benchmarks holds many
connections, ends when its server goes, and is started anew with devices that nobody had before.
"""

from __future__ import annotations

import subprocess
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from paho.mqtt.client import MQTT_ERR_SUCCESS, Client, ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

RETRY_S: Final = 0.05  # between attempts to connect, as impatient devices do
LOOP_S: Final = 0.1  # how long paho may look at a silent socket before it hears that it is to finish
ATTEMPT_S: Final = 30.0  # a client that has no answer by then hangs, and is a failure of the test
END_S: Final = 60.0


@dataclass(slots=True)
class Book:
    """One device's readings by sequence number. `resent` went out again, since a connection ended without an answer."""

    acked: set[int] = field(default_factory=set)
    resent: set[int] = field(default_factory=set)
    marks_resends: bool = False


class Publisher(Protocol):
    """A client with a thread of its own."""

    def finish(self) -> None:
        """Send nothing new from now on."""
        ...

    def join(self) -> None:
        """Wait until everything sent is acknowledged; for the loader, until its server hangs up."""
        ...

    def books(self) -> dict[str, Book]:
        """By device."""
        ...

    def kill(self) -> None:
        """End now, whatever is unanswered."""
        ...


class _Threaded:
    """What the three share: a thread, a wish to finish, a deadline."""

    def __init__(self) -> None:
        self._finishing = threading.Event()
        self._killed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._finishing.set()

    def join(self) -> None:
        self._thread.join(END_S)
        assert not self._thread.is_alive(), f"{type(self).__name__} waits for acknowledgements that do not come"

    def kill(self) -> None:
        self._finishing.set()
        self._killed.set()
        self._thread.join(END_S)

    def _run(self) -> None:
        raise NotImplementedError


class PahoPublisher(_Threaded):
    """One paho client that keeps `window` readings unanswered: the next one follows each acknowledgement."""

    def __init__(self, device: str, port: int, window: int) -> None:
        super().__init__()
        self.book = Book(marks_resends=True)
        self._topic = f"devices/{device}/telemetry"
        self._port = port
        self._window = window
        self._last = 0
        self._unanswered: dict[int, int] = {}  # packet id -> sequence number, in the order sent
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=device)
        self._client.max_inflight_messages_set(window + 1)  # in the callback the answered one is still counted
        self._client.on_connect = self._connected
        self._client.on_publish = self._answered

    def books(self) -> dict[str, Book]:
        return {self._topic.split("/")[1]: self.book}

    def _run(self) -> None:
        while not (self._done() or self._killed.is_set()):
            self.book.resent.update(self._unanswered.values())
            try:
                self._client.connect("127.0.0.1", self._port)
            except OSError:
                self._killed.wait(RETRY_S)
                continue
            while self._client.loop(LOOP_S) == MQTT_ERR_SUCCESS and not (self._done() or self._killed.is_set()):
                pass
        self._client.disconnect()

    def _done(self) -> bool:
        return self._finishing.is_set() and not self._unanswered

    def _connected(
        self, client: Client, userdata: object, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        while len(self._unanswered) < self._window and not self._finishing.is_set():  # only the first time
            self._send_next()

    def _answered(
        self, client: Client, userdata: object, packet_id: int, code: ReasonCode, properties: Properties | None
    ) -> None:
        first = next(iter(self._unanswered))
        assert packet_id == first, f"PUBACK {packet_id} before that of {first} [MQTT-4.6.0-2]"
        self.book.acked.add(self._unanswered.pop(packet_id))
        if not self._finishing.is_set():
            self._send_next()

    def _send_next(self) -> None:
        self._last += 1
        sent = self._client.publish(self._topic, reading(self._last), qos=1)
        self._unanswered[sent.mid] = self._last


class MosquittoPublisher(_Threaded):
    """mosquitto_pub again and again: the same reading until it reports success, then the next."""

    def __init__(self, device: str, port: int, program: str) -> None:
        super().__init__()
        self.book = Book()
        self._device = device
        self._command = [program, "-d", "-p", str(port), "-q", "1", "-i", device, "-t", f"devices/{device}/telemetry"]

    def books(self) -> dict[str, Book]:
        return {self._device: self.book}

    def _run(self) -> None:
        seq, times_sent = 1, 0
        while not (self._killed.is_set() or (self._finishing.is_set() and times_sent == 0)):
            done = subprocess.run(
                [*self._command, "-m", reading(seq)], capture_output=True, timeout=ATTEMPT_S, check=False
            )
            times_sent += done.stdout.count(b"sending PUBLISH")
            if times_sent > 1:
                self.book.resent.add(seq)
            if done.returncode == 0:
                self.book.acked.add(seq)
                seq, times_sent = seq + 1, 0
            else:
                self._killed.wait(RETRY_S)


class LoaderPublisher(_Threaded):
    """The benchmarks' load generator; what it noted in its ledger is known once it has ended."""

    def __init__(self, port: int, program: Path, ledger: Path, connections: int, rate_per_s: int) -> None:
        super().__init__()
        self._ledger = ledger
        self._connections = connections
        self._command = [
            str(program), "--port", str(port), "--connections", str(connections), "--window", "10",
            "--rate", str(rate_per_s), "--warmup", "0", "--seconds", "3600", "--ledger", str(ledger),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def books(self) -> dict[str, Book]:
        entries = array("I", self._ledger.read_bytes() if self._ledger.exists() else b"")
        found: dict[str, Book] = {}
        for device, seq in zip(entries[::2], entries[1::2], strict=True):
            found.setdefault(f"dev-{device:06}", Book()).acked.add(seq)
        return found

    def kill(self) -> None:
        self._finishing.set()
        if self._process is not None:
            self._process.kill()
        super().kill()

    def _run(self) -> None:
        first_device = 0
        while not self._finishing.is_set():
            words = [*self._command, "--first-device", str(first_device)]
            null, pipe = subprocess.DEVNULL, subprocess.PIPE
            with subprocess.Popen(words, stdin=null, stdout=null, stderr=pipe) as process:
                self._process = process
                said = process.communicate()[1]
            if b"Connection refused" not in said:
                first_device += self._connections
            self._killed.wait(RETRY_S)


def reading(seq: int) -> bytes:
    """A JSON reading; sizes differ, so that batches end anywhere."""
    return b'{"seq": %d, "text": "%s"}' % (seq, b"x" * (seq * 37 % 400))


class Publishers:
    """All of them together."""

    def __init__(self, publishers: Sequence[Publisher]) -> None:
        self._publishers = publishers

    @property
    def acked(self) -> int:
        """Readings acknowledged so far to those that know at once."""
        return sum(
            len(one.book.acked) for one in self._publishers if isinstance(one, PahoPublisher | MosquittoPublisher)
        )

    def finish(self) -> None:
        """Nothing new from now on; returns when all but the loader have an answer to everything they sent."""
        for one in self._publishers:
            one.finish()
        for one in self._publishers:
            if not isinstance(one, LoaderPublisher):
                one.join()

    def books(self) -> dict[str, Book]:
        """What each device was told, once the server has gone."""
        found: dict[str, Book] = {}
        for one in self._publishers:
            one.join()
            found |= one.books()
        return found


@contextmanager
def publishing(publishers: Sequence[PahoPublisher | MosquittoPublisher | LoaderPublisher]) -> Iterator[Publishers]:
    """The clients at work; none is left behind."""
    for one in publishers:
        one.start()
    try:
        yield Publishers(publishers)
    finally:
        for one in publishers:
            one.kill()
