"""Loading base models: the 4-bit path as far as it goes without bitsandbytes, and with it where it is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from sparring.engine import models
from sparring.engine.config import load_run_config
from sparring.engine.errors import ConfigError
from sparring.engine.models import TINY_FOLDER, load_model, model_source

CPU = torch.device("cpu")


@pytest.mark.parametrize("missing", ["bitsandbytes", "accelerate"])
def test_four_bits_without_its_packages_say_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        return None if name == missing else object()

    monkeypatch.setattr(models.importlib.util, "find_spec", find)
    with pytest.raises(ConfigError, match=f'quantization = "nf4" needs {missing}, .*: pip install {missing}, or set "none"'):
        load_model("tiny", CPU, "nf4")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_four_bits_keep_the_head_and_come_close() -> None:
    plain, _ = load_model("tiny", CPU)
    packed, _ = load_model("tiny", CPU, "nf4")
    gate = packed.get_submodule("model.layers.0.mlp.gate_proj")
    assert gate.get_parameter("weight").dtype == torch.uint8
    assert packed.get_output_embeddings().weight.dtype == torch.bfloat16
    ids = torch.arange(3, 40)[None]
    agreement = torch.nn.functional.cosine_similarity(plain(ids).logits, packed(ids).logits.float(), dim=-1)
    assert agreement.min() > 0.9


def test_the_embedded_generator_serves_no_quantised_base() -> None:
    with pytest.raises(ConfigError, match='quantization = "nf4" is not for the embedded generator'):
        load_run_config(overrides=["quantization=nf4", "generator=torch"])
    assert load_run_config(overrides=["quantization=nf4", "generator=vllm"]).quantization == "nf4"


def test_what_is_loaded_for_a_name() -> None:
    assert model_source("tiny") == TINY_FOLDER
    assert model_source("Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"
