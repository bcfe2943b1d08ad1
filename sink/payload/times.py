"""Times as exports write them: held within what is written, as days, and as they stand in file names.

How a device's own time is read stands in `wire.device_time`; its names are passed on from here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

from wire.device_time import END_US as END_US
from wire.device_time import MICROSECONDS_BELOW as MICROSECONDS_BELOW
from wire.device_time import MILLISECONDS_BELOW as MILLISECONDS_BELOW
from wire.device_time import MS_FROM as MS_FROM
from wire.device_time import MS_TO as MS_TO
from wire.device_time import SECONDS_BELOW as SECONDS_BELOW
from wire.device_time import US_PER_DAY as US_PER_DAY
from wire.device_time import US_PER_MS as US_PER_MS
from wire.device_time import US_PER_S as US_PER_S
from wire.device_time import Skew as Skew
from wire.device_time import device_time_us as device_time_us
from wire.device_time import epoch_us as epoch_us
from wire.device_time import rfc3339_us as rfc3339_us
from wire.device_time import time_us as time_us

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()


def received_us(timestamp_ms: int) -> int:
    """A record's timestamp in microseconds, held within 1970 to 2100 (Kafka clients may write any 64-bit number)."""
    if 0 <= timestamp_ms < END_US // US_PER_MS:
        return timestamp_ms * US_PER_MS
    return 0 if timestamp_ms < 0 else END_US - 1


def day_name(day: int) -> str:
    """`YYYY-MM-DD` of a day counted from 1970-01-01."""
    return date.fromordinal(_EPOCH_ORDINAL + day).isoformat()


def day_number(name: str) -> int:
    """The inverse of `day_name`."""
    return date.fromisoformat(name).toordinal() - _EPOCH_ORDINAL


def compact_utc(timestamp_ms: int) -> str:
    """A time as it stands in file names: `20261120T101500Z`."""
    held = min(max(timestamp_ms, 0), END_US // US_PER_MS)
    return (_EPOCH + timedelta(milliseconds=held)).strftime("%Y%m%dT%H%M%SZ")
