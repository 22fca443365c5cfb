"""The runner's own overhead: scripts' games through asyncio, beside the same games played in a plain loop in the same rounds.

Scripts answer at once, so nothing is gained by concurrency here: the difference is what tasks, queues, players and records cost
a game. It matters where it comes near a game's share of a model's time (10 ms at 100 games/s).
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from sparring.bench.rounds import Rounds
from sparring.bench.workload import play_scripts, scripted_deals
from sparring.rollout.player import Seating
from sparring.rollout.runner import play
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry


async def run(deals: list[Deal], concurrency: int) -> list[Game]:
    async with aclosing(play(deals, Seating(), concurrency=concurrency)) as games:  # type: ignore[type-var]
        return [game async for game in games]


@pytest.mark.benchmark(group="runner: scripts on every seat")
@pytest.mark.parametrize("concurrency", [1, 16, 128])
def test_runner(rounds: Rounds, concurrency: int) -> None:
    deals = [deal for family in registry.names() for deal in scripted_deals(family, rounds.size(32, 2))]
    bare = {"bare referee": lambda: [play_scripts(deal) for deal in deals]}
    games = rounds.time(lambda: asyncio.run(run(deals, concurrency)), beside=bare)
    by_id = {game.id: game for game in games}
    assert all(list(by_id[deal.id].turns) == play_scripts(deal).turns for deal in deals)
    rounds.rate(games=len(games), turns=sum(len(game.turns) for game in games))
    overhead = (rounds.seconds - rounds.seconds_beside("bare referee")) / len(games)
    rounds.note(f"{1e6 * overhead:,.0f} us a game over the bare referee", overhead_seconds_per_game=overhead)
    rounds.compare()
