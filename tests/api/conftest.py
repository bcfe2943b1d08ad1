from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.api_box import ApiBox


@pytest.fixture
def box(tmp_path: Path) -> ApiBox:
    return ApiBox(tmp_path)
