"""A fake provider's rate limit: requests and tokens a minute, as token buckets, and what its headers may honestly say.

Each model has buckets of its own. Owns no header's name: those are each wire's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec

from sparring.bench.provider.latency import RehearsalError


class RateLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What a model may be asked, in the provider's own minutes (`FakeProvider.scale` shortens them). 0 is no limit.

    Tokens count when a request arrives: its prompt's and all of `max_tokens`, whatever the answer takes.
    Raises `RehearsalError` for a negative limit.
    """

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    burst: float = 60.0
    """Seconds' worth of the limit that a full bucket holds: 60 lets a whole minute's requests come at once."""

    def __post_init__(self) -> None:
        if min(self.requests_per_minute, self.tokens_per_minute) < 0 or self.burst <= 0:
            raise RehearsalError("rate limits are at least 0 a minute (0: none), and their burst is longer than 0 s")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket as a header tells it: the limit a minute, what is left, seconds until it is full again."""

    limit: int
    remaining: int
    reset: float


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a request may pass; otherwise in how many seconds it may come again, and which limit it met."""

    passed: bool
    retry_after: float = 0.0
    met: str = ""
    requests: Standing | None = None
    tokens: Standing | None = None


class Bucket:
    """Fills by `rate` a second up to `size`. A request larger than the bucket passes a full one and leaves it in debt."""

    def __init__(self, rate: float, size: float, now: float) -> None:
        self._rate, self._size, self._level, self._seen = rate, size, size, now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken; 0 for at once."""
        self._level = min(self._size, self._level + self._rate * (now - self._seen))
        self._seen = now
        missing = min(amount, self._size) - self._level
        # What floats lose in filling up is not worth another wait.
        return missing / self._rate if missing > 1e-9 * self._size else 0.0

    def take(self, amount: float) -> None:
        self._level -= amount

    def standing(self) -> Standing:
        limit, left = math.floor(60 * self._rate), max(0, math.floor(self._level + 1e-9 * self._size))
        return Standing(limit=limit, remaining=left, reset=max(0.0, (self._size - self._level) / self._rate))


class Limiter:
    """The buckets of every model that was asked. `scale` is how long a second of the provider lasts."""

    def __init__(self, limit: RateLimit, scale: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._scale, self._clock = limit, scale, clock
        self._buckets: dict[str, tuple[Bucket | None, Bucket | None]] = {}

    def admit(self, model: str, tokens: int) -> Admission:
        """Takes one request and `tokens` tokens from the model's buckets, or nothing where either lacks them."""
        now = self._clock()
        requests, words = self._buckets.setdefault(model, self._fresh(now))
        waits = {
            "requests": requests.wait(1, now) if requests else 0.0,
            "tokens": words.wait(tokens, now) if words else 0.0,
        }
        met = max(waits, key=lambda name: waits[name])
        passed = waits[met] == 0
        if passed:
            for bucket, amount in ((requests, 1), (words, tokens)):
                if bucket is not None:
                    bucket.take(amount)
        return Admission(
            passed=passed,
            retry_after=waits[met],
            met="" if passed else met,
            requests=requests.standing() if requests else None,
            tokens=words.standing() if words else None,
        )

    def _fresh(self, now: float) -> tuple[Bucket | None, Bucket | None]:
        return self._bucket(self._limit.requests_per_minute, now), self._bucket(self._limit.tokens_per_minute, now)

    def _bucket(self, per_minute: float, now: float) -> Bucket | None:
        if per_minute == 0:
            return None
        rate = per_minute / 60 / self._scale
        return Bucket(rate, max(1.0, rate * self._limit.burst * self._scale), now)
