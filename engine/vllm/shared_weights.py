"""The learner's model as views into vLLM's weights, so that the process holds one copy of the base model.

Owns the way from vLLM's fused and padded parameters to the modules of Transformers, the check that both still lie in the same
memory, and the reasons why they cannot. Getting hold of vLLM's parameters is `contact.py`'s; a copy of the learner's own,
where nothing can be shared, is `models.py`'s.

    vLLM                                                the learner
    self_attn.qkv_proj    weight [Q + 2 K, H], bias     q_proj, k_proj, v_proj: its rows, in this order
    mlp.gate_up_proj      weight [2 F, H], bias         gate_proj, up_proj: its rows, in this order
    embed_tokens, lm_head weight [V and padding, H]     the first V rows; one parameter where the model ties them
    all else                                            the same tensor

Every version of vLLM from 0.26 to 0.33 lays these out alike; whether a tied `lm_head` is a module of its own differs, and where
adapters are served, a wrapped layer's parameters are named `...qkv_proj.base_layer.weight`.

Axes: Q rows of all queries, K rows of all keys, F intermediate, H hidden, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sparring.engine.errors import ConfigError
from sparring.scenarios.errors import SparringError

ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM")
"""Classes of Transformers whose parameters vLLM lays out as drawn above."""
FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), ("qkv_proj", ("q_proj", "k_proj", "v_proj"))),
    **dict.fromkeys(("gate_proj", "up_proj"), ("gate_up_proj", ("gate_proj", "up_proj"))),
}
"""The learner's module -> vLLM's module that holds it, and all that this one holds."""
PADDED = ("embed_tokens", "lm_head")
PLAIN = (torch.float32, torch.bfloat16, torch.float16)
WRAPPED = ".base_layer."
GB = 2**30


class SharingError(SparringError):
    """Learner and vLLM no longer train and serve the same memory."""


@dataclass(frozen=True, kw_only=True)
class NotShared:
    """Why the learner needs a copy of the base model of its own, and what it costs: about `copy_gb` x 2**30 bytes.

    Example:
        >>> print(share_weights("engine/tiny/weights", parameters))
        the learner keeps a copy of the base model of its own (0.0 GB): vLLM keeps ...qkv_proj.weight in a packed form of its own
    """

    reason: str
    copy_gb: float

    def __str__(self) -> str:
        return f"the learner keeps a copy of the base model of its own ({self.copy_gb:.1f} GB): {self.reason}"


def share_weights(source: str | Path | PretrainedConfig, parameters: Mapping[str, Tensor]) -> PreTrainedModel | NotShared:
    """The model of `source`, frozen and in evaluation mode, every parameter of which is a view into one of `parameters`.

    `source` is a folder, a Hugging Face name or a configuration; `parameters` are vLLM's, by the names that its model's
    `named_parameters()` gives them. Either all are shared or none. Raises `ConfigError` for a source that cannot be read.
    """
    model = _skeleton(source)
    theirs = _unwrapped(parameters)
    if reason := _unsupported(model) or _obstacle(model, theirs):
        size = sum(p.numel() for p in model.parameters())
        on_gpu = any(tensor.is_cuda for tensor in theirs.values())
        return NotShared(reason=reason, copy_gb=size * (2 if on_gpu else 4) / GB)  # bf16 or fp32, as `load_model` takes them
    tied = _tied(model)
    for name, wanted in _rows(model).items():
        module, leaf = name.rsplit(".", 1)
        setattr(model.get_submodule(module), leaf, nn.Parameter(_view(theirs, wanted), requires_grad=False))
    if tied:
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    first = next(model.parameters())
    model.config.dtype = first.dtype
    _fill_buffers(model, first.device)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    model.eval()
    return model


def check_shared(model: PreTrainedModel, parameters: Mapping[str, Tensor], frozen: Sequence[nn.Parameter] | None = None) -> int:
    """The bytes that the learner shares with vLLM. Raises `SharingError`, naming the first parameter that is not shared.

    `model` is what `share_weights` returned, `parameters` are vLLM's as they stand now. `frozen` stands for the model's own
    parameters, in the same order: `Learner.frozen_parameters()`, which lie below the adapter's layers.
    """
    theirs = _unwrapped(parameters)
    rows = _rows(model)
    held = list(model.parameters()) if frozen is None else list(frozen)
    if len(held) != len(rows):
        raise SharingError(f"{len(held)} parameters are frozen, the base model has {len(rows)}: give all of them, in its order")
    for (name, wanted), parameter in zip(rows.items(), held, strict=True):
        tensor = theirs.get(wanted.source)
        if tensor is None or not wanted.fits(tensor) or not _same_memory(parameter, _view(theirs, wanted)):
            raise SharingError(
                f"{name} is not vLLM's {wanted.source}: one was copied or replaced after the model was built; "
                "build the learner's model again from vLLM's parameters, or set vllm.share_weights = false"
            )
        if parameter.requires_grad:
            raise SharingError(f"{name} is shared with vLLM, and trained: freeze the base model and train an adapter")
    return sum(p.numel() * p.element_size() for p in held)


class _Rows(NamedTuple):
    """Rows `start` to `stop` of vLLM's `source`, which has `shape`, or more rows where it is `padded`."""

    source: str
    start: int
    stop: int
    shape: tuple[int, ...]
    padded: bool

    def fits(self, tensor: Tensor) -> bool:
        rows, *rest = self.shape
        enough = tensor.ndim > 0 and (len(tensor) >= rows if self.padded else len(tensor) == rows)
        return enough and list(tensor.shape[1:]) == rest


def _rows(model: PreTrainedModel) -> dict[str, _Rows]:
    """Where each parameter of the learner's model lies in vLLM's."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = {}
    for name, shape in shapes.items():
        module = name.split(".")[-2]
        fused, parts = FUSED.get(module, (module, (module,)))
        lengths = [shapes[name.replace(f".{module}.", f".{part}.")][0] for part in parts]
        start = sum(lengths[: parts.index(module)])
        source = name.replace(f".{module}.", f".{fused}.")
        found[name] = _Rows(source, start, start + shape[0], (sum(lengths), *shape[1:]), module in PADDED)
    return found


def _unsupported(model: PreTrainedModel) -> str | None:
    if type(model).__name__ not in ARCHITECTURES:
        return f"{type(model).__name__} is none of {', '.join(ARCHITECTURES)}"
    if getattr(model.config, "quantization_config", None) is not None:
        return "the checkpoint is quantised"
    return None


def _obstacle(model: PreTrainedModel, theirs: Mapping[str, Tensor]) -> str | None:
    """The first reason why these parameters cannot be this model's."""
    for name, tensor in theirs.items():
        if tensor.dtype not in PLAIN:
            return f"vLLM keeps {name} as {_short(tensor.dtype)}, so its weights are quantised"
    used: list[Tensor] = []
    for wanted in _rows(model).values():
        if wanted.source not in theirs:
            return f"vLLM's model has no {wanted.source}"
        used.append(theirs[wanted.source])
        if reason := _oddity(wanted, used[-1], used[0]):
            return reason
    places = {tensor.data_ptr() for tensor in used}
    for name, tensor in theirs.items():
        if tensor.data_ptr() not in places:  # a tied head under a second name is in use
            return f"vLLM's model also has {name}, which Transformers' {type(model).__name__} lacks"
    return None


def _oddity(wanted: _Rows, tensor: Tensor, first: Tensor) -> str | None:
    """Why one of vLLM's tensors cannot be viewed, or None."""
    name = wanted.source
    if not tensor.numel():
        return f"vLLM keeps {name} in a packed form of its own"
    if not wanted.fits(tensor):
        have, need = list(tensor.shape), list(wanted.shape)
        if len(have) == len(need) and all(h <= n for h, n in zip(have, need, strict=True)):
            return f"vLLM's {name} is {have} of {need}: it is split over several GPUs"
        return f"vLLM's {name} is {have}, the learner needs {need}"
    if tensor.dtype != first.dtype or tensor.device != first.device:
        return (
            f"vLLM keeps {name} as {_short(tensor.dtype)} on {tensor.device}, others as {_short(first.dtype)} on {first.device}"
        )
    if tensor.is_meta or not tensor.is_contiguous():
        return f"vLLM's {name} does not lie row by row in memory"
    if tensor.is_inference():  # autograd refuses to save one for the backward pass
        return f"vLLM's {name} was made in inference mode, which rules out gradients through it"
    return None


def _skeleton(source: str | Path | PretrainedConfig) -> PreTrainedModel:
    """The modules on the meta device: their names and shapes, and no memory."""
    try:
        config = copy.deepcopy(source) if isinstance(source, PretrainedConfig) else AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            return cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(f"cannot read the configuration of {str(source)!r}: {reason}") from error


def _fill_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Rotary frequencies, the only buffers of these architectures: computed on the CPU and moved, as `load_model` has them."""
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            model.set_submodule(name, type(module)(config=model.config).to(device))


def _unwrapped(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names that they have where no adapters are served."""
    return {name.replace(WRAPPED, "."): tensor for name, tensor in parameters.items()}


def _view(theirs: Mapping[str, Tensor], wanted: _Rows) -> Tensor:
    return theirs[wanted.source].detach()[wanted.start : wanted.stop]


def _same_memory(one: Tensor, other: Tensor) -> bool:
    same_storage = one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    same_place = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
    return same_storage and same_place and one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


def _tied(model: PreTrainedModel) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
