"""The demo on vLLM learns as it does on the embedded generator: one family, a few steps, the same settings for both."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.engine.config import load_run_config
from sparring.engine.run.folder import RunFolder
from sparring.engine.train import train

SETTINGS = [
    'families=["dilemma"]',
    "iterations=20",
    "learner.learning_rate=3e-3",
    "evaluation.scenarios=80",
    "evaluation.control=false",
]


@pytest.mark.parametrize("generator", ["torch", "vllm"])
def test_the_demo_learns(generator: str, tmp_path: Path) -> None:
    config = load_run_config("demo", overrides=[*SETTINGS, f"generator={generator}"])
    summary = train(config, tmp_path / "run", quiet=True)
    assert summary.evaluation is not None
    gain = summary.evaluation.difference
    assert gain.low > 0.05, f"won {gain.win_rate:+.1%} more games, interval from {gain.low:+.1%}"
    with RunFolder.read(tmp_path / "run") as run:
        metrics = run.database.metrics()
    assert sorted(metrics) == list(range(1, 21))
    for step in metrics.values():
        assert step["fence/mismatch_mean"] < 1e-4
        assert step["learn/mismatch_mean"] < 1e-4
        assert step["learn/effective_sample_size"] == pytest.approx(1, abs=1e-4)
