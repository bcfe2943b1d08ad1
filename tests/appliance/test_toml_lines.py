from __future__ import annotations

import pytest

from appliance.toml_lines import TomlPath, line_of

TEXT = """\
data_dir = "x"       # 1
"quoted" = 1
a . b = 3
[log]
partitions = 8       # 5

[[routes]]
filter = "a"         # 8
[[routes]]
  filter = "b"       # 10
  topic= "t"
[ mqtt ]
port=1               # 13
[topics]
inline = [
  {name = "z"},
]
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("data_dir",), 1),
        (("quoted",), 2),
        (("a", "b"), 3),
        (("a",), 3),
        (("log",), 4),
        (("log", "partitions"), 5),
        (("log", "missing"), 4),
        (("routes",), 7),
        (("routes", 0, "filter"), 8),
        (("routes", 1, "filter"), 10),
        (("routes", 1, "topic"), 11),
        (("routes", 1, "missing"), 9),
        (("mqtt", "port"), 13),
        (("topics", "inline", 0, "name"), 15),
        (("nowhere",), None),
        (("routes", 2, "filter"), None),
    ],
)
def test_line_of(path: TomlPath, line: int | None) -> None:
    assert line_of(TEXT, path) == line


def test_line_of_in_nothing() -> None:
    assert line_of("", ("a",)) is None


NESTED = """\
[[topics]]
name = "a"
[[topics.fields]]
name = "x"
[[topics.fields]]    # 5
name = "y"
[[topics]]
name = "b"
[[topics.fields]]
name = "z"           # 10
[topics.more]
key = 1
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("topics", 0, "fields"), 3),
        (("topics", 0, "fields", 1), 5),
        (("topics", 0, "fields", 1, "name"), 6),
        (("topics", 1, "fields", 0, "name"), 10),
        (("topics", 1, "fields", 0, "missing"), 9),
        (("topics", 1, "more", "key"), 12),
    ],
)
def test_arrays_of_tables_within_arrays_of_tables(path: TomlPath, line: int) -> None:
    assert line_of(NESTED, path) == line
