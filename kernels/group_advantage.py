"""Group-relative advantages: what a sequence's reward says against the others of its group.

Owns the arithmetic on ragged groups and its edge cases. Who belongs to which group is the caller's to say.

Axes: B sequences.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Variant = Literal["grpo", "dr_grpo", "rloo"]


def group_advantage(rewards: Tensor, groups: Tensor, *, variant: Variant = "grpo", eps: float = 1e-6) -> Tensor:
    """Advantage of each sequence within its group, [B] in the dtype of `rewards`.

    rewards [B] floating, groups [B] int64 in any order. With d = r - mean of the group of n:

        grpo     d / (std + eps), the unbiased standard deviation   (Shao et al. 2024, arXiv 2402.03300)
        dr_grpo  d                                                  (Liu et al. 2025, arXiv 2503.20783)
        rloo     d * n / (n - 1)                                    (Ahmadian et al. 2024, arXiv 2402.14740)

    Equal rewards give exactly 0, and so does a group of one. Raises ValueError for shapes that differ or an unknown variant.
    """
    if rewards.ndim != 1 or rewards.shape != groups.shape:
        raise ValueError(f"rewards and groups must both be [B], got {list(rewards.shape)} and {list(groups.shape)}")
    if variant not in get_args(Variant):
        raise ValueError(f"unknown advantage variant {variant!r}: choose one of {', '.join(get_args(Variant))}")
    if rewards.numel() == 0:
        return rewards.clone()
    names, group = torch.unique(groups, return_inverse=True)
    zeros = rewards.new_zeros(len(names), dtype=torch.float64)
    count = zeros.index_add(0, group, torch.ones_like(rewards, dtype=torch.float64))
    # float64 and the group's minimum as origin: equal rewards are exactly 0 from here on, whatever their sum rounds to
    r = rewards.double()
    r = r - zeros.scatter_reduce(0, group, r, "amin", include_self=False)[group]
    d = r - (zeros.index_add(0, group, r) / count)[group]
    if variant == "dr_grpo":
        return d.to(rewards.dtype)
    others = (count - 1).clamp(min=1)
    if variant == "rloo":
        return (d * (count / others)[group]).to(rewards.dtype)
    # two passes: sum of r^2 - n mean^2 loses a small spread beside a large mean
    std = (zeros.index_add(0, group, d * d) / others).sqrt()[group]
    return torch.where(std > 0, d / (std + eps), 0.0).to(rewards.dtype)
