"""Time as devices write it, a whole column at once: what `sink.payload.times` says of one value.

tests/sink/test_sink_decoding.py holds the two to each other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sink.payload.chunks import Int64s
from sink.payload.times import (
    END_US,
    MICROSECONDS_BELOW,
    MILLISECONDS_BELOW,
    SECONDS_BELOW,
    US_PER_MS,
    US_PER_S,
    rfc3339_us,
)
from sink.payload.uniform import Bools

_SIMPLE_TIME: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z$"


def device_times(kind: str, array: pa.Array, received_us: Int64s) -> tuple[Int64s, Bools]:
    """(microseconds, whether the value says a time between 1970 and 2100) of a column of times as devices write them.

    Where there is no value, the time received. The rules are those of `sink.payload.times`.
    """
    absent = nulls(array)
    if kind == "int64":
        times, good = _epoch_int(array.fill_null(0).to_numpy())
    elif kind == "double":
        times, good = _epoch_float(array.fill_null(0.0).to_numpy())
    elif kind == "string":
        times, good = _texts(array)
    else:
        times, good = np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_)
    return np.where(absent, received_us, times), good & (times < END_US) & ~absent


def _epoch_int(values: Int64s) -> tuple[Int64s, Bools]:
    good = values >= 0
    held = np.where(good, values, 0)
    seconds, millis = held < SECONDS_BELOW, held < MILLISECONDS_BELOW
    factor = np.where(seconds, US_PER_S, np.where(millis, US_PER_MS, 1))
    scaled = np.where(millis, held, 0) * factor
    return np.where(millis, scaled, np.where(held < MICROSECONDS_BELOW, held, held // 1_000)), good


def _epoch_float(values: npt.NDArray[np.float64]) -> tuple[Int64s, Bools]:
    good = (values >= 0) & (values < float(2**63))
    held = np.where(good, values, 0.0)
    micros = np.where(held < SECONDS_BELOW, np.rint(held * US_PER_S), np.rint(held * US_PER_MS))
    whole = np.where(held < MILLISECONDS_BELOW, np.minimum(micros, float(END_US)), held).astype(np.int64)
    return np.where(held < MICROSECONDS_BELOW, whole, whole // 1_000), good


def _texts(array: pa.Array) -> tuple[Int64s, Bools]:
    """Times as text: those of the usual form together, all others one by one."""
    simple = pc.match_substring_regex(array, _SIMPLE_TIME)
    if array.null_count == 0 and pc.all(simple).as_py():
        try:
            parsed = pc.cast(array, pa.timestamp("us", "UTC"))
        except pa.ArrowInvalid:  # a day that no month has, a leap second
            pass
        else:
            micros = pc.cast(parsed, pa.int64()).to_numpy()
            return micros, micros >= 0
    found = [None if text is None else rfc3339_us(text) for text in array.to_pylist()]
    good = np.array([us is not None and us >= 0 for us in found], np.bool_)
    return np.array([us or 0 for us in found], np.int64), good


def nulls(array: pa.Array) -> Bools:
    """Which values of a column are absent."""
    if not array.null_count:
        return np.zeros(len(array), np.bool_)
    absent: Bools = array.is_null().to_numpy(zero_copy_only=False)
    return absent
