"""A fake provider's own count: what it was asked, what it answered, and what it takes for it.

A request is counted when its fate is decided, before anything is sent: the ledger is exact at every instant, also for clients
that are killed. Which faults are billed, `faults.py` defines. Owns no prices but those given to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from sparring.bench.provider.faults import Fault

ANSWERED, LIMITED, REJECTED = "answered", "limited", "rejected"
"""Outcomes beside the faults: a good answer, a 429 for a limit that was really met, a request that no provider would take."""

BATCH_SHARE = 0.5
"""Of the price, what a request in a batch costs."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars a million tokens."""

    input: float = 0.0
    output: float = 0.0

    def dollars(self, prompt: int, completion: int) -> float:
        return (prompt * self.input + completion * self.output) / 1e6


class ModelCount(msgspec.Struct, kw_only=True):
    """One model's figures. `requests` is the sum of `outcomes`."""

    requests: int = 0
    outcomes: dict[str, int] = {}
    """Requests by "answered", "limited", "rejected" or the fault's name."""
    billed: int = 0
    """Requests that cost something."""
    prompt_tokens: int = 0
    """Of billed requests, as are the following."""
    completion_tokens: int = 0
    dollars: float = 0.0
    repeats: int = 0
    """Requests whose very body came before."""
    paid_again: int = 0
    """Billed requests whose very body had a good answer before: nothing new was bought."""
    batched: int = 0
    """Requests that came in a batch; they are in all the other figures too."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger as GET /ledger sends it."""

    total: ModelCount
    models: dict[str, ModelCount]
    in_flight: int
    peak_in_flight: int
    """The most requests that were open at once."""
    connections: int
    """Sockets that requests came over."""
    abandoned: int
    """Requests whose client left before the answer; they are billed like any other."""
    batches: int
    """Batches submitted."""
    files: int
    """Files uploaded."""


class Ledger:
    """Counts. `prices` is by model; what it does not name is free.

    Example:
        >>> provider.ledger.total.dollars, provider.ledger.models["gpt-4o-mini"].outcomes
    """

    def __init__(self, prices: Mapping[str, Price] | None = None) -> None:
        self._prices = dict(prices or {})
        self.models: dict[str, ModelCount] = {}
        self.in_flight = self.peak_in_flight = self.connections = self.abandoned = self.batches = self.files = 0
        self._seen: Counter[tuple[str, str]] = Counter()
        self._bought: set[tuple[str, str]] = set()

    @property
    def total(self) -> ModelCount:
        """All models together."""
        found = ModelCount()
        for count in self.models.values():
            for name in (
                "requests",
                "billed",
                "prompt_tokens",
                "completion_tokens",
                "dollars",
                "repeats",
                "paid_again",
                "batched",
            ):
                setattr(found, name, getattr(found, name) + getattr(count, name))
            found.outcomes = dict(Counter(found.outcomes) + Counter(count.outcomes))
        return found

    def totals(self) -> Totals:
        return Totals(
            total=self.total,
            models=self.models,
            in_flight=self.in_flight,
            peak_in_flight=self.peak_in_flight,
            connections=self.connections,
            abandoned=self.abandoned,
            batches=self.batches,
            files=self.files,
        )

    def dollars(self, model: str, prompt: int, completion: int, *, batched: bool = False) -> float:
        """What these tokens cost."""
        return (BATCH_SHARE if batched else 1.0) * self._prices.get(model, Price()).dollars(prompt, completion)

    @contextmanager
    def open_request(self) -> Iterator[None]:
        """Counts a request as open while it lasts."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1

    def turned_away(self, model: str, outcome: str) -> None:
        """A request that never reached the model: `LIMITED` or `REJECTED`."""
        self._count(model, outcome)

    def served(self, model: str, body: str, fault: Fault | None, prompt: int, completion: int, *, batched: bool = False) -> None:
        """A request that reached the model, or met a fault on its way. `body` is the digest of what was asked."""
        count = self._count(model, fault or ANSWERED)
        key = (model, body)
        count.repeats += self._seen[key] > 0
        self._seen[key] += 1
        count.batched += batched
        if fault is None or (fault.billed and not (batched and fault.breaks)):
            count.billed += 1
            count.prompt_tokens += prompt
            count.completion_tokens += completion
            count.dollars += self.dollars(model, prompt, completion, batched=batched)
            count.paid_again += key in self._bought
        if fault is None or fault.wrong_usage:
            self._bought.add(key)

    def times_seen(self, model: str, body: str) -> int:
        """How often this very body was served before."""
        return self._seen[model, body]

    def _count(self, model: str, outcome: str) -> ModelCount:
        count = self.models.setdefault(model, ModelCount(outcomes={}))
        count.requests += 1
        count.outcomes[outcome] = count.outcomes.get(outcome, 0) + 1
        return count
