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
