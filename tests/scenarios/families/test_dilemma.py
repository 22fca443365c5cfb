"""`dilemma`: best responses against brute force, verdicts by hand, the parser under attack, and what scripts win."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from random import Random
from typing import Any

import pytest

from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.families.dilemma import AUTOMATA, PHRASES, VAGUE, Dilemma, Private, Public, best_response
from sparring.scenarios.family import SPLITS, Message, View
from sparring.scenarios.game import GameState, Turn, replay
from sparring.scenarios.outcome import Outcome, Reason, Verdict
from sparring.scenarios.scenario import Scenario, Seat

FAMILY = Dilemma()
PD = Private(aa=6, ab=0, ba=9, bb=2)
STAG = Private(aa=8, ab=0, ba=4, bb=3)
CHICKEN = Private(aa=5, ab=3, ba=9, bb=0)


def scenario(own: Private = PD, rounds: int = 3, talk: int = 0, labels: tuple[str, str] = ("A", "B")) -> Scenario:
    public = Public(labels=labels, rounds=rounds, talk=talk, scene="share a flat")
    names = ("tenant", "flatmate")
    seats = tuple(
        Seat(
            name=name,
            private={"aa": own.aa, "ab": own.ab, "ba": own.ba, "bb": own.bb},
            instructions=FAMILY.instructions(public, own, i, names),
        )
        for i, name in enumerate(names)
    )
    fields = {"labels": list(labels), "rounds": rounds, "talk": talk, "scene": public.scene}
    return Scenario(family="dilemma", skin="shared flat", seed=0, public=fields, seats=seats, tags=FAMILY.tags("shared flat"))


def after(moves: str, own: Private = PD, cast: Mapping[str, str] | None = None) -> dict[str, Outcome]:
    """Outcomes of `moves`, tenant and flatmate in turn: "AB BA" is two rounds."""
    game = GameState(scenario(own, rounds=len(moves.split())), cast)
    for pair in moves.split():
        game.submit("tenant", f"MOVE: {pair[0]}")
        game.submit("flatmate", f"MOVE: {pair[1]}")
    outcome = game.outcome()
    assert outcome is not None
    return outcome


Act = Callable[[View[Any, Any], Random], str]


def play(instance: Scenario, players: tuple[Act, Act], cast: Mapping[str, str], seed: int) -> GameState:
    game = GameState(instance, cast)
    while game.outcome() is None:
        for seat in game.to_move:
            game.submit(seat, players[instance.index(seat)](game.view(seat), Random(f"{seed}/{seat}")))
    return game


@cache
def instance_number(seed: int) -> Scenario:
    return FAMILY.generate(seed)


def win_rate(act: Act, count: int, partners: tuple[str, ...] = FAMILY.partners) -> float:
    """Share of wins over `count` instances, seats and partners in rotation."""
    wins = 0
    for i in range(count):
        instance, partner, seat = instance_number(i), partners[i // 2 % len(partners)], i % 2
        script = FAMILY.strategies[partner]
        game = play(instance, (act, script) if seat == 0 else (script, act), {instance.seat_names[1 - seat]: partner}, i)
        outcome = game.outcome()
        assert outcome is not None and outcome[instance.seat_names[seat]].reason is not Reason.INVALID_COMMIT
        wins += outcome[instance.seat_names[seat]].verdict is Verdict.WIN
    return wins / count


# The best response


@pytest.mark.parametrize("name", AUTOMATA)
@pytest.mark.parametrize("own", [PD, STAG, CHICKEN, Private(aa=1, ab=9, ba=0, bb=4)])
def test_best_response_equals_brute_force_over_the_scripts_own_play(name: str, own: Private) -> None:
    for rounds in (1, 2, 3, 4, 5):
        totals = []
        for moves in product((0, 1), repeat=rounds):
            heard: list[Message] = []
            said: list[str] = []
            total = 0
            for move in moves:
                public = Public(labels=("A", "B"), rounds=rounds, talk=0, scene="")
                view = View(public, own, 1, ("x", "y"), tuple(heard), tuple(said), True)
                text = FAMILY.strategies[name](view, Random(0))
                total += own.points(move, "AB".index(text[-1]))
                heard.append(Message("x", f"MOVE: {'AB'[move]}"))
                said.append(text)
            totals.append(total)
        best, path = best_response(own, AUTOMATA[name], own.cooperative, rounds)
        assert best == max(totals) == sum(own.points(*pair) for pair in path)


def test_best_responses_by_hand() -> None:
    assert best_response(PD, AUTOMATA["tit_for_tat"], 0, 3) == (21, [(0, 0), (0, 0), (1, 0)])
    assert best_response(PD, AUTOMATA["always_defect"], 0, 3) == (6, [(1, 1)] * 3)
    assert best_response(STAG, AUTOMATA["pavlov"], 0, 3) == (24, [(0, 0)] * 3)
    assert best_response(CHICKEN, AUTOMATA["always_defect"], 0, 3) == (9, [(0, 1)] * 3)
    assert best_response(PD, AUTOMATA["tit_for_two_tats"], 0, 3)[0] == 24  # D C D: 9 + 6 + 9


def test_best_response_takes_the_automatons_own_label() -> None:
    """Automaton and player may call different labels cooperative in a hand-written scenario."""
    assert best_response(PD, AUTOMATA["always_cooperate"], 1, 2) == (4, [(1, 1), (1, 1)])


# Verdicts


@pytest.mark.parametrize(
    ("moves", "verdict", "score"),
    [
        ("AA AA BA", Verdict.WIN, 21 / 27),  # the best response, 21
        ("AA AA AA", Verdict.DRAW, 18 / 27),  # 18 < 18.9
        ("BA BB BB", Verdict.DRAW, 13 / 27),  # 9 + 2 + 2 > 6
        ("BA AB BA", Verdict.DRAW, 18 / 27),
    ],
)
def test_prisoners_dilemma_against_tit_for_tat(moves: str, verdict: Verdict, score: float) -> None:
    outcome = after(moves, cast={"flatmate": "tit_for_tat"})["tenant"]
    assert outcome.verdict is verdict
    assert outcome.score == round(score, 6)


def test_against_a_defector_there_is_no_draw() -> None:
    cast = {"flatmate": "always_defect"}
    assert after("BB BB BB", cast=cast)["tenant"].reason is Reason.TARGET_MET
    assert after("AB BB BB", cast=cast)["tenant"].reason is Reason.BELOW_TARGET
    assert after("AB AB AB", CHICKEN, cast)["tenant"].verdict is Verdict.WIN
    assert after("AB AB BB", CHICKEN, cast)["tenant"].verdict is Verdict.LOSS


@pytest.mark.parametrize("cast", [{}, {"flatmate": "naive"}, {"flatmate": "forecaster"}])
def test_without_an_automaton_the_target_is_mutual_cooperation(cast: dict[str, str]) -> None:
    """18 is three times both cooperating; 17 misses it, 6 is what defecting secures."""
    both = after("AA AA AA", cast=cast)
    assert [both[seat].verdict for seat in ("tenant", "flatmate")] == [Verdict.WIN, Verdict.WIN]
    near = after("AA BA BB", cast=cast)
    assert near["tenant"].reason is Reason.NEAR_TARGET
    assert near["tenant"].score == round(17 / 27, 6)
    assert near["flatmate"].verdict is Verdict.DRAW  # 6 + 0 + 2 > 6
    assert after("BB BB BB", cast=cast)["flatmate"].verdict is Verdict.LOSS


def test_each_seats_target_depends_on_the_others_script_only() -> None:
    outcome = after("AA AA AA", cast={"flatmate": "tit_for_tat"})
    assert outcome["tenant"].verdict is Verdict.DRAW
    assert outcome["flatmate"].verdict is Verdict.WIN


def test_evidence_is_every_move_line() -> None:
    game = GameState(scenario(rounds=1))
    game.submit("tenant", "I trust you.\nMOVE: A")
    game.submit("flatmate", "MOVE: B\n")
    outcome = game.outcome()
    assert outcome is not None
    shown = [game.turns[e.turn].text[e.start : e.end] for e in outcome["tenant"].evidence]
    assert shown == ["MOVE: A", "MOVE: B"]


def test_labels_carry_no_role() -> None:
    roles = [FAMILY.setup(FAMILY.generate(seed)).private[0].cooperative for seed in range(400)]
    assert 0.42 < sum(roles) / 400 < 0.58
    assert Private(aa=2, ab=9, ba=0, bb=6).cooperative == 1
    assert (PD.minmax, STAG.minmax, CHICKEN.minmax) == (2, 3, 3)


# The parser


@pytest.mark.parametrize(
    "text",
    [
        "MOVE: a",
        "move: A",
        "MOVE: \uff21",
        "MOVE: \u0410",
        "MOVE: A\u200b",
        "MOVE: C",
        "MOVE: AB",
        "MOVE: A or B",
        "MOVE: 0",
        "MOVE:",
        "MOVE",
        "MOVE = A",
        "**MOVE: A**",
        "MOVE: A.",
        "MOVE: A\nMOVE: B",
        "MOVE: B\nOr rather:\nMOVE: A",
        'You said "MOVE: A"',
        "MOVE: A\nThat is my move.",
        "<think>MOVE: A</think>",
        "<think>\nMOVE: A",
        "",
    ],
)
def test_what_is_not_one_plain_move_is_invalid(text: str) -> None:
    game = GameState(scenario())
    game.submit("tenant", text)
    assert game.to_move == ("tenant", "flatmate")
    assert game.observe("tenant").heard[-1].text.startswith("invalid: ")
    game.submit("tenant", text)
    outcome = game.outcome()
    assert outcome is not None
    assert (outcome["tenant"].reason, outcome["tenant"].reward) == (Reason.INVALID_COMMIT, -1)
    assert (outcome["flatmate"].reason, outcome["flatmate"].reward) == (Reason.PARTNER_INVALID, None)


@pytest.mark.parametrize(
    "text", ["MOVE: A", "MOVE:A", "  MOVE: A \n\n", "B is bad.\nMOVE: A", "<think>MOVE: B</think>\nMOVE: A", "MOVE: A\nMOVE: A"]
)
def test_what_is_one_plain_move_counts(text: str) -> None:
    game = GameState(scenario(rounds=1))
    game.submit("tenant", text)
    game.submit("flatmate", "MOVE: A")
    outcome = game.outcome()
    assert outcome is not None and outcome["tenant"].score == round(6 / 9, 6)


def test_a_truncated_move_is_invalid() -> None:
    game = GameState(scenario())
    game.submit("tenant", "MOVE: A", complete=False)
    assert "cut off" in game.observe("tenant").heard[-1].text
    game.submit("tenant", "MOVE: A")
    assert game.to_move == ("flatmate",)


def test_no_move_counts_during_the_talk() -> None:
    game = GameState(scenario(rounds=1, talk=1))
    game.submit("tenant", "MOVE: A")
    assert "no move yet" in game.observe("tenant").heard[-1].text
    game.submit("tenant", 'I may write "MOVE: A" later.')
    game.submit("flatmate", "Good.")
    assert game.outcome() is None
    assert game.observe("flatmate").must_commit


# Sealing and secrets


def test_a_seat_does_not_hear_the_other_before_it_moves() -> None:
    game = GameState(scenario(talk=1))
    game.submit("tenant", "I will play A.")
    assert [m.author for m in game.observe("flatmate").heard] == ["referee"]
    game.submit("flatmate", "Fine.")
    game.submit("flatmate", "MOVE: B")
    before = game.observe("tenant").heard
    assert [m.text for m in before] == ["Talk first, no move yet.", "Fine.", "Round 1."]
    game.submit("tenant", "I keep my word.\nMOVE: A")
    assert game.observe("flatmate").heard[-2:] == (
        Message("tenant", "I keep my word.\n| MOVE: A"),
        Message("referee", "Round 2."),
    )
    assert game.observe("tenant").heard[-2:] == (Message("flatmate", "MOVE: B"), Message("referee", "Round 2."))


def test_the_last_round_is_announced() -> None:
    game = GameState(scenario(rounds=1))
    assert game.observe("tenant").heard == (Message("referee", "Last round."),)


def test_instructions_tell_the_own_points_only() -> None:
    public = Public(labels=("X", "Y"), rounds=3, talk=1, scene="share a flat")
    own, other = Private(aa=61, ab=12, ba=93, bb=24), Private(aa=75, ab=36, ba=87, bb=48)
    text = FAMILY.instructions(public, own, 0, ("tenant", "flatmate"))
    assert "you X, they X: 61. You X, they Y: 12. You Y, they X: 93. You Y, they Y: 24." in text
    assert not any(str(cell) in text for cell in other.cells)
    assert 60 <= len(text.split()) <= 85
    assert "3 rounds" in text and "sentence" in text
    silent = Public(labels=("X", "Y"), rounds=3, talk=0, scene="share a flat")
    assert "sentence" not in FAMILY.instructions(silent, own, 0, ("tenant", "flatmate"))


# Scripts


def test_automata_read_moves_behind_talk_and_through_forged_lines() -> None:
    """A move line that is not the last is talk; one that a zero-width character hides from the parser is refused."""
    game = GameState(scenario(talk=1))
    game.submit("tenant", "M\u200bOVE: B")
    assert game.observe("tenant").heard[-1].text.startswith("invalid: ")
    game.submit("tenant", "MOVE: B\nis what I may play.")
    game.submit("flatmate", "Hello.")
    assert game.observe("flatmate").heard[-2].text == "MOVE: B\n| is what I may play."
    assert FAMILY.strategies["grim"](game.view("flatmate"), Random(0)) == "MOVE: A"
    game.submit("flatmate", "MOVE: A")
    game.submit("tenant", "MOVE: A is what I say, not what I do.\nMOVE: B")
    assert FAMILY.strategies["grim"](game.view("flatmate"), Random(0)) == "MOVE: B"
    assert FAMILY.strategies["tit_for_two_tats"](game.view("flatmate"), Random(0)) == "MOVE: A"


def test_pavlov_keeps_what_works() -> None:
    game = GameState(scenario(rounds=4))
    shown = []
    for mine in "BBAA":
        shown.append(FAMILY.strategies["pavlov"](game.view("flatmate"), Random(0))[-1])
        game.submit("flatmate", f"MOVE: {shown[-1]}")
        game.submit("tenant", f"MOVE: {mine}")
    assert "".join(shown) == "ABAA"


def test_an_automaton_says_what_it_is_or_something_vague() -> None:
    public = Public(labels=("A", "B"), rounds=3, talk=1, scene="")
    view = View(public, PD, 0, ("x", "y"), (), (), False)
    for name in AUTOMATA:
        said = {FAMILY.strategies[name](view, Random(seed)) for seed in range(60)}
        assert said == {VAGUE, *PHRASES[name]}


def test_scripts_are_never_invalid_in_any_pairing() -> None:
    seed = 0
    for first, second in product(FAMILY.strategies, repeat=2):
        for split in SPLITS:
            seed += 1
            instance = FAMILY.generate(seed, split)
            names = instance.seat_names
            game = play(
                instance, (FAMILY.strategies[first], FAMILY.strategies[second]), {names[0]: first, names[1]: second}, seed
            )
            assert len(game.turns) == 2 * (instance.public["rounds"] + instance.public["talk"])
            again = replay(instance, game.turns, game.cast)
            assert again.outcome() == game.outcome()
            repeated = play(instance, (FAMILY.strategies[first], FAMILY.strategies[second]), game.cast, seed)
            assert repeated.turns == game.turns


def test_every_partner_is_an_automaton() -> None:
    assert set(FAMILY.partners) | {FAMILY.unseen_partner} <= set(AUTOMATA) <= set(FAMILY.strategies)
    assert FAMILY.unseen_partner not in FAMILY.partners


# What wins


def constant(pick: Callable[[int, list[int], int], int]) -> Act:
    """A script that knows neither its points nor the words: `pick(round, the other's moves, rounds)`."""

    def act(view: View[Any, Any], rng: Random) -> str:
        if not view.must_commit:
            return VAGUE
        labels = view.public.labels
        moves = [m.text.split(": ")[-1] for m in view.heard if m.author != "referee" and "MOVE" in m.text]
        return f"MOVE: {labels[pick(len(moves), [labels.index(move) for move in moves], view.public.rounds)]}"

    return act


CONSTANTS: dict[str, Callable[[int, list[int], int], int]] = {
    "always first": lambda k, theirs, n: 0,
    "always second": lambda k, theirs, n: 1,
    "alternate": lambda k, theirs, n: k % 2,
    "copy from first": lambda k, theirs, n: theirs[-1] if theirs else 0,
    "copy from second": lambda k, theirs, n: theirs[-1] if theirs else 1,
    "oppose": lambda k, theirs, n: 1 - theirs[-1] if theirs else 0,
    "turn at the end": lambda k, theirs, n: int(k == n - 1),
    "copy, oppose at the end": lambda k, theirs, n: (theirs[-1] if k < n - 1 else 1 - theirs[-1]) if theirs else 0,
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_no_constant_script_comes_near_55_percent(name: str) -> None:
    assert win_rate(constant(CONSTANTS[name]), 1000) <= 0.45


def test_reflexes_lose_and_reading_the_points_wins() -> None:
    for reflex in ("always_cooperate", "always_defect", "tit_for_tat", "grim", "pavlov"):
        assert win_rate(FAMILY.strategies[reflex], 240) <= 0.45
    assert 0.1 <= win_rate(FAMILY.strategies["naive"], 400) <= 0.4
    assert win_rate(FAMILY.strategies["forecaster"], 400) >= 0.8
    assert win_rate(FAMILY.strategies["forecaster"], 200, (FAMILY.unseen_partner,)) >= 0.8


def test_the_forecaster_falls_to_the_naive_with_another_instances_points() -> None:
    def misled(view: View[Any, Any], rng: Random) -> str:
        other = FAMILY.setup(instance_number(rng.randrange(1000))).private[0]
        return FAMILY.strategies["forecaster"](replace(view, private=other), rng)

    assert win_rate(misled, 400) <= 0.4


# Instances


def test_witnesses_replay_to_wins() -> None:
    for seed in range(100):
        instance = FAMILY.generate(seed, SPLITS[seed % 4])
        certificate = FAMILY.certificate(FAMILY.setup(instance))
        assert certificate.winners == frozenset(instance.seat_names)
        scripts = {(w.seat, tuple(w.cast.values())) for w in certificate.witnesses}
        assert len(scripts) == len(certificate.witnesses) == 2 * (1 + len(FAMILY.partners) + 1)
        for witness in certificate.witnesses:
            game = replay(instance, [Turn(seat, text) for seat, text in witness.turns], witness.cast)
            outcome = game.outcome()
            assert outcome is not None and outcome[witness.seat].verdict is Verdict.WIN


def test_a_witness_holds_the_moves_that_the_script_really_makes() -> None:
    for seed in range(20):
        instance = FAMILY.generate(seed)
        for witness in FAMILY.certificate(FAMILY.setup(instance)).witnesses:
            game = GameState(instance, witness.cast)
            for seat, text in witness.turns:
                if seat in witness.cast and game.observe(seat).must_commit:
                    assert text == FAMILY.strategies[witness.cast[seat]](game.view(seat), Random(0))
                game.submit(seat, text)


def test_generate_is_deterministic_and_its_splits_differ() -> None:
    again = Dilemma()
    ids: dict[str, set[str]] = {split: {FAMILY.generate(seed, split).id for seed in range(60)} for split in SPLITS}
    assert all(FAMILY.generate(seed) == again.generate(seed) for seed in range(20))
    assert not ids["train"] & (ids["seed"] | ids["range"] | ids["skin"])
    assert all(FAMILY.generate(seed, "range").public["rounds"] >= 5 for seed in range(20))
    assert {FAMILY.generate(seed, "skin").skin for seed in range(20)} == {"web sellers"}
    digits = [cell for seed in range(60) for cell in FAMILY.generate(seed).seats[0].private.values()]
    assert (min(digits), max(digits)) == (0, 9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": 51}, "rounds"),
        ({"talk": 2}, "talk"),
        ({"labels": ["A", "A"]}, "labels"),
        ({"labels": ["A", "B:"]}, "labels"),
        ({"labels": ["A", "B\n"]}, "labels"),
    ],
)
def test_a_contradictory_scenario_is_refused(change: dict[str, Any], says: str) -> None:
    good = scenario()
    bad = Scenario(family="dilemma", skin=good.skin, seed=0, public={**good.public, **change}, seats=good.seats, tags=good.tags)
    with pytest.raises(ScenarioError, match=says):
        FAMILY.setup(bad)


def test_points_without_a_cooperative_label_are_refused() -> None:
    with pytest.raises(ScenarioError, match="aa must differ"):
        GameState(scenario(Private(aa=3, ab=0, ba=9, bb=3)))
