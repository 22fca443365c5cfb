"""How fast a machine plays and learns: tokens/s and games/hour of each phase and of the whole loop, on real deals.

Nothing is kept: the adapter starts fresh and goes nowhere. What a training run itself reports is `engine/run/summary.py`'s.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Iterator
from contextlib import aclosing

import msgspec
import torch

from sparring.engine.config import RunConfig, partner_specs
from sparring.engine.deal import deal
from sparring.engine.engine import POLICY, Engine
from sparring.engine.members import trained_on
from sparring.engine.run.summary import Clock, throughput
from sparring.rollout.player import Seating
from sparring.rollout.progress import Progress
from sparring.rollout.runner import play
from sparring.rollout.stats import RolloutStats
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry

SCRIPTED_SECONDS = 2.0


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One phase of the loop: its time, and its share of all phases' time."""

    seconds: float
    share: float


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. Rates of play and learning are over the phase's own time, those of the loop over all phases."""

    steps: int
    games: int
    model: str
    parameters: int
    device: str
    threads: int
    torch: str
    python: str
    cores: int
    generate_tokens_per_second: float
    """Sampled tokens of the trained seats."""
    prompt_tokens_per_second: float
    """Prompt tokens that went through the model while playing."""
    play_games_per_second: float
    learn_tokens_per_second: float
    """Prompts included."""
    games_per_hour: float
    """Of the whole loop."""
    phases: dict[str, Phase]
    scripted_games_per_second: float
    """Scripts on every seat: the runner and the referee alone."""

    @property
    def text(self) -> str:
        """The figures in a few lines of words."""
        return "\n".join(_lines(self))


def measure(config: RunConfig, *, steps: int = 5, quiet: bool = False) -> Throughput:
    """Times `steps` steps of the loop after one that warms up, and then games without a model.

    Raises `ConfigError` for settings or a model that cannot be used.

    Example:
        >>> measure(load_run_config("demo"), steps=3).games_per_hour
        93214.7
    """
    with Engine.open(config) as engine:
        learner = engine.learner()
        engine.publish(POLICY, learner.adapter())
        clock, before = Clock(), engine.generator.stats
        for step in range(steps + 1):
            if step == 1:
                clock, before = Clock(), engine.generator.stats
            deals = deal(config, step)
            with clock.measure("play"):
                games = asyncio.run(_play(engine, deals, f"step {step} of {steps}", quiet=quiet))
            with clock.measure("learn"):
                stats = learner.step(trained_on(games, deals))
            with clock.measure("publish"):
                engine.publish(POLICY, learner.adapter())
            clock.games += len(games)
            clock.sampled_tokens += sum(game.sampled_tokens for game in games)
            clock.learned_tokens += stats.tokens
        generated, rates = engine.generator.stats - before, throughput(clock)
        return Throughput(
            steps=steps,
            games=clock.games,
            model=config.model,
            parameters=sum(parameter.numel() for parameter in engine.model.parameters()),
            device=str(engine.model.device),
            threads=torch.get_num_threads(),
            torch=str(torch.__version__),
            python=platform.python_version(),
            cores=len(os.sched_getaffinity(0)),
            generate_tokens_per_second=rates.generate_tokens_per_second,
            prompt_tokens_per_second=round(generated.prompt_tokens / clock.play, 3),
            play_games_per_second=round(clock.games / clock.play, 3),
            learn_tokens_per_second=rates.learn_tokens_per_second,
            games_per_hour=rates.games_per_hour,
            phases={name: _phase(clock, name) for name in ("play", "learn", "publish")},
            scripted_games_per_second=round(scripted_games_per_second(config, SCRIPTED_SECONDS), 3),
        )


def scripted_games_per_second(config: RunConfig, seconds: float) -> float:
    """Games/s with scripts on every seat, over all families of the config, dealt beforehand and played for `seconds`."""
    deals = list(_scripted_deals(config))
    games, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        games += asyncio.run(_count(deals, config))
    return games / (time.perf_counter() - started)


def _scripted_deals(config: RunConfig, per_family: int = 64) -> Iterator[Deal]:
    for family in map(registry.get, config.families):
        scripts = partner_specs(family.name, ("scripts",))
        for number in range(per_family):
            scenario = family.generate(number)
            players = {seat: scripts[(number + at) % len(scripts)] for at, seat in enumerate(scenario.seat_names)}
            yield Deal(id=f"{family.name}/{number}", scenario=scenario, players=players, seed=number)


async def _count(deals: list[Deal], config: RunConfig) -> int:
    async with aclosing(play(deals, Seating(), concurrency=config.concurrency)) as played:  # type: ignore[type-var]
        return sum([1 async for _ in played])


async def _play(engine: Engine, deals: list[Deal], title: str, *, quiet: bool) -> list[Game]:
    engine.generator.resume()
    with Progress(title, total=len(deals), stats=RolloutStats(), quiet=quiet) as progress:
        async with aclosing(engine.play(deals, adapter=POLICY, on_game=progress.add)) as played:  # type: ignore[type-var]
            games = [game async for game in played]
    engine.generator.release()
    return games


def _phase(clock: Clock, name: str) -> Phase:
    seconds: float = getattr(clock, name)
    return Phase(seconds=round(seconds, 3), share=round(seconds / (clock.play + clock.learn + clock.publish), 4))


def _lines(found: Throughput) -> Iterator[str]:
    yield f"{found.model}, {found.parameters:,} parameters, on {found.device}: {found.threads} thread(s) of {found.cores} cores,"
    yield f"torch {found.torch}, Python {found.python}; {found.games} games in {found.steps} steps"
    sampled, read = found.generate_tokens_per_second, found.prompt_tokens_per_second
    rates = {
        "play": f"{sampled:,.0f} sampled tokens/s, {read:,.0f} prompt tokens/s, {found.play_games_per_second:,.1f} games/s",
        "learn": f"{found.learn_tokens_per_second:,.0f} tokens/s",
        "publish": f"{1000 * found.phases['publish'].seconds / found.steps:,.1f} ms a step",
    }
    for name, phase in found.phases.items():
        yield f"  {name:<8} {phase.share:>6.1%}  {phase.seconds:>8.2f} s  {rates[name]}"
    total = sum(phase.seconds for phase in found.phases.values())
    yield f"  {'loop':<8} {1:>6.0%}  {total:>8.2f} s  {found.games_per_hour:,.0f} games/hour"
    yield f"without a model (scripts only): {found.scripted_games_per_second:,.0f} games/s"
