"""How much may go out now: `Bucket` for requests or tokens a minute, `Concurrency` for requests in flight.

Both start from the settings and follow what the provider tells. Pure: they are told the time in seconds, and neither wait nor
send. `gate.py` queues calls before them.
"""

from __future__ import annotations

from collections import deque

from sparring.rollout.remote.headers import Window

MINUTE = 60.0
GRAIN = MINUTE / 600
"""Seconds within which takings are noted as one."""
BURST = 1.0
"""Seconds' worth of a limit that may go out at once: providers enforce a minute's limit by shares of it."""


class Paced:
    """A limit a minute that is known in advance. Lets a steady stream through, and in no minute more than the limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._level = self._burst
        self._at = 0.0
        self._log: deque[list[float]] = deque()
        """Takings of the last minute: when the first and the last of a grain was, and how much."""
        self._sum = 0.0

    @property
    def _burst(self) -> float:
        return max(1.0, self.limit * BURST / MINUTE)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken."""
        self._pass(now)
        # What is larger than a burst, or a whole minute's limit, goes out when all that can be there is there.
        missing = min(amount, self._burst) - self._level
        pause = missing * MINUTE / self.limit if missing > 1e-9 else 0.0
        excess = self._sum + min(amount, self.limit) - self.limit
        for _, last, taken in self._log:
            if excess <= 1e-9:
                break
            excess -= taken
            pause = max(pause, last + MINUTE - now)
        return pause

    def take(self, amount: float, now: float) -> None:
        self._pass(now)
        self._level -= amount
        self._sum += amount
        if self._log and now - self._log[-1][0] < GRAIN:
            self._log[-1][1] = now
            self._log[-1][2] += amount
        else:
            self._log.append([now, now, amount])

    def correct(self, amount: float) -> None:
        """A taking was larger than needed by `amount`, or smaller where it is negative."""
        self._level += amount
        if amount < 0 and self._log:
            self._log[-1][2] -= amount
            self._sum -= amount
            return
        for entry in self._log:  # the oldest first: they leave the window first, so this never lets too much out
            back = min(amount, entry[2])
            entry[2] -= back
            self._sum -= back
            amount -= back
            if amount <= 0:
                break

    def _pass(self, now: float) -> None:
        if self._level < self._burst:
            self._level = min(self._burst, self._level + max(0.0, now - self._at) * self.limit / MINUTE)
        self._at = now
        while self._log and now - self._log[0][1] >= MINUTE:
            self._sum -= self._log.popleft()[2]
        if not self._log:
            self._sum = 0.0


class Bucket:
    """Requests or tokens a minute: the user's ceiling, and what the provider's headers tell.

    Example:
        >>> bucket = Bucket(500)
        >>> bucket.wait(1, now=0.0)
        0.0
        >>> mark = bucket.take(1, now=0.0)
        >>> bucket.hear(Window(limit=100, remaining=0), mark, sent=0.0, now=0.3)
        >>> round(bucket.wait(1, now=0.3), 6)
        0.6
    """

    def __init__(self, per_minute: int) -> None:
        """`per_minute` 0 lets everything out until the provider tells a limit."""
        self._ceiling = Paced(per_minute) if per_minute else None
        self._paced: Paced | None = None
        """By a limit that was told without what remains of it."""
        self._limit: float | None = None
        self._level: float | None = None
        """What the provider has left for us, as far as it told."""
        self._at = self._heard = 0.0
        self._blocked = 0.0
        self._taken = 0.0
        """Ever, and of it what belongs to requests that came to their end:"""
        self._ended = 0.0

    @property
    def limit(self) -> float | None:
        """A minute; None while nobody told one."""
        known = [limit for limit in (self._ceiling and self._ceiling.limit, self._limit) if limit]
        return min(known, default=None)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` may go out."""
        pause = max(0.0, self._blocked - now)
        for paced in (self._ceiling, self._paced):
            if paced is not None:
                pause = max(pause, paced.wait(amount, now))
        self._pass(now)
        if self._level is not None:
            missing = (min(amount, self._limit) if self._limit else amount) - self._level
            if missing > 1e-9:
                pause = max(pause, missing * MINUTE / self._limit) if self._limit else max(pause, 1.0)
        return pause

    def take(self, amount: float, now: float) -> float:
        """Notes that `amount` goes out. Returns a mark to hand to `hear`, once the request has come to its end."""
        for paced in (self._ceiling, self._paced):
            if paced is not None:
                paced.take(amount, now)
        self._pass(now)
        if self._level is not None:
            self._level -= amount
        self._taken += amount
        return self._ended + amount

    def end(self, amount: float) -> None:
        """A request that took `amount` has come to its end."""
        self._ended += amount

    def correct(self, amount: float) -> None:
        """A taking was larger than needed by `amount`, or smaller where it is negative. What the provider has left is not
        touched: some give back what an answer did not take, others do not, and the next headers tell."""
        for paced in (self._ceiling, self._paced):
            if paced is not None:
                paced.correct(amount)

    def hear(self, window: Window, mark: float, *, sent: float, now: float) -> None:
        """What the provider told, if anything, in its answer to the request that was taken with `mark` at time `sent`.

        Requests that were in flight then, or went out since, may or may not be counted in what it says remains, and it may have
        counted at any time in between. So what is left lies between that less all of these, and that with all that came in since;
        our own count is kept where it lies there.
        """
        if window.limit is not None:
            self._limit = window.limit
        if window.remaining is None:
            self._follow_limit(window.limit)
            return
        self._paced = None
        self._pass(now)
        self._heard = now
        refilled = (now - sent) * (self._limit or 0.0) / MINUTE
        least, most = window.remaining - (self._taken - mark), window.remaining + refilled
        self._level = least if self._level is None else min(max(self._level, least), most)

    def block(self, seconds: float, now: float) -> None:
        """The provider refuses everything for so long."""
        self._blocked = max(self._blocked, now + seconds)

    def _follow_limit(self, limit: float | None) -> None:
        if limit is None or self._level is not None:
            return
        if self._paced is None:
            self._paced = Paced(limit)
        self._paced.limit = limit

    def _pass(self, now: float) -> None:
        if not self._limit and now - self._heard >= MINUTE:
            self._level = None  # what was left a minute ago tells nothing, and nobody says how fast it comes back
        if self._level is not None and self._limit and self._level < self._limit:
            self._level = min(self._limit, self._level + max(0.0, now - self._at) * self._limit / MINUTE)
        self._at = now


TOLERATED = 0.05
"""The share of refusals that is no sign of too many requests at once."""


class Concurrency:
    """How many requests may be in flight: additive increase, multiplicative decrease, by rounds of as many answers.

    A round's growth is a 64th of the ceiling; its cut is half the share of refusals above `TOLERATED`, so that a few stray
    refusals cost little and a wall of them halves it.
    """

    START = 16
    """Until the first answer tells what the provider permits."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._width = float(min(ceiling, self.START))
        self._answers = self._refusals = 0
        self._heard = False
        self.in_flight = 0

    @property
    def limit(self) -> int:
        return max(1, int(self._width))

    @property
    def full(self) -> bool:
        return self.in_flight >= self.limit

    def answered(self, *, refused: bool) -> None:
        """A request was answered; `refused` says that it was for the rate, and that no bucket explains it."""
        if not self._heard and not refused:
            self._heard, self._width = True, float(self._ceiling)
        self._answers += 1
        self._refusals += refused
        if self._answers >= self.limit:
            share = self._refusals / self._answers
            grown = self._width * (1 - max(0.0, share - TOLERATED) / 2) + max(1.0, self._ceiling / 64)
            self._width = min(float(self._ceiling), max(1.0, grown))
            self._answers = self._refusals = 0
