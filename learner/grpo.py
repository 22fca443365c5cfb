"""Group-relative policy optimisation: from trajectories to advantages, weights and the loss of a batch.

Owns which trajectories count and what a token weighs. Left out of GRPO by default: the KL term (`kl_beta` 0) and a second use of
the same games (`LearnerConfig.epochs` 1), so ratio and clipping matter only where those are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import torch
from torch import Tensor

from sparring.kernels.group_advantage import Variant, group_advantage
from sparring.kernels.policy_loss import PolicySums, policy_loss
from sparring.learner.batch import Batch
from sparring.learner.errors import LearnerError
from sparring.rollout.trajectory import Trajectory

Normalisation = Literal["token", "sequence"]
MIN_TEMPERATURE = 1e-3


class GrpoConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The loss."""

    clip_low: float = 0.2
    """The ratio to the old policy is held above 1 - clip_low ..."""
    clip_high: float = 0.2
    """... and below 1 + clip_high; DAPO raises this one alone (0.28)."""
    kl_beta: float = 0.0
    """Weight of the KL to the base model; 0 spares its forward pass."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy per trained token, which is added to the objective."""
    normalisation: Normalisation = "token"
    """"token" divides the sum over trained tokens by their number in the update (DAPO); "sequence" takes each sequence's mean
    first, and the mean of those (classic GRPO: short sequences weigh more per token)."""
    advantage: Variant = "grpo"
    """"grpo" divides a group's centred rewards by their standard deviation, "dr_grpo" does not, "rloo" leaves each one out."""
    advantage_eps: float = 1e-6
    tis_cap: float | None = 2.0
    """Cap of the truncated importance weight learner / generator per token; none leaves the mismatch uncorrected."""
    temperature: float | None = None
    """Replaces the temperature that each trajectory was sampled at."""

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1 or self.clip_high < 0:
            raise LearnerError(f"grpo wants 0 <= clip_low <= 1 and clip_high >= 0, got {self.clip_low} and {self.clip_high}")
        if self.kl_beta < 0 or self.entropy_coef < 0 or self.advantage_eps < 0:
            raise LearnerError("grpo wants kl_beta, entropy_coef and advantage_eps of at least 0")
        if (self.tis_cap is not None and self.tis_cap <= 0) or (
            self.temperature is not None and not self.temperature >= MIN_TEMPERATURE
        ):
            raise LearnerError(f"grpo wants tis_cap above 0 and temperature of at least {MIN_TEMPERATURE}, or left out")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The trajectories that carry a gradient, with their advantages, and what was left out."""

    trajectories: tuple[Trajectory, ...]
    advantages: tuple[float, ...]
    groups: tuple[int, ...]
    """The group of each, numbered in order of appearance."""
    dropped_groups: int
    """Groups whose rewards were all equal."""
    void: int
    """Trajectories of void games."""

    def part(self, kept: Sequence[int]) -> Selection:
        """The selection of these trajectories alone."""
        return replace(
            self,
            trajectories=tuple(self.trajectories[i] for i in kept),
            advantages=tuple(self.advantages[i] for i in kept),
            groups=tuple(self.groups[i] for i in kept),
        )

    @property
    def num_groups(self) -> int:
        return len(set(self.groups))


def select(trajectories: Sequence[Trajectory], config: GrpoConfig) -> Selection:
    """Groups what was scored, takes advantages, and leaves out void games and groups of equal rewards: both push nowhere."""
    scored = [t for t in trajectories if t.reward is not None]
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(t.group, len(numbers)) for t in scored]
    rewards = torch.tensor([float(t.reward) for t in scored if t.reward is not None], dtype=torch.float64)
    index = torch.tensor(groups, dtype=torch.int64)
    advantages = group_advantage(rewards, index, variant=config.advantage, eps=config.advantage_eps)
    live = {group for group, advantage in zip(groups, advantages.tolist(), strict=True) if advantage != 0.0}
    kept = [i for i, group in enumerate(groups) if group in live]
    return Selection(
        trajectories=tuple(scored[i] for i in kept),
        advantages=tuple(advantages[kept].tolist()),
        groups=tuple(groups[i] for i in kept),
        dropped_groups=len(numbers) - len(live),
        void=len(trajectories) - len(scored),
    )


def sequence_weights(trajectories: Sequence[Trajectory], normalisation: Normalisation) -> list[float]:
    """What each trained token of a sequence weighs, so that the loss of an update is a plain sum over its micro-batches."""
    counts = [sum(t.loss_mask) for t in trajectories]
    if normalisation == "token":
        return [1.0 / sum(counts)] * len(counts)
    return [1.0 / (len(counts) * count) for count in counts]


def grpo_loss(logp: Tensor, entropy: Tensor | None, batch: Batch, config: GrpoConfig) -> tuple[Tensor, PolicySums]:
    """This micro-batch's share of the update's loss, and its statistics. `logp` and `entropy` are [M]."""
    return policy_loss(
        logp,
        batch.advantage,
        batch.weight,
        generator_logp=batch.generator_logp,
        old_logp=batch.old_logp,
        reference_logp=batch.reference_logp,
        entropy=entropy,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        tis_cap=config.tis_cap,
        kl_beta=config.kl_beta,
        entropy_weight=config.entropy_coef / batch.update_tokens,
    )
