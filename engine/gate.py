"""`Gate`: what stands between the games and the generator while the learner has the memory.

Games whose partner is somewhere else go on; a seat that the policy plays waits here until the gate opens again, and that time
does not count towards its game's limit.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from sparring.engine.generator import Generator
from sparring.rollout.game_clock import off_the_clock
from sparring.rollout.sampler import Sample, Sampler, SampleRequest

MEASURABLE = 0.01
"""Seconds. A gate that was open for less, as where all games of a step had ended before it, tells nothing of idleness."""


class Gate(Sampler):
    """A `Sampler` over a generator that can be shut. It is made shut.

    Example:
        >>> gate = Gate(generator)
        >>> gate.open()
        >>> sample = await gate.sample(request)
        >>> await gate.shut()  # no request is in flight from here on
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._opened = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._inside = 0
        self._opened_at = self._busy_before = 0.0

    async def sample(self, request: SampleRequest) -> Sample:
        with off_the_clock():
            while not self._opened.is_set():  # it may be shut again before whom it woke up has come this far
                await self._opened.wait()
        self._inside += 1
        self._drained.clear()
        try:
            return await self._generator.sample(request)
        finally:
            self._inside -= 1
            if not self._inside:
                self._drained.set()

    def end_session(self, session: str) -> None:
        self._generator.end_session(session)

    def open(self) -> None:
        self._opened_at, self._busy_before = perf_counter(), self._generator.stats.seconds
        self._opened.set()

    async def shut(self) -> float:
        """Lets nothing more in, and waits for the messages that are being written.

        Returns the share of the time since `open` in which the generator computed nothing.
        """
        self._opened.clear()
        await self._drained.wait()
        passed, busy = perf_counter() - self._opened_at, self._generator.stats.seconds - self._busy_before
        return max(0.0, 1 - busy / passed) if passed >= MEASURABLE else 0.0
