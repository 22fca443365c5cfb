"""What an adapter is worth: the base model and the adapter on the same held-out games, and both under the shuffled-values control."""

from __future__ import annotations

from collections.abc import Callable

from sparring.engine.compare import Report, compare
from sparring.engine.engine import Engine
from sparring.engine.evaluate import arrange, evaluate, held_out
from sparring.engine.figures import Evaluation
from sparring.rollout.player import Seating
from sparring.rollout.progress import Progress


async def appraise(engine: Engine, *, adapter: str, quiet: bool = False, on_side: Callable[[str, Evaluation], None] | None = None) -> Report:
    """The report on the published `adapter`, as `config.evaluation` asks. `on_side` is told each evaluation as it ends.

    Raises `EvaluationError` where there is nothing to evaluate or nothing could be played.
    """
    config = engine.config
    wanted = config.evaluation
    scenarios = held_out(config.families, wanted.scenarios, split=wanted.split, seed=wanted.seed)

    async def side(name: str, policy: str | None, *, shuffled: bool) -> Evaluation:
        matches = arrange(
            scenarios, partners=wanted.partners, games=wanted.games, seed=wanted.seed, shuffled=shuffled, label=name
        )
        seating = Seating(sampler=engine.generator, chat=engine.chat, adapter=policy, sampling=config.sampling)
        with Progress(f"evaluate {name}", total=len(matches), quiet=quiet) as progress:
            found = await evaluate(
                matches, seating, concurrency=config.concurrency, time_limit=config.time_limit, on_game=progress.add
            )
        if on_side is not None:
            on_side(name, found)
        return found

    baseline = await side("baseline", None, shuffled=False)
    trained = await side("trained", adapter, shuffled=False)
    control = None
    if wanted.control:
        control = (
            await side("baseline, shuffled values", None, shuffled=True),
            await side("trained, shuffled values", adapter, shuffled=True),
        )
    return compare(baseline, trained, shuffled=control, seed=wanted.seed)
