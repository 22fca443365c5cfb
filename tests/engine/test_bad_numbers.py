"""Settings and files that are well-formed and absurd: one line that says what to change, never a traceback from deep inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.engine.config import load_run_config
from sparring.engine.engine import Engine
from sparring.learner.adapter import load_adapter
from sparring.learner.errors import AdapterError, LearnerError
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios.errors import ScenarioError, SparringError
from sparring.scenarios.outcome import Verdict
from sparring.scenarios.scenario import load_scenario


@pytest.mark.parametrize(
    "setting",
    [
        "learner.learning_rate=nan",
        "learner.betas=[2, 3]",
        "learner.betas=[nan, 0.9]",
        "learner.eps=-1",
        "learner.eps=nan",
        "learner.weight_decay=nan",
        "learner.lora.alpha=nan",
        "learner.lora.alpha=inf",
        "learner.grpo.temperature=1e-300",
        "vllm.kv_cache_gb=inf",
        "memory.device_gb=inf",
        "memory.reserve_gb=nan",
        "sampling.temperature=nan",
        "sampling.temperature=inf",
        "fence.mismatch_limit=inf",
        "time_limit=inf",
        "threads=100000",
        "vllm.max_num_seqs=99999999999999999999999",
        "concurrency=99999999999999",
        "seed=99999999999999999999999999",
        "seed=" + "9" * 5000,
        "iterations=" + "[" * 5000,
        "iterations=" + "{a=" * 5000,
    ],
)
def test_a_setting_that_no_run_can_use_is_refused(setting: str) -> None:
    with pytest.raises(SparringError) as caught:
        load_run_config("demo", overrides=[setting])
    assert "\n" not in str(caught.value)


def test_a_scenario_nested_too_deeply_is_refused() -> None:
    depth = 100_000
    with pytest.raises(ScenarioError):
        load_scenario(b'{"public": ' + b'{"a": ' * depth + b"1" + b"}" * depth + b"}")


@pytest.mark.parametrize("text", ["[" * 100_000, json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 10**400})])
def test_an_adapter_config_out_of_range_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterError):
        load_adapter(tmp_path)


@pytest.mark.parametrize("token", [1024, -1, 2**31, 2**70])
def test_token_ids_of_another_vocabulary_are_refused(token: int) -> None:
    trajectories = [
        Trajectory(
            game_id=f"g{i}",
            scenario_id="s",
            family="haggle",
            seat="seller",
            partner="script:holder",
            token_ids=[5, token, 7],
            logprobs=[0.0, 0.0, -1.0],
            loss_mask=[False, False, True],
            temperature=1.0,
            policy="p",
            reward=float(i),
            verdict=Verdict.WIN,
            score=1.0,
        )
        for i in range(2)
    ]
    with Engine.open("demo") as engine, pytest.raises(LearnerError, match="token ids outside"):
        engine.learner().step(trajectories)
