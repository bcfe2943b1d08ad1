"""Holding back Python's garbage collector while very many objects are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Make many objects that form no cycles without being interrupted to look for some among them.

    Each of tens of thousands of records that are kept would be visited again and again: it took four fifths of the
    time to read a slice of the log. The pause is the process's, for milliseconds; should two threads overlap, the first
    one to end ends it for both.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
