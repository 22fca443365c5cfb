"""How sure a share is, and how far two judges agree: Wilson's interval and Cohen's kappa.

Owns the arithmetic only; what it says about a judge is `audit.py`'s.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import msgspec


class Rate(msgspec.Struct, frozen=True):
    """`hits` of `trials`, which may be halves."""

    hits: float
    trials: int

    @property
    def value(self) -> float:
        """In [0, 1]; 0 where nothing was tried."""
        return self.hits / self.trials if self.trials else 0.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval (Wilson 1927): (0, 1) where nothing was tried.

        Example:
            >>> Rate(9, 20).interval()
            (0.2581979240974644, 0.6579147107320474)
        """
        if not self.trials:
            return 0.0, 1.0
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        # (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
        share, scale = self.value, 1 + z * z / self.trials
        centre = (share + z * z / (2 * self.trials)) / scale
        reach = z / scale * math.sqrt(share * (1 - share) / self.trials + z * z / (4 * self.trials**2))
        return max(0.0, centre - reach), min(1.0, centre + reach)


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's kappa (1960) of two judges' answers to the same questions: 1 is perfect agreement, 0 what chance gives.

    `None` where it is undefined: no questions, or both gave one and the same answer to all.
    """
    assert len(first) == len(second)
    count = len(first)
    ones, others = Counter(first), Counter(second)
    chance = sum(ones[answer] * others[answer] for answer in ones)
    if chance == count * count:
        return None
    agreed = sum(one == other for one, other in zip(first, second, strict=True))
    # (observed - chance) / (1 - chance), with chance the product of the two judges' own shares; both sides times n^2.
    return (agreed * count - chance) / (count * count - chance)
