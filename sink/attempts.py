"""What came of the attempts at one thing: how often it failed in a row, since when, why, and when it is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from core.clock import Clock
from core.errors import HeadraceError
from sink.base import BackOffError, RecordsFailedError

FIRST_PAUSE_S: Final = 0.5
WAIT_S: Final = 1.0  # longest sleep on the log's doorbell: bounds how long a stop takes
POLL_S: Final = 0.2  # shortest time between two looks at the windows: a busy log rings its bell all the time


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """How long the runner waits, in seconds."""

    retry_max_s: float
    first_s: float = FIRST_PAUSE_S
    wait_s: float = WAIT_S
    poll_s: float = POLL_S

    def after(self, error: Exception, failures: int) -> float:
        """The pause after the `failures`-th failure in a row."""
        if isinstance(error, RecordsFailedError):
            return self.retry_max_s
        if isinstance(error, BackOffError):
            return min(max(error.retry_after_s, self.first_s), self.retry_max_s)
        return min(self.first_s * 2.0 ** min(failures - 1, 32), self.retry_max_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """An error as people and the sink's files tell it. `event` says what failed, `code` is the metric's label."""

    event: str
    code: str
    what: str
    where: str
    mend: str
    at_ms: int


def trouble_of(error: Exception, event: str, now_ms: int) -> Trouble:
    """Any error in that shape."""
    if isinstance(error, HeadraceError):
        code, what, where, mend = error.code, error.what, error.where, error.mend
    elif isinstance(error, OSError):
        code, what, where = "storage", str(error), str(error.filename or "")
        mend = "is there space, and may it be written?"
    else:
        code, what, where = "unexpected", repr(error), ""
        mend = "the appliance's log has the traceback"
    return Trouble(event=event, code=code, what=what, where=where, mend=mend, at_ms=now_ms)


@dataclass(slots=True, kw_only=True)
class Attempts:
    """Failures in a row and the wait they cost. The last error is kept when it is over; `failures` is 0 then."""

    failures: int = 0
    failing_since_ms: int | None = None
    last_error: Trouble | None = None
    next_attempt_ms: int | None = None
    due_ms: int = 0
    """The next attempt on the monotonic clock, which decides; `next_attempt_ms` is for people."""

    def failed(self, trouble: Trouble, pause_s: float, clock: Clock) -> None:
        """Note one more failure; the next attempt is not before `pause_s` have passed."""
        self.failures += 1
        self.last_error = trouble
        self.failing_since_ms = self.failing_since_ms or trouble.at_ms
        self.due_ms = clock.monotonic_ms() + round(pause_s * 1000)
        self.next_attempt_ms = trouble.at_ms + round(pause_s * 1000)

    def succeeded(self) -> None:
        """Note that it works (again)."""
        self.failures = 0
        self.failing_since_ms = self.next_attempt_ms = None
