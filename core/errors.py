"""One small tree of errors, in one shape: what went wrong, where, and how to mend it.

The command line prints the three parts on lines of their own, HTTP answers carry them as RFC 9457 problem
details (`title`, `detail`, `mend`), log lines as fields.
"""

from __future__ import annotations

from typing import ClassVar


class HeadraceError(Exception):
    """Something a person can mend.

    `code` is a stable dotted name (used as the metric label and as the problem type), `http_status` what an
    HTTP answer carries, `exit_code` what a command ends with.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"where: {self.where}")
        if self.mend:
            parts.append(f"mend: {self.mend}")
        return "; ".join(parts)


class ConfigError(HeadraceError):
    """A setting that cannot be used."""

    code = "config"
    http_status = 422
    exit_code = 2


class DataDirError(HeadraceError):
    """The data directory cannot be used: unwritable, locked, full, on a network file system."""

    code = "data-dir"
    exit_code = 3


class PortTakenError(HeadraceError):
    """A listener's address is already in use."""

    code = "port-taken"
    exit_code = 4


class UnavailableError(HeadraceError):
    """The process or state needed for an answer is not there right now; trying again later may work."""

    code = "unavailable"
    http_status = 503
    exit_code = 5


class NotFoundError(HeadraceError):
    """The named thing does not exist."""

    code = "not-found"
    http_status = 404


class BadRequestError(HeadraceError):
    """The request itself cannot be understood or carried out."""

    code = "bad-request"
    http_status = 422


class OutdatedError(HeadraceError):
    """What was to be changed is not as the caller read it: somebody else has changed it meanwhile."""

    code = "outdated"
    http_status = 412
    exit_code = 6
