"""What is measured: the games of a training step of the demo, with scripts on every seat or with a model on one.

Owns the making of it, once a session. Scripts' games are the same on every machine; a model's are, for the same weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Self

import msgspec
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparring.engine.backend import Choice, torch_backend
from sparring.engine.config import RunConfig, load_run_config, partner_specs
from sparring.engine.deal import deal
from sparring.engine.engine import Engine
from sparring.engine.models import load_model
from sparring.learner.grpo import GrpoConfig, select, sequence_weights
from sparring.rollout.player import find_strategy
from sparring.rollout.trajectory import Deal, Game, Trajectory
from sparring.scenarios import registry
from sparring.scenarios.game import GameState

QUICK = ["scenarios_per_step=2", "games_per_scenario=2", "sampling.max_tokens=6"]


@dataclass(frozen=True)
class Update:
    """What packing is given for one update."""

    trajectories: tuple[Trajectory, ...]
    advantages: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory], grpo: GrpoConfig) -> Self:
        chosen = select(trajectories, grpo)
        return cls(chosen.trajectories, chosen.advantages, tuple(sequence_weights(chosen.trajectories, grpo.normalisation)))


class Workload:
    """One training step of the demo: 16 groups of 8 games; with `quick`, 2 groups of 2 games with messages cut short."""

    def __init__(self, model: str, *, quick: bool) -> None:
        self.config: RunConfig = load_run_config("demo", overrides=QUICK if quick else [])
        self._source = model
        self._engines: dict[int, Engine] = {}

    @cached_property
    def loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return load_model(self._source, torch.device("cpu"))

    @property
    def model(self) -> PreTrainedModel:
        return self.loaded[0]

    @cached_property
    def deals(self) -> list[Deal]:
        return deal(self.config, step=0)

    @cached_property
    def games(self) -> list[Game]:
        """The deals, played by the model."""
        return self.play(self.engine(self.config.concurrency), self.deals)

    @cached_property
    def update(self) -> Update:
        """The model's games. Win and loss are dealt in turn, so that every group counts whatever the model can do."""
        played = sorted((t for game in self.games for t in game.trajectories), key=lambda t: t.game_id)
        scored = [msgspec.structs.replace(t, reward=1.0 if i % 2 else -1.0) for i, t in enumerate(played)]
        return Update.of(scored, self.config.learner.grpo)

    def engine(self, concurrency: int) -> Engine:
        """The engine that plays so many games at once."""
        if concurrency not in self._engines:
            self._engines[concurrency] = self._open(concurrency)
        return self._engines[concurrency]

    def _open(self, concurrency: int) -> Engine:
        config = msgspec.structs.replace(self.config, concurrency=concurrency)
        return Engine(config, torch_backend(config, *self.loaded, Choice("torch", "what is measured")))

    def play(self, engine: Engine, deals: Sequence[Deal]) -> list[Game]:
        """All games of the deals; none may fail."""

        async def collect() -> list[Game]:
            async with aclosing(engine.play(deals)) as played:  # type: ignore[type-var]
                return [game async for game in played]

        games = asyncio.run(collect())
        assert [game.error for game in games if game.error] == []
        return games

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()


def scripted_deals(family: str, count: int) -> list[Deal]:
    """Scripts on every seat, each of the family's training partners in turn."""
    scripts = partner_specs(family, ("scripts",))
    deals = []
    for number in range(count):
        scenario = registry.get(family).generate(number)
        players = {seat: scripts[(number + at) % len(scripts)] for at, seat in enumerate(scenario.seat_names)}
        deals.append(Deal(id=f"{family}/{number}", scenario=scenario, players=players, seed=number))
    return deals


def play_scripts(deal: Deal) -> GameState:
    """The scripts' game without a runner: the same turns as the runner's."""
    game, cast = GameState(deal.scenario, deal.cast), deal.cast
    while seats := game.to_move:
        texts = [
            find_strategy(deal.scenario.family, cast[seat])(game.view(seat), Random(f"{deal.seed}/{seat}")) for seat in seats
        ]
        for seat, text in zip(seats, texts, strict=True):
            if seat in game.to_move:
                game.submit(seat, text)
    return game
