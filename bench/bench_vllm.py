"""vLLM at work behind a `Generator`: games beside `LLM.generate`, beside the embedded generator, and LoRA on vLLM's CPU build.

`LLM.generate` gets the very requests of the games, all at once: same prompts, seeds, adapter and numbers of tokens, on the same
engine. It need not wait for anybody's answer, and runs no game: what it is faster by is what playing costs. On the tiny model
that is the games' own Python, which shares a core with vLLM's; on the small one, with random weights, the model is what takes
time. Every round plays other games.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from sparring.bench.engine import run_config, shaped
from sparring.bench.engine_parts import Recorder, played
from sparring.bench.plain_vllm import PlainVllm
from sparring.bench.rounds import Rounds
from sparring.bench.workload import QUICK, Workload
from sparring.engine.deal import deal
from sparring.engine.engine import POLICY, Engine
from sparring.engine.vllm.generator import VllmGenerator
from sparring.rollout.trajectory import Deal

SEEDS = 3


class Table:
    """An engine with a fresh adapter published, and games for every round."""

    def __init__(self, engine: Engine) -> None:
        assert isinstance(engine.generator, VllmGenerator)
        self.engine, self.plain = engine, PlainVllm(engine.generator)
        engine.publish(POLICY, engine.learner().adapter())

    def deals(self, number: int) -> list[Deal]:
        return deal(self.engine.config, 1000 + number)

    def record(self, number: int) -> Recorder:
        """The requests of a round's games."""
        recorder = Recorder(self.engine.generator)
        asyncio.run(played(self.engine, recorder, self.deals(number)))
        return recorder

    def turns(self, work: Callable[[int], object]) -> Callable[[], object]:
        """Each call is the next round's, over and over."""
        numbers = count()
        return lambda: work(next(numbers) % SEEDS)


@pytest.fixture(scope="module", params=["tiny", "small"])
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    quick = request.config.getoption("benchmark_disable")
    overrides = ["vllm.kv_cache_gb=0.5", *(QUICK if quick else [])]
    with shaped(run_config("demo", overrides), "tiny" if quick else request.param) as config, Engine.open(config) as opened:
        yield Table(opened)


@pytest.mark.benchmark(group="vLLM: games beside LLM.generate")
def test_games(rounds: Rounds, table: Table) -> None:
    recorded = [table.record(number) for number in range(SEEDS)]
    plain = table.turns(lambda number: table.plain.generate(recorded[number].replayed))
    games = table.turns(lambda number: asyncio.run(played(table.engine, table.engine.generator, table.deals(number))))
    rounds.time(games, rounds=SEEDS, before=table.plain.reset_prefix_cache, beside={"LLM.generate": plain})
    for recorder in recorded:
        assert table.plain.generate(recorder.replayed).token_ids == recorder.token_ids
    tokens = sum(len(ids) for recorder in recorded for ids in recorder.token_ids) / SEEDS
    rounds.rate(sampled_tokens=tokens)
    rounds.compare()


@pytest.mark.benchmark(group="vLLM: games beside the embedded generator")
@pytest.mark.parametrize("table", ["tiny"], indirect=True)
def test_embedded(rounds: Rounds, table: Table, workload: Workload) -> None:
    embedded = workload.engine(table.engine.config.concurrency)
    embedded.publish(POLICY, table.engine.learner().adapter())

    def by(engine: Engine) -> Callable[[], object]:
        return table.turns(lambda number: asyncio.run(played(engine, engine.generator, table.deals(number))))

    def before() -> None:
        table.plain.reset_prefix_cache()
        embedded.generator.release()
        embedded.generator.resume()

    rounds.time(by(table.engine), rounds=SEEDS, before=before, beside={"embedded": by(embedded)})
    rounds.compare()


@pytest.mark.benchmark(group="vLLM: LoRA on the CPU build")
@pytest.mark.parametrize("table", ["tiny"], indirect=True)
def test_lora(rounds: Rounds, table: Table) -> None:
    recorder = table.record(0)

    def own() -> None:
        with table.plain.own_lora_path():
            table.plain.generate(recorder.replayed)

    def grouped() -> None:
        table.plain.generate(recorder.replayed)

    rounds.time(grouped, rounds=SEEDS, before=table.plain.reset_prefix_cache, beside={"vLLM's own path": own})
    rounds.rate(sampled_tokens=sum(map(len, recorder.token_ids)))
    rounds.compare()
