"""Which records the entries of a snapshot already hold, while the log is read again from before it was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from devices.status_model import Place


class Ahead:
    """By device: up to which offset of each partition its entry was fed when it was copied.

    It holds a reference for each device until everything that any entry was fed has been passed, then nothing.
    """

    def __init__(self) -> None:
        self._fed_of: dict[bytes, Mapping[Place, int]] = {}
        self._until: dict[Place, int] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def add(self, keys: Sequence[bytes], fed: Mapping[Place, int]) -> None:
        """These devices were copied when `fed` were the next offsets."""
        for key in keys:
            self._fed_of[key] = fed
        for place, offset in fed.items():
            self._until[place] = max(offset, self._until.get(place, 0))

    def reaches(self, place: Place, offset: int) -> bool:
        """Whether any device may hold what stands at `offset`."""
        return offset < self._until.get(place, 0)

    def covers(self, key: bytes, place: Place, offset: int) -> bool:
        """Whether this device's entry holds what stands at `offset`."""
        fed = self._fed_of.get(key)
        return fed is not None and offset < fed.get(place, 0)

    def settle(self, fed: Mapping[Place, int]) -> None:
        """`fed` are the next offsets now: forget everything once all of it has been passed."""
        if all(fed.get(place, 0) >= until for place, until in self._until.items()):
            self._fed_of.clear()
            self._until.clear()
