"""Playing games concurrently, without turn barriers: each game goes on as soon as its own players have answered.

A failed player voids its own game and nothing else; an error of the program itself ends the run. Owns no statistics
(`stats.py`) and no players (`player.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext

from sparring.rollout.errors import BudgetError, CassetteError, RemoteError, RolloutError
from sparring.rollout.game_clock import game_clock
from sparring.rollout.player import Player, PlayerFactory, Reply, Table
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios.game import GameState
from sparring.scenarios.outcome import Outcome, Reason, Verdict

FAILURES = (ValueError, OSError)
"""What a player may raise without ending the run: `PlayerError` is a `ValueError`, `TimeoutError` an `OSError`."""

FATAL = (BudgetError, CassetteError, RemoteError)
"""Failures that every further game would meet too: they end the run, though they are `ValueError`s."""

Admit = Callable[[Deal], AbstractAsyncContextManager[None]]


def admit_all(deal: Deal) -> AbstractAsyncContextManager[None]:
    """Lets every game begin."""
    return nullcontext()


async def play(
    deals: Iterable[Deal],
    players: PlayerFactory,
    *,
    concurrency: int = 64,
    time_limit: float | None = None,
    on_game: Callable[[Game], None] | None = None,
    admit: Admit = admit_all,
) -> AsyncIterator[Game]:
    """Plays the deals, at most `concurrency` at a time, and yields each game as it ends.

    `deals` is read as places become free, so it may be endless. `time_limit` is in seconds a game. `admit` is entered before a
    game begins and left when it has ended: it may wait, and where it raises `BudgetError` no further game begins; those in play
    end and are yielded before the error is raised. Closing the iterator (`contextlib.aclosing`), cancelling the task that reads
    it or Ctrl-C cancels every game in flight and closes its players before it returns.

    Raises `RolloutError` for a deal that cannot be seated, and whatever a player raises beside `FAILURES`.

    Example:
        >>> async with aclosing(play(deals, Seating(), concurrency=64)) as games:
        ...     async for game in games:
        ...         stats.add(game)
    """
    if concurrency < 1:
        raise RolloutError(f"concurrency must be at least 1, not {concurrency}")
    finished: asyncio.Queue[Game | asyncio.Task[None]] = asyncio.Queue()
    unread = asyncio.Semaphore(2 * concurrency)
    source = iter(deals)
    spent: list[BudgetError] = []

    async def work() -> None:
        while True:
            await unread.acquire()
            deal = None if spent else next(source, None)
            if deal is None:
                unread.release()
                return
            try:
                async with admit(deal):
                    finished.put_nowait(await play_game(deal, players, time_limit))
            except BudgetError as error:
                spent.append(error)
                unread.release()
                return

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    for worker in workers:
        worker.add_done_callback(finished.put_nowait)
    try:
        running = len(workers)
        while running:
            done = await finished.get()
            if isinstance(done, Game):
                if on_game is not None:
                    on_game(done)
                yield done
                unread.release()
            else:
                done.result()
                running -= 1
        if spent:
            raise spent[0]
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def play_game(deal: Deal, players: PlayerFactory, time_limit: float | None = None) -> Game:
    """One game from deal to outcome. A failed player, or `time_limit` seconds gone by, makes it void for every seat."""
    started = time.perf_counter()
    game = GameState(deal.scenario, deal.cast)
    seated = _seat_all(deal, players)
    error: str | None = None
    try:
        async with game_clock(time_limit) as limit:
            await _take_turns(game, seated)
    except _SeatFailed as failure:
        error = str(failure)
    except TimeoutError:
        assert limit.expired()
        for player in seated.values():
            player.called_off()
        error = f"the game took longer than {time_limit:g} s, waiting for {' and '.join(game.to_move)}"
    finally:
        for player in seated.values():
            player.close()
    outcomes = (game.outcome() if error is None else None) or _void(deal)
    found = (seated[seat].trajectory(outcomes[seat]) for seat in deal.trained_seats)
    return Game(
        id=deal.id,
        scenario=deal.scenario,
        players=deal.players,
        turns=tuple(game.turns),
        outcomes=outcomes,
        trajectories=tuple(trajectory for trajectory in found if trajectory is not None),
        seconds=time.perf_counter() - started,
        error=error,
    )


class _SeatFailed(Exception):
    """Carries a player's failure out of the game that it ends."""


async def _take_turns(game: GameState, seated: dict[str, Player]) -> None:
    """Lets seats speak until the game ends. Seats that move at once think at once; the order of their texts is the table's."""
    while seats := game.to_move:
        if sum(seated[seat].waits for seat in seats) > 1:
            replies = await _ask_at_once(game, seats, seated)
        else:
            replies = [await _ask(game, seat, seated[seat]) for seat in seats]
        for seat, reply in zip(seats, replies, strict=True):
            if seat in game.to_move:
                game.submit(seat, reply.text, complete=reply.complete)


async def _ask(game: GameState, seat: str, player: Player) -> Reply:
    try:
        return await player.act(Table(game, seat))
    except FATAL:
        raise
    except FAILURES as error:
        raise _SeatFailed(f"{seat} failed: {type(error).__name__}: {error}") from error


async def _ask_at_once(game: GameState, seats: tuple[str, ...], seated: dict[str, Player]) -> list[Reply]:
    """All replies, or the first failure once the other seats have stopped."""
    asked = [asyncio.create_task(_ask(game, seat, seated[seat])) for seat in seats]
    try:
        return await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def _seat_all(deal: Deal, players: PlayerFactory) -> dict[str, Player]:
    if set(deal.players) != set(deal.scenario.seat_names):
        wanted = ", ".join(deal.scenario.seat_names)
        raise RolloutError(f"deal {deal.id!r} seats {', '.join(deal.players) or 'nobody'}, but its scenario has {wanted}")
    return {seat: players(deal, seat) for seat in deal.scenario.seat_names}


def _void(deal: Deal) -> dict[str, Outcome]:
    return {seat: Outcome.of(Verdict.VOID, 0.0, Reason.PLAYER_FAILED) for seat in deal.scenario.seat_names}
