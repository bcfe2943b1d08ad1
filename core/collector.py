"""Python's garbage collector, for processes that make millions of short-lived objects and no cycles.

Records and rows are tuples and lists that go as soon as nobody holds them: reference counts free them at once. The
collector looks at them again and again nevertheless, every 700 new ones, and finds nothing: a third of the time that
an export takes. So it is made to look seldom, and never at what has been there since the start. It stays on: what
libraries leave in cycles is still found, some tens of megabytes later.
"""

from __future__ import annotations

import gc
from typing import Final

_YOUNG: Final = 200_000  # new containers between two looks: some 20 MB


def collect_seldom() -> None:
    """To be called once, when everything is imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 100)
