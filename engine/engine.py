"""`Engine`: one base model with everything that plays and trains on it. The loop, the command line and servers are thin users.

Owns the model, its chat format, the generator and the learner, and the order in which they may be made. What a run does with
them is `train.py`'s, `collect.py`'s and `evaluation/evaluate.py`'s business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from sparring.engine.backend import Backend, open_backend
from sparring.engine.config import RunConfig, load_run_config, models_elsewhere
from sparring.engine.deal import openings
from sparring.engine.fence import Fence
from sparring.engine.generator import Generator
from sparring.learner.adapter import Adapter, load_adapter
from sparring.learner.learner import Learner
from sparring.learner.lora import fingerprint_model
from sparring.rollout.chat import ChatFormat
from sparring.rollout.judging.judging import Judging, open_judging
from sparring.rollout.player import Seating
from sparring.rollout.remote.call import CallJournal
from sparring.rollout.remote.chat_player import deal_bound
from sparring.rollout.remote.remote import RemoteModels
from sparring.rollout.runner import Admit, play
from sparring.rollout.sampler import Sample, Sampler, SampleRequest
from sparring.rollout.trajectory import Deal, Game

POLICY = "policy"
"""The name that the trained adapter is published under."""


class Engine:
    """A base model ready to play and to be trained on.

    Example:
        >>> with Engine.open("demo") as engine:
        ...     learner = engine.learner()
        ...     engine.publish(POLICY, learner.adapter())
        ...     games = [game async for game in engine.play(deals, adapter=POLICY)]
        ...     learner.step([trajectory for game in games for trajectory in game.trajectories])
    """

    def __init__(self, config: RunConfig, backend: Backend) -> None:
        self.config = config
        self.backend = backend
        self.model, self.tokenizer = backend.model, backend.tokenizer
        self.generator: Generator = backend.generator
        self.chat = ChatFormat(backend.tokenizer)
        self.base_model = fingerprint_model(backend.model)
        self.remote: RemoteModels | None = None
        """Models elsewhere, once `connect` was called and where the settings name any."""

    @classmethod
    def open(cls, source: RunConfig | str | Path, overrides: Sequence[str] = ()) -> Self:
        """From a config, a preset's name or a TOML file. Raises `ConfigError` for settings or a model that cannot be used,
        `GeneratorError` where the generator refuses it."""
        config = source if isinstance(source, RunConfig) else load_run_config(source, overrides=overrides)
        if config.threads:
            torch.set_num_threads(config.threads)
        backend = open_backend(config)
        try:
            return cls(config, backend)
        except BaseException:  # such as a chat template that does not render
            backend.generator.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.generator.close()

    def connect(self, journal: CallJournal | None = None) -> None:
        """Makes the models elsewhere that the settings name ready to be called; `journal` keeps the calls and answers those that
        it holds. Within one event loop, which awaits `disconnect` at its end.

        Raises `RemoteError` where one cannot be called: no key, no price, no such model.
        """
        if specs := models_elsewhere(self.config):
            self.remote = RemoteModels(self.config.remote, journal=journal)
            for spec in specs:
                self.remote.check(spec)

    async def disconnect(self) -> None:
        if self.remote is not None:
            await self.remote.close()
            self.remote = None

    @cached_property
    def judging(self) -> Judging:
        """The judges of contests that the settings name. Connect first where they are models."""
        return open_judging(self.config.judging, self.remote)

    @asynccontextmanager
    async def admit(self, deal: Deal) -> AsyncIterator[None]:
        """Held while a game is played: what its calls can cost is set aside. Raises `BudgetError` where that is not to be had."""
        if self.remote is None or self.remote.replays:
            yield
            return
        remote, config = self.remote, self.config
        most = deal_bound(deal, remote.price, partner=config.remote.sampling, policy_tokens=config.sampling.max_tokens)
        async with remote.admit(deal.id, most):
            yield

    @property
    def time_limit(self) -> float | None:
        """Seconds of a game. A replay sets none: games whose time ran out in the recording are void there, and no other."""
        return None if self.remote is not None and self.remote.replays else self.config.time_limit

    @property
    def spending(self) -> str:
        """What calls of models elsewhere came to so far, in a few words; "" where none is called."""
        if self.remote is None:
            return ""
        stats, budget = self.remote.stats, self.config.remote.budget
        dollars = f"${self.remote.budget.spent:,.2f}" + ("" if budget is None else f" of ${budget:,.2f}")
        trouble = [f"{stats.retries:,} retries"] if stats.retries else []
        return ", ".join([f"{stats.calls:,} calls", *trouble, dollars])

    async def sample(self, request: SampleRequest) -> Sample:
        """One completion. Raises `GeneratorError` for a request that cannot be served."""
        return await self.generator.sample(request)

    def seating(self, adapter: str | None = None, sampler: Sampler | None = None) -> Seating:
        """Who sits down where: "policy" is the published `adapter`, or the base model. `sampler` stands in for the generator."""
        return Seating(
            sampler=sampler or self.generator,
            chat=self.chat,
            adapter=adapter,
            sampling=self.config.sampling,
            remote=self.remote,
            partner=self.config.remote.sampling,
        )

    def play(
        self,
        deals: Iterable[Deal],
        *,
        adapter: str | None = None,
        sampler: Sampler | None = None,
        on_game: Callable[[Game], None] | None = None,
        admit: Admit | None = None,
    ) -> AsyncIterator[Game]:
        """Plays deals as the config says (`seating`, `runner.play`), within its budget."""
        return play(
            deals,
            self.seating(adapter, sampler),
            concurrency=self.config.concurrency,
            time_limit=self.time_limit,
            on_game=on_game,
            admit=admit or self.admit,
        )

    def learner(self, *, seed: int | None = None, name: str = POLICY) -> Learner:
        """A learner with a fresh adapter from the seed, or the config's."""
        return Learner(self.model, self.config.run_learner, seed=self.config.seed if seed is None else seed, name=name)

    def fence(self, learner: Learner) -> Fence:
        """Holds what is published of a learner's policy to the learner; its canaries are openings of the run's own games."""
        prompts = openings(self.config, self.chat, self.config.fence.canaries)
        return Fence(
            self.generator,
            learner,
            self.config.fence,
            prompts,
            temperature=self.config.sampling.temperature,
            steps_ahead=self.config.steps_ahead,
        )

    def publish(self, name: str, adapter: Adapter) -> None:
        """Serves an adapter under a name from now on. Raises `AdapterError` or `GeneratorError` where it does not fit."""
        self.generator.publish(name, adapter)

    def load_adapter(self, folder: Path) -> Adapter:
        """An adapter from disk. Raises `AdapterError` if it is broken or was trained on another base model."""
        return load_adapter(folder, base_model=self.base_model)
