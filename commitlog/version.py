"""The version of what stands on disk, and whether this directory is where it was written.

`<data>/log/meta.properties` is read before anything else is, and says:

    version=1                     the format of everything below `<data>/log`
    journal.inode=1234            the journal's number on its file system
    journal.id=0123456789abcdef   the id of the journal's entries since the last start, 16 hex digits
    leader.epoch=3                of the run since that start, as in the checkpoint
    unsynced.records=0            as in the checkpoint: how many records a power cut may take since that start

The rule: the version goes up only when an older program would misread or destroy what a newer one wrote. A program
refuses a higher version than its own before it touches anything; a lower one it reads, and raises to its own at its
first start, after which the older program refuses. Additions that an older program may ignore keep the version. A
directory without the file is of version 1.

The last three are what nothing else could tell of a checkpoint that is lost or damaged (see `salvage`). They are
written at a start, and when a durability below `fsync` comes into use, so they cost nothing while the log runs; and
they stand in another file than the checkpoint, written at another time: what damages one hardly damages the other.

A journal with another inode than noted means that the directory was copied: moved to another disk, or restored from a
backup. What was acknowledged after the copy was made is then unknown, and its offsets may have been read: see
`restored`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from commitlog.storage import Storage, read_whole, write_atomically
from core.errors import DataDirError

FORMAT_VERSION: Final = 1
META_NAME: Final = "meta.properties"
VERSION_KEY: Final = "version"
INODE_KEY: Final = "journal.inode"
JOURNAL_ID_KEY: Final = "journal.id"
LEADER_EPOCH_KEY: Final = "leader.epoch"
UNSYNCED_KEY: Final = "unsynced.records"
_MAX_BYTES: Final = 4096  # of a file of five lines
_ID_DIGITS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalNote:
    """What the file says of the last run; None where it does not, or it is damaged; no epoch is epoch 0."""

    journal_id: int | None
    leader_epoch: int
    unsynced_records: int | None


def check_version(storage: Storage, log_dir: Path) -> None:
    """Raise DataDirError for a log that a newer version wrote; it has touched nothing then."""
    found = _number(read_meta(storage, log_dir).get(VERSION_KEY, "1"))
    if found > FORMAT_VERSION:
        raise DataDirError(
            f"the log has format version {found}, and this program knows versions up to {FORMAT_VERSION}",
            where=str(log_dir / META_NAME),
            mend="start the newer version of Headrace that wrote it, or choose another --data-dir",
        )


def read_meta(storage: Storage, log_dir: Path) -> Mapping[str, str]:
    """The properties; empty when there are none, lines that are no property are left out."""
    try:
        text = read_whole(storage, log_dir / META_NAME)[:_MAX_BYTES].decode(errors="replace")
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


def write_meta(storage: Storage, log_dir: Path, *, journal_inode: int, journal_id: int, leader_epoch: int) -> None:
    """Say what this program writes, and where; nothing is written when that stands there already. Raises OSError."""
    _write(
        storage,
        log_dir,
        {
            VERSION_KEY: str(FORMAT_VERSION),
            INODE_KEY: str(journal_inode),
            JOURNAL_ID_KEY: f"{journal_id:0{_ID_DIGITS}x}",
            LEADER_EPOCH_KEY: str(leader_epoch),
            UNSYNCED_KEY: "0",
        },
    )


def note_unsynced(storage: Storage, log_dir: Path, unsynced_records: int) -> None:
    """Say how many records a power cut may take from now on. Raises OSError."""
    _write(storage, log_dir, {**read_meta(storage, log_dir), UNSYNCED_KEY: str(unsynced_records)})


def read_journal_note(storage: Storage, log_dir: Path) -> JournalNote:
    """What is known of the journal without a checkpoint."""
    found = read_meta(storage, log_dir)
    journal_id, unsynced = found.get(JOURNAL_ID_KEY, ""), found.get(UNSYNCED_KEY, "")
    is_id = len(journal_id) == _ID_DIGITS and all(digit in "0123456789abcdef" for digit in journal_id)
    return JournalNote(
        journal_id=int(journal_id, 16) if is_id else None,
        leader_epoch=_number(found.get(LEADER_EPOCH_KEY, "0")),
        unsynced_records=_number(unsynced) if unsynced.isascii() and unsynced.isdigit() else None,
    )


def _write(storage: Storage, log_dir: Path, properties: Mapping[str, str]) -> None:
    if read_meta(storage, log_dir) != properties:
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        write_atomically(storage, log_dir / META_NAME, text.encode())


def is_copy(storage: Storage, log_dir: Path, journal: Path) -> bool:
    """Whether the log was written in another place than where it stands."""
    noted, inode = _number(read_meta(storage, log_dir).get(INODE_KEY, "0")), storage.inode(journal)
    return 0 not in (noted, inode) and noted != inode


def _number(text: str) -> int:
    """A damaged number says nothing: 0."""
    return int(text) if text.isascii() and text.isdigit() else 0
