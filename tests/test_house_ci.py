"""`.ci/run` against a pretend machine: what it installs, and that the check runs in any case."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require_component

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "run"


def machine(tmp_path: Path, *, user_id: int, apt: bool = True, programs: tuple[str, ...] = ()) -> Path:
    """A checkout beside a directory of commands: nothing is installed but `programs`; what is called is logged."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for real in ("bash", "dirname", "cat"):
        (bin_dir / real).symlink_to(require_component(real))
    log = tmp_path / "log"
    pretend = {
        "id": f"echo {user_id}",
        "make": f'echo "make $* require=$HEADRACE_REQUIRE ci=$CI stdin=$(cat)" >> "{log}"',
        "python3": f'exec "{sys.executable}" "$@"',
        **({"apt-get": f'echo "apt-get $*" >> "{log}"'} if apt else {}),
        **dict.fromkeys(programs, "exit 0"),
    }
    for name, body in pretend.items():
        (bin_dir / name).write_text(f"#!{bin_dir}/bash\n{body}\n")
        (bin_dir / name).chmod(0o755)
    (tmp_path / "checkout" / ".ci").mkdir(parents=True)
    # the system's own directories would lend this machine's programs to the pretend one
    text = SCRIPT.read_text().replace(":/usr/local/sbin:/usr/sbin:/sbin", "")
    text = text.replace("/usr/include/stdio.h", str(bin_dir / "gcc"))
    (tmp_path / "checkout" / ".ci" / "run").write_text(text)
    return tmp_path


def run(tmp_path: Path) -> tuple[list[str], str]:
    """What was called, and standard error."""
    bash = shutil.which("bash", path=tmp_path / "bin")
    assert bash is not None
    command = [bash, str(tmp_path / "checkout" / ".ci" / "run")]
    environ = {"PATH": str(tmp_path / "bin")}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return (tmp_path / "log").read_text().splitlines(), ended.stderr


CHECK = "make check require=mosquitto,mosquitto_pub,chromium,node,npm ci=true stdin="


def test_root_installs_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    called, _ = run(machine(tmp_path, user_id=0, programs=("gcc", "mosquitto")))
    assert called[0] == "apt-get update -qq"
    assert called[1].startswith("apt-get install -y")
    assert called[1].endswith(" strace mosquitto-clients chromium nodejs npm")
    assert called[2:] == [CHECK]


def test_a_compiler_comes_with_its_headers(tmp_path: Path) -> None:
    called, _ = run(machine(tmp_path, user_id=0))
    assert {"gcc", "libc6-dev"} <= set(called[1].split())


def test_nothing_is_installed_where_all_is_there(tmp_path: Path) -> None:
    programs = ("gcc", "strace", "mosquitto", "mosquitto_pub", "chromium", "node", "npm")
    called, errors = run(machine(tmp_path, user_id=0, programs=programs))
    assert called == [CHECK]
    assert errors == ""


@pytest.mark.parametrize(("user_id", "apt"), [(1000, True), (0, False)], ids=["not root", "no apt"])
def test_who_cannot_install_is_told_and_checks_anyway(tmp_path: Path, user_id: int, apt: bool) -> None:
    called, errors = run(machine(tmp_path, user_id=user_id, apt=apt, programs=("gcc", "strace", "chromium")))
    assert called == [CHECK]
    assert "missing, and not installed for want of root or apt-get: mosquitto mosquitto-clients" in errors
