"""What one step reports: `StepStats`, a flat record of numbers for the terminal, the run's database and trackers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from sparring.kernels.policy_loss import PolicySums
from sparring.learner.grpo import Selection


class OptimStats(msgspec.Struct, frozen=True, kw_only=True):
    """One optimiser update."""

    grad_norm: float
    """Before clipping."""
    learning_rate: float
    skipped: bool
    """The gradient was not finite, so nothing was changed."""


class StepStats(msgspec.Struct, frozen=True, kw_only=True):
    """One `Learner.step`. Means are per trained token, over all updates of the step; an empty step is all zeros."""

    step: int
    updates: int
    skipped_updates: int
    loss: float
    """Mean over updates of the objective that was minimised."""
    policy_loss: float
    kl_loss: float
    entropy: float
    """In nats."""
    kl: float
    """To the base model (k3); 0 where `kl_beta` is 0."""
    old_kl: float
    """To the policy at the start of the step (k3)."""
    clip_fraction: float
    ratio_mean: float
    ratio_max: float
    grad_norm: float
    """Mean over updates, before clipping; infinite or NaN if one was skipped."""
    learning_rate: float
    """Of the last update."""
    trajectories: int
    """Kept ones."""
    groups: int
    """Kept ones."""
    dropped_groups: int
    """All rewards were equal."""
    void: int
    """Trajectories of void games, left out."""
    reward_mean: float
    advantage_mean: float
    advantage_abs_mean: float
    advantage_max: float
    tokens: int
    """Of the kept trajectories, prompts included, times passes."""
    trained_tokens: int
    packed_tokens: int
    """Rows that were computed: below `tokens` where beginnings are shared."""
    seconds: float
    tokens_per_second: float
    mismatch_mean: float
    """|log-prob of the generator - log-prob of the learner|"""
    mismatch_max: float
    tis_mean: float
    effective_sample_size: float
    """Of the generator's samples for the learner's policy, as a share: 1 when both agree."""


def step_stats(
    step: int, selection: Selection, sums: PolicySums, optims: Sequence[OptimStats], *, num_rows: int, seconds: float
) -> StepStats:
    """Sums over micro-batches to the figures of the step."""
    kept, updates = selection.trajectories, len(optims)
    trained = sum(sum(t.loss_mask) for t in kept)
    passes = round(sums.tokens / trained) if trained else 0
    tokens = passes * sum(len(t.token_ids) for t in kept)
    return StepStats(
        step=step,
        updates=updates,
        skipped_updates=sum(o.skipped for o in optims),
        loss=_mean(sums.loss, updates),
        policy_loss=_mean(sums.policy_loss, updates),
        kl_loss=_mean(sums.kl_loss, updates),
        entropy=sums.mean("entropy"),
        kl=sums.mean("reference_kl"),
        old_kl=sums.mean("old_kl"),
        clip_fraction=sums.mean("clipped"),
        ratio_mean=sums.mean("ratio"),
        ratio_max=sums.ratio_max,
        grad_norm=_mean(math.fsum(o.grad_norm for o in optims), updates),
        learning_rate=optims[-1].learning_rate if optims else 0.0,
        trajectories=len(kept),
        groups=selection.num_groups,
        dropped_groups=selection.dropped_groups,
        void=selection.void,
        reward_mean=_mean(sum(t.reward or 0.0 for t in kept), len(kept)),
        advantage_mean=_mean(sum(selection.advantages), len(kept)),
        advantage_abs_mean=_mean(sum(map(abs, selection.advantages)), len(kept)),
        advantage_max=max(map(abs, selection.advantages), default=0.0),
        tokens=tokens,
        trained_tokens=round(sums.tokens),
        packed_tokens=num_rows,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        mismatch_mean=sums.mean("mismatch"),
        mismatch_max=sums.mismatch_max,
        tis_mean=sums.mean("tis"),
        effective_sample_size=sums.effective_sample_size,
    )


def _mean(total: float, count: int) -> float:
    return total / count if count else 0.0
