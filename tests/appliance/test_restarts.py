from __future__ import annotations

import pytest

from appliance.restarts import GiveUp, Restart, RestartPolicy, RestartRule, describe_exit, shell_exit_code

RULE = RestartRule(first_delay_s=0.2, max_delay_s=30.0, healthy_after_s=60.0)


def delays(policy: RestartPolicy, lives_s: list[float]) -> list[float]:
    """The pauses after lives of these lengths, one after the other."""
    now_s, found = 0.0, []
    for life_s in lives_s:
        policy.started(now_s)
        now_s += life_s
        decision = policy.died(now_s, 1)
        assert isinstance(decision, Restart)
        found.append(decision.delay_s)
        now_s += decision.delay_s
    return found


def test_the_pause_doubles_up_to_the_limit() -> None:
    assert delays(RestartPolicy(RULE), [0.0] * 10) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_a_healthy_minute_begins_the_pauses_anew() -> None:
    assert delays(RestartPolicy(RULE), [0, 0, 0, 60, 0, 59.9]) == [0.2, 0.4, 0.8, 0.2, 0.4, 0.8]


@pytest.mark.parametrize("exit_code", [2, 3, 4])
def test_what_a_person_must_mend_ends_the_first_start(exit_code: int) -> None:
    policy = RestartPolicy(RULE)
    policy.started(0)
    assert policy.died(0.1, exit_code) == GiveUp(exit_code=exit_code)


@pytest.mark.parametrize("exit_code", [0, 1, 5, -9, -11, 127])
def test_everything_else_is_tried_again(exit_code: int) -> None:
    policy = RestartPolicy(RULE)
    policy.started(0)
    assert policy.died(0.1, exit_code) == Restart(delay_s=0.2)


def test_a_crash_before_ready_does_not_count_as_a_start_that_worked() -> None:
    policy = RestartPolicy(RULE)
    policy.started(0)
    assert isinstance(policy.died(0.1, 1), Restart)
    policy.started(1)
    assert policy.died(1.1, 4) == GiveUp(exit_code=4)


def test_once_ready_even_a_taken_port_is_tried_again() -> None:
    policy = RestartPolicy(RULE)
    policy.started(0)
    policy.ready()
    assert isinstance(policy.died(1, -9), Restart)
    policy.started(2)
    assert policy.died(2.1, 4) == Restart(delay_s=0.4)


def test_a_child_that_never_says_ready_is_established_by_its_health() -> None:
    policy = RestartPolicy(RULE)
    policy.started(0)
    assert isinstance(policy.died(3600, 4), Restart)


@pytest.mark.parametrize(
    ("exit_code", "text", "shell"),
    [
        (0, "exit code 0", 0),
        (3, "exit code 3", 3),
        (-9, "SIGKILL", 137),
        (-15, "SIGTERM", 143),
        (-250, "signal 250", 378),
    ],
)
def test_exit_reasons(exit_code: int, text: str, shell: int) -> None:
    assert describe_exit(exit_code) == text
    assert shell_exit_code(exit_code) == shell
