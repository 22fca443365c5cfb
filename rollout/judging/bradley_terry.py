"""Strengths from pairwise results with ties: Bradley-Terry in Davidson's form, held finite by a prior.

    P(i beats j) : P(tie) : P(j beats i)  =  pi_i : nu sqrt(pi_i pi_j) : pi_j        (Davidson 1970, JASA 65, 317-328)

Owns the fit alone. N entries, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparring.rollout.judging.panel import Share

PRIOR = 0.1
"""Precision of the normal prior on each log-strength and on log(nu). Weak beside one judged pair (whose information is at most
1/4), yet it keeps a perfect record, a group without ties and parts that no pair connects finite."""
MAX_STEPS = 100
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Strengths:
    """`theta` [N] holds the logs of pi, centred; `eta` is the log of nu."""

    theta: NDArray[np.float64]
    eta: float

    def expected(self, i: int, j: int) -> float:
        """P(i beats j) - P(j beats i), in (-1, 1)."""
        lead = float(self.theta[i] - self.theta[j])
        # Both sides divided by sqrt(pi_i pi_j): e^(lead/2) - e^(-lead/2) over their sum and nu.
        return float(2 * np.sinh(lead / 2) / (2 * np.cosh(lead / 2) + np.exp(self.eta)))


def fit(count: int, pairs: Sequence[tuple[int, int, Share]], prior: float = PRIOR) -> Strengths:
    """The most likely strengths of `count` entries under the prior. A pair weighs 1, split over win, tie and loss.

    The penalised likelihood is strictly concave, so Newton's method with halved steps finds its one maximum.
    """
    design_P3M, shares_P3 = _design(count, pairs)
    point_M = np.zeros(count + 1)
    value = _objective(point_M, design_P3M, shares_P3, prior)
    for _ in range(MAX_STEPS):
        step_M = _newton_step(point_M, design_P3M, shares_P3, prior)
        scale = 1.0
        while (after := _objective(point_M + scale * step_M, design_P3M, shares_P3, prior)) < value and scale > TOLERANCE:
            scale /= 2
        point_M, value = point_M + scale * step_M, after
        if np.abs(scale * step_M).max() < TOLERANCE:
            break
    return Strengths(point_M[:count] - point_M[:count].mean(), float(point_M[count]))


def _design(count: int, pairs: Sequence[tuple[int, int, Share]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The log-odds of win, tie and loss as rows over the M = N + 1 unknowns, and what share of each came about."""
    design_P3M = np.zeros((len(pairs), 3, count + 1))
    shares_P3 = np.zeros((len(pairs), 3))
    for row, (i, j, share) in enumerate(pairs):
        design_P3M[row, 0, i] = design_P3M[row, 2, j] = 1.0
        design_P3M[row, 1, [i, j]] = 0.5
        design_P3M[row, 1, count] = 1.0
        shares_P3[row] = share.win, share.tie, share.loss
    return design_P3M, shares_P3


def _log_chances(point_M: NDArray[np.float64], design_P3M: NDArray[np.float64]) -> NDArray[np.float64]:
    logits_P3 = design_P3M @ point_M
    chances: NDArray[np.float64] = logits_P3 - np.logaddexp.reduce(logits_P3, axis=1, keepdims=True)
    return chances


def _objective(
    point_M: NDArray[np.float64], design_P3M: NDArray[np.float64], shares_P3: NDArray[np.float64], prior: float
) -> float:
    likelihood = float((shares_P3 * _log_chances(point_M, design_P3M)).sum())
    return likelihood - prior / 2 * float(point_M @ point_M)


def _newton_step(
    point_M: NDArray[np.float64], design_P3M: NDArray[np.float64], shares_P3: NDArray[np.float64], prior: float
) -> NDArray[np.float64]:
    chances_P3 = np.exp(_log_chances(point_M, design_P3M))
    slope_M = np.einsum("pk,pkm->m", shares_P3 - chances_P3, design_P3M) - prior * point_M
    mean_PM = np.einsum("pk,pkm->pm", chances_P3, design_P3M)
    curve_MM = np.einsum("pk,pkm,pkn->mn", chances_P3, design_P3M, design_P3M) - mean_PM.T @ mean_PM
    step: NDArray[np.float64] = np.linalg.solve(curve_MM + prior * np.eye(len(point_M)), slope_M)
    return step
