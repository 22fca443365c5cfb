"""The runner: the same games at any concurrency, failures that stay with their game, nothing left behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing
from itertools import count
from typing import Any

import msgspec
import pytest

from sparring.rollout.chat import ChatFormat
from sparring.rollout.errors import PlayerError, RolloutError
from sparring.rollout.player import Player, PlayerFactory, Reply, Sampling, Seating, Table
from sparring.rollout.runner import play, play_game
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios.game import Turn, replay
from sparring.scenarios.outcome import Reason, Verdict
from sparring.scenarios.scenario import Scenario

Deals = Callable[..., list[Deal]]


async def collect(deals: Any, players: PlayerFactory, **options: Any) -> list[Game]:
    async with aclosing(play(deals, players, **options)) as games:
        return [game async for game in games]


def run(deals: Any, players: PlayerFactory, **options: Any) -> list[Game]:
    return asyncio.run(collect(deals, players, **options))


def timeless(games: list[Game]) -> dict[str, Game]:
    return {game.id: msgspec.structs.replace(game, seconds=0.0) for game in games}


class Odd(Player):
    """Says one thing, or does one thing wrong; counts how often it was closed."""

    closed = 0

    def __init__(self, say: str = "", error: BaseException | None = None, seconds: float = 0.0) -> None:
        self.say, self.error, self.seconds = say, error, seconds

    async def act(self, table: Table) -> Reply:
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return Reply(self.say)

    def close(self) -> None:
        Odd.closed += 1


def odd_in(deal_ids: set[str], player: Callable[[], Player], others: PlayerFactory) -> PlayerFactory:
    """Seats `player` at seat 1 of some deals."""

    def seat_one(deal: Deal, seat: str) -> Player:
        return player() if deal.id in deal_ids and seat == deal.scenario.seat_names[1] else others(deal, seat)

    return seat_one


def test_games_do_not_depend_on_concurrency(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    deals = make_deals(60) + [msgspec.structs.replace(deal, id=f"s{deal.id}") for deal in make_deals(20, "policy", "policy")]
    played = []
    for concurrency in (1, 64):
        seating = Seating(sampler=make_sampler(delay=0.004), chat=chat, sampling=Sampling(max_tokens=16))
        played.append(run(deals, seating, concurrency=concurrency))
    one, many = played
    assert [game.id for game in one] == [deal.id for deal in deals]
    assert [game.id for game in many] != [deal.id for deal in deals]
    assert timeless(one) == timeless(many) and len(one) == 80
    assert {game.outcomes[game.scenario.seat_names[0]].verdict for game in one} >= {Verdict.WIN, Verdict.LOSS}


def test_the_transcript_referees_to_the_outcome(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    for game in run(make_deals(30), Seating(sampler=make_sampler(), chat=chat)):
        assert replay(game.scenario, list(game.turns), game.cast).outcome() == game.outcomes
        assert game.error is None and game.seconds > 0


@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_concurrency_is_bounded_and_refilled(make_deals: Deals, make_sampler: Any, chat: ChatFormat, concurrency: int) -> None:
    sampler = make_sampler(delay=0.002)
    games = run(make_deals(40), Seating(sampler=sampler, chat=chat), concurrency=concurrency)
    assert len(games) == 40 and sampler.most_running == concurrency
    assert not sampler.open_sessions


def test_a_slow_game_delays_no_other(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    """One player answers only once every other game has ended."""

    async def main() -> list[Game]:
        others_done, ended = asyncio.Event(), list[str]()

        class Slow(Odd):
            async def act(self, table: Table) -> Reply:
                await others_done.wait()
                return Reply("hm")

        def on_game(game: Game) -> None:
            ended.append(game.id)
            if len(ended) == 29:
                others_done.set()

        seating = odd_in({"d0"}, Slow, Seating(sampler=make_sampler(), chat=chat))
        return await collect(make_deals(30), seating, concurrency=2, on_game=on_game, time_limit=20)

    games = asyncio.run(main())
    assert len(games) == 30 and games[-1].id == "d0" and games[-1].error is None


def test_endless_deals_are_read_as_places_become_free(make_deals: Deals) -> None:
    dealt: list[str] = []

    def endless() -> Iterator[Deal]:
        (deal,) = make_deals(1, "script:naive")
        for number in count():
            dealt.append(str(number))
            yield msgspec.structs.replace(deal, id=str(number), seed=number)

    async def first(wanted: int) -> list[str]:
        found = []
        async with aclosing(play(endless(), Seating(), concurrency=4)) as games:
            async for game in games:
                found.append(game.id)
                if len(found) == wanted:
                    break
        return found

    assert len(set(asyncio.run(first(50)))) == 50
    assert 50 <= len(dealt) <= 58


@pytest.mark.parametrize("error", [PlayerError("no key"), TimeoutError("read"), ConnectionResetError("gone"), ValueError("odd")])
def test_a_failed_player_voids_its_game_alone(make_deals: Deals, make_sampler: Any, chat: ChatFormat, error: Exception) -> None:
    sampler = make_sampler(delay=0.001)
    seating = Seating(sampler=sampler, chat=chat)
    deals = make_deals(12)
    games = timeless(run(deals, odd_in({"d3", "d7"}, lambda: Odd(error=error), seating)))
    rest = timeless(run(deals, seating))
    second = deals[3].scenario.seat_names[1]
    for game_id in ("d3", "d7"):
        failed = games.pop(game_id)
        rest.pop(game_id)
        assert failed.error == f"{failed.scenario.seat_names[1]} failed: {type(error).__name__}: {error}"
        for outcome in failed.outcomes.values():
            assert (outcome.verdict, outcome.reward, outcome.reason) == (Verdict.VOID, None, Reason.PLAYER_FAILED)
        assert all(trajectory.reward is None for trajectory in failed.trajectories)
    assert second in deals[3].players and games == rest
    assert not sampler.open_sessions


def test_a_programming_error_ends_the_run(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    sampler = make_sampler(delay=0.001)
    broken = odd_in({"d9"}, lambda: Odd(error=KeyError("bug")), Seating(sampler=sampler, chat=chat))
    with pytest.raises(KeyError, match="bug"):
        run(make_deals(40), broken, concurrency=8)
    assert sampler.running == 0 and not sampler.open_sessions


def test_the_time_limit_voids_a_game(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    sampler = make_sampler()
    stuck = odd_in({"d1"}, lambda: Odd(seconds=60), Seating(sampler=sampler, chat=chat))
    Odd.closed = 0
    games = timeless(run(make_deals(6), stuck, time_limit=0.4, concurrency=2))
    seat = games["d1"].scenario.seat_names[1]
    assert games["d1"].error == f"the game took longer than 0.4 s, waiting for {seat}"
    assert all(outcome.reason is Reason.PLAYER_FAILED for outcome in games["d1"].outcomes.values())
    assert sum(game.error is not None for game in games.values()) == 1 and len(games) == 6
    assert Odd.closed == 1 and not sampler.open_sessions


@pytest.mark.parametrize("way", ["break", "cancel"])
def test_cancellation_leaves_nothing_behind(make_deals: Deals, make_sampler: Any, chat: ChatFormat, way: str) -> None:
    sampler = make_sampler("I say 40.", delay=0.01)
    seating = Seating(sampler=sampler, chat=chat)

    async def read(started: asyncio.Event) -> int:
        seen = 0
        async with aclosing(play(make_deals(200), seating, concurrency=32)) as games:
            async for _ in games:
                seen += 1
                started.set()
                if way == "break" and seen == 5:
                    break
        return seen

    async def main() -> None:
        started = asyncio.Event()
        reader = asyncio.create_task(read(started))
        await started.wait()
        if way == "cancel":
            assert sampler.running > 0
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        else:
            assert await reader == 5
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert sampler.running == 0 and not sampler.open_sessions
        asked = len(sampler.requests)
        await asyncio.sleep(0.03)
        assert len(sampler.requests) == asked

    asyncio.run(main())


def test_ctrl_c_leaves_nothing_behind(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    sampler = make_sampler("I say 40.", delay=0.01)
    ended: list[str] = []

    def on_game(game: Game) -> None:
        ended.append(game.id)
        if len(ended) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(make_deals(100), Seating(sampler=sampler, chat=chat), concurrency=16, on_game=on_game)
    assert 3 <= len(ended) < 100
    assert sampler.running == 0 and not sampler.open_sessions


def sealed_deal(sealed: Scenario, players: tuple[str, str]) -> Deal:
    return Deal(id="sealed", scenario=sealed, players=dict(zip(sealed.seat_names, players, strict=True)), seed=1)


def test_seats_that_move_at_once_think_at_once(sealed: Scenario, make_sampler: Any, chat: ChatFormat) -> None:
    sampler = make_sampler("NO_DEAL", delay=0.01)
    (game,) = run([sealed_deal(sealed, ("policy", "policy"))], Seating(sampler=sampler, chat=chat))
    assert sampler.most_running == 2
    assert game.turns == tuple(Turn(seat, "NO_DEAL") for seat in sealed.seat_names)


def test_a_script_beside_a_policy_sees_no_more_than_the_policy(sealed: Scenario, make_sampler: Any, chat: ChatFormat) -> None:
    sampler = make_sampler("NO_DEAL")
    (game,) = run([sealed_deal(sealed, ("policy", "script:naive"))], Seating(sampler=sampler, chat=chat))
    (alone,) = run([sealed_deal(sealed, ("script:naive", "script:naive"))], Seating())
    assert tuple(turn.seat for turn in game.turns) == sealed.seat_names
    assert game.turns[1] == alone.turns[1] and game.turns[0] == Turn(sealed.seat_names[0], "NO_DEAL")


@pytest.mark.parametrize("slow", [0, 1])
def test_texts_of_simultaneous_moves_stand_in_the_order_of_the_table(sealed: Scenario, slow: int) -> None:
    def seating(deal: Deal, seat: str) -> Player:
        return Odd("NO_DEAL", seconds=0.02 if deal.scenario.index(seat) == slow else 0.001)

    (game,) = run([sealed_deal(sealed, ("base", "base"))], seating)
    assert tuple(turn.seat for turn in game.turns) == sealed.seat_names


def test_a_failure_stops_the_other_seat_of_the_same_stage(sealed: Scenario, make_sampler: Any, chat: ChatFormat) -> None:
    sampler = make_sampler("NO_DEAL", delay=30.0)
    deal = sealed_deal(sealed, ("policy", "base"))
    failing = odd_in({"sealed"}, lambda: Odd(error=OSError("cut")), Seating(sampler=sampler, chat=chat))
    (game,) = run([deal], failing)
    assert game.error == f"{sealed.seat_names[1]} failed: OSError: cut"
    assert game.trajectories == () and sampler.running == 0 and not sampler.open_sessions


def test_invalid_twice_is_a_loss_and_void_for_the_partner(sealed: Scenario) -> None:
    def seating(deal: Deal, seat: str) -> Player:
        return Odd("DEAL_PRICE: -1" if deal.scenario.index(seat) == 0 else "NO_DEAL")

    (game,) = run([sealed_deal(sealed, ("base", "base"))], seating)
    first, second = (game.outcomes[seat] for seat in sealed.seat_names)
    assert (first.verdict, first.reason) == (Verdict.LOSS, Reason.INVALID_COMMIT)
    assert (second.verdict, second.reason) == (Verdict.VOID, Reason.PARTNER_INVALID)
    assert [turn.seat for turn in game.turns] == [*sealed.seat_names, sealed.seat_names[0]]


def test_scripts_are_cast(make_deals: Deals) -> None:
    seen: list[dict[str, str]] = []

    def watching(deal: Deal, seat: str) -> Player:
        class Watcher(Odd):
            async def act(self, table: Table) -> Reply:
                seen.append(table.game.cast)
                return Reply("NO_DEAL")

        return Watcher() if deal.players[seat] == "policy" else Seating()(deal, seat)

    (deal,) = make_deals(1)
    (game,) = run([deal], watching)
    assert seen[0] == game.cast == deal.cast == {deal.scenario.seat_names[1]: "linear"}


def test_on_game_sees_every_game_in_order(make_deals: Deals) -> None:
    seen: list[str] = []
    games = run(make_deals(20, "script:holder"), Seating(), on_game=lambda game: seen.append(game.id), concurrency=4)
    assert seen == [game.id for game in games] and len(seen) == 20


def test_deals_that_cannot_be_seated_end_the_run(make_deals: Deals) -> None:
    (deal,) = make_deals(1, "script:naive")
    first, second = deal.scenario.seat_names
    missing = msgspec.structs.replace(deal, players={first: "script:naive"})
    with pytest.raises(RolloutError, match=f"deal 'd0' seats {first}, but its scenario has {first}, {second}"):
        run([missing], Seating())
    with pytest.raises(RolloutError, match="has no script 'nobody'"):
        run([msgspec.structs.replace(deal, players={first: "script:nobody", second: "script:naive"})], Seating())
    with pytest.raises(RolloutError, match="concurrency must be at least 1"):
        run([deal], Seating(), concurrency=0)


def test_no_deals_no_games() -> None:
    assert run([], Seating()) == []


def test_one_game_by_itself(make_deals: Deals) -> None:
    (deal,) = make_deals(1, "script:boulware")
    game = asyncio.run(play_game(deal, Seating()))
    assert game.players == deal.players and game.trajectories == ()
    assert replay(game.scenario, list(game.turns)).outcome() == game.outcomes
