"""How long a fake provider takes to answer: a lognormal distribution through a given median and 99th percentile.

Owns the formula alone. Who waits, and by how much time is compressed, is `server.py`'s business.
"""

from __future__ import annotations

import math
from random import Random

import msgspec

from sparring.scenarios.errors import SparringError

Z99 = 2.3263478740408408
"""The standard normal's 99th percentile."""


class RehearsalError(SparringError):
    """A setting that no provider can be played with."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from request to answer. With `p50` 0 every answer comes at once; with `p99` = `p50` all take the same time.

    Raises `RehearsalError` where p99 lies below p50.

    Example:
        >>> Latency(p50=2.0, p99=20.0).sample(Random(0))
    """

    p50: float = 0.0
    p99: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.p50 <= self.p99 < math.inf:
            raise RehearsalError(f"p50 {self.p50:g} s and p99 {self.p99:g} s: give p99 at least p50, and both at least 0")

    def sample(self, rng: Random) -> float:
        """exp(mu + sigma z) with mu = ln p50 and sigma = ln(p99 / p50) / z_99; a p50 of 0 gives 0."""
        if self.p50 == 0:
            return 0.0
        return self.p50 * math.exp(math.log(self.p99 / self.p50) / Z99 * rng.gauss(0.0, 1.0))
