"""The clipped policy-gradient loss of one packed batch, token by token: O(N), after the log-probs are known.

Owns the formula and the sums its statistics need. Where log-probs come from, what a token weighs and which groups count is
decided by the learner.

Axes: N trained tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySums:
    """Sums (and two maxima) over tokens, so that micro-batches add up exactly. The ratios of sums are properties."""

    tokens: float = 0.0
    loss: float = 0.0
    """Weighted: the objective as it is minimised. So are `policy_loss` and `kl_loss`."""
    policy_loss: float = 0.0
    kl_loss: float = 0.0
    clipped: float = 0.0
    old_kl: float = 0.0
    reference_kl: float = 0.0
    entropy: float = 0.0
    ratio: float = 0.0
    ratio_max: float = 0.0
    tis: float = 0.0
    importance: float = 0.0
    importance_squared: float = 0.0
    mismatch: float = 0.0
    mismatch_max: float = 0.0

    def __add__(self, other: PolicySums) -> PolicySums:
        mine = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return PolicySums(**{name: max(pair) if name.endswith("_max") else sum(pair) for name, pair in mine.items()})

    def mean(self, name: str) -> float:
        """The sum of that name per token; 0 for an empty batch."""
        return float(getattr(self, name)) / self.tokens if self.tokens else 0.0

    @property
    def effective_sample_size(self) -> float:
        """Kish's (sum w)^2 / (n sum w^2) of the generator's importance weights: 1 when it and the learner agree."""
        return self.importance**2 / (self.tokens * self.importance_squared) if self.importance_squared else 0.0

    @classmethod
    def of(cls, values: dict[str, Tensor | float]) -> Self:
        """One transfer from the device for all of them."""
        held = torch.stack([torch.as_tensor(value, dtype=torch.float64).detach().cpu().reshape(()) for value in values.values()])
        return cls(**dict(zip(values, held.tolist(), strict=True)))


NOISE = 1e-4
"""Nats. Two float32 programs that compute one policy differ by about 1e-6 in a log-prob, and by less than this at most."""


def policy_loss(
    logp: Tensor,
    advantage: Tensor,
    weight: Tensor,
    *,
    generator_logp: Tensor,
    old_logp: Tensor | None = None,
    reference_logp: Tensor | None = None,
    entropy: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    tis_cap: float | None = None,
    kl_beta: float = 0.0,
    entropy_weight: float = 0.0,
) -> tuple[Tensor, PolicySums]:
    """The loss (a scalar that adds up over micro-batches) and its statistics.

    All tensors are [N]. `weight` holds the normalisation, so the loss is a plain sum:

        r    = exp(logp - old)                                          old = logp, detached, if none is given
        tis  = min(exp(old - generator), cap), detached                 1 without a cap   (Yao et al. 2025), and 1 where the two
                                                                        differ by less than `NOISE`
        pg   = -min(r A, clip(r, 1 - low, 1 + high) A) * tis
        kl   = exp(ref - logp) - (ref - logp) - 1                       Schulman's k3: unbiased, never negative
        loss = sum of weight * (pg + beta kl)  -  entropy_weight * sum of entropy

    The entropy bonus is per token whatever `weight` is, so a sequence's length does not change how hard it is pushed to explore.
    Raises ValueError where `kl_beta` or `entropy_weight` lacks its tensor.
    """
    if kl_beta and reference_logp is None:
        raise ValueError("kl_beta needs reference_logp: compute the base model's log-probs, or set kl_beta = 0")
    if entropy_weight and entropy is None:
        raise ValueError("entropy_weight needs entropy: ask linear_logprob for it, or set entropy_coef = 0")
    old = logp.detach() if old_logp is None else old_logp
    log_ratio = logp - old
    ratio = log_ratio.exp()
    importance = (old - generator_logp).exp()
    # The last bits of a float32 log-prob depend on what else was in the generator's batch. Weighing by them corrects nothing, and
    # would make the update depend on who answered first.
    corrects = (old - generator_logp).abs() >= NOISE
    tis = torch.ones_like(importance) if tis_cap is None else torch.where(corrects, importance.clamp(max=tis_cap), 1.0)
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    policy = (-torch.minimum(ratio * advantage, bounded * advantage) * tis * weight).sum()
    loss = policy
    values: dict[str, Tensor | float] = {}
    if reference_logp is not None:
        gap = reference_logp - logp
        kl = gap.exp() - gap - 1
        kl_loss = kl_beta * (kl * weight).sum()
        loss = loss + kl_loss
        values |= {"kl_loss": kl_loss, "reference_kl": kl.sum()}
    if entropy is not None:
        values["entropy"] = entropy.sum()
        if entropy_weight:
            loss = loss - entropy_weight * entropy.sum()
    with torch.no_grad():
        gone = ((ratio < 1 - clip_low) & (advantage < 0)) | ((ratio > 1 + clip_high) & (advantage > 0))
        mismatch = (old - generator_logp).abs()
        values |= {"tokens": float(logp.numel()), "loss": loss, "policy_loss": policy, "clipped": gone.sum(), "tis": tis.sum()}
        values |= {"ratio": ratio.sum(), "old_kl": (ratio - 1 - log_ratio).sum(), "mismatch": mismatch.sum()}
        values |= {"importance": importance.sum(), "importance_squared": importance.square().sum()}
        if logp.numel():
            values |= {"ratio_max": ratio.max(), "mismatch_max": mismatch.max()}
    return loss, PolicySums.of(values)
