"""Attaching an adapter to a base model: shared frozen weights, PEFT layers, seeded initial values.

Owns the wrapping and the way back, from layers to an `Adapter`. The record and its files are `adapter.py`'s.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparring.learner.adapter import LORA_A, PREFIX, Adapter, LoraSpec
from sparring.learner.errors import AdapterError
from sparring.learner.fused_lora import FusedLora

SAMPLED = 256
"""Values of each tensor that enter a model's fingerprint: enough to tell models apart, few enough for 7B to take no time."""
VOLATILE = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "_attn_implementation"})


def fingerprint_model(model: PreTrainedModel) -> str:
    """12 hex digits that tell base models apart: their configuration, names, shapes, and evenly spaced values as bf16.

    The same weights in fp32 and bf16 share it, since an adapter fits both.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in VOLATILE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        flat = parameter.detach().flatten()
        at = torch.linspace(0, len(flat) - 1, min(SAMPLED, len(flat)), dtype=torch.float64).long()
        digest.update(flat[at.to(flat.device)].bfloat16().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def share_base(model: PreTrainedModel) -> PreTrainedModel:
    """A second module tree over the same storage: its frozen parameters are views, so it costs no memory.

    A parameter of a class of its own (bitsandbytes' `Params4bit`, which carries its scales) is in both trees.
    """
    memo: dict[int, Any] = {id(p): _view(p) for p in model.parameters()}
    memo |= {id(b): b for b in model.buffers()}
    return copy.deepcopy(model, memo)


def _view(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach(), requires_grad=False) if type(parameter) is nn.Parameter else parameter


def linear_layers(model: PreTrainedModel) -> tuple[str, ...]:
    """Last parts of the names of every linear layer but the head."""
    head = model.get_output_embeddings()
    found = (name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head)
    return tuple(sorted({name.rsplit(".", 1)[-1] for name in found}))


def attach(model: PreTrainedModel, spec: LoraSpec, *, seed: int) -> PeftModel:
    """`model` with fresh LoRA layers in place: A from a Kaiming uniform of a private generator, B zero; all else frozen."""
    known = linear_layers(model)
    wanted = spec.target_modules or known
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise AdapterError(f"lora.target_modules names {', '.join(unknown)}: this model's linear layers are {', '.join(known)}")
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        use_rslora=spec.rslora,
        target_modules=list(wanted),
        task_type="CAUSAL_LM",
    )
    if all(type(module) is nn.Linear for module in model.modules() if isinstance(module, nn.Linear)):  # not if quantised
        config._register_custom_module({nn.Linear: FusedLora})
    with torch.random.fork_rng(devices=[]):  # PEFT draws initial values from the global generator; ours follow
        wrapped = get_peft_model(model, config)
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in lora_parameters(wrapped).items():
        if name.endswith(LORA_A):
            drawn = torch.empty(parameter.shape, dtype=torch.float32)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=rng)
            parameter.data.copy_(drawn)
        else:
            parameter.data.zero_()
    return cast(PeftModel, wrapped)


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters under the names that PEFT's files give them, in a fixed order."""
    named = {name.replace(".default.weight", ".weight"): p for name, p in model.named_parameters() if p.requires_grad}
    return dict(sorted(named.items()))


def load_into(model: nn.Module, adapter: Adapter) -> None:
    """Copies an adapter's values into attached layers. Raises `AdapterError` where the two do not fit."""
    parameters = lora_parameters(model)
    odd = sorted(set(parameters).symmetric_difference(adapter.tensors))
    if odd:
        owner = "this model" if odd[0] in parameters else "the adapter"
        raise AdapterError(
            f"adapter {adapter.name!r} adapts other layers than lora.target_modules asks for: only {owner} has "
            f"{odd[0].removeprefix(PREFIX)}"
        )
    for name, parameter in parameters.items():
        given = adapter.tensors[name]
        if given.shape != parameter.shape:
            raise AdapterError(
                f"adapter {adapter.name!r}: {name.removeprefix(PREFIX)} is {list(given.shape)}, this model needs "
                f"{list(parameter.shape)}: set lora.rank = {adapter.spec.rank}, or load the base model it was trained on"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(adapter.tensors[name])


def export_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trained values, safe from the next step."""
    return {name: parameter.detach().clone() for name, parameter in lora_parameters(model).items()}
