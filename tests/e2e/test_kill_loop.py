"""kill -9 again and again under load from standard clients: of the edge, and of the whole appliance at once.

Afterwards every acknowledged reading is looked for in the log, by two readers, with the order of each device; the
check, the report of recovery and the lake have to agree. The kills come at moments that are drawn from a seed: after
so many acknowledgements of a life, or as soon as recovery writes.

HEADRACE_KILL_ROUNDS says how often it is killed (here 3 times), `pytest -s` shows the figures.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.loads import compile_loader
from commitlog.check import check_log
from commitlog.gaps import LEFT_OUT
from commitlog.report import read_report
from commitlog.storage import LOG_DIR, SystemStorage
from tests.conftest import require_component, wait_until
from tests.e2e.appliance_process import HEADRACE, Appliance, appliance, steady_port
from tests.e2e.publishers import LoaderPublisher, MosquittoPublisher, PahoPublisher, Publishers, publishing
from tests.e2e.stored import Stored, check_result, compare, read_stored
from tests.e2e.test_end_to_end import lake, query

ROUNDS = int(os.environ.get("HEADRACE_KILL_ROUNDS", "3"))
LOADER = Path(__file__).parents[2] / "benchmarks" / "loadgen.c"
FIRST_SEQ = {"paho-": 1, "mosquitto-": 1, "dev-": 0}
# Much of what a kill may fall into: checkpoints, closed windows, full segments.
BUSY = ("log.checkpoint_interval=200ms", "log.segment_size=1MB", "retention.roll_interval=1s")


@dataclass
class Killer:
    """Draws the moments, and counts."""

    rng: random.Random
    clients: Publishers
    data_dir: Path
    kills: Counter[str] = field(default_factory=Counter)
    acked_before: int = 0

    def strike(self, box: Appliance, what: str) -> None:
        """kill -9 of the edge or of the whole appliance, at some moment of its life."""
        wait_until(lambda: "edge" in box.pids, 60, describe=lambda: f"an edge; it said:\n{box.output[-3000:]}")
        self._moment(box)
        self.acked_before = self.clients.acked
        self.kills[what] += 1
        if what == "edge":
            box.kill("edge")
        else:
            box.kill_all()
            report = check_log(self.data_dir)
            assert report.clean, report.found.findings.kept

    def _moment(self, box: Appliance) -> None:
        """In one life of five during recovery, else after up to 1,500 acknowledgements."""
        if self.kills and self.rng.random() < 0.2:
            recovered = changed_ns(self.data_dir)
            wait_until(lambda: changed_ns(self.data_dir) > recovered, 60, describe="recovery, or what follows, writes")
            self.kills["of them in recovery"] += 1
        else:
            enough = self.acked_before + self.rng.randint(1, 1500)
            wait_until(lambda: self.clients.acked >= enough, 60, describe=lambda: f"acks; {box.output[-3000:]}")


def changed_ns(data_dir: Path) -> int:
    """When recovery or a checkpoint last put something in its place."""
    return max(path.stat().st_mtime_ns for path in (data_dir / LOG_DIR).glob("[cr]*") if path.suffix != ".tmp")


def plan() -> Iterator[list[str]]:
    """What is killed in each life of the appliance: up to three times its edge, then all of it."""
    kinds = ["appliance" if number % 4 == 1 else "edge" for number in range(ROUNDS)]
    lives: list[list[str]] = [[]]
    for kind in kinds:
        lives[-1].append(kind)
        if kind == "appliance":
            lives.append([])
    return iter(lives)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_component("cc")
    return compile_loader(LOADER, tmp_path_factory.mktemp("loadgen"))


@pytest.mark.timeout(90 + 20 * ROUNDS)
@pytest.mark.parametrize("level", ["fsync", "interval"])
def test_killed_again_and_again_under_load_it_loses_nothing_acked(tmp_path: Path, loader: Path, level: str) -> None:
    """A killed process takes no page from the operating system: below `fsync` it must hold as well."""
    began_s = time.monotonic()
    data_dir, port = tmp_path / "data", steady_port()
    clients = [
        *(PahoPublisher(f"paho-{number}", port, window=8) for number in range(4)),
        MosquittoPublisher("mosquitto-0", port, require_component("mosquitto_pub")),
        LoaderPublisher(port, loader, tmp_path / "ledger", connections=50, rate_per_s=50),
    ]
    with publishing(clients) as at_work:
        killer = Killer(random.Random(f"{level} {ROUNDS}"), at_work, data_dir)
        for life in plan():
            with appliance(data_dir, [*BUSY, f"mqtt.port={port}", f"log.durability={level}"]) as box:
                for what in life:
                    killer.strike(box, what)
                if "appliance" in life:
                    continue
                wait_until(lambda: at_work.acked > killer.acked_before + 200, 60, describe="acks in the last life")
                at_work.finish()
                box.export_now()
                assert box.stop() == 0
        books = at_work.books()
    stored = read_stored(data_dir, "telemetry")
    compare(stored, books, FIRST_SEQ)
    _nothing_was_lost(data_dir, stored, level)
    _exported_once(box, stored)
    told = {kind: sum(len(book.acked) for device, book in books.items() if kind in device) for kind in FIRST_SEQ}
    left_out = sum(gap.next - gap.first for gap in stored.gaps)
    print(f"\n{level}: {dict(killer.kills)} in {time.monotonic() - began_s:.0f} s; acked {sum(told.values())}: {told};")
    print(f"stored {stored.records}, of them sent twice {stored.twice}; offsets left out {left_out}")
    assert all(told.values())


def _nothing_was_lost(data_dir: Path, stored: Stored, level: str) -> None:
    """By the reader's gaps, the check and the report of every recovery. Only below `fsync` are offsets left out."""
    done = subprocess.run(
        [HEADRACE, "log", "check", "--json", "--data-dir", str(data_dir)], capture_output=True, timeout=300, check=False
    )
    findings, notes = check_result(done.stdout.decode())
    report = read_report(SystemStorage(), data_dir / LOG_DIR)
    assert report is not None
    cuts = [*report.cuts, *report.earlier]
    assert findings == []
    assert done.returncode == 0
    if level == "fsync":
        assert (stored.gaps, notes, cuts) == ([], set(), [])
    assert notes <= {"left-out"}
    assert all(cut.reason.startswith(LEFT_OUT) for cut in cuts)
    assert {gap.reason for gap in stored.gaps} <= {LEFT_OUT}


def _exported_once(box: Appliance, stored: Stored) -> None:
    """Up to the end of the last exported window, which is later than every kill: each record in one row."""
    columns = "_partition, count(*), count(DISTINCT (_offset, _row)), max(_offset)"
    exported = query(f"SELECT {columns} FROM {lake(box)} GROUP BY _partition")
    assert exported
    for partition, rows, places, last in exported:
        assert rows == places == bisect_right(stored.offsets[partition], last)
