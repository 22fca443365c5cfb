"""The gate in virtual time: order, deadlines, cancelled waiters, and full use of a provider's limit without a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from sparring.rollout.remote.breaker import Breaker
from sparring.rollout.remote.call import ChatRequest, Result, Usage
from sparring.rollout.remote.config import RemoteConfig
from sparring.rollout.remote.gate import Gate
from sparring.rollout.remote.headers import UNTOLD, Limits, Window

Run = Callable[[Any], Any]
FAR = 1e6


def new_gate(**settings: Any) -> Gate:
    config = RemoteConfig(**settings)
    return Gate(config, Breaker(config))


class BucketServer:
    """A provider with a token bucket of a minute's size, which it tells in its headers. Counts what it let pass."""

    def __init__(self, per_minute: float, *, tells: bool = True) -> None:
        self.per_minute, self.level, self.at, self.tells = per_minute, per_minute, 0.0, tells
        self.passed = self.refused = 0

    def ask(self, now: float) -> tuple[Result, Limits]:
        self.level = min(self.per_minute, self.level + (now - self.at) * self.per_minute / 60)
        self.at = now
        passes = self.level >= 1
        self.level -= passes
        self.passed += passes
        self.refused += not passes
        told = Window(limit=self.per_minute, remaining=int(self.level)) if self.tells else Window()
        pause = None if passes else (1 - self.level) * 60 / self.per_minute
        return Result.OK if passes else Result.RATE_LIMITED, Limits(requests=told, retry_after=pause)


async def saturate(gate: Gate, server: BucketServer, seconds: float, callers: int) -> None:
    """`callers` ask one after the other, each answer taking 0.2 to 5 seconds, refusals at once."""
    loop, rng = asyncio.get_running_loop(), Random(7)
    until = loop.time() + seconds

    async def caller() -> None:
        while loop.time() < until:
            try:
                entered = await gate.enter(0, deadline=until)
            except TimeoutError:
                return
            await asyncio.sleep(0.01)
            result, limits = server.ask(loop.time())
            if result is Result.OK:
                await asyncio.sleep(min(5.0, rng.lognormvariate(-0.2, 0.8)))
            gate.leave(entered, result, limits, None)

    await asyncio.gather(*(caller() for _ in range(callers)))


@pytest.mark.parametrize("per_minute", [60, 600, 3000])
def test_nearly_all_that_the_provider_permits_goes_through(virtually: Run, per_minute: int) -> None:
    server, gate, seconds = BucketServer(per_minute), new_gate(), 180.0
    virtually(saturate(gate, server, seconds, 256))
    permitted = per_minute + seconds * per_minute / 60
    assert server.passed >= 0.95 * permitted
    assert server.refused <= 0.02 * server.passed


def test_a_limit_that_is_only_known_from_the_settings_is_used_without_refusals(virtually: Run) -> None:
    server, gate = BucketServer(300, tells=False), new_gate(requests_per_minute=300)
    virtually(saturate(gate, server, 180.0, 64))
    assert server.refused == 0
    assert server.passed >= 0.95 * 900


def test_a_limit_that_nobody_tells_is_found_by_refusals(virtually: Run) -> None:
    server, gate = BucketServer(300, tells=False), new_gate()
    virtually(saturate(gate, server, 180.0, 64))
    assert server.passed >= 0.9 * 900


def test_no_more_are_in_flight_than_permitted(virtually: Run) -> None:
    async def main() -> list[int]:
        gate, seen = new_gate(concurrency=5), []

        async def caller() -> None:
            entered = await gate.enter(1, deadline=FAR)
            seen.append(gate.in_flight)
            await asyncio.sleep(1)
            gate.leave(entered, Result.OK, UNTOLD, None)

        await asyncio.gather(*(caller() for _ in range(40)))
        assert asyncio.get_running_loop().time() == 8.0 and gate.in_flight == gate.waiting == 0
        return seen

    assert max(virtually(main())) == 5


def test_first_come_first_served_but_retries_go_before(virtually: Run) -> None:
    async def main() -> list[str]:
        gate, order = new_gate(concurrency=1), []
        first = await gate.enter(1, deadline=FAR)

        async def caller(name: str, again: bool) -> None:
            entered = await gate.enter(1, deadline=FAR, again=again)
            order.append(name)
            gate.leave(entered, Result.OK, UNTOLD, None)

        tasks = [asyncio.create_task(caller(name, name == "retry")) for name in ("a", "b", "retry", "c")]
        await asyncio.sleep(1)
        gate.leave(first, Result.OK, UNTOLD, None)
        await asyncio.gather(*tasks)
        return order

    assert virtually(main()) == ["retry", "a", "b", "c"]


def test_who_gives_up_waiting_leaves_nothing_behind(virtually: Run) -> None:
    async def main() -> None:
        gate, loop = new_gate(concurrency=1), asyncio.get_running_loop()
        first = await gate.enter(1, deadline=FAR)
        with pytest.raises(TimeoutError):
            await gate.enter(1, deadline=2.0)
        assert loop.time() == 2.0 and gate.waiting == 0
        cancelled = asyncio.create_task(gate.enter(1, deadline=FAR))
        await asyncio.sleep(1)
        cancelled.cancel()
        last = asyncio.create_task(gate.enter(1, deadline=FAR))
        await asyncio.gather(cancelled, return_exceptions=True)
        gate.leave(first, Result.OK, UNTOLD, None)
        gate.leave(await last, Result.OK, UNTOLD, None)
        assert gate.in_flight == 0

    virtually(main())


def test_a_pass_granted_to_one_who_was_just_cancelled_goes_to_the_next(virtually: Run) -> None:
    async def main() -> None:
        gate = new_gate(concurrency=1)
        first = await gate.enter(1, deadline=FAR)
        cancelled, last = (asyncio.create_task(gate.enter(1, deadline=FAR)) for _ in range(2))
        await asyncio.sleep(1)
        gate.leave(first, Result.OK, UNTOLD, None)  # grants the first of the two
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.leave(await last, Result.OK, UNTOLD, None)
        assert gate.in_flight == 0 and cancelled.cancelled()

    virtually(main())


def test_while_the_breaker_is_open_calls_wait_and_one_probes(virtually: Run) -> None:
    async def main() -> list[float]:
        gate, entered_at = new_gate(breaker_failures=2, breaker_seconds=5.0), []
        for _ in range(2):
            gate.leave(await gate.enter(1, deadline=FAR), Result.CONNECTION, UNTOLD, None)

        async def caller() -> None:
            entered = await gate.enter(1, deadline=FAR)
            entered_at.append(asyncio.get_running_loop().time())
            await asyncio.sleep(2)
            gate.leave(entered, Result.OK, UNTOLD, None)

        await asyncio.gather(*(caller() for _ in range(4)))
        return entered_at

    assert [round(at, 3) for at in virtually(main())] == [5.0, 7.0, 7.0, 7.0]


def test_an_empty_bucket_pauses_all_as_long_as_asked(virtually: Run) -> None:
    async def main() -> float:
        gate = new_gate()
        empty = Limits(tokens=Window(limit=6000, remaining=0), retry_after=9.0)
        gate.leave(await gate.enter(10, deadline=FAR), Result.RATE_LIMITED, empty, None)
        await gate.enter(10, deadline=FAR)
        return asyncio.get_running_loop().time()

    assert round(virtually(main()), 3) == 9.0


def test_one_stray_refusal_pauses_nobody_else_but_a_wall_does(virtually: Run) -> None:
    async def main() -> list[float]:
        gate, times = new_gate(), []
        for _ in range(4):
            entered = await gate.enter(1, deadline=FAR)
            times.append(asyncio.get_running_loop().time())
            gate.leave(entered, Result.RATE_LIMITED, Limits(retry_after=9.0), None)
        return times

    assert [round(at, 3) for at in virtually(main())] == [0, 0, 0, 9.0]


def test_it_learns_what_a_prompts_byte_is_in_tokens(virtually: Run, ask: Callable[..., ChatRequest]) -> None:
    async def main() -> None:
        gate = new_gate()
        for _ in range(200):
            gate.learn(1000, Usage(prompt_tokens=210, completion_tokens=1))
        assert gate.expected_tokens(ask(max_tokens=64), 1000) == pytest.approx(210 + 64, abs=1)

    virtually(main())
