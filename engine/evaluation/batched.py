"""`BatchedEvaluation`: contests measured by a judge behind the Batch API, and the folder that such a measurement goes on from.

The folder holds the entries that were written, the calls that were paid and the batches under way: however the process ends, the
next one writes nothing again and submits nothing twice. What is measured is `contest.py`'s, batches are `rollout/remote`'s.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Self

import msgspec
from rich.console import Console

from sparring.engine.config import RunConfig
from sparring.engine.engine import Engine
from sparring.engine.errors import ConfigError
from sparring.engine.evaluation.contest import appraise_contests
from sparring.engine.evaluation.contest_report import ContestReport
from sparring.engine.run.database import RunDatabase
from sparring.engine.run.folder import DATABASE, take_lock
from sparring.engine.run.ledger import Ledger
from sparring.rollout.judging.config import EMBEDDED
from sparring.rollout.judging.judge import Judgement
from sparring.rollout.judging.judging import open_judging
from sparring.rollout.remote.batch import find_batched
from sparring.rollout.remote.batch_job import Polling
from sparring.rollout.remote.batch_model import BatchModel
from sparring.rollout.remote.config import RemoteConfig
from sparring.rollout.trajectory import Game

PHASE = "evaluate"


class BatchedEvaluation:
    """One evaluation's folder, held by this process alone. A context manager.

    Example:
        >>> with BatchedEvaluation(Path("report.batch") / identify(config, base_model=base, adapter=adapter)) as batched:
        ...     engine.connect(batched.ledger)
        ...     report = await batched.appraise_contests(engine, adapter=POLICY)
    """

    def __init__(self, path: Path, *, polling: Polling | None = None) -> None:
        """Makes the folder where there is none. Raises `RunError` where another process is at it, or it is damaged."""
        path.mkdir(parents=True, exist_ok=True)
        self.path, self._polling = path, polling
        self._lock = take_lock(path)
        try:
            self._database = RunDatabase(path / DATABASE)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()
        os.close(self._lock)

    @property
    def ledger(self) -> Ledger:
        """The calls; the engine's own of the same evaluation go there too."""
        return self._database.ledger

    async def appraise_contests(self, engine: Engine, *, adapter: str, quiet: bool = False) -> ContestReport:
        """As `contest.appraise_contests`, by the settings' judge of evaluation. Connect the engine with `ledger` first."""
        assert engine.remote is not None, "`check_batches` sees to a judge elsewhere"
        console = Console(file=sys.stderr, highlight=False, soft_wrap=True, quiet=quiet)
        console.print(
            f"batches are kept in {self.path}: if this is interrupted, the same command goes on from there", markup=False
        )
        model = BatchModel(
            engine.remote,
            self.path,
            journal=self.ledger,
            polling=self._polling,
            say=lambda line: console.print(line, markup=False),
        )
        judging, said = open_judging(engine.config.judging, model), list[Judgement]()
        try:
            report = await appraise_contests(
                engine,
                adapter=adapter,
                judge=judging.evaluation,
                comparison=judging.config.comparison,
                judge_concurrency=sys.maxsize,  # a batch is one call to the provider, whatever it holds
                quiet=quiet,
                kept=self._kept(),
                on_game=self._record,
                on_judgement=said.append,
            )
        finally:
            await model.close()
        self.ledger.record_judgements(said, phase=PHASE, step=0)
        return report

    def _record(self, game: Game) -> None:
        self._database.record([game], phase=PHASE)

    def _kept(self) -> dict[str, Game]:
        """The games that earlier processes played. One that failed is played again."""
        return {game.id: game for game in self._database.games(phase=PHASE) if game.error is None}


def check_batches(config: RunConfig) -> None:
    """Raises `ConfigError` or `RemoteError` where the settings leave nothing to put into a batch, or no way to. Sends nothing."""
    if not config.contests:
        raise ConfigError("--batch is for the judge of contests, and there are none: leave it out, or name some with --task")
    judge = config.judging.evaluation_judge
    if judge == EMBEDDED:
        raise ConfigError(
            "--batch is for a judge elsewhere, and the embedded one is here: leave it out, or name one with --judge"
        )
    if config.remote.cassette_mode != "replay":
        find_batched(judge, config.remote)


def identify(config: RunConfig, *, base_model: str, adapter: str) -> str:
    """16 hex digits of everything that decides what is asked: the folder of an evaluation.

    Limits, prices and the budget do not, so that a run that met its budget goes on with a larger one.
    """
    remote = RemoteConfig(max_tokens=config.remote.max_tokens, temperature=config.remote.temperature)
    held = (msgspec.structs.replace(config, remote=remote), base_model, adapter)
    return hashlib.blake2b(msgspec.json.encode(held, order="sorted"), digest_size=8).hexdigest()
