"""The two halves of a step by hand: `collect` plays games into a training file, `learn` makes an adapter of such files.

Collecting step n and learning from its file makes the same update as step n of `train`.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import msgspec
import torch

from sparring.engine.config import RunConfig, check_models_elsewhere
from sparring.engine.deal import deal
from sparring.engine.engine import POLICY, Engine
from sparring.engine.errors import ConfigError
from sparring.engine.fence import Fence
from sparring.engine.members import trained_on
from sparring.engine.models import load_model, resolve_device
from sparring.learner.adapter import load_adapter
from sparring.learner.learner import STATE_FILE, Learner
from sparring.learner.lora import fingerprint_model
from sparring.learner.stats import StepStats
from sparring.rollout.chat import ChatFormat
from sparring.rollout.errors import TrainingFileError
from sparring.rollout.judging.score import score_games
from sparring.rollout.progress import Progress
from sparring.rollout.stats import RolloutStats
from sparring.rollout.training_file import Header, TrainingWriter, read_header, read_trajectories
from sparring.rollout.trajectory import Deal, Game
from sparring.rollout.transcript import GameRecord


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What `collect` did."""

    games: int
    trajectories: int
    win_rate: float
    tokens_per_second: float
    games_per_hour: float


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What `learn` did: the adapter's fingerprint, and the statistics of each file's step."""

    adapter: str
    steps: tuple[StepStats, ...]


def collect(
    config: RunConfig, output: Path, *, texts: Path | None = None, adapter: Path | None = None, step: int = 0, quiet: bool = False
) -> Collected:
    """Plays the games of one step with the policy as it is, or `adapter`, into the training file `output`.

    `texts` also gets the games as readable JSON lines. Contests are judged, as in `train`. Raises `ConfigError`, `AdapterError`,
    `TrainingFileError`, and for models elsewhere `RemoteError` or `BudgetError`.
    """
    config.check()
    if config.population > 1:
        raise ConfigError(f"population = {config.population}: collect plays for one policy: set it to 1")
    check_models_elsewhere(config)
    with Engine.open(config) as engine:
        learner = engine.learner()
        if adapter is not None:
            learner.load_adapter(engine.load_adapter(adapter))
        policy = learner.adapter()
        engine.publish(POLICY, policy)
        fence = engine.fence(learner)
        header = Header(
            base_model=engine.base_model,
            tokenizer=engine.chat.fingerprint,
            policy=policy.fingerprint,
            sampling=config.sampling,
        )
        for path in (output, texts or output):
            path.parent.mkdir(parents=True, exist_ok=True)
        with TrainingWriter(output, header) as file:  # opened first: what cannot be written is not worth playing for
            deals, rollout = deal(config, step), RolloutStats()
            games = asyncio.run(_play(engine, fence, deals, rollout, step=step, quiet=quiet))
            trajectories = trained_on(games, deals)
            for trajectory in trajectories:
                file.add(trajectory)
            if texts is not None:
                texts.write_bytes(b"".join(GameRecord.of(game).line for game in games))
    return Collected(
        games=len(games),
        trajectories=len(trajectories),
        win_rate=rollout.tally.win_rate,
        tokens_per_second=rollout.tokens_per_second,
        games_per_hour=rollout.games_per_hour,
    )


def learn(config: RunConfig, files: list[Path], output: Path, *, start: Path | None = None) -> Learned:
    """One step on each training file in turn; the adapter, with what is needed to go on from it, into the folder `output`.

    `start` is a folder that `learn` wrote before, or any adapter. Raises `TrainingFileError` for a file that is damaged or was
    collected with another base model or tokenizer, before anything is learned.
    """
    if not files:
        raise ConfigError("nothing to learn from: name at least one training file")
    config.check()
    if config.threads:
        torch.set_num_threads(config.threads)
    model, tokenizer = load_model(config.model, resolve_device(config.device), config.quantization)
    base_model, own_tokenizer = fingerprint_model(model), ChatFormat(tokenizer).fingerprint
    for file in files:
        header = read_header(file)
        try:
            header.check(base_model=base_model, tokenizer=own_tokenizer)
        except TrainingFileError as error:
            raise TrainingFileError(f"{file}: {error}") from error
    batches = [list(read_trajectories(file)) for file in files]
    learner = Learner(model, config.run_learner, seed=config.seed, name=POLICY)
    if start is not None:
        if (start / STATE_FILE).is_file():
            learner.load(start)
        else:
            learner.load_adapter(load_adapter(start, base_model=base_model))
    steps = tuple(learner.step(trajectories) for trajectories in batches)
    learner.save(output)
    return Learned(adapter=learner.adapter().fingerprint, steps=steps)


async def _play(
    engine: Engine, fence: Fence, deals: list[Deal], rollout: RolloutStats, *, step: int, quiet: bool
) -> tuple[Game, ...]:
    """The games, played and scored."""
    engine.connect()
    try:
        await fence.check(POLICY)
        with Progress("collect", total=len(deals), stats=rollout, quiet=quiet, note=lambda: engine.spending) as progress:
            async with aclosing(engine.play(deals, adapter=POLICY, on_game=progress.add)) as played:  # type: ignore[type-var]
                games = [game async for game in played]
        judged = await score_games(games, engine.judging, step=step)
        rollout.recount(judged.games)
        return judged.games
    finally:
        await engine.disconnect()
