"""Runs the Eclipse Paho interoperability suites against a Headrace of their own, one process per test.

    make interop PAHO=DIR        DIR: a copy of eclipse-paho/paho.mqtt.testing, kept outside of this repository

Not part of `make test`: the suites take minutes, and sleep to wait. The appliance runs with what they expect of a
server: `test/nosubscribe` refused, a server keep-alive of 60 s, ten topic aliases. The result goes to standard output,
one line a test, and as the table of docs/mqtt_conformance.md with --markdown. Exit status 1 if a test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SUITES: Final = {"client_test": "3.1.1", "client_test5": "5.0"}
_TEST_LIMIT_S: Final = 120
_READY_LIMIT_S: Final = 30
_SETTINGS: Final = (
    "mqtt.port=auto",
    "tcp.port=0",
    "http.port=0",
    'mqtt.refuse_subscribe=["test/nosubscribe"]',
    "mqtt.max_keep_alive=60s",
    "mqtt.topic_alias_maximum=10",
)
_PREFIX: Final = {"client_test": "", "client_test5": "client_test5/"}
_RUN_ONE: Final = """
import logging, sys, unittest
suite, name, port, prefix = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
sys.path.insert(0, ".")
module = __import__(suite)
module.host, module.port = "127.0.0.1", port
module.topics = tuple(prefix + t for t in ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA"))
module.wildtopics = tuple(prefix + t for t in ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#"))
module.nosubscribe_topics = ("test/nosubscribe",)
module.topic_prefix = prefix
logging.getLogger().setLevel(logging.ERROR)
tests = unittest.defaultTestLoader.loadTestsFromName("Test." + name, module)
sys.exit(not unittest.TextTestRunner(verbosity=0).run(tests).wasSuccessful())
"""


def tests_of(suite: Path) -> Sequence[str]:
    """Names of the tests in a suite, in its order."""
    return re.findall(r"^\s+def (test\w+)\(self", suite.read_text(), re.MULTILINE)


@contextmanager
def headrace(directory: Path) -> Iterator[int]:
    """A running appliance; its MQTT port."""
    arguments = [argument for setting in _SETTINGS for argument in ("--set", setting)]
    command = [str(Path(sys.executable).with_name("headrace")), "run", "--data-dir", str(directory), *arguments]
    with (directory / "appliance.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield _port(directory, process)
    finally:
        process.terminate()
        process.wait(30)


def _port(directory: Path, process: subprocess.Popen[bytes]) -> int:
    ports = directory / "run" / "ports.json"
    deadline = time.monotonic() + _READY_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if ports.exists() and (port := json.loads(ports.read_text()).get("mqtt")):
            return int(port)
        time.sleep(0.05)
    raise SystemExit(f"the appliance did not start:\n{(directory / 'appliance.log').read_text()}")


def run_one(paho: Path, suite: str, name: str, port: int) -> tuple[bool, str]:
    """Whether a test passes, and what it printed."""
    command = [sys.executable, "-c", _RUN_ONE, suite, name, str(port), _PREFIX[suite]]
    try:
        done = subprocess.run(
            command,
            cwd=paho / "interoperability",
            capture_output=True,
            text=True,
            timeout=_TEST_LIMIT_S,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"not done after {_TEST_LIMIT_S} s"
    return done.returncode == 0, done.stderr


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paho", type=Path, help="a copy of eclipse-paho/paho.mqtt.testing")
    parser.add_argument("--only", default="", help="tests whose name contains this")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    failures = 0
    rows: list[str] = []
    with tempfile.TemporaryDirectory(prefix="headrace-interop-") as directory, headrace(Path(directory)) as port:
        for suite, version in SUITES.items():
            names = [n for n in tests_of(options.paho / "interoperability" / f"{suite}.py") if options.only in n]
            passed = 0
            for name in names:
                began_s = time.monotonic()
                ok, output = run_one(options.paho, suite, name, port)
                passed += ok
                failures += not ok
                print(f"{'ok  ' if ok else 'FAIL'} {version} {name} {time.monotonic() - began_s:.1f} s", flush=True)
                if not ok:
                    print(output, flush=True)
                rows.append(f"| {version} | `{name}` | {'passes' if ok else 'fails'} |")
            print(f"{version}: {passed} of {len(names)}", flush=True)
    if options.markdown:
        print("\n".join(("| version | test | result |", "|---|---|---|", *rows)))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
