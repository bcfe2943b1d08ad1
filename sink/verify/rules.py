"""How the records of a group of units are read anew: by what its files say, each place by the file that has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sink.parquet.lake import LakeFile
from sink.payload.decode import Decoder, decoder_for
from sink.payload.schema import Schema
from sink.payload.times import Skew
from sink.verify.contents import Place, Rule
from sink.verify.places import read_places

MAX_REPLAYED: Final = 1_000_000
"""Places of a group that replays took over, some 100 MB in memory; with more its contents are not compared."""
How = tuple[str, str, tuple[int, int], str]
"""What files that are read in the same way have in common."""


class Decoders:
    """Makes each decoder once. Settings of today say nothing: files are read as they were when they were made."""

    def __init__(self) -> None:
        self._made: dict[How, Decoder | str] = {}

    def of(self, how: How) -> Decoder | str:
        """The decoder, or why this release cannot have it."""
        if how not in self._made:
            self._made[how] = _decoder(*how)
        return self._made[how]


def how_read(file: LakeFile) -> How:
    """How a file's rows were read."""
    return (file.decoder, file.timestamp_field, file.clock_skew_us, file.declared_text)


def rules_of(lake: Path, files: Sequence[LakeFile], decoders: Decoders) -> list[Rule] | str:
    """The rules for a group's files, or why they cannot be had. Raises FileTroubleError.

    A replay reads some records of an export again, in another way: which places those are stands in its files.
    """
    made: dict[How, Decoder] = {}
    for how in dict.fromkeys(map(how_read, files)):
        decoder = decoders.of(how)
        if isinstance(decoder, str):
            return decoder
        made[how] = decoder
    if len(made) == 1:
        return [Rule(decoder) for decoder in made.values()]
    usual = next((how_read(file) for file in files if not file.replays), next(iter(made)))
    taken: dict[How, set[Place]] = {how: set() for how in made if how != usual}
    for file in files:
        if how_read(file) != usual:
            for arrays in read_places(lake, file.path):
                taken[how_read(file)].update(zip(*(array.tolist() for array in arrays), strict=True))
            if sum(map(len, taken.values())) > MAX_REPLAYED:
                return f"replays took over more than {MAX_REPLAYED} places of this export"
    every = set[Place]().union(*taken.values())
    rules = [Rule(made[how], places.__contains__) for how, places in taken.items()]
    return [Rule(made[usual], lambda place: place not in every), *rules]


def _decoder(version: str, timestamp_field: str, skew_us: tuple[int, int], declared: str) -> Decoder | str:
    skew = Skew(ahead_us=skew_us[0], behind_us=skew_us[1])
    try:
        schema = Schema.from_canonical(declared) if declared else None
    except (ValueError, KeyError, TypeError) as error:
        return f"the schema in it cannot be read: {error!r}"
    return decoder_for(version, timestamp_field, skew, schema) or f"this release has no decoder {version}"
