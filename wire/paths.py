"""Paths of nested members, which name the columns of exports and the fields of a device alike.

`{"motor": {"temp": 5}}` is the field `motor.temp`. Empty objects, and what these limits leave nested, are fields as
they are.
"""

from __future__ import annotations

from typing import Final

MAX_LEVELS: Final = 8
"""Names in a path."""
MAX_PATH_CHARS: Final = 256
"""Of a path that is followed further: it stands in front of every name below it, so it bounds what a row takes."""
DEFAULT_FIELD: Final = "value"
"""The field of a payload that is no object, where its route names none."""
ROWS_FIELD: Final = "readings"
"""An object whose member of this name is an array is a reading for each of its elements."""
