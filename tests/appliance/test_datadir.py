from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import datadir
from appliance.datadir import DataDir, open_data_dir
from appliance.mounts import Mount, find_mount, is_network, parse_mountinfo
from core.errors import DataDirError

MOUNTINFO = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:33 / /srv/data rw,relatime shared:7 master:1 - nfs4 nas:/export rw,vers=4.2
41 27 0:34 / /srv/data/local rw,relatime - xfs /dev/vdb rw
42 27 0:35 / /mnt/my\040disk\134x rw - fuse.sshfs me@there: rw
43 27 0:36 / /twice rw - ext4 /dev/vdc rw
44 27 0:37 / /twice rw - cifs //nas/twice rw
not a mount line
"""

Open = Callable[..., DataDir]


@pytest.fixture(name="open_dir")
def _open_dir() -> Iterator[Open]:
    opened: list[DataDir] = []

    def open_dir(path: Path, **options: object) -> DataDir:
        held = open_data_dir(path, **{"journal_size_bytes": 1 << 20, "patience_s": 0.0, **options})  # type: ignore[arg-type]
        opened.append(held)
        return held

    yield open_dir
    for held in opened:
        held.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_makes_the_directory_and_a_private_run_directory(tmp_path: Path, open_dir: Open) -> None:
    held = open_dir(tmp_path / "a" / "data")
    assert held.path == tmp_path / "a" / "data"
    assert mode_of(held.run) == 0o700
    assert (held.path / "lock").read_text() == f"{os.getpid()}\n"
    assert not [path for path in held.run.iterdir() if "probe" in path.name]


def test_settings_are_private_and_replaced(tmp_path: Path, open_dir: Open) -> None:
    held = open_dir(tmp_path)
    held.write_settings("old")
    path = held.write_settings("new")
    assert path == tmp_path / "run" / "settings.json"
    assert path.read_text() == "new"
    assert mode_of(path) == 0o600
    assert not list(held.run.glob("*.new"))


def test_a_second_appliance_is_refused_with_the_pid_of_the_first(tmp_path: Path, open_dir: Open) -> None:
    open_dir(tmp_path)
    with pytest.raises(DataDirError) as caught:
        open_dir(tmp_path)
    assert f"in use by process {os.getpid()}" in caught.value.what
    assert f"kill {os.getpid()}" in caught.value.mend
    assert caught.value.where == str(tmp_path)


def test_closing_lets_the_next_one_in(tmp_path: Path, open_dir: Open) -> None:
    open_data_dir(tmp_path, journal_size_bytes=1).close()
    open_dir(tmp_path)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_an_edge_that_lost_its_supervisor_keeps_the_directory(tmp_path: Path, open_dir: Open) -> None:
    held = open_dir(tmp_path)
    (tmp_path / "lock").write_text(f"{dead_pid()}\n")
    held.write_pids({"edge": os.getpid()})
    with pytest.raises(DataDirError, match=f"in use by process {os.getpid()}"):
        open_dir(tmp_path)


def test_a_left_over_edge_is_waited_for(tmp_path: Path, open_dir: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    old = open_data_dir(tmp_path, journal_size_bytes=1)
    (tmp_path / "lock").write_text(f"{dead_pid()}\n")
    polls: list[float] = []

    def edge_ends_at_third_poll(pause_s: float) -> None:
        polls.append(pause_s)
        if len(polls) == 3:
            old.close()

    monkeypatch.setattr(datadir.time, "sleep", edge_ends_at_third_poll)
    open_dir(tmp_path, patience_s=60.0)
    assert len(polls) == 3


def test_an_inherited_lock_outlives_its_maker(tmp_path: Path) -> None:
    held = open_data_dir(tmp_path, journal_size_bytes=1)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held.lock_fd], text=True
    )
    held.close()
    with (tmp_path / "lock").open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.communicate("\n")
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory_names_user_and_path(tmp_path: Path, open_dir: Open) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataDirError, match="cannot write the data directory"):
        open_dir(tmp_path / "data")


def test_permission_denied_names_user_and_path(tmp_path: Path, open_dir: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataDirError) as caught:
        open_dir(tmp_path)
    assert "cannot write the data directory (Permission denied)" in caught.value.what
    assert caught.value.where == str(tmp_path)
    assert "--data-dir" in caught.value.mend


def test_a_file_in_the_way_is_named(tmp_path: Path, open_dir: Open) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataDirError) as caught:
        open_dir(tmp_path / "data")
    assert "not a directory stands there" in caught.value.mend


def test_a_disk_without_room_for_the_journal_is_refused_with_both_numbers(tmp_path: Path, open_dir: Open) -> None:
    with pytest.raises(DataDirError, match=r"disk full: 1073741856 MB are needed .* \d+ MB are free"):
        open_dir(tmp_path, journal_size_bytes=1 << 50)
    open_dir(tmp_path)  # the refusal let go of the lock


def test_once_the_journal_stands_a_full_disk_is_no_reason_to_refuse(tmp_path: Path, open_dir: Open) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "journal").touch()
    open_dir(tmp_path, journal_size_bytes=1 << 50)


def test_on_a_full_disk_files_are_written_in_place(
    tmp_path: Path, open_dir: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = open_dir(tmp_path)
    held.write_settings("a much longer text than the next")

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datadir, "_write_private", full)
    assert held.write_settings("short").read_text() == "short"
    with pytest.raises(DataDirError, match="No space left"):
        held.write_pids({"edge": 1})  # there is no older one to write over


def test_pids_are_published_as_json(tmp_path: Path, open_dir: Open) -> None:
    open_dir(tmp_path).write_pids({"supervisor": 1, "edge": 2})
    assert json.loads((tmp_path / "run" / "pids.json").read_text()) == {"supervisor": 1, "edge": 2}


@pytest.mark.parametrize(
    ("path", "filesystem"),
    [
        pytest.param("/home/me", "ext4", id="root"),
        pytest.param("/srv/data", "nfs4", id="the mount point itself"),
        pytest.param("/srv/data/x/y", "nfs4", id="below"),
        pytest.param("/srv/database", "ext4", id="a longer name is not below"),
        pytest.param("/srv/data/local/x", "xfs", id="the deepest mount counts"),
        pytest.param("/mnt/my disk\\x/y", "fuse.sshfs", id="escaped mount point"),
        pytest.param("/twice/x", "cifs", id="the last of two at one place"),
    ],
)
def test_finding_the_file_system_of_a_path(path: str, filesystem: str) -> None:
    mount = find_mount(path, parse_mountinfo(MOUNTINFO))
    assert mount is not None
    assert mount.filesystem == filesystem


def test_no_mount_at_all() -> None:
    assert find_mount("/x", [Mount(mount_point="/proc", filesystem="proc")]) is None


@pytest.mark.parametrize("filesystem", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs"])
def test_network_file_systems(filesystem: str) -> None:
    assert is_network(filesystem)


@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuse.lazyfs", "virtiofs"])
def test_local_file_systems(filesystem: str) -> None:
    assert not is_network(filesystem)


def test_a_network_file_system_is_refused_unless_allowed(
    tmp_path: Path, open_dir: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datadir, "find_mount", lambda _path, _mounts: Mount(mount_point="/m", filesystem="nfs4"))
    with pytest.raises(DataDirError) as caught:
        open_dir(tmp_path / "data")
    assert "network file system (nfs4, mounted at /m)" in caught.value.what
    assert "fsync" in caught.value.mend
    assert "allow_network_filesystem" in caught.value.mend
    assert not (tmp_path / "data").exists()
    assert open_dir(tmp_path / "data", allow_network_filesystem=True).filesystem == "nfs4"
