"""Attempts in virtual time: exact schedules of retries, hedges, deadlines; a row for each request sent, whatever came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.rollout.errors import BudgetError, CallError, RemoteError
from sparring.rollout.remote.breaker import Breaker
from sparring.rollout.remote.budget import Budget
from sparring.rollout.remote.call import Attempt, ChatReply, ChatRequest, Result, Usage
from sparring.rollout.remote.config import Price, RemoteConfig
from sparring.rollout.remote.gate import Gate
from sparring.rollout.remote.governor import MOST_CHARACTERS, Governor
from sparring.rollout.remote.headers import Limits
from sparring.rollout.remote.models import most_cost, most_usage, resolve
from sparring.rollout.remote.providers.provider import ProviderFault, ProviderReply

Run = Callable[[Any], Any]
Ask = Callable[..., ChatRequest]
Settings = Callable[..., RemoteConfig]
SERVER = ProviderFault(Result.SERVER, "test:m answered 500: oops")


class Fixed(Random):
    """Always draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Bench:
    """A governor over a scripted provider, with its budget and its rows."""

    def __init__(self, provider: Any, config: RemoteConfig, rng: Random | None = None) -> None:
        self.provider, self.rows, self.budget = provider, list[Attempt](), Budget(config.budget)
        gate = Gate(config, Breaker(config))
        self.governor = Governor(resolve("test:m", config), provider, gate, config, lambda _: self.rows.append, rng or Fixed())

    async def call(self, request: ChatRequest) -> ChatReply:
        hold = self.budget.open_hold(request.game, self.governor.most_cost(request))
        try:
            return await self.governor.call(request, request.digest, hold)
        finally:
            hold.close()

    async def fails(self, request: ChatRequest) -> str:
        with pytest.raises(CallError) as caught:
            await self.call(request)
        assert type(caught.value) is CallError
        return str(caught.value)

    @property
    def results(self) -> list[tuple[int, Result]]:
        return [(row.number, row.result) for row in self.rows]


def test_one_answer_is_one_row_at_its_price(virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply) -> None:
    bench, request = Bench(scripted((1.5, good)), settings(budget=1.0)), ask("k", game="g", seat="buyer", purpose="judge")
    assert virtually(bench.call(request)) == good
    row = Attempt(
        digest=request.digest,
        number=0,
        model="test:m",
        purpose="judge",
        game="g",
        seat="buyer",
        result=Result.OK,
        seconds=1.5,
        usage=good.usage,
        cost=25e-6,
        reply=good,
    )
    assert bench.rows == [row]
    assert (bench.budget.spent, bench.budget.reserved) == (25e-6, 0)


def test_the_schedule_of_retries(virtually: Run, scripted: Any, settings: Settings, ask: Ask) -> None:
    bench = Bench(scripted((0.0, SERVER)), settings(backoff=0.5, max_backoff=4.0, max_retries=5))
    assert virtually(bench.fails(ask())) == "test:m gave no answer in 6 attempts: test:m answered 500: oops"
    assert bench.provider.sent == [0.0, 0.5, 1.5, 3.5, 7.5, 11.5]
    assert bench.results == [(number, Result.SERVER) for number in range(6)]
    assert bench.budget.spent == 0


@given(st.integers(1, 100), st.floats(0.01, 2), st.floats(2, 100), st.integers(0, 2**32), st.none() | st.floats(0, 200))
def test_pauses_are_drawn_from_a_doubling_range(
    failures: int, backoff: float, most: float, seed: int, asked: float | None
) -> None:
    config = RemoteConfig(backoff=backoff, max_backoff=most, prices={"openai:m": Price(input=0, output=0)})
    gate = Gate(config, Breaker(config))
    governor = Governor(resolve("openai:m", config), None, gate, config, lambda _: lambda row: None, Random(seed))  # type: ignore[arg-type]
    pause = governor.pause(failures, asked)
    drawn = Random(seed).uniform(0, min(most, backoff * 2 ** (failures - 1)))
    assert pause == max(drawn, asked or 0.0)


def test_a_pause_that_is_asked_for_is_kept(virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply) -> None:
    refused = ProviderFault(Result.RATE_LIMITED, "slow down", limits=Limits(retry_after=7.0))
    bench = Bench(scripted((0.0, refused), (1.0, good)), settings())
    virtually(bench.call(ask()))
    assert bench.provider.sent == [0.0, 7.0]
    assert bench.results == [(0, Result.RATE_LIMITED), (1, Result.OK)]


def test_refusals_for_the_rate_count_against_the_deadline_alone(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask
) -> None:
    refused = ProviderFault(Result.RATE_LIMITED, "slow down", limits=Limits(retry_after=10.0))
    bench = Bench(scripted((0.0, refused)), settings(max_retries=0, deadline=95.0, max_backoff=10.0))
    said = virtually(bench.fails(ask()))
    assert said == "test:m gave no answer in 10 attempts: slow down; its deadline of 95 s leaves no time for another"
    assert bench.provider.sent == [10.0 * number for number in range(10)]


@pytest.mark.parametrize("result", [Result.TIMEOUT, Result.CUT, Result.MALFORMED])
def test_what_may_have_been_billed_counts_in_full(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply, result: Result
) -> None:
    bench, request = Bench(scripted((0.0, ProviderFault(result, "?")), (0.0, good)), settings(budget=1.0)), ask()
    virtually(bench.call(request))
    most = most_usage(request)
    worst = most_cost(Price(input=1.0, cached=0.5, output=2.0), most)
    assert (bench.rows[0].cost, bench.rows[0].estimated, bench.rows[0].usage) == (worst, True, most)
    assert bench.budget.spent == pytest.approx(worst + 25e-6)


@pytest.mark.parametrize("result", [Result.RATE_LIMITED, Result.SERVER, Result.CONNECTION])
def test_what_nobody_bills_costs_nothing(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply, result: Result
) -> None:
    bench = Bench(scripted((0.0, ProviderFault(result, "?")), (0.0, good)), settings(budget=1.0))
    virtually(bench.call(ask()))
    assert (bench.rows[0].cost, bench.rows[0].estimated, bench.budget.spent) == (0.0, False, 25e-6)


def test_an_unusable_answer_with_a_usage_costs_that(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    empty = ProviderFault(Result.MALFORMED, "empty", usage=Usage(prompt_tokens=20, completion_tokens=0))
    bench = Bench(scripted((0.0, empty), (0.0, good)), settings(budget=1.0))
    virtually(bench.call(ask()))
    assert [(row.cost, row.estimated) for row in bench.rows] == [(20e-6, False), (25e-6, False)]


def test_an_answer_that_its_limit_cannot_hold_is_none(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    """Ten million characters for a limit of ten tokens were taken, stored, and sent on, paid for, with every call after it."""
    usage = Usage(prompt_tokens=20, completion_tokens=5)
    longest, request = MOST_CHARACTERS * 10, ask()
    assert request.max_tokens == 10
    too_long = ProviderReply(reply=ChatReply(text="x" * (longest + 1)), usage=usage)
    fits = ProviderReply(reply=ChatReply(text="x" * longest), usage=usage)
    bench = Bench(scripted((0.0, too_long), (0.0, fits)), settings(budget=1.0))
    assert len(virtually(bench.call(request)).text) == longest
    assert bench.results == [(0, Result.MALFORMED), (1, Result.OK)]
    assert bench.rows[0].error == "test:m: the answer has 5,121 characters, which 10 tokens cannot hold"
    assert bench.rows[0].reply is None and bench.rows[0].cost == bench.rows[1].cost


@pytest.mark.parametrize(
    ("usage", "remark"),
    [
        (None, "no usage was reported"),
        (Usage(prompt_tokens=10**9, completion_tokens=5), "a usage of 1000000000 + 5 tokens was reported, which cannot be"),
        (Usage(prompt_tokens=20, completion_tokens=11), "a usage of 20 + 11 tokens was reported, which cannot be"),
    ],
)
def test_a_usage_that_is_missing_or_cannot_be_counts_as_the_most(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply, usage: Usage | None, remark: str
) -> None:
    bench, request = Bench(scripted((0.0, ProviderReply(reply=good, usage=usage))), settings(budget=1.0)), ask()
    reply = virtually(bench.call(request))
    (row,) = bench.rows
    assert row.estimated and row.usage == reply.usage == most_usage(request) and row.error == remark
    assert row.cost == bench.budget.spent == pytest.approx(bench.governor.most_cost(request))


@pytest.mark.parametrize("result", [Result.BAD_REQUEST])
def test_what_will_not_get_better_is_not_repeated(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, result: Result
) -> None:
    bench = Bench(scripted((0.0, ProviderFault(result, "too long"))), settings())
    assert virtually(bench.fails(ask())) == "test:m gave no answer in 1 attempt: too long"


def test_what_every_call_would_meet_ends_the_run(virtually: Run, scripted: Any, settings: Settings, ask: Ask) -> None:
    bench = Bench(scripted((0.0, ProviderFault(Result.AUTH, "wrong key", fatal=True))), settings())
    with pytest.raises(RemoteError, match="wrong key"):
        virtually(bench.call(ask()))
    assert bench.results == [(0, Result.AUTH)]


def test_an_attempt_ends_at_its_timeout_and_a_call_at_its_deadline(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask
) -> None:
    bench = Bench(scripted((1e6, SERVER)), settings(timeout=10.0, deadline=25.0, backoff=1.0))
    virtually(bench.fails(ask()))
    assert bench.provider.sent == [0.0, 11.0, 23.0]
    assert [(row.result, row.seconds) for row in bench.rows] == [
        (Result.TIMEOUT, 10.0),
        (Result.TIMEOUT, 10.0),
        (Result.TIMEOUT, 2.0),
    ]


def test_a_deadline_that_passes_in_the_queue_sends_nothing(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    async def main() -> None:
        bench = Bench(scripted((20.0, good)), settings(concurrency=1, deadline=15.0, timeout=15.0, max_retries=0))
        first, second = asyncio.create_task(bench.fails(ask("1"))), asyncio.create_task(bench.fails(ask("2")))
        assert "no answer within 15 s" in await first
        assert "0 attempts: its deadline passed while it waited for the provider's limits" in await second
        assert len(bench.rows) == len(bench.provider.sent) == 1
        assert bench.governor.gate.in_flight == bench.budget.reserved == 0

    virtually(main())


def test_cancelling_a_call_leaves_a_row_and_the_worst_cost(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    async def main() -> None:
        bench, request = Bench(scripted((20.0, good)), settings(budget=1.0)), ask()
        task = asyncio.create_task(bench.call(request))
        await asyncio.sleep(4)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (row,) = bench.rows
        assert (row.result, row.seconds, row.estimated) == (Result.CANCELLED, 4.0, True)
        assert row.cost == bench.budget.spent == pytest.approx(bench.governor.most_cost(request))
        assert bench.budget.reserved == bench.governor.gate.in_flight == 0

    virtually(main())


def test_a_straggler_is_asked_again_and_the_first_answer_counts(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    bench, request = Bench(scripted((30.0, good), (1.0, good)), settings(hedge_after=3.0, budget=1.0)), ask()
    assert virtually(bench.call(request)) == good
    assert bench.provider.sent == [0.0, 3.0] and bench.provider.cancelled == 1
    rows = {row.number: row for row in bench.rows}
    assert (rows[1].result, rows[1].hedge, rows[1].seconds, rows[1].reply) == (Result.OK, True, 1.0, good)
    assert (rows[0].result, rows[0].hedge, rows[0].seconds, rows[0].reply) == (Result.CANCELLED, False, 4.0, None)
    assert rows[0].estimated and rows[0].cost == pytest.approx(bench.governor.most_cost(request))
    assert bench.budget.spent == pytest.approx(rows[0].cost + rows[1].cost) and bench.budget.reserved == 0


def test_a_quick_answer_is_not_hedged(virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply) -> None:
    bench = Bench(scripted((2.9, good)), settings(hedge_after=3.0))
    virtually(bench.call(ask()))
    assert bench.provider.sent == [0.0]


def test_a_failed_first_attempt_leaves_the_hedge_to_answer(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    bench = Bench(scripted((5.0, SERVER), (4.0, good)), settings(hedge_after=3.0))
    assert virtually(bench.call(ask())) == good
    assert bench.results == [(0, Result.SERVER), (1, Result.OK)]


def test_two_answers_at_once_are_both_noted_and_one_is_taken(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    bench = Bench(scripted((6.0, good), (3.0, good)), settings(hedge_after=3.0))
    virtually(bench.call(ask()))
    assert len(bench.rows) == 2 and sum(row.reply is not None for row in bench.rows) == 1
    assert all(row.result in (Result.OK, Result.CANCELLED) for row in bench.rows)


@pytest.mark.parametrize("bound", [{"concurrency": 1}, {"requests_per_minute": 1}])
def test_no_hedge_where_there_is_no_room(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply, bound: dict[str, int]
) -> None:
    bench = Bench(scripted((30.0, good)), settings(hedge_after=3.0, **bound))
    virtually(bench.call(ask()))
    assert bench.provider.sent == [0.0]


def test_no_hedge_that_the_budget_does_not_cover(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    bench, request = Bench(scripted((30.0, good)), settings(hedge_after=3.0, budget=0.0002)), ask()
    assert bench.governor.most_cost(request) > 0.0001
    virtually(bench.call(request))
    assert bench.provider.sent == [0.0] and bench.budget.spent == 25e-6


def test_cancelling_a_hedged_call_ends_both(virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply) -> None:
    async def main() -> None:
        bench = Bench(scripted((30.0, good)), settings(hedge_after=3.0, budget=1.0))
        task = asyncio.create_task(bench.call(ask()))
        await asyncio.sleep(5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [row.result for row in bench.rows] == [Result.CANCELLED] * 2
        assert bench.budget.reserved == bench.governor.gate.in_flight == bench.provider.in_flight == 0

    virtually(main())


@pytest.mark.parametrize("steps", range(5))
def test_a_call_cancelled_in_its_first_steps_leaves_a_row_only_if_it_went_out(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply, steps: int
) -> None:
    async def main() -> None:
        bench = Bench(scripted((30.0, good)), settings(hedge_after=3.0, budget=1.0))
        task = asyncio.create_task(bench.call(ask()))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(bench.rows) == len(bench.provider.sent) == (steps > 0)
        assert bench.budget.reserved == bench.governor.gate.in_flight == 0

    virtually(main())


def test_the_first_attempt_that_cannot_be_paid_is_the_budgets_end(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    bench = Bench(scripted((0.0, good)), settings(budget=0.00001))
    with pytest.raises(BudgetError, match="a call may cost up to"):
        virtually(bench.call(ask()))
    assert bench.rows == []


def test_a_retry_that_cannot_be_paid_fails_the_call_alone(virtually: Run, scripted: Any, settings: Settings, ask: Ask) -> None:
    bench = Bench(scripted((0.0, ProviderFault(Result.CUT, "cut"))), settings(budget=0.00018))
    said = virtually(bench.fails(ask()))
    assert said.startswith("test:m gave no answer in 1 attempt: cut; there is no budget for another attempt: the budget of $0.00")


def test_an_open_breaker_holds_calls_back_until_their_deadline(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask
) -> None:
    down = ProviderFault(Result.CONNECTION, "test:m: connection refused")
    config = settings(breaker_failures=3, breaker_seconds=40.0, deadline=30.0, max_retries=100, backoff=1.0, max_backoff=1.0)
    bench = Bench(scripted((0.0, down)), config)
    said = virtually(bench.fails(ask()))
    assert bench.provider.sent == [0.0, 1.0, 2.0]
    assert said == (
        "test:m gave no answer in 3 attempts: test:m: connection refused; "
        "its deadline passed while it waited for a server that failed too often to pass"
    )


def test_hundreds_of_calls_with_every_kind_of_fault_add_up(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply
) -> None:
    faults = [ProviderFault(kind, kind.value) for kind in (Result.RATE_LIMITED, Result.SERVER, Result.TIMEOUT, Result.CUT)]
    rng = Random(5)
    script = [(rng.random() * 3, rng.choice(faults) if rng.random() < 0.3 else good) for _ in range(3000)]

    async def main() -> None:
        bench = Bench(scripted(*script), settings(budget=1.0, concurrency=64, hedge_after=2.5), Random(1))
        ends = await asyncio.gather(*(bench.call(ask(str(number))) for number in range(500)))
        assert ends == [good] * 500
        assert len(bench.rows) == len(bench.provider.sent) and bench.provider.most_in_flight == 64
        assert sum(row.cost for row in bench.rows) == pytest.approx(bench.budget.spent)
        assert bench.budget.reserved == 0 and sum(row.reply is not None for row in bench.rows) == 500

    virtually(main())
