"""`EngineReport`: what the acceptance script found, cell by cell, as JSON and as a table.

A cell that this machine cannot fill says "not measured"; nothing is ever estimated. Owns no measuring.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sparring.bench.phase_memory import Peak

if TYPE_CHECKING:
    from rich.table import Table

NOT_MEASURED: Literal["not measured"] = "not measured"
Cell = float | Literal["not measured"]
Verdict = Literal["pass", "fail", "not measured"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """Something that must hold, or a goal."""

    name: str
    verdict: Verdict
    found: str
    """The figure, or why there is none."""
    limit: str


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter handed over, in ms: from the finished adapter to its serving, fingerprint and read-back included."""

    median_ms: float
    p95_ms: float
    publications: int
    parts_ms: dict[str, float]
    """Medians: the fingerprint, the check, the write, the read-back; the rest is on its way between the threads. Empty for the
    embedded generator."""


class KVChange(msgspec.Struct, frozen=True, kw_only=True):
    """Giving the KV cache back and taking it again, medians in seconds."""

    release_s: Cell
    resume_s: Cell
    together_s: Cell
    worst_s: Cell
    """The longest of both together."""


class PhaseReport(msgspec.Struct, frozen=True, kw_only=True):
    """A phase's peak memory beside the plan's figure, in GB of 2**30 bytes."""

    planned_gb: Cell
    peak: Peak


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """The same requests twice, on one engine: as games that ask when they are ready, and all at once through `LLM.generate`."""

    requests: int = 0
    games_tokens_per_second: tuple[float, ...] = ()
    """Sampled tokens over the wall time of the games, scripts and referee included; one figure a seed."""
    plain_tokens_per_second: tuple[float, ...] = ()
    ratio: Cell = NOT_MEASURED
    """Median over seeds of games / plain."""
    lowest_ratio: Cell = NOT_MEASURED
    same_tokens: Cell = NOT_MEASURED
    """Share of requests for which both sampled the same ids."""


class Learning(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of the learner, medians over cycles."""

    tokens_per_second: float
    """Tokens of the games, prompts included."""
    rows_per_second: float
    """Rows that were computed for them."""
    tflops: float
    peak_tflops: float
    """Of a matrix product in the learner's own precision on this device, measured."""
    mfu: float
    formula: str


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """The whole cycle: play, learn, publish, and the changes between."""

    games: int
    games_per_hour: float
    sampled_tokens_per_second: float
    """While playing."""
    shares: dict[str, float]
    """Of the wall time, by phase."""
    idle_play: float
    """Share of the play phase in which the generator computed no step."""
    idle_loop: float
    """Share of the whole loop in which neither the generator nor the learner was at work."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in use at the end of each cycle, in MB of 2**20 bytes."""

    of: Literal["GPU memory", "resident set"]
    first_mb: float
    last_mb: float
    slope_mb: Cell
    """A cycle's growth: least squares over the second half of the cycles."""
    cycles_mb: tuple[float, ...]


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """Generator against learner, in nats: the worst of all cycles."""

    canary_mean: float
    canary_max: float
    games_mean: float
    games_max: float
    effective_sample_size: float
    limit: float


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `cap_gb` is the memory that the run was held to, or null."""

    device: str
    date: str
    versions: dict[str, str]
    preset: str
    model: str
    parameters: int
    generator: str
    cap_gb: float | None
    cycles: int
    open_s: float
    shared_gb: Cell
    """Frozen weights of the learner that lie in vLLM's own memory."""
    checks: tuple[Check, ...]
    publication: Publication
    kv_cache: KVChange
    memory: dict[str, PhaseReport]
    held: Held
    generation: Generation
    learning: Learning
    loop: Loop
    mismatch: Mismatch
    config: dict[str, Any]

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(check.name for check in self.checks if check.verdict == "fail")

    @property
    def tables(self) -> tuple[Table, Table]:
        """The checks, and the figures."""
        from rich.table import Table

        size = f"{self.parameters / 1e9:.2f} billion" if self.parameters >= 1e8 else f"{self.parameters:,}"
        cap = f", held to {self.cap_gb:g} GB" if self.cap_gb else ""
        checks = Table(title=f"{self.model} ({size} parameters) on {self.device}{cap}", title_justify="left")
        for name in ("check", "", "found", "limit"):
            checks.add_column(name, overflow="fold")
        for check in self.checks:
            checks.add_row(check.name, check.verdict, check.found, check.limit)
        figures = Table(title=f"{self.cycles} cycles of play, learn, publish", title_justify="left")
        figures.add_column("figure")
        figures.add_column("", overflow="fold")
        for row in _rows(self):
            figures.add_row(*row)
        return checks, figures


def cell(value: Cell, text: str = "{:,.2f}") -> str:
    return value if isinstance(value, str) else text.format(value)


def _rows(found: EngineReport) -> Iterator[tuple[str, str]]:
    yield "opening the engine", f"{found.open_s:.1f} s"
    yield "weights shared with vLLM", cell(found.shared_gb, "{:,.2f} GB")
    published = found.publication
    yield "publication", f"median {published.median_ms:,.2f} ms, 95% within {published.p95_ms:,.2f} ms"
    if published.parts_ms:
        yield "  of that", ", ".join(f"{name} {ms:,.2f} ms" for name, ms in published.parts_ms.items())
    kv = found.kv_cache
    yield "release + resume", f"{cell(kv.release_s, '{:.3f} s')} + {cell(kv.resume_s, '{:.3f} s')}"
    for name, phase in found.memory.items():
        torch_peak = phase.peak.torch_reserved_gb
        own = "" if torch_peak is None else f", PyTorch's allocator {torch_peak:,.2f} GB"
        yield f"peak memory, {name}", f"{phase.peak.in_use_gb:,.2f} GB{own}; planned {cell(phase.planned_gb, '{:,.2f} GB')}"
    held = found.held
    growth = cell(held.slope_mb, "{:+,.2f} MB a cycle")
    yield f"{held.of}, first and last cycle", f"{held.first_mb:,.0f} MB, {held.last_mb:,.0f} MB; {growth}"
    generation = found.generation
    pairs = zip(generation.games_tokens_per_second, generation.plain_tokens_per_second, strict=True)
    for games, plain in pairs:
        yield "games / LLM.generate", f"{games:,.0f} / {plain:,.0f} tokens/s"
    yield "games over LLM.generate, median", cell(generation.ratio)
    learning = found.learning
    yield "learner", f"{learning.tokens_per_second:,.0f} tokens/s, {learning.rows_per_second:,.0f} rows/s"
    peak = f"{learning.tflops:,.3g} of {learning.peak_tflops:,.3g} TFLOP/s"
    yield "learner's utilisation (MFU)", f"{learning.mfu:.1%}: {peak}"
    loop = found.loop
    yield "whole loop", f"{loop.games_per_hour:,.0f} games/hour: " + ", ".join(f"{k} {v:.0%}" for k, v in loop.shares.items())
    yield "idle", f"{loop.idle_play:.1%} of play, {loop.idle_loop:.1%} of the loop"
    mismatch = found.mismatch
    yield "mismatch, canaries", f"{mismatch.canary_mean:.2g} nats in the mean, {mismatch.canary_max:.2g} at most"
    yield "mismatch, games", f"{mismatch.games_mean:.2g} nats in the mean, {mismatch.games_max:.2g} at most"
