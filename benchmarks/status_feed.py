"""What the status view costs: records/s through `StatusView.feed`, and memory for many devices.

    python -m benchmarks.status_feed [--devices 100000] [--records 2000000]

Records are those of the record-batch library, read from real batches; only `feed` is timed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from commitlog.base import Slice
from devices.status import StatusView

BATCH_RECORDS = 1000


def batch_records(first: int, devices: int) -> list[Any]:
    """A read batch: each record the next device's, each device once a second."""
    now_ms = 1_800_000_000_000 + first * 1000 // devices
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for number in range(BATCH_RECORDS):
        device = f"press-{(first + number) % devices:06}"
        seq = (first + number) // devices
        value = json.dumps(
            {"ts": now_ms - 3, "seq": seq, "temperature": 21.5, "rpm": 1480, "state": "running"}
        ).encode()
        headers = [("mqtt.topic", f"devices/{device}/telemetry".encode())]
        builder.append(number, now_ms, device.encode(), value, headers)
    return list(DefaultRecordBatch(builder.build()))


def resident_bytes() -> int:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--records", type=int, default=2_000_000)
    arguments = parser.parse_args()
    view = StatusView(max_devices=arguments.devices)
    batch_records(0, arguments.devices)
    before = resident_bytes()
    first_s = known_s = 0.0
    for first in range(0, arguments.records, BATCH_RECORDS):
        records = batch_records(first, arguments.devices)
        began = time.perf_counter()
        view.feed("telemetry", 0, Slice(records=records, next_offset=first + BATCH_RECORDS))
        taken = time.perf_counter() - began
        if first < arguments.devices:
            first_s += taken
        else:
            known_s += taken
    grown = resident_bytes() - before
    known = arguments.records - arguments.devices
    print(f"devices                 {view.devices:,}")
    print(f"feed, new devices       {arguments.devices / first_s:,.0f} records/s")
    print(f"feed, known devices     {known / known_s:,.0f} records/s ({known_s / known * 1e6:.2f} us a record)")
    print(f"memory                  {grown / 2**20:,.0f} MiB, {grown / view.devices:,.0f} bytes a device")
    began = time.perf_counter()
    view.page(current=True)
    print(f"first page (sorts)      {(time.perf_counter() - began) * 1000:.1f} ms")
    began = time.perf_counter()
    view.page(current=True, search="nothing has this")
    print(f"search without a match  {(time.perf_counter() - began) * 1000:.1f} ms")


if __name__ == "__main__":
    main()
