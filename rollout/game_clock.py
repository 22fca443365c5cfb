"""The time limit of a game, and time that does not count towards it: a seat that waits for its own side loses nothing by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar


class _Clock:
    """One game's limit. It stands still while anybody is off it."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._off = 0
        self._left = 0.0

    def stop(self) -> None:
        due = self._limit.when()
        if due is not None and not self._off:
            self._left = due - asyncio.get_running_loop().time()
            self._limit.reschedule(None)
        self._off += 1

    def go_on(self) -> None:
        self._off -= 1
        if not self._off and self._left and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._left)
            self._left = 0.0


_CLOCK: ContextVar[_Clock | None] = ContextVar("game_clock", default=None)
"""Of the game that the running task plays; tasks that it starts inherit it."""


@asynccontextmanager
async def game_clock(seconds: float | None) -> AsyncIterator[asyncio.Timeout]:
    """Raises `TimeoutError` where what is inside takes longer than `seconds`, `off_the_clock` left out; never with `None`."""
    async with asyncio.timeout(seconds) as limit:
        token = _CLOCK.set(_Clock(limit))
        try:
            yield limit
        finally:
            _CLOCK.reset(token)


@contextmanager
def off_the_clock() -> Iterator[None]:
    """Time inside does not count towards the limit of the game that is being played, if any is."""
    clock = _CLOCK.get()
    if clock is None:
        yield
        return
    clock.stop()
    try:
        yield
    finally:
        clock.go_on()
