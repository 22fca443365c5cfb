"""The embedded generator at work: games of a training step of the demo, the model on one seat and scripts on the others.

`play` gives tokens/s and games/s by games in play and threads. `reuse` says what the prefix cache is worth: the same games with
every prompt computed anew (`no reuse`), and with each game's own earlier turns alone reused (`own turns only`), in the same
rounds; the cache is empty at the start of each. Two threads pay only where two cores are free; with `process_time` as the timer
their times add up. Games depend on the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sparring.bench.rounds import Rounds
from sparring.bench.workload import Workload
from sparring.engine.embedded.kv_cache import KVCache
from sparring.engine.engine import Engine
from sparring.engine.generator import GeneratorStats
from sparring.rollout.trajectory import Game


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    former = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(former)


@pytest.mark.benchmark(group="sampler: games in play, threads")
@pytest.mark.parametrize(("concurrency", "threads"), [(16, 1), (128, 1), (16, 2), (128, 2)], indirect=["threads"])
def test_play(rounds: Rounds, workload: Workload, concurrency: int, threads: int) -> None:
    engine, deals = workload.engine(concurrency), workload.deals
    spent: list[GeneratorStats] = []

    def work() -> list[Game]:
        before = engine.generator.stats
        games = workload.play(engine, deals)
        spent.append(engine.generator.stats - before)
        return games

    games = rounds.time(work, rounds=5, before=lambda: clear(engine))
    rounds.rate(games=len(games), sampled_tokens=spent[-1].sampled_tokens, prompt_tokens=spent[-1].prompt_tokens)
    rounds.note(f"{spent[-1].steps} forward passes")


@pytest.mark.benchmark(group="sampler: prefix reuse")
def test_reuse(rounds: Rounds, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, deals = workload.engine(128), workload.deals
    computed: dict[str, int] = {}

    def shares_nothing(cache: KVCache, prompt: NDArray[np.int64], version: int) -> NDArray[np.int64]:
        return np.zeros(cache.num_slots, np.int64)

    def has_no_slot(cache: KVCache, session: str | None) -> None:
        return None

    def variant(name: str, **without: Callable[..., object]) -> Callable[[], list[Game]]:
        def work() -> list[Game]:
            with monkeypatch.context() as patch:
                for method, replacement in without.items():
                    patch.setattr(KVCache, method, replacement)
                before = engine.generator.stats
                games = workload.play(engine, deals)
                computed[name] = (engine.generator.stats - before).prompt_tokens
                return games

        return work

    none = variant("no reuse", _common_prefix=shares_nothing, _own_slot=has_no_slot)
    own = variant("own turns only", _common_prefix=shares_nothing)
    beside = {"no reuse": none, "own turns only": own}
    rounds.time(variant("all"), rounds=4, before=lambda: clear(engine), beside=beside)
    assert computed["all"] < computed["own turns only"] < computed["no reuse"]
    rounds.note(", ".join(f"{name}: {tokens:,} prompt tokens" for name, tokens in computed.items()), **computed)
    rounds.compare()


def clear(engine: Engine) -> None:
    engine.generator.release()
    engine.generator.resume()
