"""Parameter counts from config.json alone, against the models that Transformers builds of the same config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from sparring.engine.errors import ConfigError
from sparring.engine.memory.model_shape import CONFIGS, ModelShape, read_shape
from sparring.learner.adapter import LoraSpec
from sparring.learner.lora import attach, lora_parameters

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 64,
}
KINDS: tuple[tuple[type[PreTrainedConfig], dict[str, Any]], ...] = (
    (Qwen2Config, {}),
    (Qwen2Config, {"tie_word_embeddings": True}),
    (Qwen3Config, {}),
    (Qwen3Config, {"head_dim": 32, "attention_bias": True, "tie_word_embeddings": True}),
    (LlamaConfig, {}),
    (LlamaConfig, {"attention_bias": True, "mlp_bias": True, "head_dim": 16, "tie_word_embeddings": True}),
    (MistralConfig, {}),
    (MistralConfig, {"head_dim": 24, "tie_word_embeddings": True}),
)
MODELS = pytest.mark.parametrize(("kind", "more"), KINDS, ids=lambda value: getattr(value, "__name__", str(value)))


def on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def counted(model: PreTrainedModel) -> dict[str, int]:
    """Parameters by kind, each matrix once."""
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    linears = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m.weight is not head}
    rest = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 1}
    return {
        "embeddings": embeddings.numel(),
        "head": 0 if head is embeddings else head.numel(),
        "linears": sum(linears.values()),
        "biases": sum(size for name, size in rest.items() if name.endswith(".bias")),
        "norms": sum(size for name, size in rest.items() if not name.endswith(".bias")),
    }


def shape_of(config: PreTrainedConfig, folder: Path) -> ModelShape:
    """As from the folder that Transformers saves."""
    config.save_pretrained(folder)
    return read_shape(folder)


@MODELS
def test_counts_are_those_of_the_model(kind: type[PreTrainedConfig], more: dict[str, Any], tmp_path: Path) -> None:
    config = kind(**SIZES, **more)
    model, counts = on_meta(config), shape_of(config, tmp_path).counts
    assert {name: getattr(counts, name) for name in counts.__struct_fields__} == counted(model)
    assert counts.total == sum(p.numel() for p in model.parameters())


@MODELS
@pytest.mark.parametrize("targets", [(), ("q_proj", "down_proj")])
def test_an_adapter_has_as_many_parameters_as_peft_gives_it(
    kind: type[PreTrainedConfig], more: dict[str, Any], targets: tuple[str, ...], tmp_path: Path
) -> None:
    config = kind(**SIZES, **more)
    shape = shape_of(config, tmp_path)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    parameters = lora_parameters(attach(model, LoraSpec(rank=5, target_modules=targets), seed=0))
    assert shape.adapter_parameters(5, targets) == sum(p.numel() for p in parameters.values())


def test_a_slot_holds_every_part_of_a_packed_matrix(tmp_path: Path) -> None:
    shape = shape_of(Qwen2Config(**SIZES), tmp_path)
    assert shape.slot_parameters(8) == shape.adapter_parameters(8)
    assert shape.slot_parameters(8, ("k_proj",)) == shape.adapter_parameters(8, ("q_proj", "k_proj", "v_proj"))
    assert shape.slot_parameters(8, ("o_proj", "up_proj")) == shape.adapter_parameters(8, ("o_proj", "gate_proj", "up_proj"))


@pytest.mark.parametrize(
    ("name", "total", "per_token"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768, 2 * 24 * 128),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304, 2 * 28 * 256),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512, 2 * 28 * 512),
    ],
)
def test_known_models(name: str, total: int, per_token: int) -> None:
    """Totals as their model cards count them, and as Transformers builds them."""
    shape = read_shape(name)
    assert (shape.counts.total, shape.kv_per_token) == (total, per_token)
    assert shape.head_dim == {896: 64}.get(shape.hidden_size, 128)
    config = AutoConfig.from_pretrained(CONFIGS[name])
    assert sum(p.numel() for p in on_meta(config).parameters()) == total


def test_the_tiny_model(tmp_path: Path) -> None:
    shape = read_shape("tiny")
    assert shape.counts.total == sum(p.numel() for p in on_meta(AutoConfig.from_pretrained(CONFIGS["tiny"])).parameters())
    assert shape.max_positions == 512


@given(st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=20)
def test_a_higher_rank_never_takes_less(low: int, high: int) -> None:
    shape = read_shape("Qwen/Qwen2.5-0.5B-Instruct")
    low, high = sorted((low, high))
    assert shape.adapter_parameters(low) <= shape.adapter_parameters(high)
    assert shape.adapter_parameters(high) * low == shape.adapter_parameters(low) * high


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no json", "is not JSON"),
        ("[1]", "holds no settings"),
        ('{"model_type": "gpt2"}', "'gpt2' model, and memory is planned for llama, mistral, qwen2, qwen3"),
        ('{"model_type": "qwen2", "hidden_size": "8"}', r"no usable hidden_size \('8'\)"),
        ('{"model_type": "qwen2", "hidden_size": 8}', r"no usable num_attention_heads \(None\)"),
    ],
)
def test_a_broken_config_is_one_line(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_shape(str(tmp_path))


def test_a_model_that_is_nowhere_offers_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config.json of model 'nobody/nothing' is at hand .*set model to a local folder"):
        read_shape("nobody/nothing")
    with pytest.raises(ConfigError, match=r"has no readable config\.json"):
        read_shape(tmp_path)


def test_a_config_can_be_given_as_it_is() -> None:
    config = json.loads(CONFIGS["Qwen/Qwen2.5-7B-Instruct"].read_text())
    assert read_shape(config) == read_shape("Qwen/Qwen2.5-7B-Instruct")
