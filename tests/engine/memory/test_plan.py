"""The memory plan: its items, what it refuses and how, and the presets that it must find room for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.embedded.generator import TorchGenerator, TorchGeneratorConfig
from sparring.engine.engine import Engine
from sparring.engine.errors import ConfigError, MemoryPlanError
from sparring.engine.memory import ledger as memory_ledger
from sparring.engine.memory import plan as memory_plan
from sparring.engine.memory.learner_memory import kept_activations, worst_rows
from sparring.engine.memory.ledger import GB
from sparring.engine.memory.model_shape import ModelShape, read_shape
from sparring.engine.memory.plan import MemoryPlan, draw_up, plan
from sparring.engine.models import load_model
from sparring.engine.settings import PRESETS, presets
from sparring.engine.vllm import generator as vllm_generator
from sparring.engine.vllm import support

QWEN_7B = "Qwen/Qwen2.5-7B-Instruct"
SHAPE = read_shape(QWEN_7B)
A6000 = ("model=" + QWEN_7B, "device=cuda", "generator=vllm", "learner.lora.rank=32", "learner.token_budget=2048")
GPU_PRESETS = tuple(name for name in presets() if not name.startswith("demo"))


def settings(*overrides: str) -> RunConfig:
    return load_run_config(overrides=[*A6000, *overrides])


def items(found: MemoryPlan, phase: str) -> dict[str, int]:
    (wanted,) = (p for p in found.phases if p.name == phase)
    return {item.name: item.bytes for item in wanted.items}


def suggested(message: str) -> dict[str, str]:
    """What a refusal offers: the setting to the override; two that go together under both names, with a plus."""
    offers = [offer.split(" with ") for offer in message.partition("makes it fit: ")[2].split(", ") if offer]
    return {
        "+".join(part.split(" = ")[0] for part in offer): " ".join(part.replace(" = ", "=") for part in offer) for offer in offers
    }


# Values


def test_the_figures_of_a_7b_run() -> None:
    found = plan(settings(), SHAPE, 47.5)
    play, learn = items(found, "play"), items(found, "learn")
    adapter = 28 * 32 * (3584 + 3584 + 2 * (3584 + 512) + 2 * 3584 + 3 * (3584 + 18944))
    assert play["base weights, shared"] == learn["base weights, shared"] == 2 * 7_615_616_512
    assert play["adapter"] == learn["gradients"] == 4 * adapter
    assert play["optimiser (AdamW moments)"] == 8 * adapter
    assert play["adapter slots"] == 2 * 2 * adapter
    assert sum(play.values()) == pytest.approx(47.5 * GB, abs=GB / 1e6)
    assert "KV cache" not in learn
    cache = found.kv_cache
    assert cache.bytes_per_token == 57_344
    assert (cache.tokens, cache.games) == (play["KV cache"] // 57_344, play["KV cache"] // 57_344 // 2048)
    assert found.kv_cache_bytes == play["KV cache"]
    assert "activations" not in play


def test_a_rank_takes_the_next_slot_that_vllm_has() -> None:
    slots = [items(plan(settings(f"vllm.max_lora_rank={rank}"), SHAPE, 60), "play")["adapter slots"] for rank in (33, 64, 65)]
    assert slots[0] == slots[1] == slots[2] / 2


def test_the_slots_are_those_of_the_generator() -> None:
    assert memory_ledger.LORA_RANKS == support.LORA_RANKS
    assert memory_ledger.SLOTS_PER_ADAPTER == vllm_generator.SLOTS_PER_ADAPTER
    assert memory_ledger.CPU_BLOCK_TOKENS == support.CPU_BLOCK_SIZE
    assert TorchGeneratorConfig().max_batch_tokens == memory_ledger.TORCH_BATCH_TOKENS


def test_two_copies_cost_the_weights_twice() -> None:
    shared = plan(settings(), SHAPE, 60)
    apart = plan(settings("vllm.share_weights=false"), SHAPE, 60)
    assert apart.phases[1].bytes - shared.phases[1].bytes == 2 * 7_615_616_512


def test_four_bits_are_counted_scale_by_scale() -> None:
    found = items(plan(settings("quantization=nf4"), SHAPE, 47.5), "learn")
    linears, rest = SHAPE.counts.linears, 2 * SHAPE.counts.unquantised
    assert found["base weights of the generator"] == int(linears * (1 / 2 + 4 / 64)) + rest
    assert found["base weights of the learner"] == int(linears * (1 / 2 + 1 / 64 + 4 / 64 / 256)) + rest


def test_eager_decoding_takes_no_graphs() -> None:
    assert "CUDA graphs" not in items(plan(settings("vllm.enforce_eager=true"), SHAPE, 47.5), "play")


@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config, LlamaConfig, MistralConfig])
def test_every_architecture_is_planned_shared(kind: type[PreTrainedConfig]) -> None:
    shape = read_shape(kind().to_dict())
    assert "base weights, shared" in items(draw_up(settings(), shape, 80), "learn")


def test_top_p_makes_the_sampler_sort() -> None:
    """Below 1 the sampler sorts the vocabulary of every request."""
    many = ("concurrency=1024", "vllm.max_num_batched_tokens=2048")
    plain, sorting = (items(draw_up(settings(*many, f"sampling.top_p={p}"), SHAPE, 80), "play") for p in (1.0, 0.9))
    name = "generator's activations and sampler"
    assert sorting[name] - plain[name] == 1024 * 152_064 * memory_ledger.TOP_P_BYTES


# A CPU


@pytest.mark.parametrize("context", [128, 512])
def test_the_cache_on_a_cpu_is_the_embedded_generators(context: int) -> None:
    config = load_run_config("demo", overrides=[f"sampling.context={context}", "concurrency=24"])
    found = plan(config, read_shape("tiny"), 8)
    model, _ = load_model("tiny", torch.device("cpu"))
    generator = TorchGenerator(model, TorchGeneratorConfig(num_slots=24, max_context=context))
    assert (found.device, found.generator) == ("cpu", "torch")
    assert found.kv_cache.bytes == generator.cache_bytes
    assert found.kv_cache.games == 24
    with Engine.open(config) as engine:
        assert getattr(engine.generator, "cache_bytes") == found.kv_cache.bytes  # noqa: B009 the protocol does not name it


def test_vllm_on_a_cpu_holds_two_copies_and_the_cache_it_is_given() -> None:
    config = load_run_config("demo", overrides=["generator=vllm", "concurrency=16", "vllm.kv_cache_gb=2"])
    found = plan(config, read_shape("tiny"), 8)
    assert found.kv_cache.bytes == 2 * GB
    assert items(found, "play")["base weights of the generator"] == 4 * read_shape("tiny").counts.total
    assert any("a copy of the base weights each" in note for note in found.notes)


@pytest.mark.parametrize(("context", "blocks"), [(512, 16), (500, 16), (513, 17)])
def test_vllm_on_a_cpu_takes_a_cache_for_all_games(context: int, blocks: int) -> None:
    """Whole blocks of 32 tokens, and one more for each game."""
    config = load_run_config("demo", overrides=["generator=vllm", f"sampling.context={context}", "concurrency=24"])
    cache = plan(config, read_shape("tiny"), 8).kv_cache
    assert cache.bytes_per_token == 4 * 4 * 2 * 2 * 32  # fp32, layers, keys and values, heads of 32
    assert cache.bytes == 24 * (blocks + 1) * 32 * cache.bytes_per_token
    assert cache.games >= 24


def test_a_gpu_stacks_the_heads_that_share_keys_in_its_masks() -> None:
    """7 query heads of Qwen2.5-7B share each of 4 key heads: on a GPU a mask holds their rows one after the other, in bf16."""
    masks = 2 * 2048 * 2048
    on_gpu, on_cpu = (kept_activations(SHAPE, worst_rows(2048, 2048), rank=32, itemsize=2, stacked=n) for n in (7, 1))
    assert on_gpu - on_cpu == 6 * 2 * masks
    assert items(plan(settings(), SHAPE, 47.5), "learn")["activations"] == on_gpu


def test_four_bits_keep_fp32_inputs() -> None:
    """`FusedLora` stands beside plain weights only."""
    plain, packed = (items(plan(settings(f"quantization={q}"), SHAPE, 60), "learn") for q in ("none", "nf4"))
    assert packed["activations"] > 1.3 * plain["activations"]


def test_without_a_size_it_plans_for_what_is_here() -> None:
    assert plan(load_run_config("demo"), read_shape("tiny")).device_gb > 1
    assert plan(settings("memory.device_gb=47.5"), SHAPE).device_gb == 47.5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to plan for")
def test_a_gpu_that_is_not_here_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"no GPU is here to plan for: set memory\.device_gb"):
        plan(settings(), SHAPE)


# Refusals


REFUSED: tuple[tuple[tuple[str, ...], float, str], ...] = (
    (("learner.token_budget=8192",), 47.5, "learner.token_budget"),
    (("learner.token_budget=4096", "sampling.context=4096"), 47.5, "sampling.context+learner.token_budget"),
    (("learner.token_budget=256", "sampling.context=4096"), 47.5, "sampling.context"),
    (("learner.lora.rank=512",), 47.5, "learner.lora.rank"),
    (("vllm.max_adapters=60",), 47.5, "vllm.max_adapters"),
    (("vllm.max_num_batched_tokens=262144",), 47.5, "vllm.max_num_batched_tokens"),
    (("vllm.max_num_seqs=16384",), 47.5, "vllm.max_num_seqs"),
    (("vllm.kv_cache_gb=40",), 47.5, "vllm.kv_cache_gb"),
    (("vllm.kv_cache_gb=0.1",), 47.5, "vllm.kv_cache_gb"),
    (("vllm.share_weights=false",), 47.5, "vllm.share_weights"),
    (("vllm.share_weights=false",), 47.5, "quantization"),
    (("concurrency=4096",), 47.5, "concurrency"),
)


@pytest.mark.parametrize(("overrides", "size", "key"), REFUSED, ids=[case[2] + ":" + case[0][0] for case in REFUSED])
def test_every_value_that_a_refusal_offers_fits(overrides: tuple[str, ...], size: float, key: str) -> None:
    with pytest.raises(MemoryPlanError) as refused:
        plan(settings(*overrides), SHAPE, size)
    offers = suggested(str(refused.value))
    assert key in offers
    for offer in offers.values():
        assert plan(settings(*overrides, *offer.split()), SHAPE, size).fits


def test_the_value_offered_is_the_largest_of_its_steps() -> None:
    with pytest.raises(MemoryPlanError) as refused:
        plan(settings("learner.token_budget=8192"), SHAPE, 47.5)
    offer = int(suggested(str(refused.value))["learner.token_budget"].partition("=")[2])
    assert offer % 256 == 0
    assert not draw_up(settings(f"learner.token_budget={offer + 256}"), SHAPE, 47.5).fits


def test_a_refusal_says_which_phase_by_how_much_and_what_is_largest() -> None:
    config = settings("learner.token_budget=8192")
    learn = draw_up(config, SHAPE, 47.5).phases[1].bytes / GB
    says = (
        f"model '{QWEN_7B}' does not fit: the learn phase needs {learn:.1f} GB where memory.device_gb is 47.5, "
        f"{learn - 47.5:.2f} GB too much (largest: activations "
    )
    with pytest.raises(MemoryPlanError, match=re.escape(says)):
        plan(config, SHAPE, 47.5)


def test_where_nothing_alone_helps_it_says_so() -> None:
    with pytest.raises(MemoryPlanError, match=r"no single setting is enough: lower several of .*smaller model"):
        plan(settings("learner.token_budget=8192"), SHAPE, 10)


def test_a_cache_for_too_few_games_is_refused() -> None:
    """Room for one game in eight of those in play; a run that hopes for more must say so with its concurrency."""
    per_game = 2048 * 57_344
    for games, fits in ((15, False), (16, True)):
        config = settings("concurrency=128", f"vllm.kv_cache_gb={games * per_game / GB + 1e-6}")
        found = draw_up(config, SHAPE, 47.5)
        assert (found.kv_cache.games, found.kv_cache.least_games, found.fits) == (games, 16, fits)
    assert any("16 whole contexts for concurrency = 128" in note for note in found.notes)


def test_the_embedded_generator_on_a_cpu_is_refused_too() -> None:
    config = load_run_config("demo", overrides=["concurrency=100000"])
    with pytest.raises(MemoryPlanError, match=r"the play phase needs .* GB where RAM is 8") as refused:
        plan(config, read_shape("tiny"), 8)
    offer = suggested(str(refused.value))["concurrency"]
    assert plan(load_run_config("demo", overrides=[offer]), read_shape("tiny"), 8).fits


@given(
    st.sampled_from(
        (
            ("learner.token_budget", 256),
            ("learner.lora.rank", 8),
            ("vllm.max_adapters", 1),
            ("vllm.max_num_batched_tokens", 512),
            ("vllm.max_num_seqs", 8),
            ("sampling.context", 256),
            ("memory.reserve_gb", 1),
        )
    ),
    st.integers(1, 30),
    st.integers(1, 30),
    st.booleans(),
)
def test_more_of_anything_never_needs_less(key: tuple[str, int], some: int, more: int, nf4: bool) -> None:
    name, step = key
    some, more = sorted((some, more))
    quantization = "quantization=" + ("nf4" if nf4 else "none")
    low, high = (draw_up(settings(quantization, f"{name}={step * n}"), SHAPE, 200) for n in (some, more))
    assert all(a.bytes <= b.bytes for a, b in zip(low.phases, high.phases, strict=True))
    assert low.kv_cache.bytes >= high.kv_cache.bytes


# The record


def test_the_plan_is_plain_data_and_reads_well() -> None:
    found = plan(settings(), SHAPE, 47.5)
    assert msgspec.json.decode(msgspec.json.encode(found), type=MemoryPlan) == found
    table = found.table
    cells = [list(column.cells) for column in table.columns]
    assert [column.header for column in table.columns] == ["GB", "play", "learn", "set by"]
    row = cells[0].index("activations")
    assert (cells[1][row], cells[3][row]) == ("", "learner.token_budget")
    assert float(str(cells[2][row])) == pytest.approx(items(found, "learn")["activations"] / GB, abs=0.01)
    assert f"{found.kv_cache.games} games of full context" in found.kv_cache_text


def test_planning_imports_no_vllm() -> None:
    for module in (memory_plan, memory_ledger):
        assert "vllm" not in re.findall(r"^\s*(?:from|import) (\w+)", Path(str(module.__file__)).read_text(), re.MULTILINE)


# Presets


def shape_of(config: RunConfig) -> ModelShape:
    return read_shape(config.model)


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_checked_and_named(name: str) -> None:
    config = load_run_config(name)
    config.check()
    assert (config.preset, config.name) == (name, name)


@pytest.mark.parametrize("name", GPU_PRESETS)
def test_every_preset_fits_and_leaves_the_cache_that_it_states(name: str) -> None:
    config = load_run_config(name)
    found = plan(config, shape_of(config))
    assert found.fits
    assert (found.device, found.generator) == ("cuda", "vllm")
    stated = re.search(
        r"^# KV cache: ([\d.]+) GB, (\d+) games of ([\d,]+) tokens, for (\d+) in play\.$", text(name), re.MULTILINE
    )
    assert stated is not None
    context = int(stated[3].replace(",", ""))
    assert (stated[1], int(stated[2])) == (f"{found.kv_cache.bytes / GB:.1f}", found.kv_cache.games)
    assert (context, int(stated[4])) == (config.sampling.context, config.concurrency)
    assert found.kv_cache.games >= config.concurrency


def text(name: str) -> str:
    return (PRESETS / f"{name}.toml").read_text()


def test_the_presets_of_the_issue_are_there() -> None:
    wanted: dict[str, Any] = {
        "a6000-qwen2.5-7b": ("none", 47.5),
        "a6000-qwen2.5-7b-4bit": ("nf4", 47.5),
        "h100-qwen2.5-7b": ("none", 79.1),
        "debate-qwen2.5-1.5b": ("none", 47.5),
        "comedy-qwen2.5-7b": ("none", 47.5),
    }
    assert set(wanted) == set(GPU_PRESETS)
    for name, (quantization, size) in wanted.items():
        config = load_run_config(name)
        assert (config.quantization, config.memory.device_gb) == (quantization, size)
        assert config.learner.token_budget >= config.sampling.context
        assert config.games_per_scenario >= 8
        assert text(name).startswith("# ")
