"""Loading base models: the tiny ones that ship with the package, a local folder, or a Hugging Face name."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from sparring.engine.errors import ConfigError
from sparring.engine.tiny.shipped import SHIPPED

GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
Quantization = Literal["none", "nf4"]


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Raises `ConfigError` where CUDA is asked for and not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError('device = "cuda", but PyTorch sees no GPU: set device = "auto" or "cpu"')
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def model_source(name: str) -> str | Path:
    """What Transformers and vLLM are to load for `model = name`."""
    return SHIPPED.get(name, name)


def load_model(
    name: str, device: torch.device, quantization: Quantization = "none"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model, frozen and in evaluation mode (fp32 on a CPU, bf16 on a GPU), and its tokenizer.

    With "nf4" its linear layers but the head are quantised to 4 bits (Dettmers et al. 2023) with double quantisation, compute in
    bf16, and the rest is bf16. Raises `ConfigError` for a model that cannot be found or read, and where bitsandbytes is missing.
    """
    source = model_source(name)
    logging.disable_progress_bar()
    how: dict[str, Any] = {"dtype": torch.float32 if device.type == "cpu" else torch.bfloat16}
    if quantization == "nf4":
        how = {"dtype": torch.bfloat16, "device_map": {"": device}, "quantization_config": _nf4()}
    try:
        tokenizer = load_tokenizer(source)
        model = AutoModelForCausalLM.from_pretrained(source, **how)
    except ConfigError:
        raise
    except Exception as error:  # over broken files Transformers, tokenizers and safetensors raise of every kind
        raise _unloadable(name, error) from error
    if quantization == "none":
        torch.nn.Module.to(model, device)
    return model.eval().requires_grad_(False), tokenizer


def _unloadable(name: str, error: Exception) -> ConfigError:
    """One line: what it says first, and of what kind it is where that says more."""
    first, second, *_ = *(line.strip() for line in str(error).splitlines() if line.strip()), "", ""
    first += f" {second}" if first.endswith(":") else ""
    if "ignore_mismatched_sizes" in first:
        first = "its weights have other shapes than its config.json says, as the report above lists"
    reason = first if isinstance(error, (OSError, RuntimeError)) and first else f"{type(error).__name__}: {first}"
    return ConfigError(
        f'cannot load model {name!r}: {reason} (download it again, or set model = "tiny", a local folder, or a Hugging Face name)'
    )


def _nf4() -> BitsAndBytesConfig:
    """Raises `ConfigError` where bitsandbytes, or accelerate, which places its tensors, is missing."""
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f'quantization = "nf4" needs {package}, which is not installed: pip install {package}, or set "none"'
            )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    `AutoTokenizer` gives every Qwen2 model Qwen2's way of splitting text, whatever the folder's own tokenizer.json says; a folder
    that names the generic class is read as it is. Raises `ConfigError` for one that cannot be read.
    """
    tokenizer: PreTrainedTokenizerBase
    config = Path(source) / "tokenizer_config.json"
    try:
        generic = config.is_file() and json.loads(config.read_text()).get("tokenizer_class") in GENERIC
        tokenizer = (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(source)
    except Exception as error:  # as in `load_model`
        raise _unloadable(str(source), error) from error
    return tokenizer
