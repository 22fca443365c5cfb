"""Log-probs of given tokens straight from hidden states: the head's logits live one chunk of rows at a time.

Owns `linear_logprob` and its plain counterpart `reference_linear_logprob`. The head is frozen (LoRA trains none), so the
backward pass owes no dW and the gradient of every loss that sees logits only through log-prob and entropy is

    dL/dh = g_logp * u + g_entropy * v        with  u = d logp / d h,  v = d entropy / d h

u and v are known in the forward pass, before the loss is: two matmuls for log-probs, three with the entropy's gradient.

Axes: N tokens, H hidden, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any, Literal, cast, overload

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22
"""Logits held at once where `chunk_rows` is not given: 16 MiB in fp32."""


@overload
def reference_linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = ...,
    temperature: float | Tensor = ...,
    entropy: Literal[False] = ...,
) -> Tensor: ...
@overload
def reference_linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    entropy: Literal[True],
    bias: Tensor | None = ...,
    temperature: float | Tensor = ...,
) -> tuple[Tensor, Tensor]: ...
def reference_linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The same from plain logits and `log_softmax`, in the dtype of its arguments. What the tests compare with."""
    logits = torch.nn.functional.linear(hidden, weight, bias) / _column(temperature, hidden)
    logp_NV = logits.log_softmax(-1)
    logp = logp_NV.gather(1, ids[:, None]).squeeze(1)
    return (logp, -(logp_NV.exp() * logp_NV).sum(-1)) if entropy else logp


@overload
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = ...,
    temperature: float | Tensor = ...,
    entropy: Literal[False] = ...,
    entropy_grad: bool = ...,
    chunk_rows: int | None = ...,
) -> Tensor: ...
@overload
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    entropy: Literal[True],
    bias: Tensor | None = ...,
    temperature: float | Tensor = ...,
    entropy_grad: bool = ...,
    chunk_rows: int | None = ...,
) -> tuple[Tensor, Tensor]: ...
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    entropy: bool = False,
    entropy_grad: bool = True,
    chunk_rows: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Log-prob of `ids[n]` under softmax((hidden[n] @ weight.T + bias) / temperature), and the entropy if asked.

    Shapes: hidden [N, H], weight [V, H], ids [N] int64, bias [V], temperature a number or [N]; returns [N] in fp32 (fp64 for
    fp64), one tensor or two. Gradients flow to `hidden` alone. `entropy_grad=False` saves the third matmul where the entropy is
    only looked at. Raises ValueError for shapes that do not fit, a temperature that is not positive, or a head that is trained.
    """
    _check(hidden, weight, ids, bias, temperature)
    rows = chunk_rows or max(1, CHUNK_ELEMENTS // weight.shape[0])
    with_grad = torch.is_grad_enabled() and hidden.requires_grad
    wanted = (with_grad, with_grad and entropy and entropy_grad)
    if not with_grad:
        logp, ent, _, _ = _forward(hidden, weight, ids, bias, temperature, rows, wanted)
    else:
        logp, ent = cast(tuple[Tensor, Tensor], _LinearLogprob.apply(hidden, weight, ids, bias, temperature, rows, wanted))  # type: ignore[no-untyped-call]
    return (logp, ent) if entropy else logp


class _LinearLogprob(torch.autograd.Function):
    """Saves u [N, H] (and v) in place of hidden states; backward is one scaled copy."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        ids: Tensor,
        bias: Tensor | None,
        temperature: float | Tensor,
        rows: int,
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        logp, ent, u, v = _forward(hidden, weight, ids, bias, temperature, rows, wanted)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(u, v)
        ctx.dtype = hidden.dtype
        if v is None:
            ctx.mark_non_differentiable(ent)
        return logp, ent

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        u, v = ctx.saved_tensors
        total: Tensor | None = None
        for grad, jacobian in ((grads[0], u), (grads[1], v)):
            if grad is not None and jacobian is not None:
                term = grad[:, None] * jacobian
                total = term if total is None else total.add_(term)
        return (None if total is None else total.to(ctx.dtype), None, None, None, None, None, None)


def _forward(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    temperature: float | Tensor,
    rows: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """(logp, entropy, u or None, v or None), chunk by chunk."""
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    num_tokens = hidden.shape[0]
    logp, ent = hidden.new_empty(num_tokens, dtype=dtype), hidden.new_empty(num_tokens, dtype=dtype)
    jacobians = [hidden.new_empty(hidden.shape, dtype=dtype) if want else None for want in wanted]
    for start in range(0, num_tokens, rows):
        part = slice(start, start + rows)
        heat = temperature[part, None].to(dtype) if isinstance(temperature, Tensor) else temperature
        logp[part], ent[part], *found = _chunk(hidden[part], weight, ids[part], bias, heat, wanted)
        for jacobian, value in zip(jacobians, found, strict=True):
            if jacobian is not None and value is not None:
                jacobian[part] = value
    return logp, ent, jacobians[0], jacobians[1]


def _chunk(
    hidden: Tensor, weight: Tensor, ids: Tensor, bias: Tensor | None, heat: float | Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """One chunk: d_j = z_j - max z,  e_j = exp(d_j),  R = sum over j != t of e_j,  total = R + e_t.

    logp = -log1p(R) where t is the maximum, else d_t - log(total). Leaving t out of R keeps 1 - p exact on confident tokens,
    where `total` rounds to 1; for the same reason  u = (R w_t - sum over j != t of e_j w_j) / (T total).
    """
    d = _matmul(hidden, weight.t())
    if bias is not None:
        d += bias
    d /= heat
    d -= d.amax(-1, keepdim=True)
    at = ids[:, None]
    d_t = d.gather(1, at)
    e = d.exp()
    e_t = d_t.exp()
    e.scatter_(1, at, 0.0)
    others = e.sum(-1, keepdim=True)
    total = others + e_t
    log_total = torch.where(d_t == 0, others.log1p(), total.log())
    mean_d = ((e * d).sum(-1, keepdim=True) + e_t * d_t) / total  # e_t = 0 where d_t underflowed: the product stays finite
    ent = log_total - mean_d
    u = v = None
    if wanted[0]:
        pull = _matmul(e.to(weight.dtype), weight)
        target = weight[ids].to(d.dtype)
        u = (others * target - pull) / (total * heat)
        if wanted[1]:
            # v = -(1/T) sum_j p_j (log p_j + entropy) w_j  =  -(1/T) sum_j p_j (d_j - mean_d) w_j
            e.mul_(d - mean_d)
            v = -(_matmul(e.to(weight.dtype), weight) + e_t * (d_t - mean_d) * target) / (total * heat)
    return (d_t - log_total).squeeze(1), ent.squeeze(1), u, v


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """left @ right with fp32 results for half precision: bf16 logits would cost 3e-2 in a log-prob."""
    if left.dtype not in (torch.float16, torch.bfloat16):
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _column(temperature: float | Tensor, like: Tensor) -> float | Tensor:
    return temperature[:, None].to(like.dtype) if isinstance(temperature, Tensor) else temperature


def _check(hidden: Tensor, weight: Tensor, ids: Tensor, bias: Tensor | None, temperature: float | Tensor) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or ids.shape != hidden.shape[:1]:
        shapes = f"hidden {list(hidden.shape)}, weight {list(weight.shape)}, ids {list(ids.shape)}"
        raise ValueError(f"linear_logprob wants hidden [N, H], weight [V, H] and ids [N], got {shapes}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear_logprob wants bias [V] = [{weight.shape[0]}], got {list(bias.shape)}")
    if isinstance(temperature, Tensor) and temperature.shape != ids.shape:
        raise ValueError(f"linear_logprob wants one temperature or [N] = {list(ids.shape)}, got {list(temperature.shape)}")
    if bool((temperature <= 0).any()) if isinstance(temperature, Tensor) else temperature <= 0:
        raise ValueError("temperature must be positive: greedy samples have no log-prob gradient")
    if torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad)):
        raise ValueError("linear_logprob gives a trained head no gradient: freeze it, or use reference_linear_logprob")
