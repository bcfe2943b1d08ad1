"""Which file system a path lies on, read from Linux's mount table (proc(5), /proc/[pid]/mountinfo)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_NETWORK: Final = frozenset(
    {"9p", "afs", "ceph", "cifs", "coda", "davfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs"}
    | {"smb2", "smb3", "smbfs"}
)
_NETWORK_FUSE: Final = frozenset(  # what stands behind `fuse.`
    {"afpfs", "beegfs", "ceph", "ceph-fuse", "curlftpfs", "davfs2", "gcsfuse", "glusterfs", "goofys", "juicefs"}
    | {"mfs", "moosefs", "rclone", "s3fs", "seaweedfs", "smbnetfs", "sshfs"}
)
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mounted file system: where, and of which kind (`ext4`, `nfs4`, `fuse.sshfs`)."""

    mount_point: str
    filesystem: str


def parse_mountinfo(text: str) -> Sequence[Mount]:
    """The mounts in the order of the table. Lines that do not follow the format are left out.

    proc(5): `36 35 98:0 /root /mount/point options [optional fields] - filesystem source super-options`, with
    space, tab, newline and backslash in a path written as `\\ooo`.
    """
    mounts = []
    for line in text.split("\n"):
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if separator and len(fields) >= 6 and kinds[0]:
            point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
            mounts.append(Mount(mount_point=point, filesystem=kinds[0]))
    return mounts


def find_mount(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that an absolute, resolved path lies on: the deepest, and of several at one place the last made."""
    best: Mount | None = None
    for mount in mounts:
        point = mount.mount_point.rstrip("/")
        inside = path == point or path.startswith(point + "/")
        if inside and (best is None or len(mount.mount_point) >= len(best.mount_point)):
            best = mount
    return best


def is_network(filesystem: str) -> bool:
    """Whether a kind of file system keeps its files on another machine."""
    kind, _, behind = filesystem.partition(".")
    return kind in _NETWORK or (kind == "fuse" and behind in _NETWORK_FUSE)
