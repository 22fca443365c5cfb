"""`HeldOutLog`: evaluations of a run's contests on the way, the best adapter so far, and whether the policy has fallen from it.

Kept in the run's folder, so that a resumed run goes on with the same history. The verdict is `evaluation/decline.py`'s.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from sparring.engine.config import EvaluationConfig
from sparring.engine.engine import Engine
from sparring.engine.errors import RunError
from sparring.engine.evaluation.contest import appraise_contests
from sparring.engine.evaluation.decline import Decline, HeldOut, decline
from sparring.engine.members import Member
from sparring.engine.run.folder import BEST, RunFolder
from sparring.rollout.judging.judge import Judgement

HISTORY = "held_out.json"
PHASE = "held out"
"""Of its judgements in the run's database."""


class HeldOutLog:
    """The history of one run's evaluations on the way."""

    def __init__(self, run: RunFolder, config: EvaluationConfig, steps: int) -> None:
        """`steps` is where the run goes on: what was measured after that belongs to a course that was given up."""
        self._run, self._config = run, config
        self._path = run.path / HISTORY
        self.history = [held for held in _read(self._path) if held.step <= steps]

    @property
    def best_path(self) -> Path:
        """The folder of the best adapter so far."""
        return self._run.path / BEST

    @property
    def verdict(self) -> Decline:
        return decline(self.history, self._config.decline)

    @property
    def declined(self) -> bool:
        """Whether the run should stop."""
        return bool(self.history) and self.verdict.stop

    def is_due(self, step: int) -> bool:
        """Whether the settings ask for an evaluation after this step, and none was made."""
        every = self._config.every
        return bool(every and self._config.scenarios) and step % every == 0 and all(held.step != step for held in self.history)

    async def look(self, engine: Engine, member: Member, step: int, *, quiet: bool) -> dict[str, float]:
        """Evaluates the member's policy as it is served, notes it, and keeps its adapter if none was better. Returns figures for
        the tracker."""
        said: list[Judgement] = []
        report = await appraise_contests(
            engine,
            adapter=member.adapter,
            judge=engine.judging.evaluation,
            comparison=engine.config.judging.comparison,
            quiet=quiet,
            on_judgement=said.append,
        )
        self._run.database.ledger.record_judgements(said, phase=PHASE, step=step)
        self.history.append(HeldOut(step=step, topics=report.trained.topics))
        if self.verdict.best_step == step:
            self._run.publish(BEST, member.learner.adapter().files())
        self._run.write(HISTORY, msgspec.json.encode(self.history))
        trained = report.trained
        return {
            "evaluate/win_rate": trained.win_rate,
            "evaluate/low": trained.low,
            "evaluate/high": trained.high,
            "evaluate/words": trained.form.words,
            "evaluate/strict": trained.form.strict,
        }


def _read(path: Path) -> list[HeldOut]:
    if not path.is_file():
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[HeldOut])
    except msgspec.MsgspecError as error:
        raise RunError(f"{path} is damaged ({error}): remove it, and the run goes on without that history") from error
