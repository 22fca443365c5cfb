"""The learner's model as views into a fused module tree: the same model, the same training, one copy of every weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, PretrainedConfig, PreTrainedModel

from sparring.engine.errors import ConfigError
from sparring.engine.vllm.shared_weights import NotShared, SharingError, check_shared, share_weights
from sparring.learner.adapter import LoraSpec
from sparring.learner.learner import Learner, LearnerConfig
from sparring.learner.lora import fingerprint_model
from sparring.rollout.trajectory import Trajectory

VOCABULARY = 61
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": False},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3-tied": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "llama": {"model_type": "llama", "num_key_value_heads": 4},
    "llama-bias": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    "mistral": {"model_type": "mistral", "head_dim": 12},
}
Fuse = Callable[[PretrainedConfig], Any]


@dataclass(frozen=True)
class Case:
    """A model on disk, the one that Transformers loads from there, and its weights in vLLM's layout."""

    folder: Path
    plain: PreTrainedModel
    tree: nn.Module

    @property
    def parameters(self) -> dict[str, Tensor]:
        return dict(self.tree.named_parameters())

    def shared(self) -> PreTrainedModel:
        model = share_weights(self.folder, self.parameters)
        assert isinstance(model, PreTrainedModel), model
        return model

    def refusal(self, **replaced: Tensor | None) -> NotShared:
        """What becomes of sharing where some of vLLM's parameters are others, or are not there."""
        parameters = {name: tensor for name, tensor in (self.parameters | replaced).items() if tensor is not None}
        refused = share_weights(self.folder, parameters)
        assert isinstance(refused, NotShared)
        return refused


def make(folder: Path, fuse: Fuse, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Case:
    config = AutoConfig.for_model(**(SIZES | HEADS | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.data.normal_(1.0, 0.1)
    model.to(dtype).save_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)
    return Case(folder, plain, fuse(plain.config).to(dtype).load(plain))


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path: Path, fused_model: Fuse) -> Case:
    return make(tmp_path, fused_model, **MODELS[request.param])


@pytest.fixture
def qwen(tmp_path: Path, fused_model: Fuse) -> Case:
    return make(tmp_path, fused_model, **MODELS["qwen2"])


def test_every_parameter_is_a_view_of_equal_value(case: Case) -> None:
    shared, plain = case.shared(), dict(case.plain.named_parameters())
    storages = {tensor.untyped_storage().data_ptr() for tensor in case.parameters.values()}
    assert [name for name, _ in shared.named_parameters()] == list(plain)
    for name, parameter in shared.named_parameters():
        assert type(parameter) is nn.Parameter and not parameter.requires_grad
        assert parameter.untyped_storage().data_ptr() in storages
        assert parameter.is_contiguous()
        assert torch.equal(parameter, plain[name]), name
    assert check_shared(shared, case.parameters) == sum(p.numel() * p.element_size() for p in plain.values())


def test_it_is_the_model_that_transformers_loads(case: Case) -> None:
    """Bit for bit, and it takes the same adapters."""
    shared = case.shared()
    ids = torch.arange(2 * VOCABULARY).remainder(VOCABULARY).view(2, -1)
    with torch.no_grad():
        assert torch.equal(shared(ids).logits, case.plain(ids).logits)
    assert type(shared) is type(case.plain) and not shared.training
    assert shared.config.to_dict() == case.plain.config.to_dict()
    assert shared.generation_config.to_dict() == case.plain.generation_config.to_dict()
    assert shared.dtype == shared.config.dtype == torch.float32
    assert fingerprint_model(shared) == fingerprint_model(case.plain)
    head, embedding = shared.get_output_embeddings().weight, shared.get_input_embeddings().weight
    assert (head is embedding) == shared.config.tie_word_embeddings
    assert len(head) == VOCABULARY


def test_a_step_on_it_gives_the_same_adapter(case: Case, random_games: Callable[[int], list[Trajectory]]) -> None:
    """And the learner's own module tree still shares every weight, under PEFT's layers, after the step."""
    config = LearnerConfig(lora=LoraSpec(rank=4), learning_rate=1e-2)
    shared = case.shared()
    before = {name: tensor.clone() for name, tensor in case.parameters.items()}
    learners = [Learner(model, config, seed=3) for model in (shared, case.plain)]
    for _ in range(2):  # B starts at zero: the second step is A's first
        stats = [learner.step(random_games(VOCABULARY)) for learner in learners]
        assert stats[0].grad_norm == stats[1].grad_norm > 0
    mine, theirs = (learner.adapter() for learner in learners)
    assert mine.base_model == theirs.base_model
    assert mine.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(mine.tensors[name], theirs.tensors[name]) for name in theirs.tensors)
    assert all(tensor.any() for tensor in mine.tensors.values())
    assert check_shared(shared, case.parameters, learners[0].frozen_parameters()) == check_shared(shared, case.parameters)
    assert all(torch.equal(tensor.nan_to_num(), before[name].nan_to_num()) for name, tensor in case.parameters.items())


def test_what_is_written_there_is_seen_here(case: Case) -> None:
    learner = Learner(shared := case.shared(), LearnerConfig(lora=LoraSpec(rank=4)), seed=0)
    with torch.no_grad():
        for parameter in case.parameters.values():
            parameter.fill_(0.25)
    assert all(bool((p == 0.25).all()) for p in shared.parameters())
    assert all(bool((p == 0.25).all()) for p in learner.frozen_parameters())


def test_names_where_adapters_are_served(case: Case, with_adapters: Callable[[nn.Module], dict[str, Tensor]]) -> None:
    """Wrapped layers, wrapped embeddings, and a tied head that is listed under a second name."""
    parameters = with_adapters(case.tree)
    parameters["model.embed_tokens.base_layer.weight"] = parameters.pop("model.embed_tokens.weight")
    if case.plain.config.tie_word_embeddings:
        parameters["lm_head.weight"] = parameters["model.embed_tokens.base_layer.weight"]
    model = share_weights(str(case.folder), parameters)
    assert isinstance(model, PreTrainedModel)
    assert check_shared(model, parameters) == check_shared(model, case.parameters)


def test_half_precision_from_a_configuration(tmp_path: Path, fused_model: Fuse) -> None:
    case = make(tmp_path, fused_model, dtype=torch.bfloat16, **MODELS["qwen2-tied"])
    given = AutoConfig.from_pretrained(tmp_path)
    model = share_weights(given, case.parameters)
    assert isinstance(model, PreTrainedModel)
    assert model.dtype == model.config.dtype == torch.bfloat16
    assert model.config is not given
    assert fingerprint_model(model) == fingerprint_model(case.plain)
    ids = torch.arange(VOCABULARY)[None]
    assert torch.equal(model(ids).logits, case.plain(ids).logits)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 1e6},
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 64},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "rope_theta": 5e5,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
    ids=lambda rope: str(rope["rope_type"]),
)
def test_rotary_frequencies_are_real(tmp_path: Path, fused_model: Fuse, rope: dict[str, Any]) -> None:
    case = make(tmp_path, fused_model, model_type="llama", rope_parameters=rope)
    shared, expected = case.shared(), dict(case.plain.named_buffers())
    found = dict(shared.named_buffers())
    assert found.keys() == expected.keys() != set()
    assert all(torch.equal(found[name], expected[name]) and found[name].dtype == torch.float32 for name in expected)
    mine, theirs = shared.get_decoder().rotary_emb, case.plain.get_decoder().rotary_emb
    assert mine.attention_scaling == theirs.attention_scaling
    ids = torch.randint(VOCABULARY, (1, 80), generator=torch.Generator().manual_seed(0))
    assert torch.equal(shared(ids).logits, case.plain(ids).logits)


QKV, DOWN, NORM = "model.layers.1.self_attn.qkv_proj.weight", "model.layers.0.mlp.down_proj.weight", "model.norm.weight"


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({QKV: torch.empty(0)}, f"vLLM keeps {QKV} in a packed form of its own"),
        ({DOWN: torch.empty(32, 48, dtype=torch.int8)}, f"vLLM keeps {DOWN} as int8, so its weights are quantised"),
        (
            {DOWN: torch.empty(32, 48).to(torch.float8_e4m3fn)},
            f"vLLM keeps {DOWN} as float8_e4m3fn, so its weights are quantised",
        ),
        ({QKV: torch.empty(32, 32)}, f"vLLM's {QKV} is [32, 32] of [64, 32]: it is split over several GPUs"),
        ({DOWN: torch.empty(32, 24)}, f"vLLM's {DOWN} is [32, 24] of [32, 48]: it is split over several GPUs"),
        ({"lm_head.weight": torch.empty(32, 32)}, "vLLM's lm_head.weight is [32, 32] of [61, 32]: it is split over several GPUs"),
        ({DOWN: torch.empty(48, 32)}, f"vLLM's {DOWN} is [48, 32], the learner needs [32, 48]"),
        ({DOWN: torch.empty(32 * 48)}, f"vLLM's {DOWN} is [1536], the learner needs [32, 48]"),
        ({QKV: torch.empty(128, 32)}, f"vLLM's {QKV} is [128, 32], the learner needs [64, 32]"),
        ({DOWN: torch.empty(48, 32).t()}, f"vLLM's {DOWN} does not lie row by row in memory"),
        ({NORM: torch.empty(32).bfloat16()}, f"vLLM keeps {NORM} as bfloat16 on cpu, others as float32 on cpu"),
        ({NORM: torch.empty(32, device="meta")}, f"vLLM keeps {NORM} as float32 on meta, others as float32 on cpu"),
        ({QKV: None}, f"vLLM's model has no {QKV}"),
        ({"lm_head.weight": None}, "vLLM's model has no lm_head.weight"),
        (
            {"model.layers.0.self_attn.q_norm.weight": torch.empty(8)},
            "vLLM's model also has model.layers.0.self_attn.q_norm.weight, which Transformers' Qwen2ForCausalLM lacks",
        ),
    ],
)
def test_what_does_not_fit_is_not_shared(qwen: Case, replaced: dict[str, Tensor | None], reason: str) -> None:
    assert qwen.refusal(**replaced).reason == reason


def test_weights_made_in_inference_mode_are_not_shared(qwen: Case) -> None:
    """Autograd cannot save them for the backward pass: the learner's first step would stop."""
    with torch.inference_mode():
        weight = torch.ones(32, 48)
    assert "inference mode" in qwen.refusal(**{DOWN: weight}).reason


def test_a_refusal_says_what_a_copy_costs(qwen: Case) -> None:
    refused = qwen.refusal(**{QKV: torch.empty(0)})
    assert refused.copy_gb == sum(p.numel() for p in qwen.plain.parameters()) * 4 / 2**30
    seven = NotShared(reason="the checkpoint is quantised", copy_gb=14.19)
    assert str(seven) == "the learner keeps a copy of the base model of its own (14.2 GB): the checkpoint is quantised"


def test_nothing_at_all_is_not_shared(qwen: Case) -> None:
    refused = share_weights(qwen.folder, {})
    assert isinstance(refused, NotShared)
    assert refused.reason == "vLLM's model has no model.embed_tokens.weight"


def test_another_architecture_is_not_shared() -> None:
    config = GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    refused = share_weights(config, {})
    assert isinstance(refused, NotShared)
    assert refused.reason.startswith("GPT2LMHeadModel is none of Qwen2ForCausalLM, ")
    assert refused.copy_gb > 0


def test_a_quantised_checkpoint_is_not_shared(qwen: Case) -> None:
    config = AutoConfig.from_pretrained(qwen.folder)
    config.quantization_config = {"quant_method": "awq", "bits": 4}
    refused = share_weights(config, qwen.parameters)
    assert isinstance(refused, NotShared)
    assert refused.reason == "the checkpoint is quantised"


def test_a_bias_that_vllm_drops_is_not_shared(tmp_path: Path, fused_model: Fuse) -> None:
    """vLLM's Qwen3 gives `attention_bias` to queries, keys and values alone, Transformers to the output as well."""
    case = make(tmp_path, fused_model, model_type="qwen3", head_dim=16, attention_bias=True)
    assert case.refusal().reason == "vLLM's model has no model.layers.0.self_attn.o_proj.bias"


def test_an_unreadable_source_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration of"):
        share_weights(tmp_path, {})


def test_a_copy_is_found_out(case: Case) -> None:
    with pytest.raises(SharingError, match=r"^model.embed_tokens.weight is not vLLM's model.embed_tokens.weight"):
        check_shared(case.plain, case.parameters)


def test_the_first_parameter_that_moved_is_named(qwen: Case) -> None:
    """On either side: vLLM reloaded its weights, or the learner's were moved or cloned."""
    shared, parameters = qwen.shared(), qwen.parameters
    gate_up = "model.layers.1.mlp.gate_up_proj.weight"
    with pytest.raises(SharingError, match=r"^model.layers.1.mlp.gate_proj.weight is not vLLM's .*gate_up_proj.weight: .* again"):
        check_shared(shared, parameters | {gate_up: parameters[gate_up].clone()})
    key, value = (shared.get_submodule(f"model.layers.0.self_attn.{part}_proj") for part in "kv")
    key.weight, value.weight = value.weight, key.weight  # the same storage, other rows
    with pytest.raises(SharingError, match=r"^model.layers.0.self_attn.k_proj.weight is not"):
        check_shared(shared, parameters)


def test_sharing_is_checked_for_all_frozen_parameters_and_for_none_that_is_trained(qwen: Case) -> None:
    shared = qwen.shared()
    with pytest.raises(SharingError, match=r"^26 parameters are frozen, the base model has 27: "):
        check_shared(shared, qwen.parameters, list(shared.parameters())[1:])
    shared.get_submodule("model.norm").requires_grad_(True)
    with pytest.raises(SharingError, match=r"^model.norm.weight is shared with vLLM, and trained: "):
        check_shared(shared, qwen.parameters)
