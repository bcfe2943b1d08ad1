"""The device registry: what people say of devices - names, tags, places, intervals, units -, as this process sees it.

Who writes: one `RegistryStore` in the process that writes the log (registry_store.py), so that versions can be told
apart and every change is on disk before it is answered. Who reads: a `RegistryView` in each process that needs it, a
copy in memory that follows the store (registry_client.py) within seconds, and at once where the change was its own.

The registry and the status view (status.py) know nothing of each other. An entry may be there before its device ever
spoke, and stays when the log has forgotten the device.

A view answers without a pass over all entries: devices by tag come from an index, in order of their ids' bytes. An
order is sorted when it is asked for after it changed. A writing task and reading threads may use a view at the same
time.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import UnavailableError
from devices.registry_entry import RegistryRow

MAX_LOOKED_AT: Final = 20_000  # entries per page: some 20 ms; a page that found too few has a next all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """An entry as it stands: `row.revision` is its version."""

    device: bytes
    row: RegistryRow


class _Order:
    """Device ids in order of their bytes, sorted when asked for."""

    __slots__ = ("_sorted", "members")

    def __init__(self) -> None:
        self.members: set[bytes] = set()
        self._sorted: list[bytes] | None = None

    def add(self, device: bytes) -> None:
        self.members.add(device)
        self._sorted = None

    def discard(self, device: bytes) -> None:
        self.members.discard(device)
        self._sorted = None

    def ids(self) -> list[bytes]:
        if self._sorted is None:
            self._sorted = sorted(self.members)
        return self._sorted


class RegistryView:
    """All entries, and their devices by tag. Reading raises UnavailableError until it was loaded once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[bytes, RegistryRow] = {}
        self._order = _Order()
        self._tags: dict[str, _Order] = {}
        self.revision = 0
        """The registry's revision up to which everything is in the view."""
        self.loaded = False

    def apply(self, rows: Iterable[tuple[bytes, RegistryRow | None]], revision: int) -> None:
        """Take what has changed up to a revision; None: removed."""
        with self._lock:
            for device, row in rows:
                self._apply(device, row)
            self.revision = revision

    def replace(self, rows: Iterable[tuple[bytes, RegistryRow | None]], revision: int) -> None:
        """Take the whole registry in place of what is there."""
        with self._lock:
            self._rows, self._order, self._tags = {}, _Order(), {}
            for device, row in rows:
                self._apply(device, row)
            self.revision = revision
            self.loaded = True

    def _apply(self, device: bytes, row: RegistryRow | None) -> None:
        old = self._rows.get(device)
        before = frozenset(old.entry.tags) if old else frozenset()
        after = frozenset(row.entry.tags) if row else frozenset()
        for tag in before - after:
            self._tags[tag].discard(device)
            if not self._tags[tag].members:
                del self._tags[tag]
        for tag in after - before:
            self._tags.setdefault(tag, _Order()).add(device)
        if row is None:
            if self._rows.pop(device, None) is not None:
                self._order.discard(device)
            return
        self._rows[device] = row
        if old is None:
            self._order.add(device)

    @property
    def devices(self) -> int:
        """Entries there are."""
        return len(self._rows)

    def get(self, device: bytes) -> RegistryRow | None:
        """The entry of a device. Raises UnavailableError."""
        self.check()
        return self._rows.get(device)

    def known(self, device: bytes) -> RegistryRow | None:
        """The entry of a device as far as it is known: None as well while the registry is not loaded."""
        return self._rows.get(device)

    def expected_interval_ms(self, device: bytes) -> int | None:
        """Milliseconds that people expect between two readings of a device; None where nobody said so."""
        row = self._rows.get(device)
        return None if row is None else row.entry.expected_interval_ms

    def among(self, tags: Sequence[str], after: bytes) -> tuple[list[bytes], bytes | None]:
        """Devices behind `after` that have all of `tags`, in order of their ids' bytes, and where to go on.

        One call looks at `MAX_LOOKED_AT` devices of the rarest tag at most; None: there are no more. Raises
        UnavailableError.
        """
        self.check()
        with self._lock:
            orders = [self._tags.get(tag) or _Order() for tag in tags] or [self._order]
            rarest, *others = sorted(orders, key=lambda order: len(order.members))
            ids = rarest.ids()
            first = bisect_right(ids, after) if after else 0
            looked_at = ids[first : first + MAX_LOOKED_AT]
            found = [device for device in looked_at if all(device in order.members for order in others)]
            return found, looked_at[-1] if first + MAX_LOOKED_AT < len(ids) else None

    def page(
        self, *, tags: Sequence[str] = (), search: str = "", after: bytes = b"", limit: int = 100
    ) -> tuple[list[Registered], bytes | None]:
        """Entries behind `after` that have all of `tags` and contain `search` in id, name, location or a tag.

        Letters match in either case. The second value is where the next page begins (`after`), None at the end; a page
        may be shorter than `limit` and have one, since a call looks at a bounded number. Raises UnavailableError.
        """
        needle = search.casefold()
        found: list[Registered] = []
        candidates, following = self.among(tags, after)
        for device in candidates:
            row = self._rows.get(device)
            if row is None or (needle and not _matches(device, row, needle)):
                continue
            if len(found) == limit:
                return found, found[-1].device
            found.append(Registered(device=device, row=row))
        return found, following

    def tags(self) -> list[tuple[str, int]]:
        """Every tag and how many devices have it, in order. Raises UnavailableError."""
        self.check()
        with self._lock:
            return sorted((tag, len(order.members)) for tag, order in self._tags.items())

    def check(self) -> None:
        """Raise UnavailableError unless the registry was loaded once."""
        if not self.loaded:
            raise UnavailableError(
                "the device registry is not loaded yet",
                where="device registry",
                mend="it is read when the process that writes the log answers: try again",
            )


def _matches(device: bytes, row: RegistryRow, needle: str) -> bool:
    texts = (device.decode("utf-8", "replace"), row.entry.name, row.entry.location, *row.entry.tags)
    return any(needle in text.casefold() for text in texts)
