"""`sparring bench throughput`: rates that agree with each other, in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from sparring.bench import throughput


def test_throughput(sparring: Callable[..., Result], short: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "SCRIPTED_SECONDS", 0.1)
    done = sparring("bench", "throughput", "--steps", 2, *short, "--quiet", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["steps"], found["games"], found["device"]) == (2, 32, "cpu")
    assert list(found["phases"]) == ["play", "learn", "publish"]
    assert sum(phase["share"] for phase in found["phases"].values()) == pytest.approx(1, abs=1e-3)
    total = sum(phase["seconds"] for phase in found["phases"].values())
    assert found["games_per_hour"] == pytest.approx(3600 * 32 / total, rel=0.05)
    assert found["play_games_per_second"] == pytest.approx(32 / found["phases"]["play"]["seconds"], rel=0.05)
    rates = ("generate_tokens_per_second", "prompt_tokens_per_second", "learn_tokens_per_second", "scripted_games_per_second")
    assert all(found[name] > 0 for name in rates)


def test_throughput_in_words(sparring: Callable[..., Result], short: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "SCRIPTED_SECONDS", 0.1)
    done = sparring("bench", "throughput", "--steps", 1, *short)
    assert done.exit_code == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[-5:-1]] == ["play", "learn", "publish", "loop"]
    assert "step 1 of 1: 16/16 games" in done.stderr
