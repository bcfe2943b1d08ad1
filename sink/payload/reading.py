"""How the payloads of a topic are read: its decoder, and what the decoder goes by."""

from __future__ import annotations

from dataclasses import dataclass

from sink.payload.decode import Decoder, JsonDecoder, RawDecoder
from sink.payload.schema import Schema
from sink.payload.times import Skew


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """`quick`: whether payloads may be read together (`sink.payload.uniform`), as the decoder would read each."""

    decoder: Decoder
    timestamp_field: str
    skew: Skew
    schema: Schema | None
    quick: bool

    @property
    def schema_version(self) -> str:
        """The declared schema's version; empty when there is none."""
        return "" if self.schema is None else self.schema.version


def json_reading(skew: Skew, *, timestamp_field: str = "ts", schema: Schema | None = None) -> Reading:
    """Payloads are JSON."""
    decoder = JsonDecoder(timestamp_field, skew, schema=schema)
    return Reading(decoder=decoder, timestamp_field=timestamp_field, skew=skew, schema=schema, quick=True)


def raw_reading(skew: Skew) -> Reading:
    """Payloads are bytes that nobody looks into."""
    return Reading(decoder=RawDecoder(), timestamp_field="ts", skew=skew, schema=None, quick=False)
