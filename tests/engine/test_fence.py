"""The fence on the embedded generator: what passes, and that each way to play another policy than the one that learns is found.

The same faults on vLLM are in `vllm/test_vllm_silent_failures.py`, and inside the whole loop in `test_train_fence.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from sparring.engine.embedded.generator import TorchGenerator, TorchGeneratorConfig
from sparring.engine.embedded.kv_cache import KVCache
from sparring.engine.errors import FenceError
from sparring.engine.fence import LIMITS, Fence, FenceConfig, FenceReport
from sparring.learner.adapter import LORA_B
from sparring.learner.learner import Learner, LearnerConfig
from sparring.learner.stats import StepStats
from sparring.rollout.sampler import Sample, SampleRequest
from sparring.rollout.trajectory import Trajectory

PROMPTS = [[number, *range(10, 40)] for number in range(4)]
POLICY = "policy"


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen2ForCausalLM(Qwen2Config(**shape, **heads)).eval()


class Run:
    """A learner whose policy changes at every step, a generator, and the fence between them."""

    def __init__(self, model: PreTrainedModel, **config: Any) -> None:
        self.learner = Learner(model, LearnerConfig(), seed=0, name=POLICY)
        self.generator = TorchGenerator(model, TorchGeneratorConfig(num_slots=8, max_context=96))
        settings = FenceConfig(**config)
        self.fence = Fence(self.generator, self.learner, settings, PROMPTS, temperature=1.0)
        self.steps = 0
        self.step()

    def step(self) -> str:
        """As the loop does it: another policy, published. Its fingerprint."""
        self.steps += 1
        rng, adapter = torch.Generator().manual_seed(self.steps), self.learner.adapter()
        drawn = {n: t + torch.randn(t.shape, generator=rng) * 0.05 * n.endswith(LORA_B) for n, t in adapter.tensors.items()}
        self.learner.load_adapter(replace(adapter, tensors=drawn))
        self.generator.publish(POLICY, self.learner.adapter())
        return self.fingerprint

    @property
    def fingerprint(self) -> str:
        return self.learner.adapter().fingerprint

    def check(self) -> FenceReport:
        report: FenceReport = asyncio.run(self.fence.check(POLICY))
        return report


@pytest.fixture
def run(model: PreTrainedModel) -> Run:
    return Run(model)


def test_both_halves_agree_to_1e_5_at_every_step(run: Run) -> None:
    for _ in range(3):
        report = run.check()
        assert 0 < report.mismatch_mean <= report.mismatch_max < 1e-5
        assert report.effective_sample_size == pytest.approx(1.0, abs=1e-6)
        assert report.tokens == 4 * 8
        run.step()


def test_the_same_policy_may_be_checked_again_and_finds_its_own_cache(run: Run) -> None:
    first = run.check()
    cached = run.generator.stats.cached_tokens
    assert run.check().tokens == first.tokens
    assert run.generator.stats.cached_tokens > cached
    run.generator.release()
    run.generator.resume()
    run.check()


def test_the_report_is_the_mean_the_maximum_and_the_effective_sample_size(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.fence.limit = 10.0
    logprobs = run.learner.logprobs
    moved = iter(torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist())
    used: list[float] = []

    def move(played: list[Trajectory]) -> list[list[float]]:
        found = logprobs(played)
        for t, scores in zip(played, found, strict=True):
            for at in range(len(scores)):
                if t.loss_mask[at]:
                    used.append(next(moved))
                    scores[at] = t.logprobs[at] + used[-1]
        return found

    monkeypatch.setattr(run.learner, "logprobs", move)
    report = run.check()
    d = torch.tensor(used, dtype=torch.float64)
    assert report.mismatch_mean == pytest.approx(float(d.abs().mean()))
    assert report.mismatch_max == pytest.approx(float(d.abs().max()))
    assert report.effective_sample_size == pytest.approx(float(d.exp().sum() ** 2 / (len(d) * (2 * d).exp().sum())))


# --- faults ---


def test_a_policy_that_was_never_published(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    old = run.fingerprint
    run.check()
    with monkeypatch.context() as patch:
        patch.setattr(run.generator, "publish", lambda name, adapter: None)
        new = run.step()
    with pytest.raises(
        FenceError, match=f"policy {new} was never delivered: the generator serves {old} as 'policy'; the run was"
    ):
        run.check()
    run.generator.unpublish(POLICY)
    with pytest.raises(FenceError, match="the generator serves nothing as 'policy'"):
        run.check()


def test_a_policy_that_is_registered_and_not_applied(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name and fingerprint are served, and the base model computes: only the canaries see it."""
    run.check()
    with monkeypatch.context() as patch:
        patch.setattr(run.generator._decoder, "merge", lambda deltas: run.generator._decoder.base)
        run.step()
    with pytest.raises(
        FenceError, match=r"after policy .* was published, .* its base weights or its cache are not those of this"
    ):
        run.check()


def test_weights_overwritten_when_memory_is_taken_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    resume = run.generator.resume

    def overwriting() -> None:
        resume()
        weights, base = run.generator._policies.find(POLICY).weights, run.generator._decoder.base
        with torch.inference_mode():
            for ours, theirs in zip(weights.layers, base.layers, strict=True):
                for mine, plain in zip(ours, theirs, strict=True):
                    mine.weight.copy_(plain.weight)

    monkeypatch.setattr(run.generator, "resume", overwriting)
    run.generator.release()
    run.generator.resume()
    with pytest.raises(FenceError, match=r"what serves 'policy' is no longer adapter .*: its weights were overwritten after"):
        run.check()


def test_a_cache_that_does_not_tell_versions_apart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = KVCache.claim

    def relabel_and_claim(self: KVCache, prompt: Any, version: int, session: str | None) -> int | None:
        self.version[:] = version
        return claim(self, prompt, version, session)

    monkeypatch.setattr(KVCache, "claim", relabel_and_claim)
    monkeypatch.setattr(KVCache, "drop_version", lambda self, version: None)
    run.check()
    run.step()
    with pytest.raises(
        FenceError, match="the first prompt after a new policy was published as 'policy' found 30 of its tokens in"
    ):
        run.check()


def test_a_sample_of_another_policy_among_the_canaries(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = run.generator.sample

    async def other(request: SampleRequest) -> Sample:
        found = await sample(request)
        return msgspec.structs.replace(found, policy="elsewhere") if request.seed == 2 else found

    monkeypatch.setattr(run.generator, "sample", other)
    with pytest.raises(FenceError, match=r"game canary/2 was played by policy elsewhere, and .* was published for this step"):
        run.check()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -1000.0, 1000.0, 0.01])
@pytest.mark.parametrize("side", ["learner", "generator"])
def test_log_probs_that_differ_or_are_no_numbers(run: Run, monkeypatch: pytest.MonkeyPatch, side: str, wrong: float) -> None:
    logprobs, sample = run.learner.logprobs, run.generator.sample

    def learner(played: list[Trajectory]) -> list[list[float]]:
        return [[score + wrong * mask for score, mask in zip(*pair, strict=True)] for pair in masked(played)]

    def masked(played: list[Trajectory]) -> Any:
        return zip(logprobs(played), [[float(m) or -0.0 for m in t.loss_mask] for t in played], strict=True)

    async def generator(request: SampleRequest) -> Sample:
        found = await sample(request)
        return msgspec.structs.replace(found, logprobs=[logprob + wrong for logprob in found.logprobs])

    if side == "learner":
        monkeypatch.setattr(run.learner, "logprobs", learner)
    else:
        monkeypatch.setattr(run.generator, "sample", generator)
    with pytest.raises(FenceError, match=r"give the same tokens log-probs that differ by .* where 0.001 is the limit"):
        run.check()


def test_a_limit_may_be_set(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(model, mismatch_limit=1e-9)
    with pytest.raises(FenceError, match="where 1e-09 is the limit"):
        run.check()
    assert Run(model, mismatch_limit=0.5).check().tokens == 32
    for dtype, limit in LIMITS.items():
        monkeypatch.setattr(run.learner, "dtype", dtype)
        fence = Fence(run.generator, run.learner, FenceConfig(), PROMPTS, temperature=1.0)
        assert fence.limit == limit


def test_without_canaries_the_weights_are_still_checked(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(model, canaries=0)
    assert run.check() == FenceReport()
    assert run.generator.stats.requests == 0
    with torch.inference_mode():
        run.generator._policies.find(POLICY).weights.layers[0][0].weight.zero_()
    with pytest.raises(FenceError, match="overwritten"):
        run.check()
    monkeypatch.setattr(run.generator, "publish", lambda name, adapter: None)
    run.step()
    with pytest.raises(FenceError, match="never delivered"):
        run.check()


# --- the games of a step ---


def test_a_game_of_another_policy(run: Run, random_games: Callable[[int], list[Trajectory]]) -> None:
    games = [msgspec.structs.replace(game, policy=run.fingerprint) for game in random_games(64)]
    run.check()
    run.fence.check_games(games)
    run.fence.check_games([])
    games[3] = msgspec.structs.replace(games[3], policy="elsewhere")
    with pytest.raises(FenceError, match=f"game 3 was played by policy elsewhere, and {run.fingerprint} was published"):
        run.fence.check_games(games)


@pytest.mark.parametrize("mismatch", [0.002, math.inf, math.nan])
def test_a_step_whose_log_probs_are_not_the_learners(run: Run, mismatch: float) -> None:
    zeros = {field.name: 0 for field in msgspec.structs.fields(StepStats)}
    good = StepStats(**zeros | {"step": 7, "mismatch_mean": 0.0005})
    run.fence.check_step(good)
    with pytest.raises(
        FenceError, match=r"over the games of step 7 .* and 0.001 is the limit: .* the step's update is not saved"
    ):
        run.fence.check_step(msgspec.structs.replace(good, mismatch_mean=mismatch))
