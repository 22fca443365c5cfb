"""The learner's memory formulas against what autograd saves and what a step really takes, on a CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from sparring.bench.memory import peak_bytes
from sparring.engine.memory.learner_memory import Rows, kept_activations, workspace, worst_rows
from sparring.engine.memory.model_shape import ModelShape, read_shape
from sparring.engine.models import load_model
from sparring.learner import attention
from sparring.learner.adapter import LoraSpec
from sparring.learner.batch import Batch
from sparring.learner.blocks import Blocks, stacked_heads
from sparring.learner.learner import Learner, LearnerConfig
from sparring.rollout.trajectory import Trajectory

SIZES: dict[str, Any] = {"num_hidden_layers": 3, "max_position_embeddings": 1024}
KINDS: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(
        hidden_size=64, intermediate_size=160, num_attention_heads=4, num_key_value_heads=2, vocab_size=97, **SIZES
    ),
    "wide": Qwen2Config(
        hidden_size=128, intermediate_size=512, num_attention_heads=8, num_key_value_heads=1, vocab_size=200, **SIZES
    ),
    "qwen3": Qwen3Config(
        hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=32, vocab_size=97, **SIZES
    ),
    "llama": LlamaConfig(
        hidden_size=96, intermediate_size=224, num_attention_heads=6, num_key_value_heads=6, vocab_size=97, **SIZES
    ),
}


def games(vocabulary: int, *, prompt: int, length: int, count: int) -> list[Trajectory]:
    """Games of one group: a shared prompt, then each its own way."""
    generator = torch.Generator().manual_seed(length)
    shared = torch.randint(vocabulary, (prompt,), generator=generator).tolist()
    return [
        Trajectory(
            game_id=str(index),
            scenario_id="s",
            family="haggle",
            seat="seller",
            partner="script:firm",
            token_ids=[*shared, *torch.randint(vocabulary, (length - prompt,), generator=generator).tolist()],
            logprobs=[0.0] * prompt + [-1.0] * (length - prompt),
            loss_mask=[False] * prompt + [True] * (length - prompt),
            temperature=1.0,
            policy="base",
            reward=1.0,
            verdict="win",
            score=1.0,
        )
        for index in range(count)
    ]


def make(kind: str, dtype: torch.dtype, *, rank: int = 8, targets: tuple[str, ...] = ()) -> tuple[Learner, ModelShape]:
    if kind == "tiny":
        model, _ = load_model("tiny", torch.device("cpu"))
        model = model.to(dtype)
        shape = read_shape("tiny")
    else:
        torch.manual_seed(0)
        config = KINDS[kind]
        built: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model = built.eval().requires_grad_(False)
        shape = read_shape(config.to_dict())
    return Learner(model, LearnerConfig(lora=LoraSpec(rank=rank, target_modules=targets), token_budget=1 << 20), seed=0), shape


def packed(learner: Learner, shape: ModelShape, *, prompt: int = 60, length: int = 200, count: int = 6) -> Batch:
    played = games(shape.vocab_size, prompt=prompt, length=length, count=count)
    (batch,) = learner.pack(played, [1.0] * count, [1.0 / (count * length)] * count)
    return batch


def rows_of(batch: Batch) -> Rows:
    def cells(prefix: str, blocks: Sequence[Blocks]) -> dict[str, int]:
        counts = [(block.queries.numel(), block.keys.numel(), block.mask_cells) for block in blocks]
        names = ("query_cells", "key_cells", "mask_cells")
        return {prefix + name: sum(column) for name, column in zip(names, zip(*counts, strict=True), strict=True)}

    counts = cells("", batch.blocks) | cells("last_", batch.last_blocks)
    return Rows(rows=batch.num_rows, predicting=len(batch.predicting), trained=len(batch.targets), **counts)


def saved_bytes(learner: Learner, batch: Batch) -> int:
    """Storages that a forward pass keeps for its backward pass, each once, without the model's own."""
    own = {t.untyped_storage().data_ptr() for t in (*learner._wrapped.parameters(), *learner._wrapped.buffers())}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner._logprobs(batch, entropy_grad=False)
    return sum(storage.nbytes() for storage in held.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["tiny", *KINDS])
def test_the_formula_counts_what_autograd_saves(kind: str, dtype: torch.dtype) -> None:
    learner, shape = make(kind, dtype)
    batch = packed(learner, shape)
    saved = saved_bytes(learner, batch)
    planned = kept_activations(shape, rows_of(batch), rank=8, itemsize=dtype.itemsize)
    assert saved <= planned <= 1.1 * saved


@pytest.mark.parametrize("kind", ["tiny", "qwen3"])
def test_the_formula_counts_heads_stacked_as_on_a_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, shape = make(kind, torch.bfloat16)
    stacked = stacked_heads("cuda", shape.num_heads, shape.num_kv_heads)
    assert stacked == 2
    monkeypatch.setattr(attention, "stacked_heads", lambda *_: stacked)
    batch = packed(learner, shape)
    saved = saved_bytes(learner, batch)
    planned = kept_activations(shape, rows_of(batch), rank=8, itemsize=2, stacked=stacked)
    assert saved <= planned <= 1.1 * saved


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_the_formula_counts_what_four_bits_save() -> None:
    """PEFT's own layers compute LoRA beside quantised weights, from an fp32 copy of what they read."""
    model, _ = load_model("tiny", torch.device("cpu"), "nf4")
    learner, shape = Learner(model, LearnerConfig(lora=LoraSpec(rank=8), token_budget=1 << 20), seed=0), read_shape("tiny")
    batch = packed(learner, shape)
    saved = saved_bytes(learner, batch)
    planned = kept_activations(shape, rows_of(batch), rank=8, itemsize=2, fused=False)
    assert saved <= planned <= 1.1 * saved


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("k_proj", "o_proj", "down_proj"), ("gate_proj", "up_proj")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_layers_without_lora_keep_less(targets: tuple[str, ...], dtype: torch.dtype) -> None:
    learner, shape = make("wide", dtype, rank=16, targets=targets)
    batch = packed(learner, shape)
    saved = saved_bytes(learner, batch)
    planned = kept_activations(shape, rows_of(batch), rank=16, targets=targets, itemsize=dtype.itemsize)
    assert saved <= planned <= 1.2 * saved  # what stands before the first adapted layer keeps nothing, and is counted


@pytest.mark.parametrize("prompt", [1, 150])
def test_the_worst_batch_is_worse_than_a_real_one(prompt: int) -> None:
    learner, shape = make("qwen2", torch.float32)
    batch = packed(learner, shape, prompt=prompt, length=256, count=4)
    worst = worst_rows(batch.num_rows, 256)
    assert saved_bytes(learner, batch) <= kept_activations(shape, worst, rank=8, itemsize=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["tiny", "wide", "llama"])
def test_a_step_takes_no_more_than_planned(kind: str, dtype: torch.dtype) -> None:
    """The peak of a whole forward and backward pass, temporaries included."""
    learner, shape = make(kind, dtype)
    batch = packed(learner, shape)
    learner.forward_backward(batch)
    peak = peak_bytes(lambda: learner.forward_backward(batch))
    rows = rows_of(batch)
    kept = kept_activations(shape, rows, rank=8, itemsize=dtype.itemsize)
    planned = kept + workspace(shape, rows, itemsize=dtype.itemsize)
    assert 0.8 * planned < peak <= planned


def test_a_long_sequence_makes_a_batch_of_its_own() -> None:
    assert worst_rows(1024, 4096) == worst_rows(4096, 4096)
    assert worst_rows(8192, 4096).rows == 8192


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(16, 3000), st.integers(1, 128), st.sampled_from([2, 4]))
@settings(max_examples=50)
def test_more_tokens_or_rank_never_take_less(some: int, more: int, context: int, rank: int, itemsize: int) -> None:
    shape = read_shape("Qwen/Qwen2.5-0.5B-Instruct")
    some, more = sorted((some, more))

    def need(budget: int, rank: int, context: int) -> int:
        rows = worst_rows(budget, context)
        return kept_activations(shape, rows, rank=rank, itemsize=itemsize) + workspace(shape, rows, itemsize=itemsize)

    assert need(some, rank, context) <= need(more, rank, context)
    assert need(some, rank, context) <= need(some, rank + 8, context)
    assert need(some, rank, context) <= need(some, rank, context + 64)
