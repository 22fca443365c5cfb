"""A stand-in for the weights of a vLLM model: the same names, the same fused and padded layout, from plain PyTorch modules.

`vllm/test_vllm_shared_weights.py` holds it to the names and shapes of real vLLM models. Random games to train on, too, and a
request to a real engine.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sparring.rollout.trajectory import Trajectory
from sparring.scenarios.outcome import Verdict

PADDING = 64
"""vLLM's embeddings have a multiple of so many rows."""


class WeightParameter(nn.Parameter):
    """A parameter with a class and a mandatory argument of its own, as vLLM's linear weights are."""

    def __new__(cls, data: Tensor, *, weight_loader: object) -> WeightParameter:
        return super().__new__(cls, data, requires_grad=False)  # type: ignore[no-any-return]

    def __init__(self, data: Tensor, *, weight_loader: object) -> None:
        self.weight_loader = weight_loader

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


class Linear(nn.Module):
    def __init__(self, columns: int, rows: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = WeightParameter(torch.empty(rows, columns), weight_loader=None)
        self.bias = nn.Parameter(torch.empty(rows), requires_grad=False) if bias else None


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))


class Vocabulary(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        padded = (rows + PADDING - 1) // PADDING * PADDING
        self.weight = nn.Parameter(torch.full((padded, columns), torch.nan), requires_grad=False)


class Attention(nn.Module):
    def __init__(self, c: PretrainedConfig) -> None:
        super().__init__()
        head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        rows = head * (c.num_attention_heads + 2 * c.num_key_value_heads)
        bias = c.model_type == "qwen2" or getattr(c, "attention_bias", False)
        self.qkv_proj = Linear(c.hidden_size, rows, bias=bias)
        self.o_proj = Linear(head * c.num_attention_heads, c.hidden_size, bias=bias and c.model_type == "llama")
        if c.model_type == "qwen3":
            self.q_norm, self.k_norm = Norm(head), Norm(head)


class Mlp(nn.Module):
    def __init__(self, c: PretrainedConfig) -> None:
        super().__init__()
        bias = getattr(c, "mlp_bias", False)
        self.gate_up_proj = Linear(c.hidden_size, 2 * c.intermediate_size, bias=bias)
        self.down_proj = Linear(c.intermediate_size, c.hidden_size, bias=bias)


class Layer(nn.Module):
    def __init__(self, c: PretrainedConfig) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(c), Mlp(c)
        self.input_layernorm, self.post_attention_layernorm = Norm(c.hidden_size), Norm(c.hidden_size)


class Decoder(nn.Module):
    def __init__(self, c: PretrainedConfig) -> None:
        super().__init__()
        self.embed_tokens = Vocabulary(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = Norm(c.hidden_size)


class FusedModel(nn.Module):
    """vLLM's module tree for a configuration of Transformers; `load` fills it from a model of theirs."""

    def __init__(self, c: PretrainedConfig) -> None:
        super().__init__()
        self.model = Decoder(c)
        self.lm_head = Vocabulary(c.vocab_size, c.hidden_size)
        if c.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @torch.no_grad()
    def load(self, source: PreTrainedModel) -> FusedModel:
        weights = dict(source.named_parameters())
        for name, parameter in self.named_parameters():
            for fused, parts in {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}.items():
                if fused in name:
                    parameter.copy_(torch.cat([weights[name.replace(fused, part)] for part in parts]))
                    break
            else:
                parameter[: len(weights[name])].copy_(weights[name])
        return self


@pytest.fixture(scope="session")
def fused_model() -> Callable[[PretrainedConfig], FusedModel]:
    return FusedModel


@pytest.fixture
def with_adapters() -> Callable[[nn.Module], dict[str, Tensor]]:
    """A tree's parameters by the names that they have where vLLM serves adapters."""

    def read(tree: nn.Module) -> dict[str, Tensor]:
        wrapped = {name: name.replace("_proj.", "_proj.base_layer.") for name, _ in tree.named_parameters()}
        return {wrapped[name]: parameter for name, parameter in tree.named_parameters()}

    return read


def deal_games(vocabulary: int) -> list[Trajectory]:
    """Two groups of random tokens whose rewards differ."""
    rng = random.Random(0)
    out = []
    for n in range(6):
        length = rng.randint(9, 14)
        mask = [i >= 4 for i in range(length)]
        out.append(
            Trajectory(
                game_id=str(n),
                scenario_id=str(n % 2),
                family="haggle",
                seat="seller",
                partner="script:hold",
                token_ids=[rng.randrange(vocabulary) for _ in range(length)],
                logprobs=[-4.0 if trained else 0.0 for trained in mask],
                loss_mask=mask,
                temperature=1.0,
                policy="",
                reward=rng.choice([-1.0, 1.0]) if n > 1 else 1.0 - 2.0 * n,
                verdict=Verdict.WIN,
                score=0.5,
            )
        )
    return out


@pytest.fixture
def random_games() -> Callable[[int], list[Trajectory]]:
    return deal_games


def sample_eight(engine: Any, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Eight ids that vLLM samples, and their log-probs."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=8, temperature=1.0, seed=0, logprobs=0, detokenize=False, ignore_eos=True)
    engine.add_request("eight", {"prompt_token_ids": prompt}, params)
    outputs = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    (completion,) = outputs[-1].outputs
    ids = list(completion.token_ids)
    return ids, [logprobs[token].logprob for token, logprobs in zip(ids, completion.logprobs, strict=True)]


@pytest.fixture
def generate() -> Callable[[Any, list[int]], tuple[list[int], list[float]]]:
    return sample_eight
