"""The OpenAPI description held against what the application does, with requests made up from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode

from api import models, models_exports, models_storage
from api.examples import STORAGE
from sink.standing import Work
from tests.api.api_box import ApiBox

LOCAL = {"Host": "localhost"}


def _filled_box(run_dir: Path) -> ApiBox:
    box = ApiBox(run_dir)
    for number in range(30):
        box.log.event("press-17", "connected", f"s{number}")
        box.log.reading("press-17", {"n": number})
        box.log.reading(f"line/{number}", b"\xff")
    box.step()
    box.sink_reports("headrace_sink_rows_total 3\n")
    work = Work(topic="telemetry", first_window=3, window=3, since_ms=5)
    box.sink_stands(box.failing("telemetry", "full", for_ms=5000), topics_total=1, state="exporting", work=work)
    box.edge["storage"] = {
        **{key: STORAGE[key] for key in ("clock", "disk", "held", "lake_retention", "lake_files_left_alone")},
        "as_of_ms": 5,
        "topics": [{**_without(row, "oldest"), "oldest_ms": 5} for row in STORAGE["topics"]],
        "expired": [{**_without(row, "at"), "at_ms": 5} for row in STORAGE["expired"]],
    }
    return box


def _without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


PATHS = (
    "/api/v1/devices",
    "/api/v1/devices/{device}",
    "/api/v1/devices/{device}/readings",
    "/api/v1/topics",
    "/api/v1/storage",
    "/api/v1/exports",
    "/api/v1/sessions",
    "/healthz",
    "/readyz",
    "/metrics",
)
WITHOUT_PARAMETERS = ("/api/v1/topics", "/api/v1/storage", "/healthz", "/readyz", "/metrics")
CASES = [
    (path, mode)
    for path in PATHS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or path not in WITHOUT_PARAMETERS
]


@pytest.mark.parametrize(("path", "mode"), CASES, ids=lambda value: getattr(value, "value", value))
def test_the_application_does_what_its_description_says(tmp_path: Path, path: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", _filled_box(tmp_path).app, headers=LOCAL)

    @seed(20261120)
    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path]["GET"].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate(headers=LOCAL)

    check()


def test_every_operation_declares_problems_and_an_example_of_success(box: ApiBox) -> None:
    description = box.get("/api/v1/openapi.json")
    assert set(description["paths"]) == set(PATHS)
    for path, methods in description["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            for status in ("400", "405", "421", "422", "500"):
                assert "application/problem+json" in operation["responses"][status]["content"], (path, status)
            assert "HTTPValidationError" not in str(operation)


SHAPES = [
    shape
    for module in (models, models_exports, models_storage)
    for shape in vars(module).values()
    if isinstance(shape, type) and issubclass(shape, models.Shape) and "json_schema_extra" in shape.model_config
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_examples_are_what_is_answered(shape: type[models.Shape]) -> None:
    extra = shape.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    (example,) = extra["examples"]
    assert set(example) == set(shape.model_fields)
    assert json.loads(models.answer(shape.model_validate(example)).body) == example


def test_every_answer_has_an_example(box: ApiBox) -> None:
    description = box.get("/api/v1/openapi.json")
    for path, methods in description["paths"].items():
        content = methods["get"]["responses"]["200"]["content"]
        for media_type, body in content.items():
            name = body["schema"].get("$ref", "").rpartition("/")[2]
            if path.startswith("/api/"):
                assert description["components"]["schemas"][name]["examples"], (path, media_type)
