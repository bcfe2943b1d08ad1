"""One whole example of each answer, for the API's description. Tests hold them against the shapes."""

from __future__ import annotations

from typing import Any, Final

VIEW: Final = {"state": "live", "stale": False, "as_of": "2026-11-20T10:15:04.120000Z", "lag_records": 0}

READING: Final = {
    "topic": "telemetry",
    "partition": 3,
    "offset": 18231,
    "received_at": "2026-11-20T10:15:03.871000Z",
    "mqtt_topic": "devices/press-17/telemetry",
    "size_bytes": 46,
    "decoded": True,
    "payload": {"ts": 1795169703868, "seq": 4, "temperature": 21.5},
    "payload_text": None,
    "payload_base64": None,
}

REGISTRATION: Final = {
    "version": 7,
    "name": "Press 17",
    "tags": ["press", "hall-4"],
    "location": "Hall 4, row C",
    "position": {"latitude": 48.137, "longitude": 11.575},
    "expected_interval_ms": 10000,
    "units": {"temperature": "°C", "motor.current": "A"},
    "notes": "Bearings changed in May.",
}

REGISTRY_ITEM: Final = {**REGISTRATION, "device": "press-17", "href": "/api/v1/registry/press-17"}

REGISTRY_LIST: Final = {"entries": [REGISTRY_ITEM], "total": 50, "next": "press-17"}

REGISTRY_ENTRY: Final = {name: value for name, value in REGISTRATION.items() if name != "version"}

REGISTRY_PATCH: Final = {"tags": ["press", "hall-5"], "location": None}

REGISTRY_IMPORT: Final = {"dry_run": False, "rows": 250, "created": 12, "changed": 3, "unchanged": 235}

TAG_LIST: Final = {"tags": [{"tag": "hall-4", "devices": 12}, {"tag": "press", "devices": 31}]}

DEVICE: Final = {
    "device": "press-17",
    "href": "/api/v1/devices/press-17",
    "connected": True,
    "connected_since": "2026-11-20T07:00:12.004000Z",
    "first_seen": "2026-11-13T10:00:00.120000Z",
    "last_seen": "2026-11-20T10:15:03.871000Z",
    "reporting": {
        "state": "reporting",
        "since": "2026-11-20T07:00:12.110000Z",
        "expected_interval_s": 1.002,
        "configured": False,
    },
    "clock_skew_s": -0.003,
    "messages": 604211,
    "size_bytes": 72505320,
    "registry": REGISTRATION,
    "rates": {"over_1_minute": 0.998, "over_15_minutes": 0.999},
}

DEVICE_DETAIL: Final = {
    **DEVICE,
    "sessions": [
        {
            "session": "cced28cd-41",
            "since": "2026-11-20T07:00:12.004000Z",
            "client_id": "press-17",
            "protocol": "mqtt",
            "peer": "127.0.0.1:51874",
        }
    ],
    "further_sessions": 0,
    "last_disconnect_reason": "keep-alive",
    "fields": {
        "seq": {"value": 4, "large": False, "received_at": "2026-11-20T10:15:03.871000Z"},
        "temperature": {"value": 21.5, "large": False, "received_at": "2026-11-20T10:15:03.871000Z"},
        "ts": {"value": 1795169703868, "large": False, "received_at": "2026-11-20T10:15:03.871000Z"},
    },
    "fields_cut": False,
    "sequence": {"newest": 4, "missing": 0, "duplicates": 0, "restarts": 1},
    "resends": 0,
    "undecodable": 0,
    "last_reading": READING,
    "view": VIEW,
}

DEVICE_LIST: Final = {"devices": [DEVICE], "total": 50, "next": "press-17", "view": VIEW}

READING_LIST: Final = {
    "device": "press-17",
    "readings": [READING],
    "next": "telemetry:3:18231",
    "scanned_records": 512,
}

TOPIC_LIST: Final = {
    "topics": [
        {
            "topic": "telemetry",
            "topic_id": "6f1c0d5e8a9b4c7d8e9f0a1b2c3d4e5f",
            "partitions": [{"partition": 0, "log_start_offset": 0, "high_watermark": 75412, "recovered": []}],
            "records": 75412,
            "size_bytes": 2201884,
            "oldest": "2026-11-19T08:00:00.004000Z",
            "windows_closed": 26,
            "last_window": {
                "number": 25,
                "start": "2026-11-20T09:00:00.004000Z",
                "end": "2026-11-20T10:00:00.011000Z",
                "reason": "time",
                "offsets": {"0": [72001, 75011]},
            },
        }
    ],
    "writer": "live",
}

SINK: Final = {
    "failures": 0,
    "failing_since": None,
    "next_attempt": None,
    "last_error": None,
    "as_of": "2026-11-20T10:03:12.500000Z",
    "stale": False,
    "state": "idle",
    "work": None,
    "lag_s": 191.48,
    "topics": [
        {
            "failures": 9,
            "failing_since": "2026-11-20T10:00:01.420000Z",
            "next_attempt": "2026-11-20T10:03:38.100000Z",
            "last_error": {
                "event": "export failed",
                "code": "storage",
                "what": "[Errno 28] No space left on device",
                "where": "headrace-data/lake/.tmp/0.parquet",
                "mend": "is there space, and may it be written?",
                "at": "2026-11-20T10:03:08.100000Z",
            },
            "topic": "telemetry",
            "waiting_windows": 1,
            "held_windows": 0,
            "oldest_waiting": "2026-11-20T10:00:01.020000Z",
            "lag_s": 191.48,
            "counted_at": "2026-11-20T10:03:12.410000Z",
        }
    ],
    "topics_total": 1,
    "replays": [],
}

EXPORT_LIST: Final = {
    "exports": [
        {
            "topic": "telemetry",
            "window": 25,
            "start": "2026-11-20T09:00:00.004000Z",
            "end": "2026-11-20T10:00:00.011000Z",
            "exported_at": "2026-11-20T10:00:01.420000Z",
            "files": [
                {
                    "path": "telemetry/date=2026-11-20/20261120T090000Z-2704c8da4c25e32e.parquet",
                    "rows": 3010,
                    "size_bytes": 61220,
                    "date": "2026-11-20",
                }
            ],
            "records": 3010,
            "rows": 3010,
            "quarantined": 0,
            "lost": [],
            "left_out": [],
            "clashes": {},
        }
    ],
    "lake": "headrace-data/lake",
    "sink": SINK,
}

SESSION: Final = {
    "client_id": "line-4-display",
    "protocol": "mqtt",
    "level": 5,
    "username": None,
    "connected": False,
    "session": None,
    "peer": None,
    "since": None,
    "devices": 0,
    "away_since": "2026-11-20T07:02:40.310000Z",
    "expires": "2026-11-21T07:02:40.310000Z",
    "expiry_s": 86400,
    "subscriptions": 1,
    "filters": ["devices/+/telemetry"],
    "queued": 18231,
    "in_flight": 0,
}

SESSION_LIST: Final = {"sessions": [SESSION], "connected": 1204, "away": 3, "next": "mqtt:100"}

STORAGE: Final = {
    "as_of": "2026-11-20T10:03:12.500000Z",
    "clock": "ok",
    "disk": {
        "state": "ok",
        "budget_bytes": 0,
        "total_bytes": 64_000_000_000,
        "free_bytes": 41_300_000_000,
        "log_bytes": 3_120_000_000,
        "lake_bytes": 11_400_000_000,
        "used_bytes": 22_700_000_000,
        "limit_bytes": 63_815_450_000,
        "high_bytes": 54_400_000_000,
        "low_bytes": 48_000_000_000,
        "forecast": "growing",
        "growth_bytes_per_day": 190_000_000.0,
        "days_left": 216.4,
    },
    "topics": [
        {
            "topic": "telemetry",
            "size_bytes": 2_950_000_000,
            "windows": 168,
            "oldest_window": 412,
            "oldest": "2026-11-13T10:00:17.020000Z",
            "max_age_ms": 604_800_000,
            "max_bytes": 0,
            "not_exported": {"parquet": 1},
        }
    ],
    "held": [],
    "expired": [
        {
            "topic": "telemetry",
            "first_window": 411,
            "last_window": 411,
            "offsets": 3_600_000,
            "size_bytes": 17_560_000,
            "reason": "older than max_age",
            "unexported": [],
            "at": "2026-11-20T10:00:21.300000Z",
        }
    ],
    "lake_retention": False,
    "lake_files_left_alone": 0,
}


def example(value: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's configuration that makes `value` its example."""
    return {"examples": [value]}
