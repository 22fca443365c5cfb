"""`Breaker`: keeps calls from a server that is down. Owns no clock: every method is told the time in seconds.

Closed until so many failures come in a row; then open for a while; then half-open: one probe goes out, whose success closes it
and whose failure opens it for twice as long.
"""

from __future__ import annotations

from sparring.rollout.remote.config import RemoteConfig

LOOK_AGAIN = 1.0
"""Seconds between looks at a probe that another queue may have sent."""


class Breaker:
    """One endpoint's.

    Example:
        >>> breaker = Breaker(RemoteConfig(breaker_failures=3))
        >>> for second in range(3):
        ...     breaker.failed(second)
        >>> breaker.wait(3.0), breaker.wait(7.0)
        (4.0, 0.0)
    """

    def __init__(self, config: RemoteConfig) -> None:
        self._config = config
        self._failures = 0
        self._opened = 0
        """How often in a row."""
        self._until: float | None = None
        """When an open one lets a probe through; None while it is closed."""
        self._probing = False

    @property
    def is_open(self) -> bool:
        return self._until is not None

    def wait(self, now: float) -> float:
        """Seconds until it is worth asking again; 0 where a request may go out now (`enter` then notes a probe)."""
        if self._until is None:
            return 0.0
        if now < self._until:
            return self._until - now
        return LOOK_AGAIN if self._probing else 0.0

    def enter(self) -> bool:
        """A request goes out; returns whether it is the probe."""
        probe = self._until is not None and not self._probing
        self._probing = self._probing or probe
        return probe

    def succeeded(self) -> None:
        """The server answered, be it with a refusal."""
        self._failures = self._opened = 0
        self._until, self._probing = None, False

    def failed(self, now: float, *, probe: bool = False) -> None:
        """The server failed, or could not be reached. Requests that were out when it opened count no further."""
        self._failures += 1
        if probe or (self._until is None and self._failures >= self._config.breaker_failures):
            pause = min(self._config.breaker_seconds * 2**self._opened, self._config.breaker_max_seconds)
            self._opened = min(self._opened + 1, 30)
            self._until, self._probing = now + pause, False

    def abandoned(self, *, probe: bool) -> None:
        """A request was given up, or told nothing of the server; another one may be the probe."""
        if probe:
            self._probing = False
