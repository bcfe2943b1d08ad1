"""The ports that listeners really got: `<data>/run/ports.json`, such as `{"http": 8080, "mqtt": 1883}`.

Each process publishes the names of its own listeners. The file is replaced in one step, so that a reader meets the
old or the new one and never a half; a lock beside it (`ports.lock`) keeps two writers from losing each other's name.
(On a full disk it is written over in place, which needs no space.)
It describes the running appliance only: whoever publishes a name overwrites what an older boot left there, and a
listener that is switched off takes its name away. A file that is not JSON (power loss) counts as empty.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from core.errors import DataDirError

PORTS_FILE: Final = "ports.json"
_LOCK_FILE: Final = "ports.lock"


def publish_port(run_dir: Path, name: str, port: int) -> None:
    """Set `name` to the port a listener is bound to; 0 (switched off) removes the name.

    Blocks for as long as another process publishes (one small file write). Raises DataDirError when `run_dir` cannot
    be written, ValueError for a number that is no port.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is not a port")
    try:
        with _locked(run_dir):
            ports = dict(read_ports(run_dir))
            ports.pop(name, None)
            if port:
                ports[name] = port
            _replace(run_dir / PORTS_FILE, json.dumps(ports, sort_keys=True) + "\n")
    except OSError as error:
        raise DataDirError(
            f"the port of {name!r} cannot be published: {error.strerror or error}",
            where=str(error.filename or run_dir / PORTS_FILE),
            mend="free some space, and let the directory belong to the user of the appliance",
        ) from error


def read_ports(run_dir: Path) -> Mapping[str, int]:
    """The published ports by listener name; empty when nothing was published yet."""
    try:
        ports = json.loads((run_dir / PORTS_FILE).read_bytes())
    except (FileNotFoundError, ValueError):  # ValueError: not JSON or not UTF-8
        return {}
    if not isinstance(ports, dict):
        return {}
    return {name: port for name, port in ports.items() if isinstance(port, int)}


def forget_ports(run_dir: Path) -> None:
    """Empty the file of an older boot. It stays where it is: on a full disk it could not be made again."""
    try:
        _write_over(run_dir / PORTS_FILE, "{}\n")
    except FileNotFoundError:
        return
    except OSError:
        (run_dir / PORTS_FILE).unlink()


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    with (run_dir / _LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a killed process
        yield


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".json.new")
    try:
        with fresh.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # what stands in the way is told by the first error
            fresh.unlink()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not path.exists():
            raise
        _write_over(path, text)


def _write_over(path: Path, text: str) -> None:
    """The way that needs no space: a listener must be found on a full disk too. A half counts as empty."""
    with path.open("r+") as file:
        file.write(text)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
