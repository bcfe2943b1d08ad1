"""`partition.metadata`: which topic a partition directory belongs to, in the form Kafka's brokers write it.

Two lines, `version: 0` and `topic_id: <16 bytes as URL-safe base64 without padding>`. A topic that is made anew under
an old name has another id, so exports and checkpoints of the two are never mixed up.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final

from commitlog.storage import Storage, read_whole, write_atomically

METADATA_NAME: Final = "partition.metadata"


def write_metadata(storage: Storage, directory: Path, topic_id: bytes) -> None:
    """Write the file durably."""
    text = base64.urlsafe_b64encode(topic_id).rstrip(b"=").decode()
    write_atomically(storage, directory / METADATA_NAME, f"version: 0\ntopic_id: {text}\n".encode())


def read_metadata(storage: Storage, directory: Path) -> bytes | None:
    """The topic id, or None when the file is missing or damaged."""
    try:
        lines = read_whole(storage, directory / METADATA_NAME).decode().splitlines()
        fields = dict(line.split(": ", 1) for line in lines)
        topic_id = base64.urlsafe_b64decode(fields["topic_id"] + "==")
    except (FileNotFoundError, UnicodeDecodeError, ValueError, KeyError, binascii.Error):
        return None
    return topic_id if len(topic_id) == 16 and fields.get("version") == "0" else None
