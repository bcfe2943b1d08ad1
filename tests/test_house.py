"""The house is what its papers say: documents, packages, lock and make targets are held together by tests."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import config_docs
from appliance.config_keys import key_tree, public_fields
from appliance.config_sources import variable_of
from appliance.settings import Settings
from tests.conftest import free_port, require_component, wait_until, wait_until_async

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NO_SOURCES = {
    ".git",
    ".venv",
    "build",
    "node_modules",
    "results",
    "headrace.egg-info",
    "headrace-data",
    "headrace-demo",
}
NO_PACKAGES = {"benchmarks", "deploy", "docs", "tests"}


def names(requirements: list[str]) -> list[str]:
    """The names of requirements, without extras and versions."""
    return [re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in requirements]


def dependencies() -> list[str]:
    project = PROJECT["project"]
    return names(project["dependencies"]) + names(project["optional-dependencies"]["dev"])


def sources(*suffixes: str) -> Iterator[Path]:
    """Every text file of the project with one of the suffixes."""
    for directory, below, files in os.walk(ROOT):
        below[:] = [name for name in below if name not in NO_SOURCES and not name.endswith("_cache")]
        for name in files:
            if name.endswith(suffixes):
                yield Path(directory) / name


# ---- documents


def test_configuration_is_documented_as_it_is() -> None:
    assert config_docs.main(["--check"]) == 0, "run `make docs`"


def test_every_setting_is_documented() -> None:
    text = config_docs.TARGET.read_text()
    tree = key_tree(Settings)
    for path, key in tree.keys.items():
        if key.table is None:
            assert f"`{variable_of(path)}`" in text, key.name
            assert key.field.description, f"{key.name} has no description"
        else:
            assert f"## `[[{key.name}]]`" in text
            for name, field in public_fields(key.table).items():
                assert f"| `{name}` |" in text
                assert field.description, f"{key.name}.{name} has no description"


def test_outdated_configuration_docs_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config_docs, "TARGET", tmp_path / "configuration.md")
    assert config_docs.main(["--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert config_docs.main([]) == 0
    assert config_docs.main(["--check"]) == 0


def test_every_dependency_has_its_reason() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| \S", (ROOT / "docs" / "dependencies.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(dependencies())


def imported(packages: list[str]) -> set[str]:
    """The top-level names that the project's own packages import."""
    found: set[str] = set()
    for package in {name.split(".")[0] for name in packages}:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found.update(alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.split(".")[0])
    return found


def test_what_is_imported_is_declared() -> None:
    packages = PROJECT["tool"]["setuptools"]["packages"]
    ours = {package.split(".")[0] for package in packages}
    modules = {"prometheus_client": "prometheus-client", "google_crc32c": "google-crc32c"}
    brought = {"starlette": "fastapi", "anyio": "fastapi", "pydantic_core": "pydantic"}  # parts of what is declared
    declared = set(names(PROJECT["project"]["dependencies"]))
    for module in imported(packages) - ours - set(sys.stdlib_module_names):
        assert modules.get(module, brought.get(module, module)) in declared, module


# ---- packages


def test_the_packages_listed_are_those_on_disk() -> None:
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in sources("__init__.py")
        if path.relative_to(ROOT).parts[0] not in NO_PACKAGES
    }
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(on_disk)


def test_tools_know_every_package() -> None:
    top = sorted({package.split(".")[0] for package in PROJECT["tool"]["setuptools"]["packages"]})
    assert sorted(PROJECT["tool"]["mypy"]["packages"]) == top
    assert sorted(PROJECT["tool"]["importlinter"]["root_packages"]) == top
    assert [package for package in top if not (ROOT / package / "py.typed").is_file()] == []


def test_the_files_that_the_project_names_exist() -> None:
    project: dict[str, Any] = PROJECT["project"]
    for name in (project["readme"], *project["license-files"], "CHANGELOG.md", "CONTRIBUTING.md"):
        assert (ROOT / name).is_file(), name


def test_the_python_versions_agree() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info < (3, 14)" in (ROOT / "Makefile").read_text()
    listed = [line.rsplit(" ", 1)[-1] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert listed == ["3.11", "3.12", "3.13"]


# ---- lock


def pins() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+) \\$", text, flags=re.MULTILINE))


def test_every_dependency_is_pinned() -> None:
    assert set(dependencies()) <= set(pins())


def test_the_lock_names_no_place() -> None:
    text = (ROOT / "requirements.lock").read_text()
    for forbidden in ("://", "--index", "--extra-index", "--find-links", "--trusted", "@ ", "file:"):
        assert forbidden not in text, forbidden
    assert not re.search(r"(^|\s)/\w", text), "an absolute path"


def test_every_pin_has_hashes_and_holds_for_every_python() -> None:
    for entry in re.split(r"\n(?=[a-z])", (ROOT / "requirements.lock").read_text()):
        if "==" in entry.partition("\n")[0]:
            assert "--hash=sha256:" in entry, entry.partition("\n")[0]
            assert ";" not in entry.partition("\n")[0], "a pin with a condition is missing elsewhere"


# ---- make, continuous integration


def test_make_has_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    wanted = ("setup", "run", "test", "check", "lint", "types", "layers", "bench", "lock", "docs", "clean")
    assert [name for name in wanted if not re.search(rf"^{name}:", text, flags=re.MULTILINE)] == []


def make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, also where these tests were themselves started by make."""
    environ = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = [require_component("make"), *arguments]
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_check_ends_with_the_tests() -> None:
    told = make(ROOT, "--dry-run", "check").stdout.strip()
    for step in ("ruff check .", "ruff format --check .", "mypy", "lint-imports", "config_docs --check"):
        assert step in told
    assert told.splitlines()[-1].strip().endswith("-m pytest")


def test_setup_says_what_python_is_needed(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    told = make(tmp_path, "setup", "PYTHON=python2.6 none")
    assert told.returncode != 0
    assert "error: Python 3.11, 3.12 or 3.13 is needed, none of these is one: python2.6 none" in told.stderr
    assert not (tmp_path / ".venv").exists()


def test_setup_says_that_venv_is_missing(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"\n')
    bare.chmod(0o755)
    told = make(tmp_path, "setup", f"PYTHON={bare}")
    assert told.returncode != 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt-get install python{version}-venv" in told.stderr


def test_ci_runs_the_whole_check() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert text.strip().splitlines()[-1].endswith("make check")
    assert subprocess.run([require_component("bash"), "-n", script], timeout=60, check=False).returncode == 0


# ---- the repository speaks of the project alone


def test_no_path_of_a_machine_stands_in_the_sources() -> None:
    here = re.compile(rf"(?<![\w.-])(?:{re.escape(str(ROOT))}|{re.escape(str(Path.home()))}/|/Users/\w)(?![\w-])")
    for path in sources(".py", ".md", ".toml", ".yaml", ".yml", ".lock", ".c", ".html", "Makefile", "run"):
        found = here.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.relative_to(ROOT)}: {found.group() if found else ''}"


# ---- the tests' own helpers


def test_a_missing_component_skips_or_fails_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "no-such-program-anywhere"
    monkeypatch.delenv("HEADRACE_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match=name):
        require_component(name)
    monkeypatch.setenv("HEADRACE_REQUIRE", f"other, {name}")
    with pytest.raises(pytest.fail.Exception, match=name):
        require_component(name)
    assert require_component("sh").endswith("/sh")


def test_waiting_returns_what_was_awaited_or_fails() -> None:
    answers = iter([0, "", "there"])
    assert wait_until(lambda: next(answers), 5) == "there"
    with pytest.raises(pytest.fail.Exception, match=r"not within 0\.01 s: what was there"):
        wait_until(lambda: False, 0.01, lambda: "what was there")


async def test_waiting_on_the_loop_takes_functions_and_coroutines() -> None:
    answers = iter([0, 1])

    async def later() -> int:
        return next(answers)

    assert await wait_until_async(later, 5) == 1
    assert await wait_until_async(lambda: 2, 5) == 2
    with pytest.raises(pytest.fail.Exception, match="asked for"):
        await wait_until_async(lambda: None, 0.01, "asked for")


def test_a_free_port_can_be_bound() -> None:
    assert 1024 <= free_port() <= 65535
