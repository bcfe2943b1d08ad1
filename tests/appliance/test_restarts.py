from __future__ import annotations

import pytest

from appliance.restarts import GiveUp, Restart, RestartPolicy, RestartRule, describe_exit, shell_exit_code

RULE = RestartRule(first_delay_s=0.2, max_delay_s=30.0, healthy_after_s=10.0, watched_s=60.0)
NEVER = None


def delays(policy: RestartPolicy, lives: list[tuple[float | None, float]]) -> list[float]:
    """The pauses after lives, one after the other: seconds until ready (or never), then seconds until death."""
    now_s, found = 1000.0, []
    for until_ready_s, until_death_s in lives:
        policy.started(now_s)
        if until_ready_s is not None:
            now_s += until_ready_s
            policy.ready(now_s)
        now_s += until_death_s
        decision = policy.died(now_s, -9)
        assert isinstance(decision, Restart)
        found.append(decision.delay_s)
        now_s += decision.delay_s
    return found


def test_the_pause_doubles_up_to_the_limit() -> None:
    found = delays(RestartPolicy(RULE), [(NEVER, 0.0)] * 10)
    assert found == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_what_worked_for_a_while_is_back_at_once_however_often_it_is_killed() -> None:
    assert delays(RestartPolicy(RULE), [(1.0, 10.0)] * 50) == [0.0] * 50


def test_ready_for_less_than_that_is_a_start_that_came_to_nothing() -> None:
    assert delays(RestartPolicy(RULE), [(1.0, 9.9)] * 4) == [0.2, 0.4, 0.8, 1.6]


def test_a_long_start_is_no_health() -> None:
    assert delays(RestartPolicy(RULE), [(NEVER, 3600.0), (3600.0, 1.0), (NEVER, 59.0)]) == [0.2, 0.4, 0.8]


def test_readiness_of_a_life_before_does_not_count() -> None:
    assert delays(RestartPolicy(RULE), [(0.0, 10.0), (NEVER, 20.0), (NEVER, 20.0)]) == [0.0, 0.2, 0.4]


def test_health_begins_the_pauses_anew() -> None:
    lives = [(NEVER, 0.0), (NEVER, 0.0), (1.0, 10.0), (NEVER, 0.0), (1.0, 9.0), (NEVER, 0.0)]
    assert delays(RestartPolicy(RULE), lives) == [0.2, 0.4, 0.0, 0.2, 0.4, 0.8]


def test_a_tight_crash_loop_is_started_a_few_times_and_then_twice_a_minute() -> None:
    policy, now_s, starts = RestartPolicy(RestartRule()), 0.0, []
    while now_s < 600:
        starts.append(now_s)
        policy.started(now_s)
        policy.ready(now_s + 0.5)
        decision = policy.died(now_s + 1.0, -11)
        assert isinstance(decision, Restart)
        now_s += 1.0 + decision.delay_s
    assert len([at for at in starts if at < 60]) == 9
    assert len([at for at in starts if at >= 60]) <= 9 * 2


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
    policy.ready(0.5)
    assert isinstance(policy.died(1, -9), Restart)
    policy.started(2)
    assert policy.died(2.1, 4) == Restart(delay_s=0.4)


def test_a_child_that_never_says_ready_is_established_once_nobody_is_looking_any_more() -> None:
    policy = RestartPolicy(RULE)
    policy.started(0)
    assert policy.died(60, 4) == Restart(delay_s=0.2)


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
