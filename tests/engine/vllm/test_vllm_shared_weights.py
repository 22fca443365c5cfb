"""Sharing with real vLLM models on a CPU, and the stand-in of `conftest.py` held to their names and shapes.

vLLM's CPU build hands linear weights to oneDNN in a packed form and keeps none: with that switched off it keeps them plain, in
the layout that they have on a GPU.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sparring.engine.tiny.shipped import TINY_FOLDER
from sparring.engine.vllm.process_state import kept
from sparring.engine.vllm.shared_weights import NotShared, check_shared, share_weights
from sparring.learner.learner import Learner, LearnerConfig
from sparring.learner.lora import fingerprint_model

if importlib.util.find_spec("vllm") is None:  # importing it takes longer than all other tests of this folder
    pytest.skip("vLLM is not installed", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("gpu_shared_weights.py is this file on a GPU", allow_module_level=True)

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCHDYNAMO_DISABLE": "1",
}
SIZES = {"vocab_size": 100, "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": False},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 64, "tie_word_embeddings": True},
    "llama": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "head_dim": 64, "sliding_window": None},
}


@contextmanager
def plain_weights(wanted: bool = True) -> Iterator[None]:
    """Linear weights as they were loaded, or as the CPU build packs them. vLLM looks at model classes here, not in a child."""
    with kept(), warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        import vllm._custom_ops

        patch.setattr("vllm.model_executor.models.registry._run_in_subprocess", lambda look: look())
        patch.setattr(vllm._custom_ops, "_supports_onednn", not wanted)
        patch.setattr("vllm.model_executor.layers.utils.check_cpu_sgl_kernel", lambda n, k, dtype: False)
        yield


def engine_args(folder: Path, **settings: Any) -> Any:
    from vllm import EngineArgs

    return EngineArgs(
        model=str(folder), enforce_eager=True, max_model_len=128, dtype="float32", skip_tokenizer_init=True, **settings
    )


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """vLLM on the tiny model, serving adapters."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with plain_weights():
            from vllm import LLMEngine

            opened = LLMEngine.from_engine_args(
                engine_args(TINY_FOLDER, enable_lora=True, max_loras=2, max_lora_rank=16, enable_prefix_caching=False)
            )
        yield opened
        opened.engine_core.shutdown()


@pytest.fixture
def served(engine: Any) -> dict[str, Tensor]:
    return engine.apply_model(lambda model: dict(model.named_parameters()))[0]  # type: ignore[no-any-return]


@pytest.fixture
def load(engine: Any) -> Callable[..., nn.Module]:
    """One of vLLM's models as its loader leaves it, in the process that the engine has set up."""
    assert engine is not None

    def load(folder: Path, *, plain: bool = True) -> nn.Module:
        with plain_weights(plain):
            from vllm.config import set_current_vllm_config
            from vllm.model_executor.model_loader import get_model

            config = engine_args(folder).create_engine_config()
            with set_current_vllm_config(config):
                return get_model(vllm_config=config)

    return load


@pytest.fixture(params=MODELS)
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedModel:
    """A random model, saved in `tmp_path`, as Transformers loads it."""
    config = AutoConfig.for_model(**(SIZES | HEADS | MODELS[request.param]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.data.normal_(1.0, 0.1)
    model.save_pretrained(tmp_path)
    return AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()  # type: ignore[no-any-return]


def shapes(parameters: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in parameters.items()}


def test_the_tiny_model_is_shared_with_the_engine_that_serves_it(engine: Any, served: dict[str, Tensor]) -> None:
    shared, plain = share_weights(TINY_FOLDER, served), AutoModelForCausalLM.from_pretrained(TINY_FOLDER)
    assert isinstance(shared, PreTrainedModel), shared
    assert fingerprint_model(shared) == fingerprint_model(plain)
    assert all(torch.equal(p, q) for p, q in zip(shared.parameters(), plain.parameters(), strict=True))
    size = sum(p.numel() * p.element_size() for p in plain.parameters())
    assert check_shared(shared, served) == size
    assert check_shared(shared, served, Learner(shared, LearnerConfig(), seed=0).frozen_parameters()) == size


def test_vllm_and_the_views_compute_alike_and_change_alike(
    engine: Any, served: dict[str, Tensor], generate: Callable[[Any, list[int]], tuple[list[int], list[float]]]
) -> None:
    """Log-probs of what vLLM generates, before and after its weights change in place (fp32, 1e-4)."""
    shared = share_weights(TINY_FOLDER, served)
    assert isinstance(shared, PreTrainedModel), shared
    prompt = list(range(40, 60))
    queries = served["model.layers.0.self_attn.qkv_proj.base_layer.weight"]
    kept = queries.detach().clone()
    found = []
    for factor in (1.0, 1.5):
        with torch.no_grad():
            queries.mul_(factor)
        ids, logprobs = generate(engine, prompt)
        with torch.no_grad():
            logp = shared(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            queries.copy_(kept)
        assert logprobs == pytest.approx(logp.gather(1, torch.tensor(ids)[:, None]).squeeze(1).tolist(), abs=1e-4)
        found.append(logprobs)
    assert found[0] != pytest.approx(found[1], abs=1e-2)


def test_each_architecture_is_shared(plain: PreTrainedModel, load: Callable[..., nn.Module], tmp_path: Path) -> None:
    parameters = dict(load(tmp_path).named_parameters())
    shared = share_weights(tmp_path, parameters)
    assert isinstance(shared, PreTrainedModel), shared
    assert [name for name, _ in shared.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert all(torch.equal(p, q) for p, q in zip(shared.parameters(), plain.parameters(), strict=True))
    assert check_shared(shared, parameters) == sum(p.numel() * p.element_size() for p in plain.parameters())
    ids = torch.arange(100)[None]
    assert torch.equal(shared(ids).logits, plain(ids).logits)


def test_the_stand_in_has_real_names_and_shapes(
    plain: PreTrainedModel,
    load: Callable[..., nn.Module],
    tmp_path: Path,
    fused_model: Callable[[PretrainedConfig], nn.Module],
) -> None:
    for duplicates in (True, False):  # a tied head once, and under both of its names
        real = dict(load(tmp_path).named_parameters(remove_duplicate=not duplicates))
        assert shapes(dict(fused_model(plain.config).named_parameters(remove_duplicate=not duplicates))) == shapes(real)


def test_the_stand_in_has_the_names_under_adapters(
    served: dict[str, Tensor],
    fused_model: Callable[[PretrainedConfig], nn.Module],
    with_adapters: Callable[[nn.Module], dict[str, Tensor]],
) -> None:
    tree = fused_model(AutoConfig.from_pretrained(TINY_FOLDER))
    assert shapes(with_adapters(tree)) == shapes(served)


def test_packed_weights_are_not_shared(load: Callable[..., nn.Module]) -> None:
    """The CPU build as it comes: the learner gets a copy of its own, and is told."""
    refused = share_weights(TINY_FOLDER, dict(load(TINY_FOLDER, plain=False).named_parameters()))
    assert isinstance(refused, NotShared)
    assert refused.reason == "vLLM keeps model.layers.0.self_attn.qkv_proj.weight in a packed form of its own"
    assert 0 < refused.copy_gb < 0.01
