"""How long the generator has nothing to do while games wait for a partner elsewhere, by the number of games in flight.

The embedded generator and the tiny model play `haggle` against a fake provider in a process of its own. What a few games leave
idle, more games fill: with G games in flight a partner of mean latency L lets at most G / L of its turns a second happen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from itertools import count

import msgspec

from sparring.bench.engine import shaped
from sparring.bench.provider.latency import Latency
from sparring.bench.provider.process import ProviderProcess
from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.deal import deal
from sparring.engine.engine import POLICY, Engine
from sparring.rollout.remote.config import Endpoint, Price
from sparring.rollout.remote.stats import RemoteStats
from sparring.rollout.trajectory import Deal, Game

MODEL, SCRIPTS = "fake:small", "scripts"


class IdlePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured."""

    games: tuple[int, ...] = (64, 256, 512)
    """In flight."""
    latency: Latency = Latency(p50=2.0, p99=20.0)
    scale: float = 0.5
    warm_up: float = 10.0
    """Seconds before the count begins, and more where no game has ended by then."""
    seconds: float = 10.0
    shape: str = "small"
    """Of random weights, or "tiny" for the model that ships. The tiny model's turn takes less time than the Python of a partner's
    call beside it, so no number of games keeps it busy. "small" takes about 30 turns a second on a core: at half of a provider's
    time a turn of the partner lasts 1.6 s on average, so 64 games are about too few, and 256 are enough."""
    settings: tuple[str, ...] = ()
    """Of the run, over those of the demo."""

    @property
    def cases(self) -> list[tuple[str, int]]:
        """Partner and games in flight: scripts first, who answer at once: what they leave idle is the games' own Python."""
        return [(SCRIPTS, max(self.games)), *((MODEL, games) for games in self.games)]


class IdleShare(msgspec.Struct, frozen=True, kw_only=True):
    """One number of games in flight."""

    partner: str
    games: int
    idle: float
    """Share of the wall clock in which the generator computed nothing."""
    games_per_second: float
    calls_per_second: float
    """Partner's turns."""
    latency_p50: float
    """Seconds of a partner's turn as the games met it: the provider's, and this process's own."""
    latency_p99: float
    void: int
    seconds: float


def measure_idle(plan: IdlePlan) -> list[IdleShare]:
    """Every number of games, with an engine of its own."""
    with ProviderProcess(latency=plan.latency, scale=plan.scale, reply="negotiator") as provider:
        settings = load_run_config("demo", overrides=['families=["haggle"]', "evaluation.scenarios=0", *plan.settings])
        with shaped(settings, plan.shape) as config:
            return [asyncio.run(_measure(plan, _config(config, case, provider.url))) for case in plan.cases]


async def _measure(plan: IdlePlan, config: RunConfig) -> IdleShare:
    with Engine.open(config) as engine:
        engine.publish(POLICY, engine.learner().adapter())
        engine.connect()
        stats = engine.remote.stats if engine.remote is not None else RemoteStats()
        try:
            ended: list[Game] = []
            first = asyncio.Event()
            play = asyncio.create_task(_play(engine, _endless(config), ended, first))
            await asyncio.sleep(plan.warm_up)
            await first.wait()
            if play.done():
                play.result()
            del ended[:]
            before, calls, started = engine.generator.stats, stats.attempts, time.perf_counter()
            await asyncio.sleep(plan.seconds)
            seconds = time.perf_counter() - started
            computed = (engine.generator.stats - before).seconds
            found = IdleShare(
                partner=config.partners[0],
                games=config.concurrency,
                idle=max(0.0, 1 - computed / seconds),
                games_per_second=len(ended) / seconds,
                calls_per_second=(stats.attempts - calls) / seconds,
                latency_p50=stats.p50,
                latency_p99=stats.p99,
                void=sum(game.error is not None for game in ended),
                seconds=seconds,
            )
            play.cancel()
            await asyncio.gather(play, return_exceptions=True)
            return found
        finally:
            await engine.disconnect()


def _config(config: RunConfig, case: tuple[str, int], url: str) -> RunConfig:
    partner, games = case
    remote = msgspec.structs.replace(
        config.remote,
        endpoints={"fake": Endpoint(base_url=url)},
        prices={MODEL: Price(input=0.0, output=0.0)},
        concurrency=games,
        max_tokens=32,
    )
    return msgspec.structs.replace(config, concurrency=games, partners=(partner,), remote=remote)


def _endless(config: RunConfig) -> Iterator[Deal]:
    for step in count():
        yield from deal(config, step)


async def _play(engine: Engine, deals: Iterator[Deal], ended: list[Game], first: asyncio.Event) -> None:
    def note(game: Game) -> None:
        ended.append(game)
        first.set()

    try:
        async with aclosing(engine.play(deals, adapter=POLICY, on_game=note)) as played:  # type: ignore[type-var]
            async for _ in played:
                pass
    finally:
        first.set()  # also where it fails, so that nobody waits for it


def enough(shares: Sequence[IdleShare], most: float = 0.10) -> int | None:
    """The least number of games that leaves at most this share idle."""
    return min((share.games for share in shares if share.partner == MODEL and share.idle <= most), default=None)
