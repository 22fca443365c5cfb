"""Faults inside the whole loop: the run stops within one step, keeps nothing of it, and goes on as if it had not happened.

What the fence itself finds is `test_fence.py`'s; the same on vLLM is `vllm/test_vllm_silent_failures.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from typer.testing import CliRunner

from sparring.engine.cli.main import app
from sparring.engine.collect import collect
from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.embedded.generator import TorchGenerator
from sparring.engine.embedded.kv_cache import KVCache
from sparring.engine.errors import FenceError
from sparring.engine.run.folder import RunFolder
from sparring.engine.train import resume, train
from sparring.learner.adapter import load_adapter
from sparring.rollout.sampler import Sample, SampleRequest

SETTINGS = ["iterations=3", "scenarios_per_step=2", "games_per_scenario=4", "concurrency=16", "checkpoint_every=1"]
SETTINGS += ["sampling.max_tokens=12", "sampling.context=512", "evaluation.scenarios=0", "families=['haggle']"]
Fault = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_run_config(overrides=SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adapter of the run without a fault."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return train(config, folder, quiet=True).adapter


# All but the first let the first step pass.


def never_served(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TorchGenerator, "publish", lambda *_: None)


def never_delivered(patch: pytest.MonkeyPatch) -> None:
    publish, calls = TorchGenerator.publish, count()
    patch.setattr(TorchGenerator, "publish", lambda *given: publish(*given) if next(calls) == 0 else None)


def overwritten_on_wake(patch: pytest.MonkeyPatch) -> None:
    resume, calls = TorchGenerator.resume, count()

    def overwriting(self: TorchGenerator) -> None:
        resume(self)
        if next(calls) == 1:
            with torch.inference_mode():
                base, weights = self._decoder.base, self._policies.find("policy").weights
                weights.layers[-1][-1].weight.copy_(base.layers[-1][-1].weight)

    patch.setattr(TorchGenerator, "resume", overwriting)


def stale_cache(patch: pytest.MonkeyPatch) -> None:
    claim = KVCache.claim

    def relabel_and_claim(self: KVCache, prompt: Any, version: int, session: str | None) -> int | None:
        self.version[:] = version
        return claim(self, prompt, version, session)

    patch.setattr(KVCache, "claim", relabel_and_claim)
    patch.setattr(KVCache, "drop_version", lambda self, version: None)
    patch.setattr(KVCache, "release", lambda self: None)


def in_games(change: Callable[[Sample], Sample]) -> Fault:
    """What is sampled in the games of the second step, and not as a canary."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        sample = TorchGenerator.sample

        async def changed(self: TorchGenerator, request: SampleRequest) -> Sample:
            found = await sample(self, request)
            return change(found) if (request.session or "").startswith("1/") else found

        patch.setattr(TorchGenerator, "sample", changed)

    return fault


def shifted(sample: Sample) -> Sample:
    return msgspec.structs.replace(sample, logprobs=[logprob - 0.01 for logprob in sample.logprobs])


def no_numbers(sample: Sample) -> Sample:
    return msgspec.structs.replace(sample, logprobs=[float("nan")] * len(sample.logprobs))


def renamed(sample: Sample) -> Sample:
    return msgspec.structs.replace(sample, policy="elsewhere")


FAULTS: dict[str, tuple[Fault, str]] = {
    "never delivered": (never_delivered, "was never delivered: the generator serves .* as 'policy'"),
    "overwritten on wake": (overwritten_on_wake, "its weights were overwritten after it was published"),
    "stale prefix cache": (stale_cache, "tokens in the prefix cache: they were computed with an earlier policy"),
    "stale log-probs": (in_games(shifted), "over the games of step 2 .* differ from the learner's by 0.01 nats .* not saved"),
    "no log-probs": (in_games(no_numbers), "over the games of step 2 .* differ from the learner's by nan nats"),
    "another policy": (in_games(renamed), "game 1/0/0 was played by policy elsewhere"),
}


@contextmanager
def injected(fault: Fault) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        yield


@pytest.mark.parametrize(("fault", "text"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_in_the_second_step_stops_the_run_and_resuming_undoes_it(
    config: RunConfig, undisturbed: str, tmp_path: Path, fault: Fault, text: str
) -> None:
    folder = tmp_path / "run"
    with injected(fault), pytest.raises(FenceError, match=text) as caught:
        train(config, folder, quiet=True)
    assert "\n" not in str(caught.value)
    with RunFolder.read(folder) as run:
        checkpoint = run.latest_checkpoint()
        assert checkpoint is not None
        assert checkpoint.step == 1
        assert sorted(run.database.metrics()) == [1]
    saved = load_adapter(folder / "adapter")
    assert saved.step == 1
    assert saved.fingerprint == load_adapter(checkpoint.path).fingerprint
    summary = resume(folder, quiet=True)
    assert (summary.steps, summary.adapter) == (3, undisturbed)
    with RunFolder.read(folder) as run:
        assert [run.database.count(phase="train", step=step) for step in range(3)] == [8, 8, 8]
        assert sorted(run.database.metrics()) == [1, 2, 3]


def test_a_policy_that_fails_at_once_leaves_no_step(config: RunConfig, undisturbed: str, tmp_path: Path) -> None:
    with injected(never_served), pytest.raises(FenceError, match="the generator serves nothing as 'policy'"):
        train(config, tmp_path / "run", quiet=True)
    with RunFolder.read(tmp_path / "run") as run:
        assert run.latest_checkpoint() is None
        assert run.database.count(phase="train", step=0) == 0
    assert resume(tmp_path / "run", quiet=True).adapter == undisturbed


def test_agreement_is_recorded_at_every_step(config: RunConfig, tmp_path: Path) -> None:
    """fp32: canaries and games within 1e-5 in the mean."""
    train(config, tmp_path / "run", quiet=True)
    with RunFolder.read(tmp_path / "run") as run:
        metrics = run.database.metrics()
    for step in (1, 2, 3):
        figures = metrics[step]
        assert figures["fence/tokens"] == config.fence.canaries * config.fence.tokens
        assert 0 < figures["fence/mismatch_mean"] <= figures["fence/mismatch_max"] < 1e-4
        assert figures["fence/effective_sample_size"] == pytest.approx(1, abs=1e-5)
        assert figures["learn/mismatch_mean"] < 1e-5
        assert figures["learn/mismatch_max"] < 1e-3
        assert figures["learn/effective_sample_size"] == pytest.approx(1, abs=1e-5)


def test_games_collected_by_hand_pass_the_fence_too(config: RunConfig, tmp_path: Path) -> None:
    with injected(never_served), pytest.raises(FenceError, match="never delivered"):
        collect(config, tmp_path / "games.jsonl", quiet=True)


@pytest.mark.parametrize("name", ["never delivered", "stale log-probs"])
def test_the_command_line_says_it_in_one_line_and_ends_with_2(tmp_path: Path, name: str) -> None:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    with injected(FAULTS[name][0]):
        done = CliRunner().invoke(app, ["train", "--output-dir", str(tmp_path / "run"), "--quiet", *settings])
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("sparring: error: ")
    assert "; the run was stopped: go on with --resume from its last checkpoint" in line
    again = CliRunner().invoke(app, ["train", "--resume", "--output-dir", str(tmp_path / "run"), "--quiet"])
    assert again.exit_code == 0, again.stderr
    assert load_adapter(tmp_path / "run/adapter").step == 3
