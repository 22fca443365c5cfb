"""Learning-rate schedules: a warm-up, then constant, linear or cosine."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def rate(schedule: Schedule, step: int, *, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The rate of update `step` (from 0): rises over `warmup` updates to `peak`, then falls to `floor * peak` at update `total`.

    The update after the last, `step == total`, has the floor; so no update of a run is wasted on a rate of 0.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule == "constant":
        return peak
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    left = 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return peak * (floor + (1.0 - floor) * left)
