from __future__ import annotations

import pytest

from core.errors import (
    BadRequestError,
    ConfigError,
    DataDirError,
    HeadraceError,
    NotFoundError,
    PortTakenError,
    UnavailableError,
)

ALL = [HeadraceError, ConfigError, DataDirError, PortTakenError, UnavailableError, NotFoundError, BadRequestError]


def test_the_parts_stand_in_the_text() -> None:
    assert str(ConfigError("bad", where="file, line 3", mend="mend it")) == "bad; where: file, line 3; mend: mend it"
    assert str(ConfigError("bad")) == "bad"


def test_codes_are_stable_names_of_one_error_each() -> None:
    assert len({error.code for error in ALL}) == len(ALL)


@pytest.mark.parametrize("error", ALL)
def test_every_error_ends_a_command_with_a_failure(error: type[HeadraceError]) -> None:
    assert error.exit_code > 0
    assert 400 <= error.http_status < 600
