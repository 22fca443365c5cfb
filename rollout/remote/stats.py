"""`RemoteStats`: what calls of other models came to so far, cheap enough to read for every refresh of a progress display."""

from __future__ import annotations

import math

from sparring.rollout.remote.call import Attempt, Result

_STEP = math.log(1.05)
"""Latencies are counted in classes 5% wide."""


class RemoteStats:
    """Counters of one process. `calls` counts those asked of providers; `cached` those that a journal, a cassette or an equal
    call in flight answered."""

    def __init__(self) -> None:
        self.calls = self.attempts = self.retries = self.hedges = self.failed = self.cached = self.in_flight = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.cost = 0.0
        self.last_error = ""
        """Of the latest attempt that failed."""
        self.results: dict[Result, int] = dict.fromkeys(Result, 0)
        self._latencies: dict[int, int] = {}
        self._answered = 0

    def add(self, attempt: Attempt) -> None:
        """Counts an attempt."""
        self.attempts += 1
        self.hedges += attempt.hedge
        self.retries += attempt.number > 0 and not attempt.hedge
        self.results[attempt.result] += 1
        self.prompt_tokens += attempt.usage.prompt_tokens
        self.cached_tokens += attempt.usage.cached_tokens
        self.completion_tokens += attempt.usage.completion_tokens
        self.cost += attempt.cost
        self.last_error = attempt.error or self.last_error

    def answered(self, seconds: float) -> None:
        """Counts a call's answer, so many seconds after it was asked for."""
        bin_ = math.floor(math.log(max(seconds, 1e-6)) / _STEP)
        self._latencies[bin_] = self._latencies.get(bin_, 0) + 1
        self._answered += 1

    def latency(self, share: float) -> float:
        """The seconds within which this share of the calls was answered, to 5%; NaN before the first."""
        if not self._answered:
            return math.nan
        due = max(1, math.ceil(share * self._answered))
        for bin_ in sorted(self._latencies):
            due -= self._latencies[bin_]
            if due <= 0:
                return math.exp((bin_ + 0.5) * _STEP)
        raise AssertionError("fewer latencies than answers")

    @property
    def p50(self) -> float:
        return self.latency(0.5)

    @property
    def p99(self) -> float:
        return self.latency(0.99)
