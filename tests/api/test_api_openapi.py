"""The OpenAPI description held against what the application does, with requests made up from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings

from tests.api.api_box import ApiBox


LOCAL = {"Host": "localhost"}


def _filled_box(run_dir: Path) -> ApiBox:
    box = ApiBox(run_dir)
    for number in range(30):
        box.log.event("press-17", "connected", f"s{number}")
        box.log.reading("press-17", {"n": number})
        box.log.reading(f"line/{number}", b"\xff")
    box.step()
    (box.run_dir / "sink.prom").write_text("headrace_sink_rows_total 3\n")
    return box


@pytest.fixture
def api_schema(tmp_path: Path) -> Any:
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", _filled_box(tmp_path).app, headers=LOCAL)


schema = schemathesis.pytest.from_fixture("api_schema")


@schema.parametrize()
@seed(20261120)
@settings(
    max_examples=25,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_the_application_does_what_its_description_says(case: Any) -> None:
    case.call_and_validate(headers=LOCAL)


def test_every_operation_declares_problems_and_an_example_of_success(box: ApiBox) -> None:
    description = box.get("/api/v1/openapi.json")
    assert set(description["paths"]) == {
        "/api/v1/devices",
        "/api/v1/devices/{device}",
        "/api/v1/devices/{device}/readings",
        "/api/v1/topics",
        "/api/v1/exports",
        "/api/v1/sessions",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    for path, methods in description["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            for status in ("400", "405", "421", "422", "500"):
                assert "application/problem+json" in operation["responses"][status]["content"], (path, status)
            assert "HTTPValidationError" not in str(operation)
