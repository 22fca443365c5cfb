"""The acceptance script on a CPU from end to end, in a process of its own; and its verdicts and formulas on figures made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from sparring.bench import engine, engine_report
from sparring.bench.engine import run_config
from sparring.bench.engine_figures import find_checks
from sparring.bench.engine_report import NOT_MEASURED, EngineReport, Held
from sparring.bench.flops import peak_flops, step_flops
from sparring.bench.phase_memory import Peak, PhaseMemory
from sparring.engine.memory.model_shape import read_shape
from sparring.learner.adapter import LoraSpec

SMALLER = ["scenarios_per_step=4", "games_per_scenario=4", "sampling.max_tokens=8", "vllm.kv_cache_gb=0.1"]
KEYS = {
    "publication",
    "kv_cache",
    "memory",
    "generation",
    "learning",
    "loop",
    "held",
    "mismatch",
    "shared_gb",
    "checks",
    "config",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Two cycles with the tiny model: the JSON, and what the terminal shows."""
    path = tmp_path_factory.mktemp("report") / "engine.json"
    sets = [word for setting in SMALLER for word in ("--set", setting)]
    command = [sys.executable, "-m", "sparring.engine.cli.main", "bench", "engine", "--cycles", "2", "--seeds", "1", *sets]
    done = subprocess.run(
        [*command, "--shape", "tiny", "--output", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": "src", "COLUMNS": "160"},
        cwd=Path(__file__).parent.parent.parent,
    )
    assert done.returncode in (0, 1), done.stderr  # 1: a goal that a busy machine missed
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(path.read_bytes()), done.stdout


def test_every_promised_figure_is_there(report: tuple[dict[str, Any], str]) -> None:
    found, shown = report
    assert found.keys() >= KEYS | {"config", "device", "date", "versions", "preset", "model", "parameters", "cycles", "cap_gb"}
    assert msgspec.json.decode(json.dumps(found), type=EngineReport).cycles == 2
    publication = found["publication"]
    assert 0 < publication["median_ms"] <= publication["p95_ms"]
    assert list(publication["parts_ms"]) == ["fingerprint", "check fit", "write", "read back"]
    assert 0 < sum(publication["parts_ms"].values()) < 3 * publication["median_ms"]
    assert found["kv_cache"]["together_s"] > 0
    assert set(found["memory"]) == {"play", "learn", "publish"}
    assert found["memory"]["play"]["planned_gb"] > 0.1 < found["memory"]["play"]["peak"]["in_use_gb"]
    assert len(found["held"]["cycles_mb"]) == 2
    assert found["loop"]["games"] == 2 * 4 * 4
    assert sum(found["loop"]["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert 0 <= found["loop"]["idle_play"] < 1
    assert 0 < found["learning"]["mfu"] < 1
    assert found["mismatch"]["canary_mean"] <= found["mismatch"]["limit"] == 1e-3
    assert "games over LLM.generate" in shown


def test_games_and_plain_vllm_sampled_the_same_tokens(report: tuple[dict[str, Any], str]) -> None:
    generation = report[0]["generation"]
    assert generation["same_tokens"] == 1.0
    assert generation["requests"] >= 16
    (games,), (plain,) = generation["games_tokens_per_second"], generation["plain_tokens_per_second"]
    assert generation["ratio"] == pytest.approx(games / plain, rel=1e-2)


def test_what_needs_a_gpu_is_not_measured(report: tuple[dict[str, Any], str]) -> None:
    found, shown = report
    checks = {check["name"]: check["verdict"] for check in found["checks"]}
    assert found["shared_gb"] == checks["one copy of the base weights"] == checks["memory stays"] == "not measured"
    assert checks["generator and learner agree"] == "pass"
    assert {"publication", "release + resume", "games over LLM.generate"} <= checks.keys()
    assert found["memory"]["play"]["peak"]["torch_allocated_gb"] is None
    assert "not measured" in shown


def held(slope: float | str) -> Held:
    return Held(of="GPU memory", first_mb=1.0, last_mb=1.0, slope_mb=slope, cycles_mb=(1.0,))  # type: ignore[arg-type]


@pytest.mark.parametrize(("slope", "verdict"), [(0.5, "pass"), (2.0, "fail"), (NOT_MEASURED, "not measured")])
def test_a_leak_fails(report: tuple[dict[str, Any], str], slope: float | str, verdict: str) -> None:
    found = msgspec.convert(report[0], EngineReport)
    checks = find_checks(
        16.2, found.mismatch, held(slope), found.publication, found.kv_cache, found.generation, found.memory, cap_gb=0.01
    )
    verdicts = {check.name: check.verdict for check in checks}
    assert verdicts["memory stays"] == verdict
    assert verdicts["one copy of the base weights"] == "pass"
    assert verdicts["memory below the cap"] == "fail"
    failed = msgspec.structs.replace(found, checks=tuple(c for c in found.checks if c.verdict != "fail"))
    assert failed.failed == ()


def test_a_figure_that_is_missing_is_shown_as_such() -> None:
    assert engine_report.cell(NOT_MEASURED, "{:.2f} GB") == "not measured"
    assert engine_report.cell(1.5, "{:.2f} GB") == "1.50 GB"


def test_a_cap_asks_for_the_settings_of_a_smaller_card(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_config("h100-qwen2.5-7b", cap_gb=48).memory.device_gb == 47.5
    assert engine.default_preset() == "demo"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 << 30))
    assert (engine.default_preset(), engine.default_preset(48)) == ("h100-qwen2.5-7b", "a6000-qwen2.5-7b")


def test_flops_of_a_step_against_a_count_by_hand(report: tuple[dict[str, Any], str]) -> None:
    """One game of 6 tokens, of which 2 are trained, on a model whose numbers fit a line."""
    from sparring.bench.engine_parts import StepStats
    from sparring.rollout.trajectory import Trajectory
    from sparring.scenarios.outcome import Verdict

    shape = read_shape("tiny")
    game = Trajectory(
        game_id="0", scenario_id="0", family="f", seat="s", partner="p", token_ids=[1] * 6, logprobs=[0.0] * 6,
        loss_mask=[False] * 4 + [True] * 2, temperature=1.0, policy="", reward=1.0, verdict=Verdict.WIN, score=1.0,
    )  # fmt: skip
    zeros = dict.fromkeys(StepStats.__struct_fields__, 0)
    stats = StepStats(**(zeros | {"packed_tokens": 6, "trained_tokens": 2}))
    linears = 4 * (128 * (128 + 64 + 64) + 128 * 128 + 3 * 128 * 256)
    lora = 4 * 8 * (4 * 128 + (128 + 64 + 64 + 128) + 3 * (128 + 256))
    wanted = 6 * (4 * linears + 6 * lora + 12 * 3 * 128 * 4) + 4 * 2 * 128 * 1024
    assert step_flops(shape, LoraSpec(rank=8), stats, [game]) == wanted


def test_the_peak_is_a_rate_of_this_machine() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32, size=256) < 1e14


def test_a_phase_has_a_peak_of_its_own() -> None:
    memory = PhaseMemory(torch.device("cpu"))
    memory.begin()
    torch.ones(64 << 20)
    memory.end("large")
    memory.begin()
    memory.end("small")
    assert memory.peaks["large"].in_use_gb - memory.peaks["small"].in_use_gb > 0.2
    assert Peak(in_use_gb=1, torch_allocated_gb=3).or_more(Peak(in_use_gb=2)) == Peak(in_use_gb=2, torch_allocated_gb=3)
