"""How sure a win rate is: intervals, paired differences, and corrections for asking several questions.

Owns the arithmetic only. What is compared with what, and what the report says about it, is `evaluate.py`'s.
C clusters (scenarios), R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from sparring.engine.errors import EvaluationError

CONFIDENCE = 0.95
RESAMPLES = 4000
_MAX_CELLS = 1 << 22
"""Cells of one block of the resampling matrix: 32 MiB of float64 whatever the number of scenarios."""


class Interval(msgspec.Struct, frozen=True):
    """Both ends included."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Trained minus baseline, in win rate, with the ends of its interval and a two-sided p-value against "no difference"."""

    win_rate: float
    low: float
    high: float
    p_value: float


class Wins(msgspec.Struct, frozen=True):
    """Wins among the games of one scenario that counted."""

    wins: float
    games: int


def wilson(wins: int, games: int, confidence: float = CONFIDENCE) -> Interval:
    """The score interval of a proportion (Wilson 1927) over independent games; [0, 1] where none was played.

    Example:
        >>> wilson(9, 20)
        Interval(low=0.2581979240974644, high=0.6579147107320474)
    """
    if not 0 <= wins <= games:
        raise EvaluationError(f"{wins} wins in {games} games: wins must lie between 0 and games")
    if games == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    # (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    share, scale = wins / games, 1 + z * z / games
    centre = (share + z * z / (2 * games)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / games + z * z / (4 * games * games))
    # At 0 and at n wins one end is exactly 0 or 1; rounding would put it beside that.
    return Interval(0.0 if wins == 0 else max(0.0, centre - reach), 1.0 if wins == games else min(1.0, centre + reach))


def paired_difference(
    baseline: Mapping[str, Wins],
    trained: Mapping[str, Wins],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Difference of win rates with a percentile bootstrap over whole scenarios, both sides resampled together.

    `baseline` and `trained` hold each scenario's games; games of one scenario (seats, partners, repeats) are not independent,
    so a scenario is drawn with all of them. A scenario in which neither side has a game that counted changes nothing.

    Raises `EvaluationError` where the sides did not play the same scenarios, or either has no game that counted.
    """
    if baseline.keys() != trained.keys():
        odd = min(baseline.keys() ^ trained.keys())
        raise EvaluationError(f"not paired: scenario {odd} was played by one side only")
    sides = [
        np.array([(side[key].wins, side[key].games) for key in sorted(baseline)], dtype=np.float64)
        for side in (baseline, trained)
    ]
    if any(side.size == 0 or side[:, 1].sum() == 0 for side in sides):
        raise EvaluationError("no difference without games: play at least one scenario on both sides")
    sums_C4 = np.concatenate(sides, axis=1)
    point = float(_difference(sums_C4.sum(axis=0)[None])[0])
    drawn_R = _resample(sums_C4, np.random.default_rng(seed), resamples)
    low, high = np.quantile(drawn_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    # Counting the observed sample among the resamples keeps the p-value above 0 (Davison & Hinkley 1997, section 4.2).
    tail = min(int((drawn_R <= 0).sum()), int((drawn_R >= 0).sum()))
    p_value = min(1.0, 2 * (1 + tail) / (1 + len(drawn_R)))
    return Difference(win_rate=point, low=min(float(low), point), high=max(float(high), point), p_value=p_value)


def against_even(wins: Mapping[str, Wins], *, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """A win rate minus 50%, half a win for a tie, with the same bootstrap over whole clusters.

    Where every cluster went the same way a bootstrap sees no spread: the interval is then Wilson's, with clusters for games.

    Raises `EvaluationError` where nothing counted.
    """
    found = paired_difference(
        {key: Wins(own.games / 2, own.games) for key, own in wins.items()}, wins, seed=seed, resamples=resamples
    )
    shares = {own.wins / own.games for own in wins.values() if own.games}
    if len(shares) > 1:
        return found
    count = sum(own.games > 0 for own in wins.values())
    spread = wilson(round(count * shares.pop()), count)
    low, high = min(found.low, spread.low - 0.5), max(found.high, spread.high - 0.5)
    return Difference(win_rate=found.win_rate, low=low, high=high, p_value=1.0 if low <= 0 <= high else found.p_value)


def within_noise(difference: Difference) -> bool:
    """Whether the interval leaves open which side is better."""
    return difference.low <= 0 <= difference.high


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order (Holm 1979): rejecting those below alpha errs with probability at most alpha."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def cluster(results: Sequence[tuple[str, float]]) -> dict[str, Wins]:
    """Each scenario's wins from (scenario id, 1 for a win and 0 otherwise) per game."""
    found: dict[str, Wins] = {}
    for key, won in results:
        before = found.get(key, Wins(0.0, 0))
        found[key] = Wins(before.wins + won, before.games + 1)
    return found


def _difference(sums_R4: NDArray[np.float64]) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = sums_R4[:, 2] / sums_R4[:, 3] - sums_R4[:, 0] / sums_R4[:, 1]
    return rates


def _resample(sums_C4: NDArray[np.float64], rng: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    """The difference in each of R draws of C clusters with replacement; a draw without a game on one side is left out."""
    count = len(sums_C4)
    rows = max(1, _MAX_CELLS // count)
    blocks = []
    for start in range(0, resamples, rows):
        weights_RC = rng.multinomial(count, np.full(count, 1 / count), size=min(rows, resamples - start))
        sums_R4 = weights_RC.astype(np.float64) @ sums_C4
        blocks.append(_difference(sums_R4[(sums_R4[:, 1] > 0) & (sums_R4[:, 3] > 0)]))
    return np.concatenate(blocks)
