"""The three silent failures that users of others report, on the real engine and inside the whole loop: each ends the run within
one step, and `--resume` goes on from the last good one.

- synced weights overwritten when memory is taken back (TRL #5312);
- an adapter that is never delivered (verl #7495);
- keys and values of an earlier version under the same name (vLLM #42125, #30931).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.errors import FenceError
from sparring.engine.run.folder import RunFolder
from sparring.engine.train import resume, train
from sparring.engine.vllm import generator as vllm_generator
from sparring.engine.vllm import layout as adapter_layout
from sparring.engine.vllm.contact import Contact, Served
from sparring.engine.vllm.slots import Version
from sparring.engine.vllm.worker import SparringWorker
from sparring.learner.adapter import load_adapter

Patch = pytest.MonkeyPatch


@pytest.fixture
def config() -> RunConfig:
    settings = ["generator=vllm", "iterations=2", "scenarios_per_step=2", "games_per_scenario=4", "concurrency=8"]
    settings += ["sampling.max_tokens=12", "sampling.context=512", "evaluation.scenarios=0", "families=['haggle']"]
    return load_run_config(overrides=[*settings, "checkpoint_every=1", "vllm.kv_cache_gb=0.05"])


# Each lets the first step pass.


def overwritten_on_wake(patch: Patch) -> None:
    real, calls = SparringWorker.sparring_resume_kv, count()

    def resume_and_overwrite(self: SparringWorker) -> None:
        real(self)
        if next(calls) == 0:
            for slots in self.sparring_slots().values():
                slots.a.zero_()
                slots.b.zero_()

    patch.setattr(SparringWorker, "sparring_resume_kv", resume_and_overwrite)


def never_delivered(patch: Patch) -> None:
    real, calls = adapter_layout.write, count()
    patch.setattr(adapter_layout, "write", lambda *given: real(*given) if next(calls) == 0 else None)


def stale_cache(patch: Patch) -> None:
    """One name for all versions, and a cache that is not emptied between the phases."""

    def constant(version: Version) -> Served:
        return Served(lora_id=version.number, name=version.name)

    patch.setattr(vllm_generator, "_served", constant)
    patch.setattr(Contact, "reset_prefix_cache", lambda self: None)


FAULTS: dict[str, tuple[Callable[[Patch], None], str]] = {
    "overwritten on wake": (
        overwritten_on_wake,
        "what serves 'policy' is no longer adapter .*: its slot 1 was overwritten after",
    ),
    "never delivered": (never_delivered, "something else is read back: it was not delivered, and what was served before goes on"),
    "stale prefix cache": (stale_cache, "the first prompt after a new policy .* found [0-9]+ of its tokens in the prefix cache"),
}


@pytest.mark.parametrize(("fault", "text"), FAULTS.values(), ids=list(FAULTS))
def test_it_ends_the_run_within_one_step(config: RunConfig, tmp_path: Path, fault: Callable[[Patch], None], text: str) -> None:
    with Patch.context() as patch:
        fault(patch)
        with pytest.raises(FenceError, match=text) as caught:
            train(config, tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    with RunFolder.read(tmp_path / "run") as run:
        checkpoint = run.latest_checkpoint()
        assert checkpoint is not None
        assert checkpoint.step == 1
        assert [run.database.count(phase="train", step=step) for step in range(2)] == [8, 0]
    assert load_adapter(tmp_path / "run/adapter").step == 1


def test_resuming_goes_on_from_the_last_good_step_and_agreement_is_recorded(config: RunConfig, tmp_path: Path) -> None:
    """fp32: canaries within 1e-4 at most, games within 1e-5 in the mean."""
    with Patch.context() as patch:
        overwritten_on_wake(patch)
        with pytest.raises(FenceError):
            train(config, tmp_path / "run", quiet=True)
    summary = resume(tmp_path / "run", quiet=True)
    assert summary.steps == 2
    with RunFolder.read(tmp_path / "run") as run:
        metrics = run.database.metrics()
        assert run.database.recheck().discrepancies == ()
    assert sorted(metrics) == [1, 2]
    for figures in metrics.values():
        assert 0 < figures["fence/mismatch_mean"] <= figures["fence/mismatch_max"] < 1e-4
        assert figures["learn/mismatch_mean"] < 1e-5
