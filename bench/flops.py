"""What a learner's step must compute, and what the device computes at best: the two numbers of a utilisation."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch

from sparring.engine.memory.model_shape import ModelShape
from sparring.learner.adapter import LoraSpec
from sparring.learner.stats import StepStats
from sparring.rollout.trajectory import Trajectory

FORMULA = "rows * (4 N + 6 N_lora + 12 c A L) + 4 T H V"
"""Floating-point operations of a step; a multiplication and an addition are two.

N: weights of the frozen linear layers, used forward and for the gradient of their input, never for one of their own. N_lora: the
adapter's, used forward and for both gradients. c: tokens that a token attends to, in the mean; A: width of all query heads; L:
layers; two products forward and four backward. T: trained tokens, each a row of logits and one of gradient; H: hidden size; V:
vocabulary. Rows are those that are computed: beginnings that games share count once. What is
recomputed counts once."""
ROUNDS = 10


def step_flops(shape: ModelShape, lora: LoraSpec, stats: StepStats, trajectories: Sequence[Trajectory]) -> float:
    """As `FORMULA`, of one step on these trajectories."""
    lengths = [len(t.token_ids) for t in trajectories]
    context = sum(n * n for n in lengths) / 2 / max(1, sum(lengths))
    adapter = shape.adapter_parameters(lora.rank, lora.target_modules)
    row = 4 * shape.counts.linears + 6 * adapter + 12 * context * shape.attention_size * shape.num_layers
    return stats.packed_tokens * row + 4.0 * stats.trained_tokens * shape.hidden_size * shape.vocab_size


def peak_flops(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Operations a second of a square matrix product on this device: the best of some rounds, not a data sheet's figure."""
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(ROUNDS):
        _wait(device)
        started = perf_counter()
        a @ b
        _wait(device)
        best = min(best, perf_counter() - started)
    return 2.0 * size * size * size / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
