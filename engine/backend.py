"""From settings to a base model and the generator that plays with it: which generator, why, and whose weights.

Owns the choice and the order of opening. On a GPU vLLM comes first and the learner's model is made of views into its weights; on
a CPU, or where that cannot be, the learner loads a copy of its own and the notes say what it costs.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from packaging.version import Version
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparring.engine.config import RunConfig
from sparring.engine.embedded.generator import TorchGenerator, TorchGeneratorConfig
from sparring.engine.errors import ConfigError
from sparring.engine.generator import Generator
from sparring.engine.machine import memory_gb
from sparring.engine.memory.model_shape import read_shape
from sparring.engine.memory.plan import MemoryPlan, plan
from sparring.engine.models import load_model, load_tokenizer, model_source, resolve_device
from sparring.engine.tiny.shipped import SHIPPED
from sparring.engine.vllm import support
from sparring.engine.vllm.contact import EngineSettings
from sparring.engine.vllm.generator import SLOTS_PER_ADAPTER, VllmGenerator
from sparring.engine.vllm.shared_weights import check_shared, share_weights
from sparring.learner.lora import fingerprint_model

LINEAR_LAYERS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
"""What an adapter may train where `learner.lora.target_modules` is empty."""


@dataclass(frozen=True)
class Choice:
    """A generator, and why it was chosen.

    Example:
        >>> str(choose_generator(load_run_config("demo")))
        'generator torch: set in the settings'
    """

    kind: Literal["torch", "vllm"]
    reason: str

    def __str__(self) -> str:
        return f"generator {self.kind}: {self.reason}"


@dataclass(frozen=True)
class Backend:
    """What plays, on what."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    generator: Generator
    choice: Choice
    notes: tuple[str, ...] = ()
    """What a user should know of how it was opened."""

    def announce(self) -> None:
        """The choice and the notes, on stderr."""
        for line in (str(self.choice), *self.notes):
            print(line, file=sys.stderr)


def choose_generator(config: RunConfig) -> Choice:
    """Which generator the settings lead to. Loads nothing: that one asked for cannot be used shows when it is opened."""
    if config.generator != "auto":
        return Choice(config.generator, "set in the settings")
    if config.model in SHIPPED:
        return Choice("torch", "a model that ships with the package plays on the embedded generator, which starts at once")
    if (reason := support.unusable()) is not None:
        return Choice("torch", reason)
    if config.device == "cpu" and torch.cuda.is_available():
        return Choice("torch", 'device = "cpu" on a machine with a GPU, which vLLM would use')
    if config.sampling.top_p < 1:
        return Choice(
            "torch", f"sampling.top_p = {config.sampling.top_p}, after which vLLM's log-probs are no longer the model's"
        )
    if (reason := _unservable(config)) is not None:
        return Choice("torch", reason)
    return Choice("vllm", f"vLLM {support.installed()} is installed and usable")


def _unservable(config: RunConfig) -> str | None:
    """Why vLLM would not serve this model here, as far as its config.json tells."""
    try:
        shape = read_shape(config.model)
    except ConfigError as error:
        return f"the memory of a run on vLLM cannot be planned: {error}"
    if resolve_device(config.device).type == "cpu" and shape.head_dim not in support.CPU_HEAD_SIZES:
        return f"vLLM's CPU build computes no attention heads of {shape.head_dim}"
    return None


def open_backend(config: RunConfig) -> Backend:
    """Raises `ConfigError` for a model that cannot be loaded or will not fit, `GeneratorError` where vLLM refuses it."""
    choice = choose_generator(config)
    device = resolve_device(config.device)
    if choice.kind == "torch":
        if config.quantization != "none":
            raise ConfigError(f"quantization = {config.quantization!r} needs vLLM: {choice.reason}")
        if device.type == "cuda":
            _plan(config, "cuda", "torch")
        return torch_backend(config, *load_model(config.model, device), choice)
    if config.sampling.top_p < 1:
        raise ConfigError('sampling.top_p below 1 cannot be learned from with generator = "vllm": set it to 1, or use "torch"')
    if device.type == "cpu":
        return _vllm_on_cpu(config, choice)
    return _vllm_on_gpu(config, choice)


def torch_backend(config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, choice: Choice) -> Backend:
    """The embedded generator on a model that is loaded."""
    _check_context(config, model)
    sizes = TorchGeneratorConfig(num_slots=config.concurrency, max_context=config.sampling.context)
    return Backend(model, tokenizer, TorchGenerator(model, sizes), choice)


def _vllm_on_cpu(config: RunConfig, choice: Choice) -> Backend:
    """vLLM's CPU build packs the weights for itself, so the learner always has a copy of its own."""
    if config.quantization != "none":
        raise ConfigError(f"quantization = {config.quantization!r} needs a GPU: vLLM serves it nowhere else")
    if (reason := _unservable(config)) is not None:
        raise ConfigError(f'generator = "vllm": {reason}: set generator = "torch"')
    planned = _plan(config, "cpu", "vllm")
    model, tokenizer = load_model(config.model, torch.device("cpu"))
    _check_context(config, model)
    settings = _settings(config, planned, torch.float32)
    return Backend(model, tokenizer, VllmGenerator(settings, base_model=fingerprint_model(model)), choice)


def _vllm_on_gpu(config: RunConfig, choice: Choice) -> Backend:
    version = support.installed()
    if config.quantization != "none" and version is not None and Version(version) >= support.BITSANDBYTES_UNTIL:
        raise ConfigError(
            f"quantization = {config.quantization!r}: vLLM {version} no longer quantises with bitsandbytes: install vLLM 0.26 or "
            '0.27, or set quantization = "none", which shares one bf16 copy'
        )
    source = model_source(config.model)
    planned = _plan(config, "cuda", "vllm")
    generator = VllmGenerator(_settings(config, planned, torch.bfloat16))
    with ExitStack() as stack:
        stack.callback(generator.close)
        notes: tuple[str, ...] = ()
        parameters = generator.parameters()
        shared = share_weights(source, parameters) if config.vllm.share_weights else None
        if isinstance(shared, PreTrainedModel):
            check_shared(shared, parameters)
            model, tokenizer = shared, load_tokenizer(source)
        else:
            if shared is not None:
                notes = (str(shared),)
            model, tokenizer = load_model(config.model, torch.device("cuda"), config.quantization)
        _check_context(config, model)
        generator.base_model = fingerprint_model(model)
        stack.pop_all()  # it is the caller's to close
    return Backend(model, tokenizer, generator, choice, notes)


def _plan(config: RunConfig, device: Literal["cpu", "cuda"], generator: Literal["torch", "vllm"]) -> MemoryPlan:
    """Of this machine: settings made for a larger card are planned for the one that is here. Raises `MemoryPlanError`."""
    there = memory_gb(device)
    asked = config.memory.device_gb if device == "cuda" else 0.0
    return plan(config, read_shape(config.model), min(asked or there, there), device=device, generator=generator)


def _settings(config: RunConfig, planned: MemoryPlan, dtype: torch.dtype) -> EngineSettings:
    vllm, lora = config.vllm, config.learner.lora
    return EngineSettings(
        model=str(model_source(config.model)),
        dtype=dtype,
        max_model_len=config.sampling.context,
        max_num_seqs=vllm.max_num_seqs or config.concurrency,
        max_num_batched_tokens=vllm.max_num_batched_tokens,
        num_slots=SLOTS_PER_ADAPTER * vllm.max_adapters,
        max_lora_rank=vllm.max_lora_rank or lora.rank,
        lora_modules=lora.target_modules or LINEAR_LAYERS,
        kv_cache_bytes=planned.kv_cache_bytes,
        cpu=planned.device == "cpu",
        enforce_eager=vllm.enforce_eager,
        quantization="bitsandbytes" if config.quantization == "nf4" else None,
        memory_fraction=_memory_fraction(config, planned),
    )


def _memory_fraction(config: RunConfig, planned: MemoryPlan) -> float:
    """Of the whole GPU, what vLLM may fill: it sizes nothing by this, and refuses to start where less is free."""
    if planned.device == "cpu":
        return 0.9
    return max(0.05, min(0.95, (planned.device_gb - config.memory.reserve_gb) / memory_gb("cuda")))


def _check_context(config: RunConfig, model: PreTrainedModel) -> None:
    context, longest = config.sampling.context, getattr(model.config, "max_position_embeddings", None)
    if longest is not None and context > longest:
        where = f"the {longest} positions of model {config.model!r}"
        raise ConfigError(f"sampling.context = {context} exceeds {where}: set it to {longest} or less")
