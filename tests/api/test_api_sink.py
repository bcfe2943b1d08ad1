"""How the sink stands, as `/api/v1/exports`, `/readyz` and the page tell it."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from api.standing import LONG_FAILING_MS, SINK_SILENT_AFTER_MS
from sink.standing import STANDING_FILE, ReplayStanding, TopicStanding, Waiting, Work
from tests.api.api_box import ApiBox

MINUTE_MS = 60_000


def told(box: ApiBox, query: str = "") -> Any:
    return box.get(f"/api/v1/exports{query}")["sink"]


def well(topic: str) -> TopicStanding:
    waiting = Waiting(windows=0, held=0, oldest_end_ms=None, counted_at_ms=1)
    return TopicStanding(topic=topic, topic_id="1" * 32, waiting=waiting)


def test_a_topic_that_fails_is_told_with_its_last_error_and_lag(box: ApiBox) -> None:
    box.sink_stands(box.failing("telemetry", "no space left", for_ms=2 * MINUTE_MS), well("mqtt"), topics_total=2)
    box.clock.now_ms += 10_000
    sink = told(box)
    assert (sink["state"], sink["stale"], sink["as_of"]) == ("idle", False, "2027-01-15T08:00:00Z")
    assert (sink["failures"], sink["failing_since"], sink["last_error"], sink["work"]) == (0, None, None, None)
    assert (sink["lag_s"], sink["topics_total"]) == (130, 2)
    mqtt, telemetry = sink["topics"]
    assert (mqtt["lag_s"], mqtt["oldest_waiting"], mqtt["waiting_windows"]) == (0, None, 0)
    assert telemetry == {
        "topic": "telemetry",
        "waiting_windows": 3,
        "held_windows": 1,
        "oldest_waiting": "2027-01-15T07:58:00Z",
        "lag_s": 130,
        "counted_at": "2027-01-15T07:59:59.993000Z",
        "failures": 3,
        "failing_since": "2027-01-15T07:58:00Z",
        "next_attempt": "2027-01-15T08:00:30Z",
        "last_error": {
            "event": "export failed",
            "code": "storage",
            "what": "no space left",
            "where": "lake",
            "mend": "mend it",
            "at": "2027-01-15T08:00:00Z",
        },
    }


def test_replays_that_fail_are_told(box: ApiBox) -> None:
    path = "_quarantine/telemetry/date=2026-11-20/x.parquet"
    since_ms = box.clock.time_ms() - LONG_FAILING_MS
    box.sink_stands(replays=[ReplayStanding(path=path, failures=1, failing_since_ms=since_ms)])
    (replay,) = told(box)["replays"]
    assert (replay["path"], replay["failures"], replay["failing_since"]) == (path, 1, "2027-01-15T07:55:00Z")
    assert f"Replaying {path} has failed once: the error was not told." in page(box)


def test_one_topic_may_be_asked_for(box: ApiBox) -> None:
    box.sink_stands(well("telemetry"), well("mqtt"))
    assert [one["topic"] for one in told(box, "?topic=mqtt")["topics"]] == ["mqtt"]
    assert told(box, "?topic=nobody")["topics"] == []


def test_what_is_being_exported(box: ApiBox) -> None:
    work = Work(topic="telemetry", first_window=3, window=5, since_ms=box.clock.time_ms() - 1000)
    box.sink_stands(well("telemetry"), state="exporting", work=work)
    expected = {"topic": "telemetry", "first_window": 3, "window": 5, "since": "2027-01-15T07:59:59Z"}
    assert (told(box)["state"], told(box)["work"]) == ("exporting", expected)


def test_a_sink_that_is_silent_does_not_know_how_it_stands_now(box: ApiBox) -> None:
    box.sink_stands(box.failing("telemetry", "full", for_ms=MINUTE_MS), age_ms=SINK_SILENT_AFTER_MS)
    assert (told(box)["stale"], told(box)["lag_s"]) == (False, 60)
    box.clock.now_ms += 1
    sink = told(box)
    assert (sink["stale"], sink["lag_s"], sink["topics"][0]["lag_s"]) == (True, None, None)
    assert sink["topics"][0]["waiting_windows"] == 3, "as of then"


def test_windows_that_could_not_be_counted_are_null(box: ApiBox) -> None:
    box.sink_stands(TopicStanding(topic="telemetry", topic_id="1"))
    (topic,) = told(box)["topics"]
    names = ("waiting_windows", "held_windows", "oldest_waiting", "lag_s", "counted_at")
    assert [topic[name] for name in names] == [None] * 5


@pytest.mark.parametrize("text", [None, '{"at_ms": 1'])
def test_a_sink_that_has_told_nothing_is_null(box: ApiBox, text: str | None) -> None:
    if text is not None:
        (box.run_dir / STANDING_FILE).write_text(text)
    assert told(box) is None


def test_where_exporting_is_switched_off_an_old_file_tells_nothing(box: ApiBox) -> None:
    box.sink_stands(box.failing("telemetry", "full", for_ms=LONG_FAILING_MS))
    box.app.state.services = dataclasses.replace(box.services, sink_expected=False)
    assert told(box) is None


# ---- readiness


def test_a_sink_that_fails_for_long_is_a_warning_and_no_reason(box: ApiBox) -> None:
    box.sink_reports("")
    box.step()
    box.sink_stands(box.failing("telemetry", "full", for_ms=LONG_FAILING_MS - 1))
    assert box.get("/readyz")["warnings"] == []
    box.clock.now_ms += 1000  # what the page and this route share is asked once a second
    box.sink_stands(box.failing("telemetry", "full", for_ms=LONG_FAILING_MS))
    box.step()
    ready = box.get("/readyz")
    assert ready["ready"] is True
    assert ready["warnings"] == ["exporting telemetry has failed 3 times in 5 min: full"]


def test_a_box_that_is_not_ready_tells_its_warnings_too(box: ApiBox) -> None:
    box.sink_reports("")
    box.sink_stands(failures=1, failing_since_ms=box.clock.time_ms() - LONG_FAILING_MS, state="cannot-start")
    assert box.get("/readyz", 503)["warnings"] == ["the sink has failed once: the error was not told"]


# ---- the page


def page(box: ApiBox) -> str:
    box.step()
    response = box.client.get("/")
    assert response.status_code == 200
    return response.text


def lag(html: str) -> tuple[str, bool]:
    """The figure, and whether it stands out."""
    found = re.search(r"<div title=\"([^\"]*)\"( class=\"warn\")?><dt>export lag</dt><dd>(.*?)</dd>", html)
    assert found is not None, html
    return found[3], found[2] is not None


def test_the_page_shows_lag_and_last_error(box: ApiBox) -> None:
    box.sink_stands(box.failing("telemetry", "<full>", for_ms=2 * MINUTE_MS), box.failing("mqtt", "full", for_ms=6_000))
    html = page(box)
    assert lag(html) == ("2 min", True)
    assert "6 windows wait, 2 of them are small and held back on purpose" in html
    assert "<strong>Exporting fails</strong>" in html
    assert (
        "Exporting telemetry has failed 3 times in 2 min: &lt;full&gt;. Mend it. The next attempt is in 30 s." in html
    )
    assert "So it is with 1 more." in html


def test_the_page_of_a_sink_that_is_well_or_fails_for_a_moment(box: ApiBox) -> None:
    box.sink_stands(well("telemetry"))
    assert lag(page(box)) == ("0 s", False)
    box.clock.now_ms += 1000
    box.sink_stands(box.failing("telemetry", "away", for_ms=1000))
    html = page(box)
    assert lag(html) == ("1 s", True)
    assert "Exporting fails" not in html


def test_the_page_of_a_sink_that_tells_nothing(box: ApiBox) -> None:
    assert lag(page(box)) == ("—", False)
    box.clock.now_ms += 1000
    box.sink_stands(well("telemetry"), age_ms=2 * MINUTE_MS)
    html = page(box)
    assert lag(html) == ("—", False)
    assert "The sink process is silent" in html
    assert "It last reported 2 min ago." in html
