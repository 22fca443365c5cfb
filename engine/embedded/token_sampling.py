"""Next tokens from logits, for many requests at once, each with its own seed, temperature and top-p.

Every row is drawn from its own uniform by inverting its own cumulative distribution, so no row can influence another. Knows
nothing of models, caches or requests.

Axes: R rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed_R: NDArray[np.uint64], draw_R: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The `draw`-th uniform in [0, 1) of each seed: a pure function of both, so nothing has to be kept between draws.

    52 bits: the largest is far enough below 1 that its product with a row's total mass stays below that total.
    """
    with np.errstate(over="ignore"):
        bits_R = _mix(_mix(seed_R + _GOLDEN) + (draw_R + np.uint64(1)) * _GOLDEN)
    return (bits_R >> np.uint64(12)).astype(np.float64) * 2.0**-52


class Draws:
    """What the requests in a generator's slots draw with; `num_drawn` is all that changes from token to token."""

    def __init__(self, num_slots: int) -> None:
        self._seed: NDArray[np.uint64] = np.zeros(num_slots, np.uint64)
        self._num_drawn: NDArray[np.uint64] = np.zeros(num_slots, np.uint64)
        self._temperature = np.ones(num_slots)
        self._top_p = np.ones(num_slots)

    def start(self, slot: int, *, seed: int, temperature: float, top_p: float) -> None:
        """A new request in this slot. The seed may be any integer; its low 64 bits count."""
        self._seed[slot] = seed & 0xFFFF_FFFF_FFFF_FFFF
        self._num_drawn[slot] = 0
        self._temperature[slot] = temperature
        self._top_p[slot] = top_p

    def draw(self, logits_RV: Tensor, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[float]]:
        """The next token of each of these slots, and its log-prob."""
        if not len(slots):
            return slots, []
        uniform_R = uniforms(self._seed[slots], self._num_drawn[slots])
        self._num_drawn[slots] += np.uint64(1)
        columns = torch.from_numpy(np.stack((self._temperature[slots], self._top_p[slots], uniform_R))).to(logits_RV.device)
        ids, logprobs = draw(logits_RV, *columns)
        return ids.cpu().numpy(), logprobs.tolist()


def draw(logits_RV: Tensor, temperature_R: Tensor, top_p_R: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row, and its log-prob at the row's temperature before top-p (of the unscaled model where temperature is 0).

    The three [R] tensors are float64 on the device of the logits. Works in float64, so that the draw depends on the logits' own
    rounding only. Returns ids [R] int64 and log-probs [R] float64.
    """
    greedy_R = temperature_R == 0
    scaled_RV = logits_RV.double() / torch.where(greedy_R, 1.0, temperature_R)[:, None]
    logprob_RV = torch.log_softmax(scaled_RV, dim=-1)
    prob_RV = logprob_RV.exp()
    id_R = _invert(prob_RV, uniform_R)
    nucleus_R = (top_p_R < 1) & ~greedy_R
    if bool(nucleus_R.any()):
        id_R[nucleus_R] = _draw_nucleus(prob_RV[nucleus_R], top_p_R[nucleus_R], uniform_R[nucleus_R])
    if bool(greedy_R.any()):
        id_R = torch.where(greedy_R, logits_RV.argmax(dim=-1), id_R)
    return id_R, logprob_RV.gather(1, id_R[:, None])[:, 0]


def _invert(mass_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """The first index whose cumulative mass exceeds uniform * total: one of zero mass is never chosen."""
    cumulative_RV = mass_RV.cumsum(dim=-1)
    target_R1 = (uniform_R * cumulative_RV[:, -1])[:, None]
    return torch.searchsorted(cumulative_RV, target_R1, right=True)[:, 0]


def _draw_nucleus(prob_RV: Tensor, top_p_R: Tensor, uniform_R: Tensor) -> Tensor:
    """Draws from the fewest likeliest tokens whose mass reaches top_p (Holtzman et al., 2020); of equals the lower id."""
    sorted_RV, order_RV = prob_RV.sort(dim=-1, descending=True, stable=True)
    before_RV = sorted_RV.cumsum(dim=-1) - sorted_RV
    before_RV[:, 0] = 0.0
    rank_R = _invert(sorted_RV.masked_fill(before_RV >= top_p_R[:, None], 0.0), uniform_R)
    return order_RV.gather(1, rank_R[:, None])[:, 0]
