"""The referee's state machine: turn order, sealing, the one repair turn, what each seat hears, replay."""

from __future__ import annotations

import json
import time
from random import Random
from typing import Any

import msgspec
import pytest

from sparring.scenarios import registry
from sparring.scenarios.errors import NotYourTurn, ScenarioError
from sparring.scenarios.family import Message
from sparring.scenarios.game import MAX_TEXT, GameState, Turn, replay
from sparring.scenarios.outcome import REWARDS, Evidence, Outcome, Reason, Verdict
from sparring.scenarios.scenario import Scenario, Seat, canonical, load_scenario


def scenario(family: str, public: dict[str, Any], **private: dict[str, Any]) -> Scenario:
    """A hand-written instance; the seats' names are the keywords."""
    seats = tuple(Seat(name=name, private=own, instructions=f"You are the {name}.") for name, own in private.items())
    return Scenario(family=family, skin="-", seed=0, public=public, seats=seats, tags=registry.get(family).tags("-"))


def haggle(messages: int = 4) -> Scenario:
    public = {"high": 99, "messages": messages, "first": 0, "item": "a car"}
    return scenario("haggle", public, seller={"limit": 20}, buyer={"limit": 60})


def dilemma(talk: int = 0, rounds: int = 2) -> Scenario:
    own = {"aa": 6, "ab": 0, "ba": 9, "bb": 2}
    public = {"labels": ["A", "B"], "rounds": rounds, "talk": talk, "scene": "share a flat"}
    return scenario("dilemma", public, nurse=own, porter=own)


def auction(talk: int = 0) -> Scenario:
    public = {"high": 99, "format": "first", "talk": talk, "item": "a clock"}
    own = {"value": 50, "budget": 60}
    return scenario("auction", public, aunt=own, uncle=own, niece=own)


def said(game: GameState, seat: str) -> list[tuple[str, str]]:
    return [(message.author, message.text) for message in game.observe(seat).heard]


def test_seats_speak_in_turn_and_hear_each_other() -> None:
    game = GameState(haggle())
    assert game.to_move == ("seller",) and game.observe("seller").my_turn and not game.observe("buyer").my_turn
    game.submit("seller", "I say 50.")
    assert game.to_move == ("buyer",)
    assert said(game, "buyer") == [("seller", "I say 50.")] and said(game, "seller") == []
    game.submit("buyer", "40?")
    assert said(game, "seller") == [("buyer", "40?")]
    assert game.observe("buyer").instructions == "You are the buyer."
    assert game.outcome() is None


def test_out_of_turn_is_an_error_that_says_who_is_due() -> None:
    game = GameState(haggle(messages=0))
    assert game.to_move == ("seller", "buyer")
    game.submit("buyer", "NO_DEAL")
    with pytest.raises(NotYourTurn, match="buyer cannot speak now: the game waits for seller"):
        game.submit("buyer", "DEAL_PRICE: 50")
    game.submit("seller", "NO_DEAL")
    with pytest.raises(NotYourTurn, match="the game has ended"):
        game.submit("seller", "NO_DEAL")
    with pytest.raises(ScenarioError, match="no seat is called 'referee'"):
        game.submit("referee", "NO_DEAL")
    assert len(game.turns) == 2


def test_the_time_limit_is_a_commit_for_both() -> None:
    game = GameState(haggle(messages=2))
    game.submit("seller", "50?")
    game.submit("buyer", "40?")
    assert game.to_move == ("seller", "buyer") and game.observe("seller").must_commit
    assert said(game, "seller")[-1] == said(game, "buyer")[-1] == ("referee", "Time is up. Commit now.")


def test_a_sealed_commit_is_never_heard_and_its_talk_only_when_all_have_spoken() -> None:
    game = GameState(haggle(messages=0))
    game.submit("seller", "My last word.\nDEAL_PRICE: 50")
    assert said(game, "buyer") == [("referee", "Time is up. Commit now.")]
    game.submit("buyer", "DEAL_PRICE: 50")
    assert said(game, "buyer")[1:] == [("seller", "My last word.")]
    assert said(game, "seller")[1:] == []


def test_an_early_commit_hides_the_price_and_makes_the_other_commit() -> None:
    game = GameState(haggle())
    game.submit("seller", "I take it.\n DEAL_PRICE: 50 \n")
    assert said(game, "buyer") == [("seller", "I take it."), ("referee", "The seller has committed. Commit now.")]
    game.submit("buyer", "DEAL_PRICE: 51")
    outcome = ended(game)
    assert {o.reason for o in outcome.values()} == {Reason.MISMATCH}
    assert [evidence_text(game, e) for e in outcome["buyer"].evidence] == ["DEAL_PRICE: 50", "DEAL_PRICE: 51"]


def ended(game: GameState) -> dict[str, Outcome]:
    outcome = game.outcome()
    assert outcome is not None and game.to_move == ()
    return outcome


def evidence_text(game: GameState, evidence: Evidence) -> str:
    return game.turns[evidence.turn].text[evidence.start : evidence.end]


def test_a_repair_is_told_to_the_seat_alone_and_then_counts() -> None:
    game = GameState(haggle())
    game.submit("seller", "DEAL_PRICE: 1e9")
    assert game.to_move == ("seller",)
    told = "invalid: DEAL_PRICE takes a plain whole number from 0 to 99. Write your message again."
    assert said(game, "seller") == [("referee", told)] and said(game, "buyer") == []
    game.submit("seller", "I mean 50.")
    assert said(game, "buyer") == [("seller", "I mean 50.")]
    assert [turn.text for turn in game.turns] == ["DEAL_PRICE: 1e9", "I mean 50."]


def test_each_seat_has_one_repair_in_the_whole_game() -> None:
    game = GameState(dilemma(rounds=3))
    for seat in ("nurse", "porter"):
        game.submit(seat, "Hm.")
        game.submit(seat, "MOVE: A")
    assert game.outcome() is None
    game.submit("porter", "MOVE: C")
    outcome = ended(game)
    assert (outcome["porter"].verdict, outcome["porter"].reward, outcome["porter"].reason) == ("loss", -1, "invalid_commit")
    assert (outcome["nurse"].verdict, outcome["nurse"].reward, outcome["nurse"].reason) == ("void", None, "partner_invalid")
    assert [evidence_text(game, e) for o in outcome.values() for e in o.evidence] == ["MOVE: C"] * 2


def test_an_offender_at_a_table_of_three_loses_and_the_others_are_void() -> None:
    game = GameState(auction())
    game.submit("niece", "FINAL_BID: 40")
    game.submit("aunt", "FINAL_BID: 61")
    game.submit("aunt", "FINAL_BID: -1")
    assert {seat: o.verdict for seat, o in ended(game).items()} == {"aunt": "loss", "uncle": "void", "niece": "void"}


def test_pending_messages_of_three_are_delivered_together_in_seat_order() -> None:
    game = GameState(auction(talk=1))
    for waiting, (seat, text) in enumerate([("niece", "Hi."), ("aunt", "Ho.\nFINAL_BID: 7"), ("uncle", "Hu.")]):
        assert all(game.observe(name).heard == () for name in game.setup.names)
        assert len(game.to_move) == 3 - waiting and seat in game.to_move
        game.submit(seat, text)
    assert said(game, "niece") == [("aunt", "Ho."), ("uncle", "Hu."), ("referee", "Bid now.")]
    assert said(game, "aunt") == [("uncle", "Hu."), ("niece", "Hi.")]  # its bid stands: nothing more is asked of it
    assert game.to_move == ("uncle", "niece")
    game.submit("niece", "FINAL_BID: 8")
    game.submit("uncle", "FINAL_BID: 9")
    assert ended(game)["uncle"].reason is Reason.PROFIT


def test_the_order_of_sealed_messages_changes_nothing() -> None:
    bids = {"aunt": "FINAL_BID: 30", "uncle": "FINAL_BID: 45", "niece": "FINAL_BID: 45"}
    results = []
    for order in (("aunt", "uncle", "niece"), ("niece", "uncle", "aunt"), ("uncle", "aunt", "niece")):
        game = replay(auction(), [Turn(seat, bids[seat]) for seat in order])
        results.append({seat: (o.verdict, o.score, o.reason) for seat, o in sorted(ended(game).items())})
    assert results[0] == results[1] == results[2]


def test_a_revealed_commit_reaches_the_other_behind_any_amount_of_prose() -> None:
    """The reader's share of a message was cut at 2,000 characters, and the move with it."""
    game = GameState(dilemma(rounds=1))
    game.submit("nurse", "blah " * 2000 + "\nMOVE: B")
    game.submit("porter", "MOVE:" + " " * 5000 + "A")
    (heard,) = [text for author, text in said(game, "porter") if author == "nurse"]
    assert len(heard) < 2100 and heard.startswith("blah blah") and heard.endswith("blah\n| MOVE: B")
    assert said(game, "nurse")[-1] == ("porter", "MOVE: A")


def test_hidden_reasoning_reaches_nobody() -> None:
    game = GameState(dilemma(rounds=1))
    game.submit("nurse", "<think>a <think>b</think> c</think>Hello.\n<think>MOVE: A</think>MOVE: B")
    game.submit("porter", "MOVE: A")
    assert said(game, "porter")[-1] == ("nurse", "Hello.\n| MOVE: B")


def test_silence_is_not_delivered() -> None:
    game = GameState(haggle())
    game.submit("seller", " \u200b\n<think>hm</think>")
    assert said(game, "buyer") == [] and game.to_move == ("buyer",)


def test_a_script_remembers_only_what_was_accepted() -> None:
    game = GameState(haggle())
    game.submit("seller", "DEAL_PRICE: 100")
    assert game.view("seller").said == ()
    game.submit("seller", "60?")
    game.submit("buyer", "30?")
    view = game.view("seller")
    assert view.said == ("60?",) and view.heard[-1] == Message("buyer", "30?") and not view.must_commit
    assert (view.seat, view.names, view.private.limit) == (0, ("seller", "buyer"), 20)


@pytest.mark.parametrize("text", ["DEAL_PRICE: 50", "Fine.\nDEAL_PRICE: 5", "NO_DEAL"])
def test_a_cut_commit_is_refused(text: str) -> None:
    game = GameState(haggle())
    game.submit("seller", text, complete=False)
    assert said(game, "seller") == [
        ("referee", "invalid: your message was cut off: write a shorter one. Write your message again.")
    ]


@pytest.mark.parametrize("text", ["I would say that", "DEAL_PRICE: 50\nbut then", "Fine.\nDEAL_PR"])
def test_cut_talk_is_talk_where_no_commit_is_due(text: str) -> None:
    game = GameState(haggle())
    game.submit("seller", text, complete=False)
    assert game.to_move == ("buyer",) and game.turns == [Turn("seller", text, complete=False)]
    due = GameState(haggle(messages=0))
    due.submit("seller", text, complete=False)
    assert "a commit is due" in said(due, "seller")[-1][1]


def test_what_exceeds_the_length_limit_is_cut_and_counts_as_incomplete() -> None:
    game = GameState(haggle())
    game.submit("seller", "x" * MAX_TEXT + "\nDEAL_PRICE: 50")
    assert game.turns == [Turn("seller", "x" * MAX_TEXT, complete=False)] and game.to_move == ("buyer",)
    game.submit("buyer", "DEAL_PRICE: 50" + " " * MAX_TEXT)
    assert "cut off" in said(game, "buyer")[-1][1]


def test_lone_surrogates_are_stored_as_question_marks() -> None:
    game = GameState(haggle())
    game.submit("seller", "50\ud800?\udfff")
    assert game.turns == [Turn("seller", "50??" + "?")] and said(game, "buyer") == [("seller", "50???")]


def test_a_transcript_replays_to_the_same_verdict_at_every_prefix() -> None:
    for number, name in enumerate(registry.names() * 6):
        family = registry.get(name)
        dealt, rng = family.generate(number), Random(number)
        cast = {seat: rng.choice(family.partners) for seat in dealt.seat_names[1:]}
        game = GameState(dealt, cast)
        while game.outcome() is None:
            for seat in game.to_move:
                text = rng.choice(["Hm.", family.commit_tags[0], "", family.strategies["naive"](game.view(seat), rng)])
                if seat in game.to_move:
                    game.submit(seat, text, complete=rng.random() < 0.9)
        stored = msgspec.json.encode({"scenario": dealt, "turns": game.turns, "cast": game.cast})
        loaded = json.loads(stored)
        turns = msgspec.convert(loaded["turns"], list[Turn])
        again = replay(load_scenario(loaded["scenario"]), turns, loaded["cast"])
        assert again.outcome() == game.outcome() and again.turns == game.turns
        assert canonical(again.scenario) == canonical(dealt) and again.cast == cast
        assert [again.observe(seat) for seat in dealt.seat_names] == [game.observe(seat) for seat in dealt.seat_names]
        assert all(replay(dealt, turns[:end], cast).outcome() is None for end in range(len(turns)))


def test_replay_refuses_a_wrong_order() -> None:
    with pytest.raises(NotYourTurn, match="buyer cannot speak now"):
        replay(haggle(), [Turn("buyer", "40?")])


def test_a_cast_must_name_seats() -> None:
    assert GameState(dilemma(), {"porter": "grim"}).cast == {"porter": "grim"}
    with pytest.raises(ScenarioError, match="cast names 'doctor', but the seats are nurse, porter"):
        GameState(dilemma(), {"doctor": "grim"})


def test_a_verdict_carries_its_reward_and_a_clipped_score() -> None:
    assert REWARDS == {Verdict.WIN: 1, Verdict.DRAW: 0, Verdict.LOSS: -1, Verdict.VOID: None}
    assert [Outcome.of(Verdict.WIN, score, Reason.PROFIT).score for score in (-0.5, 1 / 3, 1.5)] == [0.0, 0.333333, 1.0]


def test_ten_thousand_messages_take_seconds_at_most() -> None:
    """Measured at about 20,000 messages a second on one core; the bound only catches a change of order."""
    begun = time.process_time()
    for _ in range(500):
        game = GameState(haggle(messages=18))
        for i in range(18):
            game.submit(("seller", "buyer")[i % 2], "I say 50.")
        game.submit("seller", "DEAL_PRICE: 40")
        game.submit("buyer", "DEAL_PRICE: 40")
        assert game.outcome() is not None
    assert time.process_time() - begun < 5
