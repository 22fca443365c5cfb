"""Stopping while ahead: whether a policy has fallen behind its own best on held-out topics, by more than noise.

Pure: the caller keeps the history, evaluates, and goes back to the best step's adapter. The best of many noisy evaluations looks
better than it is, and looking after each one is a chance of a false alarm each: both are paid for here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from scipy.stats import t as student_t

from sparring.engine.errors import EvaluationError
from sparring.engine.evaluation.statistics import Wins


class DeclineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a run stops on its own."""

    patience: Annotated[int, Meta(ge=1)] = 2
    """So many evaluations in a row must each be worse than the best one before them."""
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """The chance that a policy which does not decline is ever stopped, over all looks of a run, however long."""


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation: each topic's wins, half of one for a tie or a flip."""

    step: int
    topics: dict[str, Wins]

    @property
    def win_rate(self) -> float:
        games = sum(own.games for own in self.topics.values())
        return sum(own.wins for own in self.topics.values()) / games if games else 0.0


class Decline(msgspec.Struct, frozen=True, kw_only=True):
    """What the history says. `best_step` is the step to go back to, stopped or not; -1 where nothing was measured."""

    stop: bool
    best_step: int
    best: float
    """Win rate of the best evaluation."""
    drop: float = 0.0
    """By how much the nearest of the latest ones lies below the best one before them, in win rate."""
    p_value: float = 1.0
    """One-sided: of so large a drop where there is none, before any correction."""
    threshold: float = 0.0
    """What the p-value must undercut at this look."""

    @property
    def text(self) -> str:
        """One sentence."""
        if not self.stop:
            return f"best so far at step {self.best_step}: {self.best:.1%}"
        sure = f"p = {self.p_value:.1g}, below {self.threshold:.1g}"
        fell = f"the held-out win rate fell by {100 * self.drop:.1f} points or more"
        return f"{fell} from the {self.best:.1%} of step {self.best_step} ({sure})"


def decline(history: Sequence[HeldOut], config: DeclineConfig | None = None) -> Decline:
    """Whether the evaluations of `history`, oldest first and on the same topics, have come down from their peak.

    Each of the latest `patience` ones is compared with the best one before them (paired t over topics), and the largest p-value
    counts. At the k-th look the best was chosen among k, so the level is alpha / (k (k + 1)) / k: over all looks of a run that
    sums to at most alpha (Bonferroni).

    Raises `EvaluationError` where the evaluations hold different topics.

    Example:
        >>> decline([HeldOut(step=40, topics=peak), HeldOut(step=80, topics=low), HeldOut(step=120, topics=lower)]).best_step
        40
    """
    config = config or DeclineConfig()
    if not history:
        return Decline(stop=False, best_step=-1, best=0.0)
    for held in history:
        if held.topics.keys() != history[0].topics.keys():
            raise EvaluationError(f"the evaluations of steps {history[0].step} and {held.step} are of different topics")
    overall = max(history, key=lambda held: held.win_rate)
    look = len(history) - config.patience
    if look < 1:
        return Decline(stop=False, best_step=overall.step, best=overall.win_rate)
    best = max(history[:look], key=lambda held: held.win_rate)
    compared = [_paired(best.topics, held.topics) for held in history[look:]]
    drop, p_value = min(drop for drop, _ in compared), max(p for _, p in compared)
    threshold = config.alpha / (look * (look + 1)) / look
    stop = drop > 0 and p_value < threshold
    return Decline(stop=stop, best_step=overall.step, best=overall.win_rate, drop=drop, p_value=p_value, threshold=threshold)


def _paired(best: Mapping[str, Wins], later: Mapping[str, Wins]) -> tuple[float, float]:
    """Mean fall of a topic's win share, and its one-sided p-value; topics without games on one side are left out."""
    both = [(best[topic], later[topic]) for topic in sorted(best) if best[topic].games and later[topic].games]
    fall_C = np.array([before.wins / before.games - after.wins / after.games for before, after in both])
    if len(fall_C) < 2:
        return (float(fall_C.mean()) if len(fall_C) else 0.0), 1.0
    mean, spread = float(fall_C.mean()), float(fall_C.std(ddof=1))
    # Equal falls in every topic leave no spread to judge by: a floor of one half point in one topic stands in for it.
    spread = max(spread, 0.5 / math.sqrt(len(fall_C)) / max(before.games for before, _ in both))
    return mean, float(student_t.sf(mean / (spread / math.sqrt(len(fall_C))), df=len(fall_C) - 1))
