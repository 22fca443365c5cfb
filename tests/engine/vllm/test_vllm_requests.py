"""Requests on vLLM: what they are refused for, how they end, and that one which is cancelled, in whatever phase, leaves nothing.

Every test ends with the fixture's check: vLLM holds no request, and every slot but those that serve a name is free.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from sparring.engine.errors import GeneratorError
from sparring.engine.vllm.generator import VllmGenerator
from sparring.rollout.errors import PlayerError
from sparring.rollout.player import Player, Reply, ScriptedPlayer, Table, find_strategy
from sparring.rollout.runner import play
from sparring.rollout.sampler import SampleRequest
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry
from sparring.scenarios.outcome import Verdict

Idle = Callable[[VllmGenerator], None]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prompt_ids": list(range(90)) * 2}, "exceed max_context 160: set max_context \\(sampling.context of a run\\) to 186"),
        ({"max_tokens": 158}, "to 161 or more"),
        ({"prompt_ids": []}, "at least 1"),
        ({"max_tokens": 0}, "at least 1"),
        ({"prompt_ids": [1, 96]}, "vocabulary of 96"),
        ({"prompt_ids": [-1]}, "vocabulary of 96"),
        ({"temperature": -0.5}, "temperature -0.5"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"temperature": 0.005}, "temperature 0.005: vLLM serves 0, and 0.01 to 2.0: set sampling.temperature"),
        ({"temperature": 1e300}, "temperature 1e[+]300: vLLM serves 0, and 0.01 to 2.0: set sampling.temperature"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 0.9}, 'top_p 0.9: .*: set sampling.top_p = 1, or generator = "torch"'),
        ({"adapter": "nobody"}, r"no adapter is published as 'nobody' \(published: policy\): publish it first, or ask for None"),
    ],
)
def test_a_request_that_cannot_be_served_says_what_to_change(
    vllm: VllmGenerator, rig: Any, options: dict[str, Any], text: str
) -> None:
    vllm.publish("policy", rig.adapter(1))
    steps = vllm.stats.steps
    request = SampleRequest(**{"prompt_ids": [1, 2, 3], "seed": 0, "max_tokens": 6, **options})
    with pytest.raises(GeneratorError, match=text):
        rig.sample_all(vllm, request)
    assert vllm.stats.steps == steps


def test_a_stop_id_ends_the_completion_and_is_part_of_it(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    (prompt,) = rig.prompts(1, 20, 20)
    ((_, free),) = rig.sample_all(vllm, rig.request(prompt, seed=5, max_tokens=12))
    assert (free.finish_reason, len(free.token_ids)) == ("length", 12)
    stop = free.token_ids[4]
    pairs = rig.sample_all(vllm, rig.request(prompt, seed=5, max_tokens=12, stop_ids=(stop, 2**20)))
    stopped = pairs[0][1]
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
    assert stopped.finish_reason == "stop"
    assert rig.error(pairs) < bound


def test_the_last_token_that_fits_may_be_sampled(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    (prompt,) = rig.prompts(1, 150, 150)
    pairs = rig.sample_all(
        vllm, rig.request(prompt, max_tokens=10), rig.request([3], max_tokens=159), rig.request([3] * 159, max_tokens=1)
    )
    assert [len(sample.token_ids) for _, sample in pairs] == [10, 159, 1]
    assert {sample.finish_reason for _, sample in pairs} == {"length"}
    assert rig.error(pairs) < 2 * bound  # errors grow with the length


def test_more_requests_than_are_computed_at_a_time_are_all_answered(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    requests = [rig.request(p, seed=i, max_tokens=1 + i % 4) for i, p in enumerate(rig.prompts(50))]
    pairs = rig.sample_all(vllm, *requests)
    assert [len(sample.token_ids) for _, sample in pairs] == [1 + i % 4 for i in range(50)]
    assert rig.error(pairs) < bound


def test_whoever_has_an_answer_finds_it_counted(vllm: VllmGenerator, rig: Any) -> None:
    """The fence reads the tokens found in the cache off these figures, right after its first canary."""

    async def main() -> None:
        for number in range(60):
            before = vllm.stats
            await vllm.sample(rig.request([1, 2, number], max_tokens=1))
            spent = vllm.stats - before
            assert (spent.requests, spent.prompt_tokens, spent.sampled_tokens) == (1, 3, 1)

    rig.run(main())


# --- cancelling ---


class Stall:
    """Holds the engine's thread between two steps."""

    def __init__(self, generator: VllmGenerator) -> None:
        self._go = threading.Event()
        generator._thread.post(self._go.wait, 60)

    def end(self) -> None:
        self._go.set()


@pytest.mark.parametrize("adapter", [None, "policy"])
@pytest.mark.parametrize(
    "phase", ["before it began", "before admission", "waiting in vLLM", "computing", "answered", "collected"]
)
def test_cancelling_in_any_phase_leaves_nothing(
    vllm: VllmGenerator, rig: Any, bound: float, idle: Idle, phase: str, adapter: str | None
) -> None:
    vllm.publish("policy", rig.adapter(1))
    request = rig.request([1, 2, 3], max_tokens=1 if phase in ("answered", "collected") else 100, adapter=adapter)
    other = rig.request([4, 5, 6], max_tokens=20)

    async def main() -> Any:
        company = asyncio.create_task(vllm.sample(other))
        stall = Stall(vllm) if phase == "before admission" else None
        crowd = [asyncio.create_task(vllm.sample(request)) for _ in range(20 if phase == "waiting in vLLM" else 0)]
        task = asyncio.create_task(vllm.sample(request))
        if phase != "before it began":
            await asyncio.sleep(0)
        if phase in ("waiting in vLLM", "computing"):
            steps = vllm.stats.steps
            await rig.until(lambda: vllm.stats.steps > steps + 2)
        if phase == "answered":  # the answer waits for the event loop, which is busy here
            (job,) = (job for job in vllm._thread._jobs.values() if job.request is request)
            while job.id in vllm._thread._jobs:
                time.sleep(0.001)  # noqa: ASYNC251
        if phase == "collected":
            await task
        for cancelled in (task, *crowd):
            cancelled.cancel()
        if stall is not None:
            assert len(vllm._thread._incoming) == 2
            stall.end()
        results = await asyncio.gather(task, *crowd, return_exceptions=True)
        assert phase == "collected" or all(isinstance(result, asyncio.CancelledError) for result in results)
        assert vllm.num_in_flight <= 1
        return await company

    assert rig.error([(other, rig.run(main()))]) < bound
    idle(vllm)


def test_a_cancelled_request_frees_its_place_at_once(vllm: VllmGenerator, rig: Any) -> None:
    """Not at the end of what it would have sampled."""

    async def main() -> None:
        tasks = [asyncio.create_task(vllm.sample(rig.request([1], seed=seed, max_tokens=150))) for seed in range(16)]
        steps = vllm.stats.steps
        await rig.until(lambda: vllm.stats.steps > steps + 2)
        waiting = asyncio.create_task(vllm.sample(rig.request([2], max_tokens=3)))
        tasks[7].cancel()
        await waiting
        assert sum(task.done() for task in tasks) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    rig.run(main())


def test_a_run_that_ends_with_requests_pending_leaves_nothing(vllm: VllmGenerator, rig: Any, bound: float, idle: Idle) -> None:
    """`asyncio.run` cancels what is left."""

    async def main() -> None:
        steps = vllm.stats.steps
        tasks = [asyncio.create_task(vllm.sample(rig.request(p, max_tokens=90))) for p in rig.prompts(30)]
        await rig.until(lambda: vllm.stats.steps > steps + 3)
        assert vllm.num_in_flight == 30
        del tasks

    rig.run(main())
    idle(vllm)
    assert rig.error(rig.sample_all(vllm, rig.request([1, 2, 3]))) < bound


def test_an_event_loop_that_was_closed_under_its_requests_is_noticed(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    """Nobody cancels them; whoever releases the cache must not wait for them."""
    loop = asyncio.new_event_loop()
    steps = vllm.stats.steps
    tasks = [loop.create_task(vllm.sample(rig.request([seed], max_tokens=150))) for seed in range(5)]
    loop.run_until_complete(rig.until(lambda: vllm.stats.steps > steps + 2))
    loop.set_exception_handler(lambda *_: None)
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    vllm.release()
    assert vllm.num_in_flight == vllm.num_held == 0
    vllm.resume()
    assert rig.error(rig.sample_all(vllm, rig.request([1, 2, 3]))) < bound
    for task in tasks:
        task.get_coro().close()  # type: ignore[union-attr]
    del tasks, task
    gc.collect()


def test_two_event_loops_at_a_time_are_both_served(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    vllm.publish("policy", rig.adapter(1))
    found: list[Any] = []

    def elsewhere() -> None:
        found.extend(rig.sample_all(vllm, *(rig.request(p, adapter="policy") for p in rig.prompts(20, seed=1))))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    found += rig.sample_all(vllm, *(rig.request(p) for p in rig.prompts(20)))
    thread.join()
    assert len(found) == 40
    assert rig.error(found) < bound


# --- games ---


class Asking(Player):
    """Samples something at every turn, and says what a script would say."""

    def __init__(self, generator: VllmGenerator, rig: Any, deal: Deal, seat: str, max_tokens: int) -> None:
        self._generator, self._rig, self._max_tokens = generator, rig, max_tokens
        strategies = registry.get(deal.scenario.family).strategies
        self._script = ScriptedPlayer(find_strategy(deal.scenario.family, next(iter(strategies))), deal.seed, seat)

    async def act(self, table: Table) -> Reply:
        prompt = [len(table.game.turns) + 1, 2, 3]
        await self._generator.sample(self._rig.request(prompt, max_tokens=self._max_tokens, adapter="policy"))
        return await self._script.act(table)


class Failing(Player):
    """Thinks until the engine has computed for the other seat, and fails."""

    def __init__(self, generator: VllmGenerator, rig: Any) -> None:
        self._generator, self._rig = generator, rig

    async def act(self, table: Table) -> Reply:
        steps = self._generator.stats.steps
        await self._rig.until(lambda: self._generator.stats.steps > steps + 2)
        raise PlayerError("the partner is gone")


def deals(count: int, family: str = "dilemma") -> list[Deal]:
    scenario = registry.get(family).generate(1)
    return [
        Deal(id=str(i), scenario=scenario, players=dict.fromkeys(scenario.seat_names, "policy"), seed=i) for i in range(count)
    ]


@pytest.mark.parametrize("how", ["the iterator is closed", "the task is cancelled"])
def test_cancelling_a_whole_run_leaves_nothing(vllm: VllmGenerator, rig: Any, idle: Idle, how: str) -> None:
    vllm.publish("policy", rig.adapter(1))

    def seat(deal: Deal, seat: str) -> Player:
        return Asking(vllm, rig, deal, seat, max_tokens=1 if int(deal.id) < 3 else 150)

    async def main() -> None:
        first = asyncio.Event()

        async def run() -> None:
            async with aclosing(play(deals(40), seat, concurrency=12)) as games:  # type: ignore[type-var]
                async for _ in games:
                    first.set()
                    if how == "the iterator is closed":
                        return

        task = asyncio.create_task(run())
        await first.wait()
        task.cancel() if how == "the task is cancelled" else await task
        await asyncio.gather(task, return_exceptions=True)
        assert vllm.num_in_flight == 0

    rig.run(main())
    idle(vllm)


def test_a_player_that_fails_voids_its_game_and_takes_the_other_seats_request_along(
    vllm: VllmGenerator, rig: Any, idle: Idle
) -> None:
    """The seats of a dilemma move at once: one request is being computed when the other seat fails."""
    vllm.publish("policy", rig.adapter(1))

    def seat(deal: Deal, seat: str) -> Player:
        fails = deal.id == "1" and seat == deal.scenario.seat_names[0]
        return Failing(vllm, rig) if fails else Asking(vllm, rig, deal, seat, max_tokens=150 if deal.id == "1" else 2)

    async def main() -> list[Game]:
        return [game async for game in play(deals(4), seat, concurrency=4)]

    games = {game.id: game for game in rig.run(main())}
    assert [games[str(i)].error is None for i in range(4)] == [True, False, True, True]
    assert "the partner is gone" in (games["1"].error or "")
    assert {outcome.verdict for outcome in games["1"].outcomes.values()} == {Verdict.VOID}
    idle(vllm)


# --- the cache between phases ---


def test_release_gives_the_cache_back_and_refuses_while_requests_are_in_flight(
    vllm: VllmGenerator, rig: Any, bound: float
) -> None:
    vllm.publish("policy", rig.adapter(1))
    requests = [rig.request(p, seed=i, adapter=(None, "policy")[i % 2]) for i, p in enumerate(rig.prompts(6, 40, 60))]
    before = rig.sample_all(vllm, *requests)
    size = vllm.cache_bytes
    assert size == pytest.approx(vllm.settings.kv_cache_bytes, rel=0.02)

    async def main() -> None:
        task = asyncio.create_task(vllm.sample(rig.request([1], max_tokens=100)))
        await asyncio.sleep(0)
        with pytest.raises(GeneratorError, match="cannot be released with 1 requests in flight: wait for them or cancel them"):
            vllm.release()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        vllm.release()  # what vLLM has not heard of yet does not stand in the way

    rig.run(main())
    vllm.release()
    assert vllm.cache_bytes == 0
    with pytest.raises(GeneratorError, match=r"call resume\(\) first"):
        rig.sample_all(vllm, requests[0])
    vllm.publish("policy", rig.adapter(2))  # between the phases, as the loop does
    vllm.verify("policy")
    vllm.resume()
    vllm.resume()
    assert vllm.cache_bytes == size
    cached = vllm.stats.cached_tokens
    after = rig.sample_all(vllm, *requests)
    assert vllm.stats.cached_tokens == cached
    assert rig.error(after) < bound
    assert after[::2] == before[::2]
    assert {sample.policy for _, sample in after[1::2]} == {rig.adapter(2).fingerprint}


def test_phases_in_turn_do_not_add_up(vllm: VllmGenerator, rig: Any) -> None:
    size = vllm.cache_bytes
    for _ in range(10):
        vllm.release()
        assert vllm.cache_bytes == 0
        vllm.resume()
    assert vllm.cache_bytes == size


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_requests_cancellations_and_publications_leaks_nothing(
    vllm: VllmGenerator, rig: Any, bound: float, seed: int
) -> None:
    rng = random.Random(seed)
    names = ["policy", "league"]
    for name in names:
        vllm.publish(name, rig.adapter(0))
    pairs: list[Any] = []

    async def game(index: int) -> None:
        prompt = [rng.randrange(96) for _ in range(rng.randint(1, 40))]
        for turn in range(rng.randint(1, 3)):
            adapter = rng.choice([None, *vllm.adapters])
            request = rig.request(prompt, seed=7 * index + turn, max_tokens=rng.randint(1, 9), adapter=adapter, stop_ids=(5, 9))
            sample = await vllm.sample(request)
            pairs.append((request, sample))
            prompt = prompt + sample.token_ids + [rng.randrange(96) for _ in range(rng.randint(0, 12))]
            if rng.random() < 0.3:
                vllm.publish(rng.choice(names), rig.adapter(rng.randrange(5)))

    async def main() -> None:
        tasks = [asyncio.create_task(game(index)) for index in range(15)]
        for _ in range(6):
            for _ in range(rng.randint(1, 30)):
                await asyncio.sleep(0.0005)
            rng.choice(tasks).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [result for result in results if isinstance(result, Exception)]

    rig.run(main())
    assert rig.error(pairs) < bound
