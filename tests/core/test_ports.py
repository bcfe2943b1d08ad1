from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path

import pytest

from core.errors import DataDirError
from core.ports import PORTS_FILE, forget_ports, publish_port, read_ports


def test_names_of_different_processes_stand_side_by_side(tmp_path: Path) -> None:
    publish_port(tmp_path, "mqtt", 1883)
    publish_port(tmp_path, "http", 8080)
    assert read_ports(tmp_path) == {"mqtt": 1883, "http": 8080}


def test_a_newer_boot_overwrites_and_an_off_listener_takes_its_name_away(tmp_path: Path) -> None:
    publish_port(tmp_path, "mqtt", 1883)
    publish_port(tmp_path, "tcp", 9000)
    publish_port(tmp_path, "mqtt", 1884)
    publish_port(tmp_path, "tcp", 0)
    assert read_ports(tmp_path) == {"mqtt": 1884}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'"x"'])
def test_a_torn_file_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PORTS_FILE).write_bytes(content)
    assert read_ports(tmp_path) == {}
    publish_port(tmp_path, "http", 1)
    assert read_ports(tmp_path) == {"http": 1}


def test_what_is_no_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="70000 is not a port"):
        publish_port(tmp_path, "http", 70_000)


def test_writers_do_not_lose_each_others_names(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_publish_many, args=(tmp_path, prefix)) for prefix in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert len(read_ports(tmp_path)) == 60


def _publish_many(run_dir: Path, prefix: str) -> None:
    for number in range(30):
        publish_port(run_dir, f"{prefix}{number}", 1 + number)


def test_a_place_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ports.json.new").mkdir()
    with pytest.raises(DataDirError) as caught:
        publish_port(tmp_path, "mqtt", 1883)
    assert "ports.json.new" in caught.value.where
    assert caught.value.mend


def test_an_older_boots_ports_are_forgotten_and_their_file_keeps_its_place(tmp_path: Path) -> None:
    forget_ports(tmp_path)
    publish_port(tmp_path, "mqtt", 1883)
    inode = (tmp_path / PORTS_FILE).stat().st_ino
    forget_ports(tmp_path)
    assert read_ports(tmp_path) == {}
    assert (tmp_path / PORTS_FILE).stat().st_ino == inode


def test_on_a_full_disk_the_file_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_port(tmp_path, "mqtt", 1883)
    publish_port(tmp_path, "tcp", 9000)
    real = Path.open

    def full(path: Path, mode: str = "r", *arguments: object) -> object:
        if path.suffix == ".new":
            raise OSError(errno.ENOSPC, "no space left on device", str(path))
        return real(path, mode, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    publish_port(tmp_path, "tcp", 0)
    assert read_ports(tmp_path) == {"mqtt": 1883}
    (tmp_path / PORTS_FILE).unlink()
    with pytest.raises(DataDirError, match="cannot be published"):
        publish_port(tmp_path, "mqtt", 1883)
