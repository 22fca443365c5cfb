"""The training loop: deal scenarios, play games, score outcomes, pack batches, step the learner, publish the adapter.

The referee scores a game as it ends; what only a judge can score waits for its group and is scored in a tournament. Batches are
packed inside `Learner.step`. With `steps_ahead` the next games go on while judges read and the learner steps. A run is a folder
(`run/folder.py`): killing it loses no finished game, and resuming makes the same next update.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.deal import deal
from sparring.engine.engine import POLICY, Engine
from sparring.engine.errors import FenceError, Interrupted
from sparring.engine.evaluation.appraise import appraise
from sparring.engine.fence import FenceReport
from sparring.engine.gate import Gate
from sparring.engine.run.folder import RunFolder
from sparring.engine.run.summary import Clock, Summary, seconds, throughput
from sparring.engine.run.tracker import DatabaseTracker, TerminalTracker, Tracker, Trackers, WandbTracker
from sparring.engine.settings import dump_config
from sparring.engine.stream import GameStream
from sparring.learner.learner import Learner
from sparring.learner.stats import StepStats
from sparring.rollout.progress import Progress
from sparring.rollout.runner import Admit
from sparring.rollout.stats import RolloutStats
from sparring.rollout.trajectory import Deal, Game, Trajectory

CLOCK = "clock.json"
PROJECT = "sparring"
COLUMNS = {
    "play/win_rate": "{:.1%}",
    "play/invalid_rate": "{:.1%}",
    "play/games_per_hour": "{:,.0f}",
    "learn/groups": "{:.0f}",
    "learn/entropy": "{:.3f}",
    "learn/grad_norm": "{:.2f}",
    "learn/tokens_per_second": "{:,.0f}",
}
"""The metrics that the terminal shows each step, and how."""


def train(config: RunConfig, output: Path, *, quiet: bool = False, adapter: Path | None = None) -> Summary:
    """A new run in the folder `output`; `adapter` is where to start from instead of a fresh one.

    Raises `ConfigError`, `RunError` or `AdapterError` before anything is played; `Interrupted` after Ctrl-C, with a checkpoint.

    Example:
        >>> train(load_run_config("demo", overrides=["iterations=3"]), Path("runs/three")).evaluation.difference.win_rate
        0.04
    """
    config.check()
    clock = Clock()
    with ExitStack() as stack:
        with clock.measure("other"):
            engine = stack.enter_context(Engine.open(config))
            learner = engine.learner()
            if adapter is not None:
                learner.load_adapter(engine.load_adapter(adapter))
            run = stack.enter_context(RunFolder.create(output, dump_config(config)))
        return _run(engine, learner, run, clock, quiet=quiet)


def resume(output: Path, *, quiet: bool = False) -> Summary:
    """The run in `output` from its last checkpoint on, with its own settings; its next update is bit for bit the same (on a CPU).

    Raises `RunError` where there is no run, or another process is at it.
    """
    loading = Clock()
    with ExitStack() as stack:
        with loading.measure("other"):
            run = stack.enter_context(RunFolder.resume(output))
            engine = stack.enter_context(Engine.open(load_run_config(run.config_path)))
            learner, clock = engine.learner(), Clock()
            if (checkpoint := run.latest_checkpoint()) is not None:
                learner.load(checkpoint.path)
                clock = msgspec.json.decode((checkpoint.path / CLOCK).read_bytes(), type=Clock)
                run.publish_adapter(learner.adapter().files())  # the process may have died between the two
        clock.other += loading.other
        return _run(engine, learner, run, clock, quiet=quiet)


def _run(engine: Engine, learner: Learner, run: RunFolder, clock: Clock, *, quiet: bool) -> Summary:
    tracker = _trackers(engine.config, run, quiet=quiet)
    if not quiet:
        engine.backend.announce()
    try:
        return asyncio.run(_Loop(engine, learner, run, clock, tracker, quiet=quiet).run())
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"stopped after step {learner.steps} of {engine.config.iterations}: go on with --resume --output-dir {run.path}"
        ) from error
    finally:
        tracker.finish()


def _trackers(config: RunConfig, run: RunFolder, *, quiet: bool) -> Tracker:
    """Raises `TrackerError` where one cannot start."""
    trackers: list[Tracker] = [DatabaseTracker(run.database)]
    if not quiet:
        trackers.append(TerminalTracker(COLUMNS))
    if config.tracker == "wandb":
        settings = msgspec.to_builtins(config)
        trackers.append(WandbTracker(project=PROJECT, name=config.name, folder=run.path, config=settings))
    return Trackers(trackers)


class _Loop:
    """One run of the loop."""

    def __init__(self, engine: Engine, learner: Learner, run: RunFolder, clock: Clock, tracker: Tracker, *, quiet: bool) -> None:
        self.engine, self.learner, self.folder, self.clock, self.tracker = engine, learner, run, clock, tracker
        self.config, self.quiet = engine.config, quiet
        self.saved = learner.steps
        self.updating = False
        """Inside an update, or after one that the fence has not passed: the learner's state is no step's."""
        self.fence = engine.fence(learner)
        self.shown: Callable[[Game], None] = lambda game: None
        """Shows a game of the step in progress."""

    async def run(self) -> Summary:
        """Every step that is left, then the evaluation. However it is stopped, the last whole step is saved."""
        try:
            self.publish()
            async with self.stream() as stream:
                while self.learner.steps < self.config.iterations:
                    await self.step(stream)
                    if self.learner.steps % self.config.checkpoint_every == 0:
                        self.save()
        except FenceError:
            self.folder.database.forget_trajectories()  # nothing that it played may be learned from, after a resume neither
            raise
        finally:
            if self.learner.steps != self.saved and not self.updating:
                self.save()
        return await self.finish()

    def stream(self) -> GameStream:
        """The games of all steps that are left, recorded as they end. What a killed process has played is not played again."""
        self.gate = Gate(self.engine.generator)
        steps, ahead = range(self.learner.steps, self.config.iterations), self.config.steps_ahead
        kept = self.folder.database.unlearned(steps.start)
        self.fence.trust(trajectory.policy for games in kept.values() for game in games for trajectory in game.trajectories)

        def play(deals: Iterator[Deal], admit: Admit) -> AsyncIterator[Game]:
            return self.engine.play(deals, adapter=POLICY, sampler=self.gate, admit=admit)

        return GameStream(play, partial(deal, self.config), steps=steps, steps_ahead=ahead, record=self.record, kept=kept)

    async def step(self, stream: GameStream) -> None:
        """Deal, play, score, pack, step, publish. The fence stands before the games, and between the step and what is kept."""
        deals = deal(self.config, self.learner.steps)
        rollout = RolloutStats()
        with self.clock.measure("play"):
            agreement = await self.open()
            games = await self.play(stream, deals, rollout)
            await self.shut()
        trajectories = trained_on(games, deals)
        self.fence.check_games(trajectories)
        self.updating = True
        with self.clock.measure("learn"):
            stats = await self.learn(trajectories)
        if not self.config.steps_ahead:  # else what differs from the learner's policy is an earlier one, which the loss corrects
            self.fence.check_step(stats)
        self.updating = False
        self.clock.games += len(games)
        self.clock.sampled_tokens += rollout.sampled_tokens
        self.clock.learned_tokens += stats.tokens
        self.publish()
        stream.learned(self.learner.steps)
        with self.clock.measure("other"):
            self.tracker.log(self.learner.steps, step_metrics(rollout, stats, agreement))

    async def open(self) -> FenceReport:
        """The generator takes its memory back, and the policy in it is held to the learner's before any game goes on."""
        self.engine.generator.resume()
        agreement = await self.fence.check(POLICY)
        self.gate.open()
        return agreement

    async def shut(self) -> None:
        """The memory goes to the learner. Seats that the policy plays wait; partners elsewhere go on."""
        await self.gate.shut()
        self.engine.generator.release()

    async def play(self, stream: GameStream, deals: list[Deal], rollout: RolloutStats) -> list[Game]:
        """The games of a step."""
        with Progress(f"step {self.learner.steps + 1}", total=len(deals), stats=rollout, quiet=self.quiet) as progress:
            for game in stream.ended(self.learner.steps):
                progress.add(game)
            self.shown = progress.add
            return await stream.games(self.learner.steps)

    def record(self, step: int, game: Game) -> None:
        """A game that has ended goes into the database at once."""
        self.folder.database.record([game], step=step)
        if step == self.learner.steps:
            self.shown(game)

    async def learn(self, trajectories: list[Trajectory]) -> StepStats:
        """One update; in a thread of its own where games may go on meanwhile."""
        if self.config.steps_ahead:
            return await asyncio.to_thread(self.learner.step, trajectories)
        return self.learner.step(trajectories)

    def publish(self) -> None:
        with self.clock.measure("publish"):
            self.engine.publish(POLICY, self.learner.adapter())

    def save(self) -> None:
        """The checkpoint, and the adapter where others look for it."""
        with self.clock.measure("other"):
            files = self.learner.files() | {CLOCK: msgspec.json.encode(self.clock)}
            self.folder.save_checkpoint(self.learner.steps, files, keep=self.config.keep_checkpoints)
            self.folder.publish_adapter(self.learner.adapter().files())
            self.folder.database.forget_trajectories(before=self.learner.steps)
        self.saved = self.learner.steps

    def record_evaluated(self, game: Game) -> None:
        self.folder.database.record([game], phase="evaluate", step=self.learner.steps)

    async def finish(self) -> Summary:
        """The evaluation, and the summary of all of it."""
        report = None
        if self.config.evaluation.scenarios:
            self.engine.generator.resume()
            self.engine.generator.verify(POLICY)
            with self.clock.measure("evaluate"):
                report = await appraise(self.engine, adapter=POLICY, quiet=self.quiet, on_game=self.record_evaluated)
        summary = Summary(
            preset=self.config.preset,
            seed=self.config.seed,
            model=self.config.model,
            base_model=self.engine.base_model,
            adapter=self.learner.adapter().fingerprint,
            steps=self.learner.steps,
            evaluation=report,
            throughput=throughput(self.clock),
            seconds=seconds(self.clock),
        )
        self.folder.write_summary(summary)
        return summary


def trained_on(games: Iterable[Game], deals: Iterable[Deal]) -> list[Trajectory]:
    """The games' trajectories in the order of the deals: what the learner computes must not depend on which game ended first."""
    by_id = {game.id: game for game in games}
    return [trajectory for deal in deals for trajectory in by_id[deal.id].trajectories]


def step_metrics(rollout: RolloutStats, stats: StepStats, agreement: FenceReport) -> dict[str, float]:
    """A step's figures by name: `play/...` of the games, `learn/...` of the update, `fence/...` of the canaries before them."""
    tally = rollout.tally
    played = {
        "win_rate": tally.win_rate,
        "mean_score": tally.mean_score,
        "invalid_rate": tally.invalid / tally.counted if tally.counted else 0.0,
        "void": tally.void,
        "games": rollout.games,
        "failed": rollout.failed,
        "truncated": rollout.truncated,
        "sampled_tokens": rollout.sampled_tokens,
        "tokens_per_second": rollout.tokens_per_second,
        "games_per_hour": rollout.games_per_hour,
        "seconds": rollout.seconds,
    }
    families = {f"play/win_rate/{family}": own.win_rate for family, own in rollout.families.items()}
    learned = {f"learn/{name}": float(value) for name, value in msgspec.structs.asdict(stats).items() if name != "step"}
    fenced = {f"fence/{name}": float(value) for name, value in msgspec.structs.asdict(agreement).items()}
    return {f"play/{name}": float(value) for name, value in played.items()} | families | learned | fenced
