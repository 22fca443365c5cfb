"""Seats played by models elsewhere: what they read, what their answers mean, what ends a game and what the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import zip_longest
from random import Random
from typing import Any

import pytest

from sparring.rollout.chat import SILENCE
from sparring.rollout.errors import BudgetError, CallError, CassetteError, RemoteError, RolloutError
from sparring.rollout.player import Player, Reply, Seating, Table
from sparring.rollout.remote.call import ChatModel, ChatReply, ChatRequest, Finish
from sparring.rollout.remote.chat_player import deal_bound, game_bound, most_turns
from sparring.rollout.remote.config import ChatSampling, Price
from sparring.rollout.remote.models import most_cost, most_usage
from sparring.rollout.runner import play_game
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry
from sparring.scenarios.game import replay
from sparring.scenarios.outcome import Reason, Verdict
from sparring.scenarios.scenario import Scenario

SPEC = "openai:gpt-4o"
PRICE = Price(input=2.5, cached=1.25, output=10.0)


class StubModel(ChatModel):
    """Answers in turn, with the last one from then on; an exception is raised. Keeps what it was asked."""

    def __init__(self, *answers: str | ChatReply | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[ChatRequest] = []
        self.off: list[str] = []

    async def chat(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return ChatReply(text=answer) if isinstance(answer, str) else answer

    def called_off(self, game: str) -> None:
        self.off.append(game)


class SlowModel(StubModel):
    """Never answers."""

    async def chat(self, request: ChatRequest) -> ChatReply:
        await asyncio.Event().wait()
        raise AssertionError


def new_deal(*players: str, family: str = "haggle", seed: int = 3) -> Deal:
    """The last player takes all seats that are left."""
    scenario = registry.get(family).generate(seed=seed)
    seats = dict(zip_longest(scenario.seat_names, players, fillvalue=players[-1]))
    return Deal(id="3/0/1", scenario=scenario, players=seats, seed=seed)


def play_deal(deal: Deal, model: ChatModel, **seating: Any) -> Game:
    return asyncio.run(play_game(deal, Seating(remote=model, **seating)))


def test_what_the_model_reads_is_the_game_as_its_seat_heard_it() -> None:
    model = StubModel("I say 40.", "", "Well.", "How about 50?", "DEAL_PRICE: 40")
    deal = new_deal(SPEC, SPEC)
    game = play_deal(deal, model, partner=ChatSampling(max_tokens=99, temperature=0.5), phase="train")
    assert len(model.asked) == 6
    for me in deal.scenario.seat_names:
        asked = [request for request in model.asked if request.seat == me]
        for number, request in enumerate(asked):
            assert [message.role for message in request.messages] == ["system", "user", *["assistant", "user"] * number]
            assert (request.model, request.max_tokens, request.temperature, request.purpose) == (SPEC, 99, 0.5, "partner")
            assert (request.key, request.game) == (f"train/3/0/1/{me}/{number}", "3/0/1")
        last = asked[-1].messages
        places = [number for number, turn in enumerate(game.turns) if turn.seat == me]
        said = [game.turns[number].text or SILENCE for number in places[:-1]]
        assert [message.text for message in last if message.role == "assistant"] == said
        seen = replay(deal.scenario, list(game.turns[: places[-1]])).observe(me)
        read = [message.text for message in last if message.role == "user" and message.text != SILENCE]
        assert last[0].text == seen.instructions
        assert "\n".join(read) == "\n".join(f"{message.author}: {message.text}" for message in seen.heard)
        assert (last[1].text == SILENCE) is (places[0] == 0)
        assert {message.author for message in seen.heard} >= {*deal.scenario.seat_names} - {me}


@pytest.mark.parametrize(
    ("answer", "complete"),
    [
        (ChatReply(text="I say 40."), True),
        (ChatReply(text="I say 4", finish=Finish.LENGTH), False),
        (ChatReply(text="I cannot help with that.", finish=Finish.REFUSED), True),
        (ChatReply(text="", finish=Finish.REFUSED), True),
    ],
)
def test_what_an_answer_means(answer: ChatReply, complete: bool) -> None:
    deal = new_deal(SPEC, SPEC)
    game = play_deal(deal, StubModel(answer))
    assert game.error is None
    assert {(turn.text, turn.complete) for turn in game.turns} == {(answer.text, complete)}


def test_an_empty_answer_stands_in_the_chat_as_silence() -> None:
    """Providers refuse a message without text."""
    model = StubModel(ChatReply(text="", finish=Finish.REFUSED))
    play_deal(new_deal(SPEC, SPEC), model)
    texts = [message.text for request in model.asked for message in request.messages if message.role == "assistant"]
    assert texts and set(texts) == {SILENCE}


def test_a_failed_call_voids_its_game() -> None:
    deal = new_deal(SPEC, "script:linear")
    game = play_deal(deal, StubModel("Hello.", CallError("openai:gpt-4o gave no answer in 6 attempts: 500")))
    assert game.error is not None and "CallError: openai:gpt-4o gave no answer in 6 attempts" in game.error
    assert {(outcome.verdict, outcome.reason) for outcome in game.outcomes.values()} == {(Verdict.VOID, Reason.PLAYER_FAILED)}


@pytest.mark.parametrize("error", [BudgetError("spent"), CassetteError("no such call"), RemoteError("no key")])
@pytest.mark.parametrize("family", ["haggle", "dilemma"])
def test_what_every_game_would_meet_ends_the_run_and_closes_the_players(error: Exception, family: str) -> None:
    """They are `ValueError`s like a player's failures, and once would have voided every game of the run one by one."""
    closed: list[str] = []
    seating = Seating(remote=StubModel(error))

    def seat(deal: Deal, name: str) -> Player:
        player = seating(deal, name)
        player.close = lambda: closed.append(name)  # type: ignore[method-assign]
        return player

    deal = new_deal(SPEC, SPEC, family=family)
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(play_game(deal, seat))
    assert sorted(closed) == sorted(deal.scenario.seat_names)


def test_without_a_way_to_call_it_a_model_cannot_sit_down() -> None:
    with pytest.raises(RolloutError, match="'openai:gpt-4o' is a model elsewhere: give Seating a `remote`"):
        asyncio.run(play_game(new_deal(SPEC, "script:linear"), Seating()))


class Chatterbox(Player):
    """Talks as long as it may, and commits wrongly once before it does as a script would."""

    def __init__(self, seat: str, turns: dict[str, int]) -> None:
        self._seat, self._turns, self._erred = seat, turns, False

    async def act(self, table: Table) -> Reply:
        self._turns[self._seat] += 1
        if not table.observation.must_commit:
            return Reply("Let us talk.")
        if not self._erred:
            self._erred = True
            return Reply("no commit at all")
        strategy = next(iter(table.game.family.strategies.values()))
        return Reply(strategy(table.view, Random(0)))


@pytest.mark.parametrize("family", registry.names())
def test_no_seat_is_asked_more_often_than_counted_on(family: str) -> None:
    for seed in range(12):
        deal = new_deal("policy", "policy", family=family, seed=seed)
        turns = dict.fromkeys(deal.scenario.seat_names, 0)
        game = asyncio.run(play_game(deal, lambda deal, seat, turns=turns: Chatterbox(seat, turns)))  # type: ignore[misc]
        assert game.error is None
        assert turns == most_turns(deal.scenario, {})


def test_a_games_bound_covers_its_calls_at_their_dearest() -> None:
    """Every message as long as it can be, every call at its worst: the calls' own worst cases fit."""
    sampling = ChatSampling(max_tokens=20)
    for family in registry.names():
        for players in ((SPEC, "script"), ("policy", SPEC), (SPEC, SPEC)):
            scenario: Scenario = registry.get(family).generate(seed=5)
            scripts = registry.get(family).partners
            names = [f"script:{scripts[0]}" if player == "script" else player for player in players]
            deal = Deal(id="d", scenario=scenario, players=dict(zip(scenario.seat_names, names, strict=True)), seed=5)
            model = StubModel("12345678" * 20)
            bound = deal_bound(deal, lambda spec: PRICE, partner=sampling, policy_tokens=20)
            talker = Seating(remote=model, partner=sampling)

            def seat(deal: Deal, name: str, talker: Seating = talker) -> Player:
                return Talker() if deal.players[name] == "policy" else talker(deal, name)

            asyncio.run(play_game(deal, seat))
            worst = sum(most_cost(PRICE, most_usage(request)) for request in model.asked)
            assert 0 < worst <= bound <= 40 * worst


class Talker(Player):
    """A policy that says as much as it can."""

    async def act(self, table: Table) -> Reply:
        return Reply("12345678" * 20)


def test_games_without_models_elsewhere_cost_nothing() -> None:
    def prices(spec: str) -> Price:
        raise AssertionError("nobody asks for a price")

    deals = [new_deal(*players) for players in (("policy", "script:linear"), ("policy", "base"), ("policy", "policy"))]
    assert [deal_bound(deal, prices, partner=ChatSampling(), policy_tokens=64) for deal in deals] == [0.0, 0.0, 0.0]


def test_a_bound_by_hand() -> None:
    price = Price(input=1.0, output=10.0)
    bound = game_bound(price=price, calls=2, opening_bytes=100, heard_bytes=30, answer_bytes=50, max_tokens=5)
    prompts = (100 + 30) + 64 + 2 * 16 + (100 + 2 * 30 + 50) + 64 + 4 * 16
    assert bound == pytest.approx((prompts * 1.0 + 2 * 5 * 10.0) / 1e6)


def test_each_seat_is_counted_at_its_own_price() -> None:
    deal = new_deal("mine:cheap", "mine:dear")
    prices: Mapping[str, Price] = {"mine:cheap": Price(input=0, output=0), "mine:dear": PRICE}
    other: Callable[[str], Price] = lambda spec: PRICE  # noqa: E731
    alone = deal_bound(deal, prices.__getitem__, partner=ChatSampling(), policy_tokens=64)
    assert 0 < alone < deal_bound(deal, other, partner=ChatSampling(), policy_tokens=64)


def test_the_model_is_told_of_a_game_whose_time_ran_out() -> None:
    deal, seating = new_deal(SPEC, "script:boulware"), {"phase": "evaluate"}
    model = SlowModel()
    game = asyncio.run(play_game(deal, Seating(remote=model, **seating), time_limit=0.02))
    assert game.error is not None
    assert game.error.startswith("the game took longer than 0.02 s")
    assert model.off == ["evaluate/3/0/1"]
    ended = StubModel("NO_DEAL")
    play_deal(deal, ended, **seating)
    assert ended.off == []
