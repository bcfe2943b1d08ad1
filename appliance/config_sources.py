"""Where settings come from: a TOML file, the environment, the command line; what is given by whom, and what is wrong.

Rules:

1. Later sources win: file, environment, `--set`. An array of tables (`[[routes]]`) is replaced as a whole.
2. An unknown key is refused wherever it stands, never ignored: the message names the nearest known one.
3. All mistakes are reported together, each with the place where it was written.
4. Text from the environment and from `--set` is read as a TOML value, or taken as text where it is none (`5ms`).
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from appliance.config_keys import Key, KeyPath, KeyTree, key_tree, table_name
from appliance.toml_lines import TomlPath, line_of
from core.errors import ConfigError

ENV_PREFIX: Final = "HEADRACE_"
FOREIGN_VARIABLES: Final = frozenset(  # names the tests use; everything else is a setting
    {
        "HEADRACE_REQUIRE",
        "HEADRACE_FUZZ_PACKETS",
        "HEADRACE_KILL_ROUNDS",
        "HEADRACE_SIM_SEED",
        "HEADRACE_SIM_SEEDS",
        "HEADRACE_SINK_SEEDS",
    }
)
MAX_CONFIG_BYTES: Final = 1 << 20  # a file of thousands of routes has a tenth of this; more is the wrong file

Locate = Callable[[TomlPath], str]
"""Says where a path was written."""

_MEND_ALL: Final = "docs/configuration.md lists every setting; `headrace config check` tries a file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in the settings, in the shape of a HeadraceError."""

    what: str
    where: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A value somebody gave, and how to say where a part of it (an item of an array of tables) stands."""

    path: KeyPath
    value: Any
    locate: Locate

    @property
    def where(self) -> str:
        """Where the value itself stands."""
        return self.locate(self.path)


@dataclass(slots=True)
class Collected:
    """What the sources gave, strongest last, and every mistake found on the way."""

    tree: KeyTree
    given: dict[KeyPath, Given] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add_table(self, table: Mapping[str, Any], locate: Locate) -> None:
        """Take the values of one nested table."""
        self._add(table, (), locate)

    def _add(self, table: Mapping[str, Any], prefix: KeyPath, locate: Locate) -> None:
        for name, value in table.items():
            path = (*prefix, name)
            if path in self.tree.sections:
                if isinstance(value, Mapping):
                    self._add(value, path, locate)
                else:
                    what = f"`{'.'.join(path)}` is a section of settings, not a value"
                    self._problem(what, locate(path), f"write [{'.'.join(path)}] and the settings below it")
            elif path in self.tree.keys:
                self._add_value(self.tree.keys[path], value, locate)
            else:
                self._unknown(path, locate(path))

    def _add_value(self, key: Key, value: Any, locate: Locate) -> None:
        if key.table is not None and not self._tables_fit(key.path, key.table, value, locate):
            return
        if isinstance(value, bool) and not key.accepts(bool):
            self._problem(f"`{key.name}` is {str(value).lower()}", locate(key.path), key.field.description or "")
            return
        self.given[key.path] = Given(path=key.path, value=value, locate=locate)

    def _tables_fit(self, at: TomlPath, table: type[BaseModel], value: Any, locate: Locate) -> bool:
        """Whether an array of tables is one and names known keys alone; so for arrays within its tables."""
        name = table_name(at)
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            self._problem(f"`{name}` is not an array of tables", locate(at), f"write [[{name}]] for each")
            return False
        known = key_tree(table)
        fit = True
        for number, item in enumerate(value):
            for each, inner in item.items():
                key = known.keys.get((each,))
                place = (*at, number, each)
                if key is None:
                    self._unknown((each,), locate(place), known, inside=f"[[{name}]]")
                    fit = False
                elif key.table is not None:
                    fit = self._tables_fit(place, key.table, inner, locate) and fit
        return fit

    def _unknown(self, path: KeyPath, where: str, tree: KeyTree | None = None, inside: str = "") -> None:
        tree = tree or self.tree
        nearest = tree.nearest(path)
        siblings = sorted({other[-1] for other in (*tree.keys, *tree.sections) if other[:-1] == path[:-1]})
        mend = f"did you mean `{nearest}`?" if nearest else f"known here: {', '.join(siblings)}" if siblings else ""
        name = ".".join(path)
        self._problem(f"unknown setting `{name}`" + (f" in {inside}" if inside else ""), where, mend or _MEND_ALL)

    def _problem(self, what: str, where: str, mend: str) -> None:
        self.problems.append(Problem(what=what, where=where, mend=mend))

    def nested(self) -> dict[str, Any]:
        """The values given, as nested tables."""
        root: dict[str, Any] = {}
        for path, given in self.given.items():
            table = root
            for name in path[:-1]:
                table = table.setdefault(name, {})
            table[path[-1]] = given.value
        return root


def read_file(path: Path, into: Collected) -> None:
    """The TOML file. Raises ConfigError when it cannot be read or is not TOML (nothing else could be said of it)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError(f"the file is larger than {MAX_CONFIG_BYTES} bytes", where=str(path))
        text = data.decode()
        table = tomllib.loads(text)
    except OSError as error:
        mend = "name an existing, readable TOML file with --config"
        raise ConfigError(f"cannot read the settings file: {error.strerror}", where=str(path), mend=mend) from error
    except UnicodeDecodeError as error:
        raise ConfigError("the file is not UTF-8 text", where=f"{path}, byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        mend = 'texts and quantities stand in quotes: commit_interval = "10ms"'
        raise ConfigError(f"not valid TOML: {error}", where=str(path), mend=mend) from error

    def locate(at: TomlPath) -> str:
        line = line_of(text, at)
        return f"{path}, line {line}" if line else str(path)

    into.add_table(table, locate)


def read_environment(environ: Mapping[str, str], into: Collected) -> None:
    """Variables `HEADRACE_SECTION__KEY`. An empty one counts as not set, as container tools hand them on."""
    variables = {variable_of(path): path for path in (*into.tree.keys, *into.tree.sections)}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or variable in FOREIGN_VARIABLES or not text:
            continue
        where = f"environment variable {variable}"
        path = variables.get(variable)
        if path is None:
            path = tuple(variable.removeprefix(ENV_PREFIX).lower().split("__"))
            nearest = into.tree.nearest(path)
            mend = f"did you mean {variable_of(tuple(nearest.split('.')))}?" if nearest else _MEND_ALL
            into.problems.append(Problem(what=f"unknown setting {variable}", where=where, mend=mend))
            continue
        into.add_table(_nest(path, value_from_text(text, into.tree.keys.get(path))), _always(where))


def read_overrides(overrides: Sequence[str], into: Collected) -> None:
    """`section.key=value` texts, as `--set` gives them."""
    for text in overrides:
        name, equals, value = text.partition("=")
        path = tuple(part.strip() for part in name.split("."))
        where = f"--set {text}"
        if not equals or not all(path):
            mend = "write --set section.key=value, such as --set log.commit_interval=5ms"
            into.problems.append(Problem(what="not of the form section.key=value", where=where, mend=mend))
            continue
        into.add_table(_nest(path, value_from_text(value.strip(), into.tree.keys.get(path))), _always(where))


def variable_of(path: KeyPath) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + "__".join(path).upper()


def value_from_text(text: str, key: Key | None) -> Any:
    """A TOML value, or the text itself where it is none or where the setting is a text (a directory named `2024`)."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = document["value"]
    if len(document) > 1 or isinstance(value, (datetime.date, datetime.time)):
        return text
    takes_text = key is not None and (key.accepts(str) or key.accepts(Path))
    return text if takes_text and not isinstance(value, str) else value


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one ConfigError that lists them all; return when there are none."""
    if not problems:
        return
    if len(problems) == 1:
        raise ConfigError(problems[0].what, where=problems[0].where, mend=problems[0].mend)
    places = dict.fromkeys(problem.where.partition(", line ")[0] for problem in problems)
    raise ConfigError(
        "\n".join([f"{len(problems)} settings cannot be used:", *_listed(problems)]),
        where="; ".join(places),
        mend=_MEND_ALL,
    )


def _listed(problems: Sequence[Problem]) -> Iterator[str]:
    for problem in problems:
        yield f"  - {problem.what} ({problem.where})" + (f": {problem.mend}" if problem.mend else "")


def _always(where: str) -> Locate:
    return lambda _at: where


def _nest(path: KeyPath, value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    nested: dict[str, Any] = value
    return nested
