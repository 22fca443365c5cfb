"""Two policies on the same games: what the difference is, and whether it is more than noise.

Pairs are exact (`evaluate.py`), scenarios are the independent units (`statistics.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from sparring.engine.errors import EvaluationError
from sparring.engine.evaluation.figures import Evaluation, Result, Side, families_of
from sparring.engine.evaluation.statistics import Difference, Wins, cluster, holm, paired_difference, within_noise
from sparring.scenarios.outcome import Verdict

ALPHA = 0.05


class Effect(Difference, frozen=True, kw_only=True):
    """A difference with its verdict. A family's `p_adjusted` is corrected for the number of families looked at (Holm), and it is
    beyond noise only if that is below 5% as well."""

    within_noise: bool
    p_adjusted: float | None = None


class Comparison(Effect, frozen=True, kw_only=True):
    """Trained minus baseline over all games, in each family, and against the partners never met in training."""

    families: dict[str, Effect]
    unseen: Effect | None


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Both sides and what lies between them: the `evaluation` of a run's summary.

    `shuffled` is the same comparison where the policy was shown other instances' private values.
    """

    scenarios: int
    baseline: Side
    trained: Side
    difference: Comparison
    shuffled: Report | None = None

    @property
    def text(self) -> str:
        """The report in a few lines of words."""
        return "\n".join(_lines(self))


def compare(
    baseline: Evaluation, trained: Evaluation, *, shuffled: tuple[Evaluation, Evaluation] | None = None, seed: int = 0
) -> Report:
    """The report of two evaluations over the same matches; `shuffled` holds both sides' evaluations of the control.

    Raises `EvaluationError` where the matches differ, or one side has no game that counts.
    """
    if [r.key for r in baseline.results] != [r.key for r in trained.results] or baseline.shuffled != trained.shuffled:
        raise EvaluationError("the two evaluations are not of the same games: give both the same scenarios, partners and seed")
    before, after = baseline.results, trained.results
    names = [name for name in families_of(before) if _comparable(_of(before, name), _of(after, name))]
    differences = [_difference(_of(before, name), _of(after, name), seed) for name in names]
    adjusted = holm([difference.p_value for difference in differences])
    unseen_before, unseen_after = ([r for r in side if r.unseen] for side in (before, after))
    difference = Comparison(
        **msgspec.structs.asdict(_effect(_difference(before, after, seed))),
        families={name: _effect(d, p) for name, d, p in zip(names, differences, adjusted, strict=True)},
        unseen=_effect(_difference(unseen_before, unseen_after, seed)) if _comparable(unseen_before, unseen_after) else None,
    )
    return Report(
        scenarios=baseline.scenarios,
        baseline=baseline.side,
        trained=trained.side,
        difference=difference,
        shuffled=compare(*shuffled, seed=seed) if shuffled else None,
    )


def _of(results: Sequence[Result], family: str) -> list[Result]:
    return [result for result in results if result.family == family]


def _comparable(before: Sequence[Result], after: Sequence[Result]) -> bool:
    return any(r.counts for r in before) and any(r.counts for r in after)


def _clusters(results: Sequence[Result]) -> dict[str, Wins]:
    """Each scenario's wins, also of those whose games were all void: the sides must hold the same scenarios."""
    none = {result.scenario_id: Wins(0.0, 0) for result in results}
    return none | cluster([(r.scenario_id, float(r.outcome.verdict is Verdict.WIN)) for r in results if r.counts])


def _difference(before: Sequence[Result], after: Sequence[Result], seed: int) -> Difference:
    return paired_difference(_clusters(before), _clusters(after), seed=seed)


def _effect(difference: Difference, p_adjusted: float | None = None) -> Effect:
    noise = within_noise(difference) or (p_adjusted is not None and p_adjusted > ALPHA)
    return Effect(**msgspec.structs.asdict(difference), within_noise=noise, p_adjusted=p_adjusted)


def _lines(report: Report) -> Iterator[str]:
    before, after = report.baseline, report.trained
    won = f"{after.win_rate:.1%} of {after.games} games won on {report.scenarios} held-out scenarios"
    yield f"{won}, {before.win_rate:.1%} before: {_points(report.difference)}"
    for name, effect in report.difference.families.items():
        yield f"  {name}: {before.families[name].win_rate:.1%} to {after.families[name].win_rate:.1%}, {_points(effect)}"
    if report.difference.unseen is not None and before.unseen is not None and after.unseen is not None:
        rates = f"{before.unseen.win_rate:.1%} to {after.unseen.win_rate:.1%}"
        yield f"  against partners never met in training: {rates}, {_points(report.difference.unseen)}"
    else:
        yield "  the partner never met in training did not play: ask for more scenarios, or name it among the partners"
    yield f"  invalid games: {before.invalid / before.games:.1%} to {after.invalid / after.games:.1%}"
    if report.shuffled is not None:
        yield f"  with shuffled private values: {_points(report.shuffled.difference)}"


def _points(effect: Effect) -> str:
    span = f"{100 * effect.win_rate:+.1f} points [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"
    return f"{span}, within noise" if effect.within_noise else span
