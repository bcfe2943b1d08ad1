"""The sink's metrics file on a full disk: old figures, but a sign of life."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sink.metrics import SinkMetrics, write_metrics


def test_on_a_full_disk_the_file_keeps_its_figures_and_gets_a_new_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sink.prom"
    metrics = SinkMetrics()
    write_metrics(metrics, path)
    before = path.read_text()
    os.utime(path, (1, 1))
    metrics.failed("disk")

    def full(at: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "no space left on device", str(at))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write_metrics(metrics, path)
    assert path.read_text() == before
    assert path.stat().st_mtime > 1
    assert os.listdir(tmp_path) == ["sink.prom"]  # noqa: PTH208 - names only
