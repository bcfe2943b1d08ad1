"""The data directory: who may use it, and whether it can keep what is promised.

`open_data_dir` makes it, locks it against a second appliance, and refuses what cannot be trusted: a directory that
cannot be written, a network file system, a disk without room for the journal. The lock is an flock on `<data>/lock`.
Its descriptor also goes to the processes that write the log and the lake: should the supervisor be killed, the
directory stays locked until they are gone too, so that there is never a second writer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.mounts import find_mount, is_network, parse_mountinfo
from core.errors import DataDirError

LOCK_FILE: Final = "lock"
PIDS_FILE: Final = "pids.json"
SETTINGS_FILE: Final = "settings.json"
FREE_MARGIN_BYTES: Final = 32 << 20  # first segments, state tables and the lake's first files beside the journal
ORPHAN_PATIENCE_S: Final = 15.0  # an edge or sink whose supervisor was killed needs seconds to put things in order
_LOCK_POLL_S: Final = 0.05
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDir:
    """A data directory held by this process. Close it to let another appliance have it."""

    path: Path
    lock_fd: int
    filesystem: str

    @property
    def run(self) -> Path:
        """`<data>/run`: sockets, ports, pids and settings of the running appliance (mode 0700)."""
        return self.path / "run"

    def write_settings(self, text: str) -> Path:
        """Put the settings where the child processes read them (mode 0600); returns the path. Raises DataDirError."""
        return self._replace(SETTINGS_FILE, text)

    def write_pids(self, pids: Mapping[str, int]) -> None:
        """Replace `<data>/run/pids.json`, such as `{"edge": 4711, "supervisor": 4700}`. Raises DataDirError."""
        self._replace(PIDS_FILE, json.dumps(dict(pids), sort_keys=True) + "\n")

    def close(self) -> None:
        """Let go of the lock (edge and sink may still hold it)."""
        os.close(self.lock_fd)

    def _replace(self, name: str, text: str) -> Path:
        path = self.run / name
        fresh = path.with_name(name + ".new")
        try:
            try:
                _write_private(fresh, text.encode())
                fresh.replace(path)
            except OSError as error:
                if error.errno not in _FULL or not path.exists():
                    raise
                _write_in_place(path, text.encode())
        except OSError as error:
            raise _unusable(error, path) from error
        return path


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_in_place(path: Path, data: bytes) -> None:
    """The way that needs no free space: the appliance must start, and say what is wrong, on a full disk too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_all(descriptor, data)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def open_data_dir(
    path: Path,
    *,
    journal_size_bytes: int,
    spare_bytes: int = 0,
    allow_network_filesystem: bool = False,
    patience_s: float = ORPHAN_PATIENCE_S,
) -> DataDir:
    """Make, check and lock the data directory. Blocks for `patience_s` only while a left-over edge or sink still ends.

    Raises DataDirError, with the mend, for whatever makes the directory unusable.
    """
    path = path.resolve()
    filesystem = _checked_filesystem(path, allow_network=allow_network_filesystem)
    _make_writable(path)
    lock_fd = _lock(path, patience_s)
    try:
        _check_room(path, journal_size_bytes, spare_bytes)
    except DataDirError:
        os.close(lock_fd)
        raise
    return DataDir(path=path, lock_fd=lock_fd, filesystem=filesystem)


def _checked_filesystem(path: Path, *, allow_network: bool) -> str:
    """The file system's name as the kernel gives it; `unknown` where there is no mount table to read (macOS)."""
    try:
        mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        return "unknown"
    mount = find_mount(str(path), mounts)
    if mount is None:
        return "unknown"
    if is_network(mount.filesystem) and not allow_network:
        raise DataDirError(
            f"the data directory lies on a network file system ({mount.filesystem}, mounted at {mount.mount_point})",
            where=str(path),
            mend="choose a local disk with --data-dir: over the network neither fsync nor file locks can be trusted, "
            "and an acknowledged reading could be lost (--set allow_network_filesystem=true takes that risk)",
        )
    return mount.filesystem


def _make_writable(path: Path) -> None:
    """Make `<data>` and `<data>/run`, and try a file: permissions, ACLs, quotas and read-only mounts all show there."""
    run = path / "run"
    probe = run / f".probe-{os.getpid()}"
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        run.mkdir(mode=0o700, exist_ok=True)
        run.chmod(0o700)
        probe.touch(exist_ok=True)
        probe.unlink()
    except OSError as error:
        if error.errno not in _FULL:  # a full disk is no reason not to start: see _check_room
            raise _unusable(error, path) from error


def _unusable(error: OSError, path: Path) -> DataDirError:
    user = _user_name()
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        mend = "something that is not a directory stands there or above it: choose another --data-dir"
    elif error.errno == errno.EROFS:
        mend = "mount the file system writable, or choose another --data-dir"
    elif error.errno in _FULL:
        mend = "free some space, or choose another --data-dir"
    else:
        mend = f"give user {user} the right to write there, or choose another --data-dir"
    return DataDirError(f"user {user} cannot write the data directory ({error.strerror})", where=str(path), mend=mend)


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user needs no entry
        return f"number {os.geteuid()}"


def _lock(path: Path, patience_s: float) -> int:
    """The exclusive lock's descriptor; waits only while its holders are children that lost their supervisor."""
    lock_path = path / LOCK_FILE
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(error, lock_path) from error
    deadline = time.monotonic() + patience_s
    while not _try_lock(descriptor, lock_path):
        supervisor = _first_number(descriptor)
        if _alive(supervisor) or time.monotonic() >= deadline:
            os.close(descriptor)
            raise _held(path, supervisor)
        time.sleep(_LOCK_POLL_S)
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its note
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _try_lock(descriptor: int, lock_path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        os.close(descriptor)
        raise DataDirError(
            f"the data directory cannot be locked ({error.strerror})",
            where=str(lock_path),
            mend="choose a --data-dir on a file system with file locks (ext4, xfs, btrfs)",
        ) from error
    return True


def _held(path: Path, supervisor: int) -> DataDirError:
    holder = next((pid for pid in (supervisor, *_writers(path)) if _alive(pid)), 0)
    who = f"process {holder}" if _alive(holder) else "another process"
    stop = f"stop it first (kill {holder})" if _alive(holder) else "stop it first"
    return DataDirError(
        f"the data directory is in use by {who}",
        where=str(path),
        mend=f"{stop}, or give this appliance another --data-dir",
    )


def _first_number(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _writers(path: Path) -> Iterator[int]:
    """The ids of the last appliance's edge and sink, as far as pids.json has them."""
    try:
        pids: Any = json.loads((path / "run" / PIDS_FILE).read_bytes())
    except (OSError, ValueError):
        return
    for name in ("edge", "sink"):
        pid = pids.get(name) if isinstance(pids, dict) else None
        if isinstance(pid, int):
            yield pid


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, under another user
    return True


def _check_room(path: Path, journal_size_bytes: int, spare_bytes: int) -> None:
    """Refuse a disk without room for the journal and what has to stay free beside it.

    Once the journal stands, a full disk is a state, not a refusal.
    """
    if (path / "log" / "journal").exists():
        return
    stat = os.statvfs(path)
    have = stat.f_bavail * stat.f_frsize
    need = journal_size_bytes + max(spare_bytes, FREE_MARGIN_BYTES)
    if have < need:
        raise DataDirError(
            f"disk full: {_mebibytes(need)} are needed for the journal and a margin, {_mebibytes(have)} are free",
            where=str(path),
            mend="free some space, choose another --data-dir, or make do with less (--set log.journal_size=8MB "
            "--set log.pending_bytes=2MB --set log.checkpoint_bytes=2MB --set log.full_mark=32MB)",
        )


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.0f} MB"
