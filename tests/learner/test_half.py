"""Base weights in bf16 or 4 bits under an fp32 adapter, as on a GPU: what is computed, how closely, and what it keeps."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable

import pytest
import torch
from peft.tuners import lora
from torch import nn
from transformers import PreTrainedModel

from sparring.engine.models import load_model
from sparring.learner.fused_lora import FusedLora
from sparring.learner.grpo import select, sequence_weights
from sparring.learner.learner import Learner
from sparring.learner.lora import fingerprint_model, share_base
from sparring.rollout.trajectory import Trajectory

Warm = Callable[..., Learner]
Gradients = Callable[[Learner], dict[str, torch.Tensor]]
LOGP_MEAN, LOGP_MAX = 5e-3, 5e-2
"""|log-prob in bf16 - log-prob in fp32|: bf16 holds 8 bits of every activation and logit."""
GRADIENT = 5e-2
"""|gradient in bf16 - gradient in fp32| / |gradient in fp32|, over the whole adapter."""


def halved(model: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(model).to(torch.bfloat16)  # type: ignore[arg-type, no-any-return]


def accumulate(learner: Learner, trajectories: list[Trajectory]) -> None:
    chosen = select(trajectories, learner.config.grpo)
    weights = sequence_weights(chosen.trajectories, "token")
    for batch in learner.pack(chosen.trajectories, chosen.advantages, weights):
        learner.forward_backward(batch)


def through_peft(learner: Learner) -> Learner:
    """The same learner on PEFT's own layers, which compute LoRA in fp32."""
    for module in learner._wrapped.modules():
        if isinstance(module, FusedLora):
            module.forward = lora.Linear.forward.__get__(module)  # type: ignore[method-assign]
    return learner


def distance(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    flat = [torch.cat([grads[name].flatten() for name in sorted(right)]) for grads in (found, right)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def test_bf16_learns_what_fp32_learns(
    base: PreTrainedModel, trajectories: list[Trajectory], warm: Warm, gradients: Gradients
) -> None:
    full, half, peft = warm(base), warm(halved(base)), through_peft(warm(halved(base)))
    logps = [torch.tensor([logp for row in learner.logprobs(trajectories) for logp in row]) for learner in (full, half)]
    gap = (logps[0] - logps[1]).abs()[logps[0] != 0]
    assert gap.mean() < LOGP_MEAN and gap.max() < LOGP_MAX
    for learner in (full, half, peft):
        accumulate(learner, trajectories)
    right, found = gradients(full), gradients(half)
    assert {grad.dtype for grad in found.values()} == {torch.float32}
    assert distance(found, right) < GRADIENT
    assert distance(found, right) < 2 * distance(gradients(peft), right), "most of it is the base's rounding, not the adapter's"
    before = half.adapter().tensors
    stats = [learner.optim_step() for learner in (full, half)]
    assert stats[1].grad_norm == pytest.approx(stats[0].grad_norm, rel=GRADIENT)
    moves = [{n: p.detach() - before[n] for n, p in learner.parameters.items()} for learner in (half, full)]
    assert {move.dtype for move in moves[0].values()} == {torch.float32}
    assert distance(*moves) < 0.25, "Adam's first step is the gradient's sign, which is anyone's where a gradient is near 0"


def test_a_bf16_layer_keeps_its_input_as_it_is(base: PreTrainedModel, warm: Warm) -> None:
    """PEFT's own layer made an fp32 copy of it, for every layer of the model."""
    learner = warm(halved(base))
    layer = next(module for module in learner._wrapped.modules() if isinstance(module, FusedLora))
    x = torch.randn(5, layer.in_features, dtype=torch.bfloat16, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    own = {parameter.data_ptr() for parameter in layer.parameters()}
    assert {tensor.dtype for tensor in kept if tensor.data_ptr() not in own} == {torch.bfloat16}
    assert any(tensor.data_ptr() == x.data_ptr() for tensor in kept)


class Packed(nn.Parameter):
    """As bitsandbytes' `Params4bit`: a parameter that carries what is needed to read it."""

    scale = 0.0


def test_a_parameter_of_a_class_of_its_own_is_in_both_trees(base: PreTrainedModel) -> None:
    """A plain view in its place lost the scales of 4-bit weights."""
    model = copy.deepcopy(base)
    layer = model.get_submodule("model.layers.0.mlp.gate_proj")
    packed = Packed(torch.ones(3, 1, dtype=torch.uint8), requires_grad=False)
    packed.scale = 0.5
    layer.weight = packed
    shared = share_base(model)
    assert shared.get_submodule("model.layers.0.mlp.gate_proj").get_parameter("weight") is packed
    norm = "model.norm.weight"
    assert shared.get_parameter(norm) is not model.get_parameter(norm)
    assert shared.get_parameter(norm).data_ptr() == model.get_parameter(norm).data_ptr()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_an_adapter_learns_on_four_bits(trajectories: list[Trajectory], warm: Warm, gradients: Gradients) -> None:
    model, _ = load_model("tiny", torch.device("cpu"), "nf4")
    weight = model.get_submodule("model.layers.0.mlp.gate_proj").get_parameter("weight")
    before = fingerprint_model(model)
    learner = warm(model)
    assert any(parameter is weight for parameter in learner.frozen_parameters())
    accumulate(learner, trajectories)
    assert all(bool(grad.isfinite().all()) and bool(grad.any()) for grad in gradients(learner).values())
    stats = learner.optim_step()
    assert not stats.skipped and stats.grad_norm > 0
    assert fingerprint_model(model) == before == learner.base_model
