"""Showing games as they end: a live line on a terminal, a plain line every few seconds anywhere else, nothing when quiet.

Goes to stderr, so that what a command prints as its result stays clean.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from sparring.rollout.stats import RolloutStats
from sparring.rollout.trajectory import Game

REDRAW_SECONDS = 0.2
"""Drawing costs far more than a scripted game, so it does not follow every game."""


class Progress:
    """Live figures of a rollout; pass `add` to `play` as `on_game`. Its `stats` are those of the games that it was shown.

    Example:
        >>> with Progress("play", total=len(deals)) as progress:
        ...     async for game in play(deals, seating, on_game=progress.add):
        ...         ...
        >>> progress.stats.tally.win_rate
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        stats: RolloutStats | None = None,
        quiet: bool = False,
        console: Console | None = None,
        line_seconds: float = 10.0,
        clock: Callable[[], float] = time.perf_counter,
        note: Callable[[], str] | None = None,
    ) -> None:
        """`stats` may already hold games. `line_seconds` is the time between plain lines. `note` is read anew each time and put
        after the figures, where it is not empty."""
        self.title, self.total, self.quiet = title, total, quiet
        self.stats = RolloutStats(clock=clock) if stats is None else stats
        self._console = console or Console(stderr=True)
        self._note = note
        self._clock, self._drawn, self._line_seconds = clock, clock(), line_seconds
        self._live = _live_display(self._console) if self._console.is_terminal and not quiet else None
        self._shown = self.stats.games

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._task = self._live.add_task(self.title, total=self.total, figures="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._draw()
        if self._live is not None:
            self._live.stop()

    def add(self, game: Game) -> None:
        self.stats.add(game)
        if self._clock() - self._drawn >= (self._line_seconds if self._live is None else REDRAW_SECONDS):
            self._draw()

    @property
    def figures(self) -> str:
        """The running figures as one line."""
        stats, tally = self.stats, self.stats.tally
        parts = [f"win {tally.win_rate:.1%}"] if tally.counted else []
        parts += [f"{stats.tokens_per_second:,.0f} tokens/s"] if stats.sampled_tokens else []
        parts += [f"{stats.games_per_hour:,.0f} games/h"]
        parts += [f"{stats.failed} failed"] if stats.failed else []
        parts += [said] if self._note is not None and (said := self._note()) else []
        return ", ".join(parts)

    def _draw(self) -> None:
        self._drawn = self._clock()
        if self._live is not None:
            self._live.update(self._task, completed=self.stats.games, figures=self.figures)
            self._live.refresh()
        elif not self.quiet and self.stats.games > self._shown:
            done = f"{self.stats.games}" if self.total is None else f"{self.stats.games}/{self.total}"
            self._console.print(f"{self.title}: {done} games, {self.figures}", highlight=False, soft_wrap=True)
        self._shown = self.stats.games


class Count:
    """Says every few seconds how many of something there are so far; nothing where it is over before that, or when quiet.

    Example:
        >>> count = Count("step 3, judging", "verdicts")
        >>> judged = await score_games(games, judging, step=3, on_judgement=count.add)
    """

    def __init__(
        self,
        title: str,
        noun: str,
        *,
        quiet: bool = False,
        note: Callable[[], str] | None = None,
        console: Console | None = None,
        line_seconds: float = 10.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.title, self.noun, self.count = title, noun, 0
        self._quiet, self._note, self._console = quiet, note, console or Console(stderr=True)
        self._line_seconds, self._clock, self._said = line_seconds, clock, clock()

    def add(self, _: object = None) -> None:
        """One more."""
        self.count += 1
        if self._quiet or self._clock() - self._said < self._line_seconds:
            return
        self._said = self._clock()
        parts = [f"{self.title}: {self.count:,} {self.noun}"]
        parts += [said] if self._note is not None and (said := self._note()) else []
        self._console.print(", ".join(parts), highlight=False, markup=False, soft_wrap=True)


def _live_display(console: Console) -> RichProgress:
    """Redrawn by `Progress` alone: no thread of its own."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
    return RichProgress(*columns, TimeElapsedColumn(), console=console, auto_refresh=False)
