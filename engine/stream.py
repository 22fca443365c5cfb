"""`GameStream`: the games of a run, step after step, as one stream that may run ahead of the learner.

Games of later steps begin as places become free, at most `steps_ahead` steps before their own update, so that neither a slow
partner nor the learner leaves everybody waiting. Each game is recorded as it ends. With `steps_ahead` 0 a step's games begin
when the step before has been learned, and a run is the same however fast anybody answers.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Self

from sparring.rollout.errors import BudgetError
from sparring.rollout.runner import Admit, admit_all
from sparring.rollout.trajectory import Deal, Game

Play = Callable[[Iterator[Deal], Admit], AsyncIterator[Game]]
"""Plays deals, each within what it is admitted under, as `runner.play` does."""


class GameStream:
    """Plays the deals of steps `first`, `first` + 1, ... and hands out each step's games together.

    Example:
        >>> async with GameStream(play, deals_of, steps=range(3, 60), steps_ahead=1, record=record) as stream:
        ...     games = await stream.games(3)
        ...     ...  # learn, while step 4 is being played
        ...     stream.learned(4)
    """

    def __init__(
        self,
        play: Play,
        deals_of: Callable[[int], Sequence[Deal]],
        *,
        steps: range,
        steps_ahead: int,
        record: Callable[[int, Game], None],
        kept: Mapping[int, Sequence[Game]] | None = None,
        admit: Admit = admit_all,
    ) -> None:
        """`record` is told the step of each game that ends. `kept` holds games that an earlier process has played: they are
        handed out and not played again. `admit` is entered before a game begins, once its step may begin."""
        self._play, self._deals_of, self._steps, self._ahead = play, deals_of, steps, steps_ahead
        self._record, self._admit_game = record, admit
        self._ended: dict[int, list[Game]] = {step: list(games) for step, games in (kept or {}).items()}
        self._step_of: dict[str, int] = {}
        self._learned = steps.start
        self._spent: BudgetError | None = None
        self._missing: dict[int, int] = {}
        """Games of each step that was dealt and have not ended."""
        self._complete: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self._may_begin: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def __aenter__(self) -> Self:
        self._pump = asyncio.create_task(self._run())
        self._pump.add_done_callback(self._wake_all)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)

    async def games(self, step: int) -> list[Game]:
        """All games of a step, once they have ended. Raises what ended the stream before that."""
        if not self._pump.done():
            await self._complete[step].wait()
        if self._missing.get(step) != 0:
            self._pump.result()
            raise AssertionError(f"the stream ended before the games of step {step}")
        del self._missing[step], self._complete[step]
        return self._ended.pop(step)

    def ended(self, step: int) -> tuple[Game, ...]:
        """Those of its games that have ended so far."""
        return tuple(self._ended.get(step, ()))

    def learned(self, steps: int) -> None:
        """Says that the learner has made this many steps: later games may begin."""
        self._learned = steps
        for step, event in self._may_begin.items():
            if step - self._ahead <= steps:
                event.set()

    async def _run(self) -> None:
        async with aclosing(self._play(self._deals(), self._admit)) as played:  # type: ignore[type-var]
            async for game in played:
                step = self._step_of.pop(game.id)
                self._record(step, game)
                self._ended[step].append(game)
                self._expect(step, self._missing[step] - 1)

    def _deals(self) -> Iterator[Deal]:
        """Read as places become free, a step at a time."""
        for step in self._steps:
            done = {game.id for game in self._ended.setdefault(step, [])}
            deals = [deal for deal in self._deals_of(step) if deal.id not in done]
            self._step_of.update((deal.id, step) for deal in deals)
            self._expect(step, len(deals))
            if step - self._ahead <= self._learned:
                self._may_begin[step].set()
            yield from deals

    def _expect(self, step: int, missing: int) -> None:
        self._missing[step] = missing
        if not missing:
            self._complete[step].set()

    @asynccontextmanager
    async def _admit(self, deal: Deal) -> AsyncIterator[None]:
        await self._may_begin[self._step_of[deal.id]].wait()
        if self._spent is not None:
            raise self._spent
        try:
            async with self._admit_game(deal):
                yield
        except BudgetError as error:
            self._spent = error
            for event in self._may_begin.values():  # games of later steps wait in vain: an earlier step will not be complete
                event.set()
            raise

    def _wake_all(self, pump: asyncio.Task[None]) -> None:
        """Whoever waits for games learns that no more will come."""
        for event in self._complete.values():
            event.set()
