"""Players: exact ids, masks and log-probs; limits; specs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from sparring.rollout.chat import ChatFormat
from sparring.rollout.errors import RolloutError
from sparring.rollout.player import PolicyPlayer, Sampling, ScriptedPlayer, Seating, Table, find_strategy, turn_seed
from sparring.rollout.player_spec import PlayerSpec, is_model, parse_player, scripts_of
from sparring.rollout.runner import play_game
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios.family import View
from sparring.scenarios.game import GameState
from sparring.scenarios.outcome import Outcome, Reason, Verdict
from sparring.scenarios.scenario import Scenario

Deals = Callable[..., list[Deal]]
SAMPLING = Sampling(max_tokens=24, temperature=0.7, top_p=0.9, context=600)


def play_one(deal: Deal, sampler: Any, chat: ChatFormat, **changes: Any) -> Game:
    sampling = msgspec.structs.replace(SAMPLING, **changes)
    return asyncio.run(play_game(deal, Seating(sampler=sampler, chat=chat, adapter="lora", sampling=sampling)))


def test_a_trajectory_holds_exactly_what_was_read_and_sampled(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    sampler = make_sampler()
    for deal in make_deals(20):
        sampler.requests.clear(), sampler.samples.clear()
        game = play_one(deal, sampler, chat)
        (trajectory,) = game.trajectories
        ids, logprobs, mask = list(sampler.requests[0].prompt_ids), [], []
        for request, sample in zip(sampler.requests, sampler.samples, strict=True):
            new = request.prompt_ids[len(logprobs) :]
            assert request.prompt_ids[: len(logprobs)] == ids[: len(logprobs)]
            ids = request.prompt_ids + sample.token_ids
            logprobs += [0.0] * len(new) + sample.logprobs
            mask += [False] * len(new) + [True] * len(sample.token_ids)
        assert (trajectory.token_ids, trajectory.logprobs, trajectory.loss_mask) == (ids, logprobs, mask)
        assert game.sampled_tokens == sum(len(sample.token_ids) for sample in sampler.samples)


def test_the_ids_read_as_the_game_was_spoken(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    """Everything said stands in the ids once, in order, whether the seat said it or heard it."""
    for deal in make_deals(12):
        game = play_one(deal, make_sampler(), chat)
        (trajectory,) = game.trajectories
        heard = GameState(deal.scenario)
        for turn in game.turns:
            heard.submit(turn.seat, turn.text, complete=turn.complete)
        text = chat.decode(trajectory.token_ids)
        said = [turn.text for turn in game.turns if turn.seat == trajectory.seat]
        lines = [f"{message.author}: {message.text}" for message in heard.observe(trajectory.seat).heard]
        assert text.startswith("user\n" + deal.scenario.seats[0].instructions)
        for line in said:
            assert line in text
        missing = [line for line in lines if line not in text]
        assert len(missing) <= 2 and missing == lines[len(lines) - len(missing) :]  # what came after the seat's last message


def test_what_is_asked_of_the_sampler(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    sampler = make_sampler("I say 40.")
    (deal,) = make_deals(1)
    play_one(deal, sampler, chat)
    first, second = sampler.requests[:2]
    assert (first.temperature, first.top_p, first.max_tokens, first.adapter) == (0.7, 0.9, 24, "lora")
    assert first.session == second.session == "d0/" + deal.scenario.seat_names[0]
    assert first.stop_ids == chat.stop_ids
    assert (
        first.prompt_ids == chat.opening(deal.scenario.seats[0].instructions, [])
        or first.prompt_ids[0] == chat.opening("", [])[0]
    )
    assert [request.seed for request in sampler.requests] == [
        turn_seed(0, deal.scenario.seat_names[0], turn) for turn in range(len(sampler.requests))
    ]
    assert not sampler.open_sessions


def test_turn_seeds_differ_and_stay() -> None:
    seeds = [turn_seed(seed, seat, turn) for seed in range(30) for seat in ("a", "b") for turn in range(5)]
    assert len(set(seeds)) == 300 and all(0 <= seed < 2**63 for seed in seeds)
    assert turn_seed(7, "seller", 2) == 5010557428715102828


def test_a_message_cut_by_the_token_limit_is_incomplete(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    (deal,) = make_deals(1)
    game = play_one(
        deal, make_sampler("I say 40 and a great many other words that nobody will ever come to read."), chat, max_tokens=4
    )
    (trajectory,) = game.trajectories
    own = [turn for turn in game.turns if turn.seat == trajectory.seat]
    assert own and not any(turn.complete for turn in own)
    assert trajectory.truncated == len(own) and sum(trajectory.loss_mask) == 4 * len(own)
    closes = [i for i in range(1, len(trajectory.loss_mask)) if trajectory.loss_mask[i - 1] and not trajectory.loss_mask[i]]
    assert len(closes) >= 1 and all(trajectory.token_ids[i] == chat.turn_end for i in closes)


def test_a_full_context_makes_the_seat_silent(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    (deal,) = make_deals(1)
    opening = len(chat.opening(deal.scenario.seats[0].instructions, [])) + 40
    sampler = make_sampler("I say 40, as I said before, and will say again.")
    game = play_one(deal, sampler, chat, context=opening)
    (trajectory,) = game.trajectories
    own = [turn for turn in game.turns if turn.seat == trajectory.seat]
    assert own[-1].text == "" and not own[-1].complete
    assert len(trajectory.token_ids) <= opening and game.error is None
    assert trajectory.verdict is Verdict.LOSS and game.outcomes[trajectory.seat].reason is Reason.INVALID_COMMIT
    assert trajectory.truncated == sum(not turn.complete for turn in own) >= 2


def test_an_opening_beyond_the_context_voids_the_game(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    (deal,) = make_deals(1)
    game = play_one(deal, make_sampler(), chat, context=20)
    assert game.error is not None and "the context holds 20: raise sampling.context" in game.error
    assert game.trajectories == () and all(outcome.verdict is Verdict.VOID for outcome in game.outcomes.values())


def test_trajectory_carries_the_outcome_and_its_group(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    games = [play_one(deal, make_sampler(), chat) for deal in make_deals(24)]
    for game in games:
        (trajectory,) = game.trajectories
        outcome = game.outcomes[trajectory.seat]
        assert (trajectory.verdict, trajectory.reward, trajectory.score) == (outcome.verdict, outcome.reward, outcome.score)
        assert (trajectory.policy, trajectory.temperature, trajectory.family) == ("lora@1", 0.7, "haggle")
        assert trajectory.group == f"{game.scenario.id}/{trajectory.seat}/script:linear"
    assert len({game.trajectories[0].group for game in games}) == 6
    assert {game.trajectories[0].reward for game in games} >= {-1.0}


def test_self_play_trains_each_seat_in_its_own_group(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    (deal,) = make_deals(1, "policy", "policy")
    game = play_one(deal, make_sampler("I say 40.", "How about 60?"), chat)
    first, second = game.trajectories
    assert (first.seat, second.seat) == deal.scenario.seat_names == deal.trained_seats
    assert first.group != second.group and {first.partner, second.partner} == {"policy"}
    assert game.sampled_tokens == sum(first.loss_mask) + sum(second.loss_mask)


def test_a_seat_that_never_spoke_has_no_trajectory(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    (deal,) = make_deals(1)
    player = PolicyPlayer(make_sampler(), chat, deal, deal.scenario.seat_names[0], adapter=None, sampling=SAMPLING)
    assert player.trajectory(Outcome.of(Verdict.VOID, 0.0, Reason.PARTNER_INVALID)) is None


def test_adapters_by_spec(make_deals: Deals, make_sampler: Any, chat: ChatFormat) -> None:
    sampler = make_sampler()
    for spec in ("policy", "base", "policy:champion"):
        play_one(make_deals(1, spec)[0], sampler, chat)
    adapters = [request.adapter for request in sampler.requests]
    assert set(adapters) == {"lora", None, "champion"} and adapters == sorted(adapters, key=["lora", None, "champion"].index)
    seating = Seating(sampler=sampler, chat=chat, adapter=None)
    sampler.requests.clear()
    asyncio.run(play_game(make_deals(1)[0], seating))
    assert {request.adapter for request in sampler.requests} == {None}


def test_a_script_meets_the_same_generator_at_every_turn(scenario: Scenario) -> None:
    drawn: list[float] = []

    def strategy(view: View[Any, Any], rng: Random) -> str:
        drawn.append(rng.random())
        return "hello"

    seat = scenario.seat_names[0]
    player = ScriptedPlayer(strategy, 7, seat)
    table = Table(GameState(scenario), seat)
    assert [asyncio.run(player.act(table)).text for _ in range(3)] == ["hello"] * 3
    assert drawn == [Random(f"7/{seat}").random()] * 3
    assert player.trajectory(Outcome.of(Verdict.WIN, 1.0, Reason.TARGET_MET)) is None


def test_specs() -> None:
    assert parse_player("policy") == PlayerSpec("policy")
    assert parse_player("base") == PlayerSpec("base")
    assert parse_player("policy:step-3") == PlayerSpec("policy", "step-3")
    assert parse_player("script:linear") == PlayerSpec("script", "linear")
    assert scripts_of({"a": "script:linear", "b": "policy", "c": "base"}) == {"a": "linear"}


@pytest.mark.parametrize(
    "spec", ["gpt-4o-mini", "openai:gpt-4o", "anthropic:x", "mine:org/name:7b", "local:/models/tiny", "gpt-4o-2024-08-06"]
)
def test_a_model_elsewhere_keeps_its_whole_spec(spec: str) -> None:
    """Which endpoints there are is the settings' word, so any prefix may be one."""
    assert parse_player(spec) == PlayerSpec("model", spec)
    assert is_model(spec)


@pytest.mark.parametrize("spec", ["policy", "base", "policy:x", "script:x", "", "unheard-of", "embedded-rubric"])
def test_what_is_no_model(spec: str) -> None:
    assert not is_model(spec)


@pytest.mark.parametrize("spec", ["", "Policy", "policy:", "base:x", "script", "script:", "openai:", " policy", "x y:z", ":x"])
def test_an_unknown_spec_names_the_choices(spec: str) -> None:
    with pytest.raises(
        RolloutError, match='choose "policy", "base", "policy:NAME", "script:NAME" or a model such as "openai:gpt-4o"'
    ):
        parse_player(spec)


def test_an_unknown_script_names_the_choices() -> None:
    with pytest.raises(RolloutError, match="haggle has no script 'nice': choose from naive, conceder"):
        find_strategy("haggle", "nice")


def test_a_policy_needs_a_sampler(make_deals: Deals) -> None:
    with pytest.raises(RolloutError, match="'policy' needs a model: give Seating a sampler"):
        asyncio.run(play_game(make_deals(1)[0], Seating()))
