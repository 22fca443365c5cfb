"""The breaker: opens after failures in a row, probes once, pauses longer each time."""

from __future__ import annotations

from sparring.rollout.remote.breaker import LOOK_AGAIN, Breaker
from sparring.rollout.remote.config import RemoteConfig

CONFIG = RemoteConfig(breaker_failures=3, breaker_seconds=4.0, breaker_max_seconds=10.0)


def opened() -> Breaker:
    breaker = Breaker(CONFIG)
    for _ in range(3):
        breaker.failed(0.0)
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(CONFIG)
    for _ in range(5):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert not breaker.is_open and breaker.wait(0.0) == 0
    assert opened().is_open


def test_one_probe_goes_out_once_the_pause_is_over() -> None:
    breaker = opened()
    assert breaker.wait(1.0) == 3.0
    assert breaker.wait(4.0) == 0
    assert breaker.enter() is True
    assert breaker.wait(4.0) == LOOK_AGAIN
    breaker.succeeded()
    assert breaker.wait(4.0) == 0 and not breaker.is_open
    assert breaker.enter() is False


def test_each_failed_probe_doubles_the_pause_up_to_a_bound() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(4):
        pauses.append(breaker.wait(now))
        now += breaker.wait(now)
        assert breaker.enter() is True
        breaker.failed(now, probe=True)
    assert pauses == [4.0, 8.0, 10.0, 10.0]


def test_requests_that_were_out_when_it_opened_change_nothing() -> None:
    breaker = opened()
    for _ in range(20):
        breaker.failed(3.0)
    assert breaker.wait(3.0) == 1.0


def test_a_probe_that_was_given_up_makes_room_for_another() -> None:
    breaker = opened()
    assert breaker.wait(4.0) == 0 and breaker.enter()
    breaker.abandoned(probe=True)
    assert breaker.wait(4.0) == 0 and breaker.enter()


def test_after_success_it_takes_as_many_failures_again() -> None:
    breaker = opened()
    breaker.succeeded()
    breaker.failed(9.0)
    breaker.failed(9.0)
    assert breaker.wait(9.0) == 0
    breaker.failed(9.0)
    assert breaker.wait(9.0) == 4.0
