from __future__ import annotations

import dataclasses

from prometheus_client.parser import text_string_to_metric_families

from api.metrics import join_parts, sample_values
from commitlog.base import WriterState
from core.errors import UnavailableError
from tests.api.api_box import ApiBox

SINK = '# TYPE headrace_sink_rows_total counter\nheadrace_sink_rows_total{topic="t"} 3\n'


def test_healthz_answers_whatever_the_others_do(box: ApiBox) -> None:
    box.log.state = WriterState.STALE
    assert box.get("/healthz") == {"status": "ok"}


def test_ready(box: ApiBox) -> None:
    box.sink_reports(SINK)
    box.step()
    assert box.get("/readyz")["ready"] is True


def test_ready_says_where_acknowledged_is_not_synced(box: ApiBox) -> None:
    box.sink_reports(SINK)
    box.step()
    assert box.get("/readyz")["weaker_durability"] == {}
    services = dataclasses.replace(box.services, weaker_durability={"mqtt": "os"})
    box.app.state.services = services
    assert box.get("/readyz")["weaker_durability"] == {"mqtt": "os"}


def test_not_ready_says_every_reason(box: ApiBox) -> None:
    problem = box.get("/readyz", 503)
    assert problem["type"] == "urn:headrace:problem:not-ready"
    assert problem["reasons"] == [
        "the status view is still reading the log from its start",
        "the sink process has not reported yet",
    ]


def test_not_ready_without_a_writer(box: ApiBox) -> None:
    box.sink_reports(SINK)
    box.log.state = WriterState.STALE
    box.step()
    assert box.get("/readyz", 503)["reasons"] == ["the edge process, which writes the log, is away"]


def test_not_ready_with_a_silent_sink(box: ApiBox) -> None:
    box.sink_reports(SINK, age_ms=61_000)
    box.step()
    assert box.get("/readyz", 503)["reasons"] == ["the sink process has not reported for 61 s"]


def test_metrics_of_all_parts(box: ApiBox) -> None:
    box.sink_reports(SINK)
    box.edge["metrics"] = "# TYPE headrace_acked_records_total counter\nheadrace_acked_records_total 7\n"
    box.log.reading("d")
    box.step()
    box.get("/api/v1/devices/d")
    box.get("/api/v1/devices/nobody", 404)
    response = box.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert families["headrace_acked_records"].samples[0].value == 7
    assert families["headrace_sink_rows"].samples[0].value == 3
    assert families["headrace_status_devices"].samples[0].value == 1
    parts = {one.labels["part"]: one.value for one in families["headrace_scrape_part_up"].samples}
    assert parts == {"edge": 1, "sink": 1, "console": 1}
    requests = {
        (one.labels["route"], one.labels["status"]): one.value for one in families["headrace_http_requests"].samples
    }
    assert requests["/api/v1/devices/{device}", "200"] == 1
    assert requests["/api/v1/devices/{device}", "404"] == 1


def test_parts_that_are_away_are_left_out_and_said(box: ApiBox) -> None:
    del box.edge["metrics"]
    text = box.client.get("/metrics").text
    assert 'headrace_scrape_part_up{part="edge"} 0' in text
    assert 'headrace_scrape_part_up{part="sink"} 0' in text
    assert 'headrace_scrape_part_up{part="console"} 1' in text


def test_a_family_of_two_parts_stands_once() -> None:
    one = '# HELP a A.\n# TYPE a gauge\na{process="edge"} 1\n# TYPE b counter\nb 1\n'
    two = '# HELP a Another.\n# TYPE a gauge\na{process="sink"} 2\n'
    assert join_parts([one, two]) == (
        '# HELP a A.\n# TYPE a gauge\na{process="edge"} 1\na{process="sink"} 2\n# TYPE b counter\nb 1\n'
    )


def test_sample_values_are_of_the_exact_name() -> None:
    text = 'x_total 1\nx{a="b c"} 2\nx 3\nxy 4\n'
    assert sample_values(text, "x") == [2, 3]


def test_an_unreadable_log_is_a_reason(box: ApiBox) -> None:
    box.sink_reports(SINK)
    box.tail._fail(str(UnavailableError("no run file")))
    assert box.get("/readyz", 503)["reasons"] == ["the log cannot be read (no run file)"]


FULL = """# TYPE headrace_disk_full gauge
headrace_disk_full 1.0
headrace_disk_free_bytes 2097152.0
headrace_disk_needed_bytes 184549376.0
headrace_clock_state{state="ok"} 0.0
headrace_clock_state{state="behind"} 1.0
headrace_clock_state{state="stepped"} 0.0
"""


def test_a_full_disk_is_a_reason_and_stands_on_the_page(box: ApiBox) -> None:
    box.sink_reports(SINK)
    box.edge["metrics"] = FULL
    box.step()
    problem = box.get("/readyz", 503)
    figures = "2 MB are free, 176 MB have to be"
    assert problem["reasons"] == [f"the disk is full, readings are refused until there is room ({figures})"]
    assert problem["clock"] == "behind"
    page = box.client.get("/").text
    assert "The disk is full: readings are refused" in page
    assert figures in page


def test_a_clock_that_cannot_be_trusted_is_said_and_no_reason(box: ApiBox) -> None:
    box.sink_reports(SINK)
    box.edge["metrics"] = FULL.replace("disk_full 1.0", "disk_full 0.0")
    box.step()
    assert box.get("/readyz")["clock"] == "behind"
