"""From the clocks of the acceptance script's cycles to its figures and verdicts. Measures nothing itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from sparring.bench.engine_parts import Cycle
from sparring.bench.engine_report import (
    NOT_MEASURED,
    Cell,
    Check,
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
from sparring.bench.flops import FORMULA

MB = 1 << 20
PUBLISH_MS, CHANGE_S, RATIO, LEAK_MB = 50.0, 1.0, 0.9, 1.0
LEAK_CYCLES = 10
"""Fewer cycles say nothing of a slope."""


def find_checks(
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


def find_publication(parts: Mapping[str, list[float]]) -> Publication:
    whole = np.array(parts["all"]) * 1e3
    names = ("fingerprint", "check fit", "write", "read back")
    return Publication(
        median_ms=round(float(np.median(whole)), 3),
        p95_ms=round(float(np.percentile(whole, 95)), 3),
        publications=len(whole),
        parts_ms={name: round(1e3 * median(parts[name]), 3) for name in names} if "write" in parts else {},
    )


def find_kv_change(cycles: Sequence[Cycle]) -> KVChange:
    """The cache is released at the end of one cycle and taken back by the next."""
    together = [cycle.release + cycle.resume for cycle in cycles]
    return KVChange(
        release_s=round(median(cycle.release for cycle in cycles), 5),
        resume_s=round(median(cycle.resume for cycle in cycles), 5),
        together_s=round(median(together), 5),
        worst_s=round(max(together), 5),
    )


def find_held(cycles: Sequence[Cycle], *, cuda: bool) -> Held:
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


def find_learning(cycles: Sequence[Cycle], peak: float) -> Learning:
    rate = median(cycle.flops / cycle.learn for cycle in cycles)
    return Learning(
        tokens_per_second=round(median(cycle.stats.tokens / cycle.learn for cycle in cycles), 1),
        rows_per_second=round(median(cycle.stats.packed_tokens / cycle.learn for cycle in cycles), 1),
        tflops=round(rate / 1e12, 5),
        peak_tflops=round(peak / 1e12, 5),
        mfu=round(rate / peak, 4),
        formula=FORMULA,
    )


def find_loop(cycles: Sequence[Cycle]) -> Loop:
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


def find_mismatch(cycles: Sequence[Cycle], limit: float) -> Mismatch:
    return Mismatch(
        canary_mean=max(cycle.agreement.mismatch_mean for cycle in cycles),
        canary_max=max(cycle.agreement.mismatch_max for cycle in cycles),
        games_mean=max(cycle.stats.mismatch_mean for cycle in cycles),
        games_max=max(cycle.stats.mismatch_max for cycle in cycles),
        effective_sample_size=min(cycle.stats.effective_sample_size for cycle in cycles),
        limit=limit,
    )
