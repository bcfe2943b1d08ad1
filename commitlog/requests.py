"""What `Log.append` needs around an append: sizes and checks of what is asked for, a waiter for code that awaits."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import msgspec

from commitlog.base import NewRecord, TableChange
from commitlog.producers import PRODUCERS_TABLE
from commitlog.windows import WINDOWS_TABLE
from core.errors import BadRequestError, UnavailableError

_RECORD_OVERHEAD_BYTES: Final = 64  # generous: what a record takes in a batch beyond its key, value and headers
MAX_KEY_CHARS: Final = 1024  # room for a topic id and a device id
_OWN_TABLES: Final = (WINDOWS_TABLE, PRODUCERS_TABLE)
_TABLE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_HEADER_OVERHEAD_BYTES: Final = 10  # two lengths of at most five bytes each


class FutureWaiter:
    """A waiter for code that awaits."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def committed(self, token: Any) -> None:
        """See `Waiter.committed`."""
        if not self.future.done():
            self.future.set_result(None)

    def failed(self, token: Any) -> None:
        """See `Waiter.failed`."""
        if not self.future.done():
            self.future.set_exception(UnavailableError("the log failed before this was durable"))


def record_bytes(record: NewRecord) -> int:
    """About what a record takes in a batch. Raises BadRequestError for one that a batch cannot hold."""
    parts = [record.value, record.key, *(value for _, value in record.headers)]
    try:
        names = sum(len(name.encode()) for name, _ in record.headers)
    except (AttributeError, UnicodeEncodeError) as error:
        raise BadRequestError(f"a record header's name is not text: {error}") from error
    if record.value is None or not all(part is None or isinstance(part, bytes) for part in parts):
        raise BadRequestError("a record's key, value and header values are bytes")
    lengths = _HEADER_OVERHEAD_BYTES * len(record.headers) + names + sum(len(part or b"") for part in parts)
    return _RECORD_OVERHEAD_BYTES + lengths


def change_bytes(change: TableChange) -> int:
    """What a table change takes in the journal.

    Raises BadRequestError for a value that msgpack does not carry, and for a table or key that is not a short text: a
    table's name becomes a file's name.
    """
    if not isinstance(change.table, str) or not _TABLE_NAME.match(change.table) or change.table in _OWN_TABLES:
        raise BadRequestError(
            f"{change.table!r} is not a table to be changed", mend="1 to 64 of: a to z, digits, `.`, `_`, `-`"
        )
    if not isinstance(change.key, str) or len(change.key) > MAX_KEY_CHARS:
        raise BadRequestError(f"a row's key is a text of at most {MAX_KEY_CHARS} characters, not {change.key!r:.80}")
    try:
        return _RECORD_OVERHEAD_BYTES + len(msgspec.msgpack.encode((change.table, change.key, change.value)))
    except (TypeError, ValueError) as error:
        raise BadRequestError(f"the row {change.key!r} of table {change.table!r} cannot be kept: {error}") from error


def removal_bytes(table: str, key: str) -> int:
    """What the removal of a row takes in the journal, at most."""
    return _RECORD_OVERHEAD_BYTES + 4 * (len(table) + len(key))


def resolve(future: asyncio.Future[Any], result: object) -> None:
    """Give a future its result unless it is done."""
    if not future.done():  # it may have failed with the log, or its caller may have gone
        future.set_result(result)
