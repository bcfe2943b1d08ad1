from __future__ import annotations

from msgspec.structs import replace

from commitlog.base import ClosedWindow, WriterState
from commitlog.report import Cut, RecoveryReport, keep_report
from commitlog.storage import LOG_DIR, SystemStorage
from tests.api.api_box import ApiBox


def window(number: int) -> ClosedWindow:
    return ClosedWindow(
        topic="telemetry",
        topic_id="0" * 32,
        number=number,
        start_ms=1000 * number,
        end_ms=1000 * (number + 1),
        offsets={0: (number, number + 1), 1: (0, 0)},
        reason="interval",
    )


def export(number: int, topic: str = "telemetry") -> dict[str, object]:
    return {
        "topic": topic,
        "number": number,
        "start_ms": 1000 * number,
        "end_ms": 1000 * (number + 1),
        "files": [{"path": f"{topic}/date=1970-01-01/{number}.parquet", "rows": 3, "bytes": 99, "date": "1970-01-01"}],
        "records": 5,
        "rows": 3,
        "quarantined": 1,
        "lost": [[0, 7, 8, "skipped by recovery"]],
        "left_out": [[1, 2, 4, "left out"]],
        "clashes": {"temperature": 2},
        "exported_at_ms": 5000 + number,
    }


def test_topics(box: ApiBox) -> None:
    box.log.append("telemetry", b"a", b"", partition=1)
    box.log.append("telemetry", b"a", b"", partition=1)
    box.log.expire("telemetry", 1, 1)
    topics = {one["topic"]: one for one in box.get("/api/v1/topics")["topics"]}
    assert list(topics) == ["device.events", "telemetry"]
    telemetry = topics["telemetry"]
    assert telemetry["partitions"][1] == {
        "partition": 1,
        "log_start_offset": 1,
        "high_watermark": 2,
        "recovered": [],
    }
    assert (telemetry["records"], telemetry["windows_closed"], telemetry["last_window"]) == (1, 0, None)
    assert box.get("/api/v1/topics")["writer"] == "live"


def test_topics_tell_what_recovery_could_not_keep(box: ApiBox) -> None:
    """And count no record where there is none: ranges of this start and of earlier ones, which may overlap."""
    for _ in range(10):
        box.log.append("telemetry", b"a", b"", partition=1)
    box.log.expire("telemetry", 1, 1)
    lost = Cut(
        topic="telemetry", partition=1, first=3, next=5, reason="damaged", start_ms=1000, end_ms=2000, devices=("m1",)
    )
    earlier = [replace(lost, first=0, next=4), replace(lost, first=9, next=20), replace(lost, partition=0)]
    log_dir = box.services.run_dir.parent / LOG_DIR
    log_dir.mkdir(exist_ok=True)
    storage = SystemStorage()
    for cuts in (earlier, [lost]):
        keep_report(storage, log_dir, RecoveryReport(cuts=cuts), 0)
    telemetry = box.get("/api/v1/topics")["topics"][1]
    assert telemetry["partitions"][1]["recovered"] == [
        {
            "first": 3,
            "next": 5,
            "reason": "damaged",
            "after": "1970-01-01T00:00:01Z",
            "before": "1970-01-01T00:00:02Z",
            "devices": ["m1"],
        }
    ]
    assert telemetry["partitions"][0]["recovered"] == []
    assert telemetry["records"] == len([5, 6, 7, 8])


def test_topics_tell_the_newest_window_as_they_close(box: ApiBox) -> None:
    for number in range(3):
        box.log.closed.setdefault("telemetry", []).append(window(number))
        (_, telemetry) = box.get("/api/v1/topics")["topics"]
        assert telemetry["windows_closed"] == number + 1
        assert telemetry["last_window"]["number"] == number
    assert telemetry["last_window"]["offsets"] == {"0": [2, 3], "1": [0, 0]}
    assert telemetry["last_window"]["end"] == "1970-01-01T00:00:03Z"


def test_topics_say_when_the_writer_is_gone(box: ApiBox) -> None:
    box.log.state = WriterState.STALE
    assert box.get("/api/v1/topics")["writer"] == "stale"


def test_exports_newest_first(box: ApiBox) -> None:
    rows = [export(0), export(1), export(2, "other")]
    box.log.tables["exports"] = {f"{row['topic']}/{row['number']:020}": row for row in rows}
    listed = box.get("/api/v1/exports")
    assert [(one["topic"], one["window"]) for one in listed["exports"]] == [
        ("other", 2),
        ("telemetry", 1),
        ("telemetry", 0),
    ]
    first = listed["exports"][1]
    assert first["files"] == [
        {"path": "telemetry/date=1970-01-01/1.parquet", "rows": 3, "size_bytes": 99, "date": "1970-01-01"}
    ]
    assert first["lost"] == [{"partition": 0, "first": 7, "next": 8, "reason": "skipped by recovery"}]
    assert first["left_out"] == [{"partition": 1, "first": 2, "next": 4, "reason": "left out"}]
    assert first["clashes"] == {"temperature": 2}
    assert [one["window"] for one in box.get("/api/v1/exports?topic=telemetry&limit=1")["exports"]] == [1]
    assert box.get("/api/v1/exports?topic=nobody")["exports"] == []


def test_sessions_as_the_edge_tells_them(box: ApiBox) -> None:
    rows = [{"session": "s1", "client_id": b"c\xff", "devices": (1, 2)}, {"session": "s2"}]
    box.edge["sessions"] = {"total": 20, "sessions": rows}
    assert box.get("/api/v1/sessions?limit=1") == {
        "sessions": [{"session": "s1", "client_id": "c\\xff", "devices": [1, 2]}],
        "total": 20,
    }


def test_what_needs_the_edge_says_that_it_is_away(box: ApiBox) -> None:
    del box.edge["sessions"]
    problem = box.get("/api/v1/sessions", 503)
    assert problem["detail"] == "the edge process does not answer (edge.sock)"
    assert problem["mend"] == "start it"
