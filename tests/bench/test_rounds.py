"""`Rounds` with a clock that the test sets: every side once a round, medians of ratios, the warm-up left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from sparring.bench.rounds import Figures, Rounds


class FakeBenchmark:
    """What `Rounds` uses of pytest-benchmark's fixture."""

    def __init__(self, *, disabled: bool = False) -> None:
        self.disabled, self.group, self.extra_info = disabled, "group", dict[str, Any]()

    def pedantic(self, target: Callable[[], object], *, setup: Callable[[], None], rounds: int, warmup_rounds: int) -> object:
        for _ in range(1 if self.disabled else rounds + warmup_rounds):
            setup()
            result = target()
        return result


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, *seconds: float) -> Callable[[], str]:
        left = iter(seconds)

        def work() -> str:
            self.now += next(left)
            return "done"

        return work


def make(*, disabled: bool = False) -> tuple[Rounds, Clock, FakeBenchmark, list[Figures]]:
    benchmark, clock, table = FakeBenchmark(disabled=disabled), Clock(), list[Figures]()
    return Rounds(cast(BenchmarkFixture, benchmark), clock, "name", table), clock, benchmark, table


def test_ratios_are_taken_within_rounds() -> None:
    """A machine twice as slow for one round slows both sides, and the ratio stays."""
    rounds, clock, benchmark, table = make()
    before: list[float] = []
    other = clock.takes(50.0, 3.0, 6.0, 3.0)
    work = clock.takes(90.0, 1.0, 2.0, 1.0)
    assert rounds.time(work, rounds=3, before=lambda: before.append(clock.now), beside={"other": other}) == "done"
    rounds.rate(games=10)
    rounds.compare()
    assert (rounds.seconds, rounds.seconds_beside("other")) == (1.0, 3.0)
    assert len(before) == 8
    assert table == [Figures("group", "name", 1.0, ["10 games/s", "other 3.00 times as long"])]
    assert benchmark.extra_info == {"games_per_second": 10.0, "times other": 3.0}


def test_a_quick_pass_runs_each_side_once() -> None:
    rounds, clock, _, table = make(disabled=True)
    rounds.time(clock.takes(2.0), rounds=5, beside={"other": clock.takes(1.0)})
    rounds.compare()
    assert rounds.quick
    assert (rounds.size(100, 1), make()[0].size(100, 1)) == (1, 100)
    assert table[0].notes == ["other 0.50 times as long"]


def test_an_unknown_side_is_an_error() -> None:
    rounds, clock, _, _ = make()
    rounds.time(clock.takes(1.0, 1.0), rounds=1)
    with pytest.raises(KeyError):
        rounds.seconds_beside("other")
