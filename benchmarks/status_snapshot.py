"""What the status view's memory and snapshots cost, with many devices of several fields.

    python -m benchmarks.status_snapshot [--devices 100000] [--fields 8] [--apart]

Prints resident memory of a process that imports what the console does, the time and size of a snapshot, how long a
slice of it holds the view's lock, and the time from nothing to a view that is restored. `--apart`: each field comes in
a message of its own, the dearest way to send it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import appliance.console  # noqa: F401 - what the process has loaded besides
from benchmarks.status_feed import resident_bytes
from commitlog.base import Record, Slice, TopicInfo, Watermark
from commitlog.batch import new_builder, plain_records
from commitlog.storage import SystemStorage
from core.clock import SystemClock
from devices.status import StatusView
from devices.status_keeper import SLICE_DEVICES, StatusKeeper

TOPIC = "telemetry"
NOW_MS = 1_800_000_000_000


def payloads(number: int, fields: int, apart: bool) -> Iterator[bytes]:
    """What one device says: all fields at once, or one after the other."""
    values = [f'"sensor_{field}":{20 + (number * 7 + field) % 1000 / 10}' for field in range(fields)]
    if apart:
        for value in values:
            yield f'{{"ts":{NOW_MS - number % 5000},{value}}}'.encode()
    else:
        yield f'{{"ts":{NOW_MS - number % 5000},"seq":{number},{",".join(values)}}}'.encode()


def records(devices: int, fields: int, apart: bool) -> Iterator[list[Record]]:
    """Batches as the log's reader hands them out; every device says everything twice."""
    said = (
        (number, payload, 1000 * again)
        for again in range(2)
        for number in range(devices)
        for payload in payloads(number, fields, apart)
    )
    while part := list(islice(said, 500)):
        builder = new_builder(0)
        for at, (number, payload, later_ms) in enumerate(part):
            device = f"press-{number:06}"
            headers: list[Any] = [("mqtt.topic", f"devices/{device}/telemetry".encode())]
            builder.append(at, NOW_MS + later_ms, device.encode(), payload, headers)
        yield plain_records(bytes(builder.build()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--fields", type=int, default=8)
    parser.add_argument("--apart", action="store_true")
    arguments = parser.parse_args()
    before = resident_bytes()
    view = StatusView(max_devices=arguments.devices)
    fed_s, count = 0.0, 0
    for part in records(arguments.devices, arguments.fields, arguments.apart):
        began = time.perf_counter()
        count += len(part)
        view.feed(TOPIC, 0, Slice(records=part, next_offset=count))
        fed_s += time.perf_counter() - began
    print(f"feed                {count / fed_s:,.0f} records/s ({fed_s / count * 1e6:.2f} us a record)")
    print(f"process before      {before / 2**20:,.0f} MiB")
    print(f"with {view.devices:,} devices  {resident_bytes() / 2**20:,.0f} MiB")

    topics = {TOPIC: TopicInfo(name=TOPIC, topic_id="0" * 32, partitions=1)}
    marks = {TOPIC: [Watermark(start=0, high=count)]}
    with tempfile.TemporaryDirectory() as directory:
        keeper = StatusKeeper(view, Path(directory), SystemStorage(), SystemClock())
        keeper.follow(topics)
        began = time.perf_counter()
        keeper.write()
        print(f"snapshot            {time.perf_counter() - began:.2f} s, {keeper.size_bytes / 2**20:.1f} MiB")
        print(f"after it            {resident_bytes() / 2**20:,.0f} MiB")
        print(f"lock held           {longest_copy_s(view) * 1000:.1f} ms at most for {SLICE_DEVICES} devices")
        restored = StatusView(max_devices=arguments.devices)
        began = time.perf_counter()
        StatusKeeper(restored, Path(directory), SystemStorage(), SystemClock()).load(topics, marks)
        print(f"restored            {time.perf_counter() - began:.2f} s, {restored.devices:,} devices")


def longest_copy_s(view: StatusView) -> float:
    """The longest copy of a slice."""
    keys = view.begin_snapshot({}, 0)[1]
    longest = 0.0
    for start in range(0, len(keys), SLICE_DEVICES):
        began = time.perf_counter()
        view.copy(keys[start : start + SLICE_DEVICES])
        longest = max(longest, time.perf_counter() - began)
    return longest


if __name__ == "__main__":
    main()
