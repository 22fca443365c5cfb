"""`Summary`: what a run came to, as other programs read it from `summary.json`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from sparring.engine.evaluation.compare import Report
from sparring.engine.evaluation.contest_report import ContestReport
from sparring.engine.run.ledger import CallTotals


class Clock(msgspec.Struct, kw_only=True):
    """Seconds and counts by phase; goes into every checkpoint, so that a resumed run's figures cover all of it."""

    play: float = 0.0
    learn: float = 0.0
    publish: float = 0.0
    evaluate: float = 0.0
    other: float = 0.0
    """Loading, recording, checkpoints."""
    games: int = 0
    sampled_tokens: int = 0
    learned_tokens: int = 0
    """Of the trajectories that carried a gradient, prompts included."""

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Adds the time spent inside to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, phase, getattr(self, phase) + time.perf_counter() - started)

    @property
    def total(self) -> float:
        return self.play + self.learn + self.publish + self.evaluate + self.other


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of the training loop: sampled tokens over the time of play, learned tokens over that of learning, games over both."""

    generate_tokens_per_second: float
    learn_tokens_per_second: float
    games_per_hour: float


class Seconds(msgspec.Struct, frozen=True, kw_only=True):
    """Wall time by phase; what is in `total` alone is loading, recording and checkpoints."""

    total: float
    play: float
    learn: float
    publish: float
    evaluate: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of `summary.json`. `evaluation` is of the games, `contest` of the contests; null where none was asked for."""

    preset: str
    seed: int
    model: str
    base_model: str
    """Fingerprint of the base model's weights."""
    adapter: str
    """Fingerprint of the trained adapter."""
    steps: int
    stopped: str = ""
    """Why the run ended before its last step, where it did."""
    evaluation: Report | None
    contest: ContestReport | None = None
    population: dict[str, float] = {}
    """Adapter to rating, where several were trained."""
    calls: CallTotals | None = None
    """Of models elsewhere, over all processes of the run."""
    throughput: Throughput
    seconds: Seconds


def throughput(clock: Clock) -> Throughput:
    """The rates that a clock shows; 0 where nothing was measured."""
    loop = clock.play + clock.learn + clock.publish
    return Throughput(
        generate_tokens_per_second=_rate(clock.sampled_tokens, clock.play),
        learn_tokens_per_second=_rate(clock.learned_tokens, clock.learn),
        games_per_hour=3600 * _rate(clock.games, loop),
    )


def seconds(clock: Clock) -> Seconds:
    """The clock's phases, rounded to milliseconds."""
    names = ("total", "play", "learn", "publish", "evaluate")
    return Seconds(**{name: round(getattr(clock, name), 3) for name in names})


def _rate(count: int, duration: float) -> float:
    return round(count / duration, 3) if duration else 0.0
