"""What an adapter is worth: base model and adapter on the same held-out games, and both under the shuffled-values control.

Contests are `contest.py`'s; `appraise_adapter` measures both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from sparring.engine.config import RunConfig
from sparring.engine.engine import POLICY, Engine
from sparring.engine.evaluation.batched import BatchedEvaluation, check_batches, identify
from sparring.engine.evaluation.compare import Report, compare
from sparring.engine.evaluation.contest import appraise_contests
from sparring.engine.evaluation.contest_report import ContestReport
from sparring.engine.evaluation.evaluate import arrange, evaluate, held_out
from sparring.engine.evaluation.figures import Evaluation
from sparring.rollout.progress import Progress
from sparring.rollout.remote.batch_job import Polling
from sparring.rollout.trajectory import Game


class Appraisal(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter was measured at, as other programs read it: both reports are those of a run's `summary.json`."""

    model: str
    base_model: str
    """Fingerprint of the base model's weights."""
    adapter: str
    """Fingerprint of the adapter."""
    evaluation: Report | None = None
    """Of the games, where the settings name any."""
    contest: ContestReport | None = None
    """Of the contests, where the settings name any."""

    @property
    def json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def appraise_adapter(
    config: RunConfig, adapter: Path, *, quiet: bool = False, batches: Path | None = None, polling: Polling | None = None
) -> Appraisal:
    """The adapter in a folder, as `config.evaluation` asks: in games against its base model, in contests against
    `config.judging.comparison`.

    With `batches`, the judge of contests is asked through the Batch API, `polling` as often, and that folder holds what an
    interrupted evaluation goes on from.

    Raises `AdapterError` for one that is broken or another model's, `ConfigError` and `EvaluationError` as `appraise` does, and
    what ends a run where models elsewhere are called.
    """
    config.check()
    if batches is not None:
        check_batches(config)
    with Engine.open(config) as engine, ExitStack() as stack:
        loaded = engine.load_adapter(adapter)
        engine.publish(POLICY, loaded)
        batched = None
        if batches is not None:
            folder = batches / identify(config, base_model=engine.base_model, adapter=loaded.fingerprint)
            batched = stack.enter_context(BatchedEvaluation(folder, polling=polling))
        games, contest = asyncio.run(_appraise_all(engine, batched, quiet=quiet))
        return Appraisal(
            model=config.model, base_model=engine.base_model, adapter=loaded.fingerprint, evaluation=games, contest=contest
        )


async def _appraise_all(
    engine: Engine, batched: BatchedEvaluation | None, *, quiet: bool
) -> tuple[Report | None, ContestReport | None]:
    config, games, contest = engine.config, None, None
    engine.connect(None if batched is None else batched.ledger)
    try:
        if config.games:
            games = await appraise(engine, adapter=POLICY, quiet=quiet)
        if config.contests and batched is not None:
            contest = await batched.appraise_contests(engine, adapter=POLICY, quiet=quiet)
        elif config.contests:
            judging = engine.judging
            contest = await appraise_contests(
                engine, adapter=POLICY, judge=judging.evaluation, comparison=judging.config.comparison, quiet=quiet
            )
    finally:
        await engine.disconnect()
    return games, contest


async def appraise(engine: Engine, *, adapter: str, quiet: bool = False, on_game: Callable[[Game], None] | None = None) -> Report:
    """The report on the published `adapter`, as `config.evaluation` asks. `on_game` is told each game as it ends.

    Raises `EvaluationError` where there is nothing to evaluate or nothing could be played.
    """
    config = engine.config
    wanted = config.evaluation
    scenarios = held_out(config.games, wanted.scenarios, split=wanted.split, seed=wanted.seed)

    async def side(name: str, policy: str | None, *, shuffled: bool) -> Evaluation:
        matches = arrange(
            scenarios, partners=wanted.partners, games=wanted.games, seed=wanted.seed, shuffled=shuffled, label=name
        )
        seating = engine.seating(policy)
        with Progress(f"evaluate {name}", total=len(matches), quiet=quiet, note=lambda: engine.spending) as progress:

            def show(game: Game) -> None:
                progress.add(game)
                if on_game is not None:
                    on_game(game)

            return await evaluate(
                matches,
                seating,
                concurrency=config.concurrency,
                time_limit=engine.time_limit,
                on_game=show,
                admit=engine.admit,
            )

    baseline = await side("baseline", None, shuffled=False)
    trained = await side("trained", adapter, shuffled=False)
    control = None
    if wanted.control:
        control = (
            await side("baseline, shuffled values", None, shuffled=True),
            await side("trained, shuffled values", adapter, shuffled=True),
        )
    return compare(baseline, trained, shuffled=control, seed=wanted.seed)
