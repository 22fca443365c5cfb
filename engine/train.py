"""The training loop: deal scenarios, play games, score outcomes, pack batches, step the learner, publish the adapter.

The referee scores a game as it ends; what only a judge can score waits for its group and is scored in a tournament. Batches are
packed inside `Learner.step`. With `steps_ahead` the next games go on while judges read and the learner steps. A run is a folder
(`run/folder.py`): killing it loses no finished game, and resuming makes the same next update.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from sparring.engine.config import RunConfig, check_models_elsewhere, load_run_config, models_elsewhere
from sparring.engine.contests import keep_topics
from sparring.engine.deal import deal
from sparring.engine.engine import POLICY, Engine
from sparring.engine.errors import EvaluationError, FenceError, Interrupted, RunError
from sparring.engine.evaluation.appraise import appraise
from sparring.engine.evaluation.compare import Report
from sparring.engine.evaluation.contest import appraise_contests
from sparring.engine.evaluation.contest_report import ContestReport
from sparring.engine.gate import Gate
from sparring.engine.held_out import HeldOutLog
from sparring.engine.interrupt import until_told_to_end
from sparring.engine.members import Member, open_members, rate, trained_on
from sparring.engine.metrics import COLUMNS, CONTEST_COLUMNS, remote_metrics, step_metrics
from sparring.engine.report.page import write_report
from sparring.engine.run.folder import ADAPTERS, RunFolder
from sparring.engine.run.summary import Clock, Summary, seconds, throughput
from sparring.engine.run.tracker import DatabaseTracker, TerminalTracker, Tracker, Trackers, WandbTracker
from sparring.engine.settings import dump_config
from sparring.engine.stream import GameStream
from sparring.learner.adapter import Adapter
from sparring.learner.stats import StepStats
from sparring.rollout.errors import BudgetError, RemoteError
from sparring.rollout.judging.judge import Judgement
from sparring.rollout.judging.score import Judged, score_games
from sparring.rollout.progress import Count, Progress
from sparring.rollout.runner import Admit
from sparring.rollout.stats import RolloutStats
from sparring.rollout.trajectory import Deal, Game, Trajectory

CLOCK = "clock.json"
PROJECT = "sparring"


def train(config: RunConfig, output: Path, *, quiet: bool = False, adapter: Path | None = None) -> Summary:
    """A new run in the folder `output`; `adapter` is where to start from instead of a fresh one.

    Raises `ConfigError`, `RunError` or `AdapterError` before anything is played; `Interrupted` after Ctrl-C, and `BudgetError`
    where `remote.budget` is spent, both with a checkpoint.

    Example:
        >>> train(load_run_config("demo", overrides=["iterations=3"]), Path("runs/three")).evaluation.difference.win_rate
        0.04
    """
    config.check()
    check_models_elsewhere(config)
    clock = Clock()
    with ExitStack() as stack:
        with clock.measure("other"):
            own, files = keep_topics(config.contest_topics, output)
            config = msgspec.structs.replace(config, contest_topics=own)
            run = stack.enter_context(RunFolder.create(output, dump_config(config), files))
            try:
                engine = stack.enter_context(Engine.open(config))
                members = open_members(engine)
                if adapter is not None:
                    loaded = engine.load_adapter(adapter)
                    for member in members:
                        member.learner.load_adapter(loaded)
                engine.connect(run.database.ledger)
            except BaseException:
                run.discard()
                raise
        return _run(engine, members, run, clock, quiet=quiet)


def resume(output: Path, *, quiet: bool = False, budget: float | None = None) -> Summary:
    """The run in `output` from its last checkpoint on, with its own settings; its next update is bit for bit the same (on a CPU).

    `budget`, in US dollars, takes the place of `remote.budget`, and counts what the run has paid so far. Raises `RunError` where
    there is no run, or another process is at it.
    """
    loading = Clock()
    with ExitStack() as stack:
        with loading.measure("other"):
            run = stack.enter_context(RunFolder.resume(output))
            overrides = [] if budget is None else [f"remote.budget={budget}"]
            engine = stack.enter_context(Engine.open(load_run_config(run.config_path, overrides=overrides)))
            members, clock = open_members(engine), Clock()
            engine.connect(run.database.ledger)
            if (checkpoint := run.latest_checkpoint()) is not None:
                for member in members:
                    member.load(checkpoint.path)
                clock = msgspec.json.decode((checkpoint.path / CLOCK).read_bytes(), type=Clock)
        clock.other += loading.other
        return _run(engine, members, run, clock, quiet=quiet)


def _run(engine: Engine, members: list[Member], run: RunFolder, clock: Clock, *, quiet: bool) -> Summary:
    tracker = _trackers(engine.config, run, quiet=quiet)
    if not quiet:
        engine.backend.announce()
        for warning in engine.config.judging.warnings if models_elsewhere(engine.config) else ():
            print(f"note: {warning}", file=sys.stderr)
    loop = _Loop(engine, members, run, clock, tracker, quiet=quiet)
    try:
        return asyncio.run(until_told_to_end(loop.run()))
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"stopped after step {loop.steps} of {engine.config.iterations}: go on with --resume --output-dir {run.path}"
        ) from error
    finally:
        tracker.finish()


def _trackers(config: RunConfig, run: RunFolder, *, quiet: bool) -> Tracker:
    """Raises `TrackerError` where one cannot start."""
    trackers: list[Tracker] = [DatabaseTracker(run.database)]
    if not quiet:
        trackers.append(TerminalTracker(COLUMNS if config.games else CONTEST_COLUMNS))
    if config.tracker == "wandb":
        settings = msgspec.to_builtins(config)
        trackers.append(WandbTracker(project=PROJECT, name=config.name, folder=run.path, config=settings))
    return Trackers(trackers)


class _Loop:
    """One run of the loop."""

    def __init__(
        self, engine: Engine, members: list[Member], run: RunFolder, clock: Clock, tracker: Tracker, *, quiet: bool
    ) -> None:
        self.engine, self.members, self.folder, self.clock, self.tracker = engine, members, run, clock, tracker
        self.config, self.quiet = engine.config, quiet
        self.saved = self.steps
        self.updating = False
        """Inside an update, or after one that the fence has not passed: no learner's state is a step's."""
        self.gate = Gate(engine.generator)
        self.shown: Callable[[Game], None] = lambda game: None
        """Shows a game of the step in progress."""
        self.ledger = run.database.ledger
        self.held_out = HeldOutLog(run, self.config.evaluation, self.steps)

    @property
    def steps(self) -> int:
        """Whole steps that every member has made."""
        return self.members[0].learner.steps

    @property
    def leader(self) -> Member:
        """The member with the best rating; the first where none is better."""
        return max(self.members, key=lambda member: member.rating)

    async def run(self) -> Summary:
        """Every step that is left, then the evaluation. However it is stopped, the last whole step is saved."""
        try:
            self.publish()
            if self.steps:
                self.deliver()  # the process may have died between the checkpoint and this
            async with self.stream() as stream:
                while self.steps < self.config.iterations and not self.held_out.declined:
                    await self.step(stream)
                    if self.steps % self.config.checkpoint_every == 0:
                        self.save()
                    await self.look()
            if self.steps != self.saved:
                self.save()
            return await self.finish_or_say_what_is_done()
        except FenceError:
            self.folder.database.forget_trajectories()  # nothing that it played may be learned from, after a resume neither
            raise
        except BudgetError:
            if not self.steps:
                self.saved = -1  # a checkpoint also where no step was made
            raise
        finally:
            if self.steps != self.saved and not self.updating:
                self.save()
            await self.engine.disconnect()

    def stream(self) -> GameStream:
        """The games of all steps that are left, recorded as they end. What a killed process has played is not played again."""
        steps, ahead = range(self.steps, self.config.iterations), self.config.steps_ahead
        kept = self.folder.database.unlearned(steps.start)
        played = {trajectory.policy for games in kept.values() for game in games for trajectory in game.trajectories}
        for member in self.members:
            member.fence.trust(played)

        def play(deals: Iterator[Deal], admit: Admit) -> AsyncIterator[Game]:
            return self.engine.play(deals, adapter=POLICY, sampler=self.gate, admit=admit)

        deals = partial(deal, self.config)
        return GameStream(play, deals, steps=steps, steps_ahead=ahead, record=self.record, kept=kept, admit=self.engine.admit)

    async def step(self, stream: GameStream) -> None:
        """Deal, play, score, pack, step, publish. The fence stands before the games, and between the step and what is kept."""
        deals, rollout = deal(self.config, self.steps), RolloutStats()
        with self.clock.measure("play"):
            agreement = await self.open()
            games = await self.play(stream, deals, rollout)
            judged = await self.score(games, rollout)
            idle = await self.shut()
        trajectories = {member.name: trained_on(judged.games, deals, member.name) for member in self.members}
        for member in self.members:
            member.fence.check_games(trajectories[member.name])
        self.updating = True
        with self.clock.measure("learn"):
            stats = [await self.learn(member, trajectories[member.name]) for member in self.members]
        rate(self.members, trajectories)
        self.updating = False
        self.clock.games += len(games)
        self.clock.sampled_tokens += rollout.sampled_tokens
        self.clock.learned_tokens += sum(one.tokens for one in stats)
        self.publish()
        stream.learned(self.steps)
        with self.clock.measure("other"):
            figures = step_metrics(rollout, self.members, stats, agreement, judged, trajectories, idle=idle)
            calls = {} if self.engine.remote is None else remote_metrics(self.engine.remote.stats)
            self.tracker.log(self.steps, figures | calls)

    async def open(self) -> dict[str, float]:
        """The generator takes its memory back, and the policies in it are held to the learners' before any game goes on."""
        self.engine.generator.resume()
        agreement = [await member.fence.check(member.adapter) for member in self.members]
        self.gate.open()
        return {name: max(getattr(one, name) for one in agreement) for name in agreement[0].__struct_fields__}

    async def shut(self) -> float:
        """The memory goes to the learner. Seats that a policy plays wait; partners elsewhere go on. Returns the share of the time
        since `open` in which the generator computed nothing."""
        idle = await self.gate.shut()
        self.engine.generator.release()
        return idle

    async def play(self, stream: GameStream, deals: list[Deal], rollout: RolloutStats) -> list[Game]:
        """The games of a step."""
        title, note = f"step {self.steps + 1}", lambda: self.engine.spending
        with Progress(title, total=len(deals), stats=rollout, quiet=self.quiet, note=note) as progress:
            for game in stream.ended(self.steps):
                progress.add(game)
            self.shown = progress.add
            games = await stream.games(self.steps)
        if all(game.error is not None for game in games):
            raise RunError(
                f"none of the {len(games)} games of step {self.steps + 1} could be played to its end: mend that, and go on with "
                f"--resume; the first: {games[0].error}"
            )
        return games

    def record(self, step: int, game: Game) -> None:
        """A game that has ended goes into the database at once."""
        self.folder.database.record([game], step=step)
        if step == self.steps:
            self.shown(game)

    async def score(self, games: list[Game], rollout: RolloutStats) -> Judged:
        """What no referee can score, in tournaments; the other games stay as they are."""
        count = Count(f"step {self.steps + 1}, judging", "verdicts", quiet=self.quiet, note=lambda: self.engine.spending)
        judged = await score_games(games, self.engine.judging, step=self.steps, on_judgement=count.add)
        if judged.judgements:
            self.ledger.record_judgements(judged.judgements, phase="train", step=self.steps)
            self.folder.database.record((game for game in judged.games if game.id in judged.scores), step=self.steps)
            rollout.recount(judged.games)
        return judged

    async def learn(self, member: Member, trajectories: list[Trajectory]) -> StepStats:
        """One update; in a thread of its own where games may go on meanwhile."""
        if not self.config.steps_ahead:
            stats = member.learner.step(trajectories)
            member.fence.check_step(stats)
            return stats
        # What differs from the learner's policy here is an earlier version of it, which the loss corrects for.
        return await asyncio.to_thread(member.learner.step, trajectories)

    def publish(self) -> None:
        with self.clock.measure("publish"):
            for member in self.members:
                self.engine.publish(member.adapter, member.learner.adapter())

    def save(self) -> None:
        """The checkpoint, and the adapters where others look for them."""
        with self.clock.measure("other"):
            files = {name: data for member in self.members for name, data in member.files().items()}
            files[CLOCK] = msgspec.json.encode(self.clock)
            self.folder.save_checkpoint(self.steps, files, keep=self.config.keep_checkpoints)
            self.deliver()
            self.folder.database.forget_trajectories(before=self.steps)
        self.saved = self.steps

    def result(self) -> Adapter:
        """What the run has come to: the leader's policy, or the best one of a run that has fallen from it."""
        if self.held_out.declined:
            return self.engine.load_adapter(self.held_out.best_path)
        return self.leader.learner.adapter()

    def deliver(self) -> None:
        """The adapter that the run has come to, for PEFT and vLLM to load; of a population also all of them."""
        self.folder.publish_adapter(self.result().files())
        if len(self.members) > 1:
            files = {
                f"{member.adapter}/{name}": data
                for member in self.members
                for name, data in member.learner.adapter().files().items()
            }
            self.folder.publish(ADAPTERS, files)

    async def look(self) -> None:
        """An evaluation of the contests on the way, where the settings ask for one after this step."""
        if self.steps < self.config.iterations and self.held_out.is_due(self.steps):
            with self.clock.measure("evaluate"):
                self.engine.generator.resume()
                found = await self.held_out.look(self.engine, self.leader, self.steps, quiet=self.quiet)
                self.engine.generator.release()
            self.tracker.log(self.steps, found)

    def record_evaluated(self, game: Game) -> None:
        self.folder.database.record([game], phase="evaluate", step=self.steps)

    async def finish_or_say_what_is_done(self) -> Summary:
        """An evaluation that fails takes nothing from a run that is trained: its error says so, and the page is written."""
        try:
            return await self.finish()
        except (EvaluationError, BudgetError, RemoteError) as error:
            write_report(self.folder.path)
            raise type(error)(
                f"{error}. Training is done: the adapter is in {self.folder.adapter_path}; --resume evaluates it again, and "
                "sparring evaluate does so with settings of its own"
            ) from error

    async def finish(self) -> Summary:
        """The evaluation of what the run has come to, and the summary of all of it."""
        adapter, name = self.result(), self.leader.adapter
        if self.held_out.declined:
            self.engine.publish(name, adapter)
            self.deliver()
        games: Report | None = None
        contest: ContestReport | None = None
        if self.config.evaluation.scenarios:
            self.engine.generator.resume()
            self.engine.generator.verify(name)
            with self.clock.measure("evaluate"):
                if self.config.games:
                    games = await appraise(self.engine, adapter=name, quiet=self.quiet, on_game=self.record_evaluated)
                if self.config.contests:
                    contest = await self.appraise_contests(name)
        summary = Summary(
            preset=self.config.preset,
            seed=self.config.seed,
            model=self.config.model,
            base_model=self.engine.base_model,
            adapter=adapter.fingerprint,
            steps=self.steps,
            stopped=self.held_out.verdict.text if self.held_out.declined else "",
            evaluation=games,
            contest=contest,
            population={member.adapter: member.rating for member in self.members} if len(self.members) > 1 else {},
            calls=self.ledger.totals(),
            throughput=throughput(self.clock),
            seconds=seconds(self.clock),
        )
        self.folder.write_summary(summary)
        write_report(self.folder.path)
        return summary

    async def appraise_contests(self, adapter: str) -> ContestReport:
        """The policy's entries against the comparison's, and what the judges said of them."""
        said: list[Judgement] = []
        judging = self.engine.judging
        report = await appraise_contests(
            self.engine,
            adapter=adapter,
            judge=judging.evaluation,
            comparison=judging.config.comparison,
            quiet=self.quiet,
            on_game=self.record_evaluated,
            on_judgement=said.append,
        )
        self.ledger.record_judgements(said, phase="evaluate", step=self.steps)
        return report
