"""The loaders, small C programs that put load on a server: compiling one, running one, hearing what it says.

Each prints one JSON object a line, with its name under "event"; it stays connected until its standard input ends.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.measure import BenchmarkError

_SPARE_S: Final = 60.0  # beyond a loader's own time: connecting has 30 s in it


def compile_loader(source: Path, build: Path) -> Path:
    """The program of `source`, compiled when it is missing or older than its source or a header beside that."""
    program = build / source.stem
    newest_ns = max(path.stat().st_mtime_ns for path in (source, *source.parent.glob("*.h")))
    if program.exists() and program.stat().st_mtime_ns >= newest_ns:
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchmarkError("there is no C compiler to build the loader with", mend="apt-get install gcc libc6-dev")
    build.mkdir(parents=True, exist_ok=True)
    words = [compiler, "-std=c17", "-O2", "-Wall", "-Wextra", "-Wconversion", "-o", str(program), str(source)]
    built = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    if built.returncode != 0:
        raise BenchmarkError(f"the loader does not compile:\n{built.stderr}", where=source.name)
    return program


class LoaderProcess:
    """One run of a loader; its connections stay open until this context ends.

    Options that are True are given without a value, those that are False not at all. The process has a deadline, a
    minute beyond `life_s`: if the server stalls for good, it is killed and the wait for its next event fails.
    """

    def __init__(self, program: Path, options: Mapping[str, float | str], *, life_s: float) -> None:
        self._words = [str(program)]
        for name, value in options.items():
            if value is not False:
                self._words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        self._deadline_s = life_s + _SPARE_S

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1)
        self._timer = threading.Timer(self._deadline_s, self._process.kill)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()  # closes its standard input, upon which it disconnects and ends
        self._timer.cancel()

    def send_line(self) -> None:
        """What an empty line asks for is the loader's own: a mark, or the end of its interval.

        Nothing is raised when the process has ended: whoever waits for its answer hears why.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
        except BrokenPipeError:
            return

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next event, which has to be this one. Raises BenchmarkError with the loader's own words if it is not."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            raise BenchmarkError(said.strip() or f"the loader was ended after {self._deadline_s:.0f} s")
        told: dict[str, Any] = json.loads(line)
        if told.pop("event") != event:
            raise BenchmarkError(f"the loader said {line.strip()} where {event!r} was due")
        return told
