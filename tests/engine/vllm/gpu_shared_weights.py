"""Sharing on a CUDA device: vLLM serves a random model of the Qwen2 architecture, and the learner trains on vLLM's weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from sparring.engine.vllm.process_state import kept
from sparring.engine.vllm.shared_weights import check_shared, share_weights
from sparring.learner.learner import Learner, LearnerConfig
from sparring.learner.lora import fingerprint_model
from sparring.rollout.trajectory import Trajectory

DEVICE = "cuda"
DTYPE = torch.bfloat16
VOCABULARY = 1003
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 512}
SETTINGS = {"kv_cache_memory_bytes": 1 << 28, "gpu_memory_utilization": 0.5}


@dataclass(frozen=True)
class Served:
    """A model that vLLM serves, and the one that Transformers loads from the same folder."""

    engine: Any
    folder: Path
    plain: PreTrainedModel

    @property
    def parameters(self) -> dict[str, Tensor]:
        return self.engine.apply_model(lambda model: dict(model.named_parameters()))[0]  # type: ignore[no-any-return]

    def shared(self) -> PreTrainedModel:
        model = share_weights(self.folder, self.parameters)
        assert isinstance(model, PreTrainedModel), model
        return model


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=request.param, **SIZES, **HEADS))
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.data.normal_(1.0, 0.1)
    model.to(DTYPE).save_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPE).to(DEVICE).eval().requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        with kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from vllm import EngineArgs, LLMEngine

            engine = LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(folder),
                    dtype=str(DTYPE).removeprefix("torch."),  # type: ignore[arg-type]
                    max_model_len=512,
                    enforce_eager=True,
                    enable_lora=True,
                    max_loras=2,
                    max_lora_rank=16,
                    skip_tokenizer_init=True,
                    enable_prefix_caching=False,
                    **SETTINGS,  # type: ignore[arg-type]
                )
            )
        yield Served(engine, folder, plain)
        engine.engine_core.shutdown()


def test_there_is_one_copy(served: Served) -> None:
    """Equal storage for every frozen tensor, the learner's too, and no memory but that of the rotary frequencies."""
    before = torch.cuda.memory_allocated()
    shared = served.shared()
    size = sum(p.numel() * p.element_size() for p in served.plain.parameters())
    assert torch.cuda.memory_allocated() - before < 1 << 16 < size
    assert check_shared(shared, served.parameters) == size
    assert check_shared(shared, served.parameters, Learner(shared, LearnerConfig(), seed=0).frozen_parameters()) == size
    assert fingerprint_model(shared) == fingerprint_model(served.plain)
    assert all(torch.equal(p, q) for p, q in zip(shared.parameters(), served.plain.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(shared.buffers(), served.plain.buffers(), strict=True))
    assert {tensor.device.type for tensor in (*shared.parameters(), *shared.buffers())} == {DEVICE}


def test_gradients_are_those_of_a_separate_copy(served: Served, random_games: Callable[[int], list[Trajectory]]) -> None:
    """Of the same batch, to 5% of their norm (bf16): slices may lie where cuBLAS picks other kernels."""
    games = random_games(VOCABULARY)
    found = []
    for model in (served.shared(), served.plain):
        learner = Learner(model, LearnerConfig(), seed=3)
        for batch in learner.pack(games, [1.0, -1.0] * 3, [1.0] * 6):
            learner.forward_backward(batch)
        found.append(torch.cat([p.grad.flatten().float() for p in learner.parameters.values() if p.grad is not None]))
    assert found[1].norm() > 0
    assert (found[0] - found[1]).norm() < 5e-2 * found[1].norm()


def test_vllm_and_the_views_compute_alike_and_change_alike(
    served: Served, generate: Callable[[Any, list[int]], tuple[list[int], list[float]]]
) -> None:
    """Log-probs of what vLLM generates, before and after its weights change in place (bf16, 0.05)."""
    shared, prompt = served.shared(), list(range(40, 60))
    norm = served.parameters["model.norm.weight"]
    before = norm.detach().clone()
    found = []
    for factor in (1.0, 2.0):
        with torch.no_grad():
            norm.mul_(factor)
        ids, logprobs = generate(served.engine, prompt)
        with torch.no_grad():
            logits = shared(torch.tensor([prompt + ids], device=DEVICE)).logits[0, len(prompt) - 1 : -1].float()
            norm.copy_(before)
        logp = logits.log_softmax(-1).gather(1, torch.tensor(ids, device=DEVICE)[:, None]).squeeze(1)
        assert logprobs == pytest.approx(logp.tolist(), abs=5e-2)
        found.append(logprobs)
    assert found[0] != pytest.approx(found[1], abs=0.1)
