"""Loading base models: the 4-bit path as far as it goes without bitsandbytes, and with it where it is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.engine import models
from sparring.engine.config import load_run_config
from sparring.engine.embedded.generator import TorchGenerator
from sparring.engine.engine import Engine
from sparring.engine.errors import ConfigError
from sparring.engine.models import load_model, model_source
from sparring.engine.tiny.shipped import TINY_FOLDER

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


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("model.safetensors", "short", "SafetensorError: "),
        ("tokenizer_config.json", "[1]", "AttributeError: "),
        ("config.json", "[" * 100_000, "recursion"),
        ("config.json", {"num_hidden_layers": 5}, "num_hidden_layers"),
        ("config.json", {"num_key_value_heads": 1}, "its weights have other shapes than its config.json says"),
        ("config.json", {"hidden_act": "junk"}, "KeyError: 'junk'"),
        ("config.json", {"rms_norm_eps": "x"}, "rms_norm_eps"),
        ("config.json", {"model_type": ["qwen2"]}, "TypeError: "),
    ],
)
def test_a_broken_model_is_one_line_that_says_what_to_do(name: str, text: Any, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY_FOLDER, folder)
    if isinstance(text, dict):
        text = json.dumps(json.loads((folder / name).read_text()) | text)
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=r"cannot load model .*\(download it again") as caught:
        load_model(str(folder), CPU)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_generator_is_closed_where_the_chat_template_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM engine that stays open keeps every other one from opening."""
    folder = tmp_path / "model"
    shutil.copytree(TINY_FOLDER, folder)
    (folder / "chat_template.jinja").write_text("{{ junk( }}")
    closed: list[TorchGenerator] = []
    monkeypatch.setattr(TorchGenerator, "close", lambda generator: closed.append(generator))
    with pytest.raises(ValueError, match="the chat template does not render"):
        Engine.open("demo", overrides=["generator=torch", f'model="{folder}"'])
    assert len(closed) == 1
