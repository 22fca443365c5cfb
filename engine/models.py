"""Loading base models: the tiny one that ships with the package, a local folder, or a Hugging Face name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from sparring.engine.errors import ConfigError

GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
TINY = "tiny"
TINY_FOLDER = Path(__file__).parent / "tiny" / "weights"
"""Where the model that ships with the package lies."""


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Raises `ConfigError` where CUDA is asked for and not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError('device = "cuda", but PyTorch sees no GPU: set device = "auto" or "cpu"')
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def load_model(name: str, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model, frozen and in evaluation mode (fp32 on a CPU, bf16 on a GPU), and its tokenizer.

    Raises `ConfigError` for a model that cannot be found or read.
    """
    source = TINY_FOLDER if name == TINY else name
    logging.disable_progress_bar()
    try:
        tokenizer = load_tokenizer(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32 if device.type == "cpu" else torch.bfloat16)
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(
            f'cannot load model {name!r}: {reason} (set model = "tiny", a local folder, or a Hugging Face name)'
        ) from error
    torch.nn.Module.to(model, device)
    return model.eval().requires_grad_(False), tokenizer


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    `AutoTokenizer` gives every Qwen2 model Qwen2's way of splitting text, whatever the folder's own tokenizer.json says; a folder
    that names the generic class is read as it is.
    """
    config = Path(source) / "tokenizer_config.json"
    if config.is_file() and json.loads(config.read_text()).get("tokenizer_class") in GENERIC:
        generic: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(source)
        return generic
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    return tokenizer
