"""The budget: never more than the limit in any order of events, games before calls that nobody admitted, nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.rollout.errors import BudgetError
from sparring.rollout.remote.budget import Budget, Hold

Run = Callable[[Any], Any]


async def one_call(budget: Budget, game: str, most: float, rng: Random, check: Callable[[], None]) -> None:
    """A call of up to three attempts, some of them hedged, some cancelled."""
    hold = budget.open_hold(game, most)
    try:
        for _ in range(rng.randint(1, 3)):
            await hold.secure()
            check()
            hedged = rng.random() < 0.3 and hold.try_secure()
            try:
                await asyncio.sleep(rng.random())
            finally:
                for _ in range(1 + hedged):
                    hold.settle(rng.choice((0.0, most, most * rng.random())))
                    check()
    finally:
        hold.close()
        check()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    limit=st.floats(0.001, 0.3),
    games=st.integers(1, 25),
    loose=st.integers(0, 10),
    cancel=st.booleans(),
)
def test_spent_and_reserved_never_exceed_the_limit(
    virtually: Run, seed: int, limit: float, games: int, loose: int, cancel: bool
) -> None:
    async def main() -> Budget:
        rng, budget, most = Random(seed), Budget(limit, spent=0.0005), 0.001

        def check() -> None:
            assert budget.spent + budget.reserved <= limit + 1e-12
            assert budget.reserved >= 0

        async def game(name: str) -> None:
            async with budget.admit(name, 3 * most):
                check()
                for _ in range(3):
                    await one_call(budget, name, most, rng, check)

        tasks = [asyncio.create_task(game(f"g{number}")) for number in range(games)]
        tasks += [asyncio.create_task(one_call(budget, "", most, rng, check)) for _ in range(loose)]
        if cancel:
            await asyncio.sleep(1.5)
            for task in rng.sample(tasks, len(tasks) // 2):
                task.cancel()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1000)
        assert all(isinstance(end, None | BudgetError | asyncio.CancelledError) for end in done)
        check()
        return budget

    budget = virtually(main())
    assert budget.reserved == 0


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), games=st.integers(1, 30))
def test_an_admitted_game_can_pay_each_of_its_calls_at_once(virtually: Run, seed: int, games: int) -> None:
    """Whatever others spend and whatever its own attempts cost: the first attempt of every call fits without waiting."""

    async def main() -> None:
        rng, budget, most = Random(seed), Budget(0.02), 0.001

        async def game(name: str) -> None:
            async with budget.admit(name, 4 * most):
                for _ in range(4):
                    hold = budget.open_hold(name, most)
                    assert hold.try_secure()
                    await asyncio.sleep(rng.random())
                    hold.settle(most)
                    if rng.random() < 0.5 and hold.try_secure():
                        hold.settle(most)
                    hold.close()

        ends = await asyncio.gather(*(game(f"g{number}") for number in range(games)), return_exceptions=True)
        assert all(isinstance(end, None | BudgetError) for end in ends)
        assert sum(end is None for end in ends) >= min(games, 2)

    virtually(main())


def test_admission_waits_while_a_game_may_give_back_and_raises_once_it_cannot_fit(virtually: Run) -> None:
    async def main() -> None:
        budget, loop = Budget(1.00), asyncio.get_running_loop()

        async def game(name: str, most: float, cost: float) -> float:
            async with budget.admit(name, most):
                hold = budget.open_hold(name, most)
                await hold.secure()
                started = loop.time()
                await asyncio.sleep(1)
                hold.settle(cost)
                hold.close()
            return started

        first, second = await asyncio.gather(game("a", 0.7, 0.1), game("b", 0.7, 0.5))
        assert (first, second) == (0.0, 1.0)
        with pytest.raises(BudgetError, match=r"of \$1.00 is spent: \$0.6000 are gone, and a game may cost up to \$0.7000"):
            await game("c", 0.7, 0.1)
        assert await game("d", 0.4, 0.4) == 2.0
        assert budget.spent == 1.0 and budget.reserved == 0

    virtually(main())


def test_a_waiting_game_is_told_as_soon_as_it_cannot_fit_any_more(virtually: Run) -> None:
    async def main() -> float:
        budget = Budget(1.00)
        hold = budget.open_hold("", 0.6)
        await hold.secure()

        async def admitted() -> float:
            with pytest.raises(BudgetError):
                async with budget.admit("late", 0.5):
                    pass
            return asyncio.get_running_loop().time()

        waiting = asyncio.create_task(admitted())
        await asyncio.sleep(3)
        hold.settle(0.6)
        hold.close()
        await asyncio.sleep(3)
        return await waiting

    assert virtually(main()) == 3.0


def test_calls_go_before_new_games(virtually: Run) -> None:
    async def main() -> list[str]:
        budget, order = Budget(1.00), []
        first = budget.open_hold("", 1.0)
        await first.secure()

        async def game() -> None:
            async with budget.admit("g", 0.5):
                order.append("game")

        async def call() -> None:
            hold = budget.open_hold("", 0.5)
            await hold.secure()
            order.append("call")
            hold.settle(0.0)
            hold.close()

        tasks = [asyncio.create_task(work()) for work in (game, call)]
        await asyncio.sleep(1)
        first.settle(0.0)
        first.close()
        await asyncio.gather(*tasks)
        return order

    assert virtually(main()) == ["call", "game"]


def secured(hold: Hold) -> bool:
    if hold.try_secure():
        hold.settle(hold_most)
        return True
    return False


hold_most = 0.25


def test_retries_live_on_what_calls_left_over_never_on_the_plan(virtually: Run) -> None:
    async def main() -> None:
        budget = Budget(1.00)
        async with budget.admit("g", 1.00):  # four calls of 0.25
            hold = budget.open_hold("g", hold_most)
            assert secured(hold)
            assert not hold.try_secure()  # a second attempt would eat the fourth call's plan
            hold.close()
            cheap = budget.open_hold("g", hold_most)
            assert cheap.try_secure()
            cheap.settle(0.0)
            cheap.close()
            dear = budget.open_hold("g", hold_most)
            assert secured(dear) and secured(dear) and not dear.try_secure()
            dear.close()
            assert secured(budget.open_hold("g", hold_most))
        assert budget.spent == 1.0

    virtually(main())


def test_a_call_that_outlives_its_game_gives_back_to_all(virtually: Run) -> None:
    async def main() -> None:
        budget = Budget(1.00)
        async with budget.admit("g", 0.5):
            hold = budget.open_hold("g", 0.3)
            await hold.secure()
        assert budget.reserved == pytest.approx(0.3)
        hold.settle(0.1)
        hold.close()
        assert (budget.spent, budget.reserved) == (0.1, 0.0)

    virtually(main())


def test_without_a_limit_only_what_is_spent_is_noted(virtually: Run) -> None:
    async def main() -> None:
        budget = Budget(None)
        async with budget.admit("g", 1e9):
            hold = budget.open_hold("g", 5.0)
            await hold.secure()
            assert hold.try_secure()
            hold.settle(5.0)
            hold.settle(2.5)
            hold.close()
        assert (budget.spent, budget.reserved) == (7.5, 0.0)

    virtually(main())


def test_a_budget_of_nothing_lets_free_models_play(virtually: Run) -> None:
    async def main() -> None:
        budget = Budget(0.0)
        async with budget.admit("g", 0.0):
            hold = budget.open_hold("g", 0.0)
            await hold.secure()
            hold.settle(0.0)
            hold.close()
        with pytest.raises(BudgetError):
            await budget.open_hold("", 1e-9).secure()

    virtually(main())
