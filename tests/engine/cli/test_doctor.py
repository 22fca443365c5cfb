"""`sparring doctor`: text for a reader, JSON for a program, and an exit code that a script can act on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

Run = Callable[..., Result]


def test_it_says_what_is_here(sparring: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-very-secret")
    shown = sparring("doctor")
    assert shown.exit_code == 0
    assert f"PyTorch {torch.__version__}" in shown.stdout
    for word in ("vllm", "bitsandbytes", "ANTHROPIC_API_KEY is set", "Generator here:"):
        assert word in shown.stdout
    assert "secret" not in shown.output


@pytest.mark.parametrize(
    ("name", "games"), [("a6000-qwen2.5-7b", 258), ("h100-qwen2.5-7b", 541), ("debate-qwen2.5-1.5b", 371), ("demo", 128)]
)
def test_a_preset_that_fits(sparring: Run, name: str, games: int) -> None:
    shown = sparring("doctor", "--preset", name)
    assert shown.exit_code == 0
    assert f"tokens: {games} games of full context." in shown.stdout
    assert shown.stdout.endswith("It fits.\n")


def test_a_run_that_does_not_fit_is_exit_code_1(sparring: Run) -> None:
    shown = sparring("doctor", "--preset", "a6000-qwen2.5-7b", "--set", "learner.token_budget=4096")
    assert shown.exit_code == 1
    assert "It does not fit: " in shown.stdout
    assert "any one of these makes it fit: learner.token_budget = " in shown.stdout
    smaller = shown.stdout.partition("learner.token_budget = ")[2].split(".")[0].split(",")[0]
    assert sparring("doctor", "--preset", "a6000-qwen2.5-7b", "--set", f"learner.token_budget={smaller}").exit_code == 0


def test_json_carries_the_plan_and_the_refusal(sparring: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("[memory]\ndevice_gb = 23.5\n")
    shown = sparring("doctor", "--preset", "a6000-qwen2.5-7b", "--config", mine, "--json")
    assert shown.exit_code == 1
    found = json.loads(shown.stdout)
    assert found["plan"]["device_gb"] == 23.5
    assert [phase["name"] for phase in found["plan"]["phases"]] == ["play", "learn"]
    assert found["refusal"]
    assert json.loads(sparring("doctor", "--json").stdout)["plan"] is None


def test_a_model_without_a_config_is_wrong_input(sparring: Run, tmp_path: Path) -> None:
    shown = sparring("doctor", "--set", f"model={tmp_path}")
    assert shown.exit_code == 2
    assert "has no readable config.json" in shown.stderr
