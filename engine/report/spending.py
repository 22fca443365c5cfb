"""What a run asked of other models: calls, attempts, failures, tokens, dollars and waiting, by model and purpose.

Owns the sums. The rows are the ledger's (`engine/run/ledger.py`), the page is `page.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import numpy as np

from sparring.rollout.remote.call import Attempt, Result


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of one model for one purpose; in the total both are "".

    A call is one answer asked for, an attempt one request that went out. Seconds are those of attempts that were answered.
    """

    model: str = ""
    purpose: str = ""
    calls: int = 0
    answered: int = 0
    attempts: int = 0
    retries: int = 0
    hedges: int = 0
    failures: dict[str, int] = {}
    """Attempts without an answer, by kind."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    estimated_dollars: float = 0.0
    """Of the dollars, those that the provider did not report: the most that the attempt can have cost."""
    p50_seconds: float | None = None
    p99_seconds: float | None = None

    @property
    def failed(self) -> int:
        """Calls that no attempt could answer."""
        return self.calls - self.answered


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """All calls of a run, by model and purpose, and added up."""

    rows: tuple[Spending, ...] = ()
    total: Spending = Spending()


class _Sum:
    """Adds attempts up."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.answered: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.dollars, self.estimated = 0.0, 0.0
        self.seconds: list[float] = []

    def add(self, attempt: Attempt) -> None:
        self.asked.add(attempt.digest)
        self.counts["attempts"] += 1
        self.counts["hedges"] += attempt.hedge
        self.counts["retries"] += attempt.number > 0 and not attempt.hedge
        self.counts["prompt_tokens"] += attempt.usage.prompt_tokens
        self.counts["cached_tokens"] += attempt.usage.cached_tokens
        self.counts["completion_tokens"] += attempt.usage.completion_tokens
        self.dollars += attempt.cost
        self.estimated += attempt.cost if attempt.estimated else 0.0
        if attempt.result is Result.OK:
            self.answered.add(attempt.digest)
            self.seconds.append(attempt.seconds)
        else:
            self.failures[attempt.result.value] += 1

    def spending(self, model: str = "", purpose: str = "") -> Spending:
        p50, p99 = (float(q) for q in np.quantile(self.seconds, [0.5, 0.99])) if self.seconds else (None, None)
        return Spending(
            model=model,
            purpose=purpose,
            calls=len(self.asked),
            answered=len(self.answered),
            failures=dict(sorted(self.failures.items())),
            dollars=self.dollars,
            estimated_dollars=self.estimated,
            p50_seconds=p50,
            p99_seconds=p99,
            **{key: int(value) for key, value in self.counts.items()},
        )


def account(attempts: Iterable[Attempt]) -> Account:
    """The sums over a ledger.

    Example:
        >>> account(run.database.ledger.attempts()).total.dollars
        0.0213
    """
    total, parts = _Sum(), dict[tuple[str, str], _Sum]()
    for attempt in attempts:
        total.add(attempt)
        parts.setdefault((attempt.model, attempt.purpose), _Sum()).add(attempt)
    rows = tuple(part.spending(model, purpose) for (model, purpose), part in sorted(parts.items()))
    return Account(rows=rows, total=total.spending())
