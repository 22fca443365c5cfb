"""`Engine`: one base model with everything that plays and trains on it. The loop, the command line and servers are thin users.

Owns the model, its chat format, the generator and the learner, and the order in which they may be made. What a run does with
them is `train.py`'s, `collect.py`'s and `evaluation/evaluate.py`'s business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from sparring.engine.backend import Backend, open_backend
from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.deal import openings
from sparring.engine.fence import Fence
from sparring.engine.generator import Generator
from sparring.learner.adapter import Adapter, load_adapter
from sparring.learner.learner import Learner
from sparring.learner.lora import fingerprint_model
from sparring.rollout.chat import ChatFormat
from sparring.rollout.player import Seating
from sparring.rollout.runner import Admit, admit_all, play
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

    async def sample(self, request: SampleRequest) -> Sample:
        """One completion. Raises `GeneratorError` for a request that cannot be served."""
        return await self.generator.sample(request)

    def seating(self, adapter: str | None = None, sampler: Sampler | None = None) -> Seating:
        """Who sits down where: "policy" is the published `adapter`, or the base model. `sampler` stands in for the generator."""
        return Seating(sampler=sampler or self.generator, chat=self.chat, adapter=adapter, sampling=self.config.sampling)

    def play(
        self,
        deals: Iterable[Deal],
        *,
        adapter: str | None = None,
        sampler: Sampler | None = None,
        on_game: Callable[[Game], None] | None = None,
        admit: Admit = admit_all,
    ) -> AsyncIterator[Game]:
        """Plays deals as the config says (`seating`, `runner.play`)."""
        return play(
            deals,
            self.seating(adapter, sampler),
            concurrency=self.config.concurrency,
            time_limit=self.config.time_limit,
            on_game=on_game,
            admit=admit,
        )

    def learner(self) -> Learner:
        """A learner with a fresh adapter from the config's seed."""
        return Learner(self.model, self.config.run_learner, seed=self.config.seed, name=POLICY)

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
