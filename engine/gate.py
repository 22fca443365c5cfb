"""`Gate`: what stands between the games and the generator while the learner has the memory.

Games whose partner is somewhere else go on; a seat that the policy plays waits here until the gate opens again.
"""

from __future__ import annotations

import asyncio

from sparring.engine.generator import Generator
from sparring.rollout.sampler import Sample, Sampler, SampleRequest


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

    async def sample(self, request: SampleRequest) -> Sample:
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
        self._opened.set()

    async def shut(self) -> None:
        """Lets nothing more in, and waits for the messages that are being written."""
        self._opened.clear()
        await self._drained.wait()
