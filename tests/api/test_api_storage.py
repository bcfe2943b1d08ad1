"""`/api/v1/storage`: what the edge says of its disk, as people and programs read it; and sizes of topics."""

from __future__ import annotations

from pathlib import Path

from commitlog.storage import LOG_DIR
from retention.keeper import Retention
from tests.api.api_box import ApiBox
from tests.retention.retention_support import RetentionBox


async def test_what_retention_answers_is_what_the_api_shows(tmp_path: Path, box: ApiBox) -> None:
    it = await RetentionBox(tmp_path, max_age="2h").open()
    retention = Retention(it.log, tmp_path, it.settings, it.clock, sinks=it.sinks)
    retention.expirer = it.expirer
    box.edge["storage"] = retention.storage()
    assert box.get("/api/v1/storage")["disk"] is None
    await it.windows(5)
    await it.export(0)
    await it.look()
    box.edge["storage"] = retention.storage()
    told = box.get("/api/v1/storage")
    await it.log.close()
    assert told["clock"] == "ok"
    assert told["disk"]["state"] == "ok"
    assert told["disk"]["forecast"] == "unknown"
    assert told["disk"]["days_left"] is None
    (topic,) = told["topics"]
    assert (topic["topic"], topic["windows"], topic["max_age_ms"]) == ("telemetry", 5, 7_200_000)
    assert topic["not_exported"] == {"parquet": 4}
    assert told["held"] == [{"topic": "telemetry", "window": 1, "reason": "older than max_age", "sinks": ["parquet"]}]
    (gone,) = told["expired"]
    assert (gone["first_window"], gone["last_window"], gone["offsets"], gone["unexported"]) == (0, 0, 2, [])
    assert gone["at"].startswith("2027-01-15T")


def test_an_edge_that_is_away_is_said(box: ApiBox) -> None:
    assert box.get("/api/v1/storage", 503)["title"]


def test_topics_tell_their_size_and_how_far_back_they_go(tmp_path: Path, box: ApiBox) -> None:
    at = {number: box.clock.time_ms() + number * 1000 for number in range(3)}
    box.log.append("telemetry", b"a", b"", partition=1, time_ms=at[2])
    box.log.append("telemetry", b"a", b"", partition=0, time_ms=at[0])
    box.log.append("telemetry", b"a", b"", partition=0, time_ms=at[1])
    folder = box.run_dir.parent / LOG_DIR / "telemetry-0"
    folder.mkdir(parents=True)
    (folder / "00000000000000000000.log").write_bytes(bytes(100))
    (folder / "00000000000000000000.index").write_bytes(bytes(10))
    (folder / "partition.metadata").write_bytes(bytes(1000))
    topics = {one["topic"]: one for one in box.get("/api/v1/topics")["topics"]}
    assert topics["telemetry"]["size_bytes"] == 110
    assert topics["telemetry"]["oldest"] == "2027-01-15T08:00:00Z"
    assert (topics["device.events"]["size_bytes"], topics["device.events"]["oldest"]) == (0, None)
    box.log.expire("telemetry", 0, 1)
    assert {one["topic"]: one for one in box.get("/api/v1/topics")["topics"]}["telemetry"]["oldest"] == (
        "2027-01-15T08:00:01Z"
    )
