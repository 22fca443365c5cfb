"""A LoRA layer in one autograd node: no scaled copies of the output, and four small matmuls in the backward pass.

Owns the arithmetic. It stands in for PEFT's own linear layer through PEFT's registry of custom modules, keeps its parameters and
names, and leaves to it every case but the plain one.

Axes: N rows, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners import lora
from torch import Tensor, nn


class FusedLora(lora.Linear):
    """y = x W^T + b + s (x A^T) B^T for a plain frozen linear layer with one adapter of the same dtype, which has no dropout."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, names = self.base_layer, self.active_adapters
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1 or names[0] not in self.lora_A.keys():  # noqa: SIM118
            return super().forward(x, *args, **kwargs)
        (name,) = names
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        if name in self.lora_variant or x.dtype != base.weight.dtype:
            return super().forward(x)
        return cast(Tensor, _FusedLora.apply(x, base.weight, base.bias, down, up, self.scaling[name]))  # type: ignore[no-untyped-call]


class _FusedLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        low_NR = x_NI @ down.t().to(x.dtype)
        y_NO = nn.functional.linear(x_NI, weight, bias)
        y_NO.addmm_(low_NR, up.t().to(x.dtype), alpha=scaling)
        ctx.save_for_backward(x_NI, low_NR, weight, down, up)
        ctx.scaling = scaling
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """dA = s (dy B)^T x,   dB = s dy^T (x A^T),   dx = dy W + s (dy B) A."""
        x_NI, low_NR, weight, down, up = ctx.saved_tensors
        dy_NO = grads[0].reshape(-1, grads[0].shape[-1])
        dlow_NR = (dy_NO @ up.to(dy_NO.dtype)).mul_(ctx.scaling)
        dx: Tensor | None = None
        if ctx.needs_input_grad[0]:
            dx = (dy_NO @ weight).addmm_(dlow_NR, down.to(dy_NO.dtype)).view(*grads[0].shape[:-1], -1)
        ddown, dup = dlow_NR.t() @ x_NI, (dy_NO.t() @ low_NR).mul_(ctx.scaling)
        return dx, None, None, ddown.to(down.dtype), dup.to(up.dtype), None
