"""`haggle`: the verdict table by hand, the certificate, reading prices, scripts, and what wins by reflex."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import pytest

from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.families.haggle import Haggle, Private, prices
from sparring.scenarios.family import SPLITS, Message, View
from sparring.scenarios.game import GameState, Turn, replay
from sparring.scenarios.outcome import Outcome, Reason, Verdict
from sparring.scenarios.scenario import Scenario, Seat

HAGGLE = Haggle()
Act = Callable[[View[Any, Any], Random], str]
WIN, DRAW, LOSS = Verdict.WIN, Verdict.DRAW, Verdict.LOSS


def scenario(seller: int, buyer: int, messages: int = 0, first: int = 0) -> Scenario:
    public = {"high": 99, "messages": messages, "first": first, "item": "a car"}
    limits = {"seller": seller, "buyer": buyer}
    seats = tuple(Seat(name=name, private={"limit": limit}, instructions="-") for name, limit in limits.items())
    return Scenario(family="haggle", skin="used car", seed=0, public=public, seats=seats, tags=HAGGLE.tags("used car"))


def line(commit: int | None) -> str:
    return "NO_DEAL" if commit is None else f"DEAL_PRICE: {commit}"


def settled(limits: tuple[int, int], seller: int | None, buyer: int | None) -> list[Outcome]:
    game = replay(scenario(*limits), [Turn("seller", line(seller)), Turn("buyer", line(buyer))])
    return list((game.outcome() or {}).values())


def play(dealt: Scenario, acts: tuple[Act, ...], seed: int) -> GameState:
    game = GameState(dealt)
    while game.outcome() is None:
        for seat in game.to_move:
            game.submit(seat, acts[dealt.index(seat)](game.view(seat), Random(f"{seed}/{seat}")))
    return game


MET, NEAR, BELOW, BEYOND = Reason.TARGET_MET, Reason.NEAR_TARGET, Reason.BELOW_TARGET, Reason.DEAL_BEYOND_LIMIT
IN_ZONE: list[tuple[tuple[int, int], int, tuple[Verdict, float, Reason], tuple[Verdict, float, Reason]]] = [
    # Limits 20 and 60: a gain of 40, so one price step is 0.025.
    ((20, 60), 43, (WIN, 0.575, MET), (LOSS, 0.425, BELOW)),
    ((20, 60), 42, (DRAW, 0.55, NEAR), (DRAW, 0.45, NEAR)),
    ((20, 60), 40, (DRAW, 0.5, NEAR), (DRAW, 0.5, NEAR)),
    ((20, 60), 38, (DRAW, 0.45, NEAR), (DRAW, 0.55, NEAR)),
    ((20, 60), 37, (LOSS, 0.425, BELOW), (WIN, 0.575, MET)),
    ((20, 60), 60, (WIN, 1.0, MET), (LOSS, 0.0, BELOW)),
    ((20, 60), 20, (LOSS, 0.0, BELOW), (WIN, 1.0, MET)),
    ((20, 60), 61, (WIN, 1.0, MET), (LOSS, 0.0, BEYOND)),
    ((20, 60), 19, (LOSS, 0.0, BEYOND), (WIN, 1.0, MET)),
    ((20, 60), 99, (WIN, 1.0, MET), (LOSS, 0.0, BEYOND)),
    # Gains of 20, where 1 - 11/20 is not 9/20 in floats.
    ((0, 20), 11, (DRAW, 0.55, NEAR), (DRAW, 0.45, NEAR)),
    ((0, 20), 9, (DRAW, 0.45, NEAR), (DRAW, 0.55, NEAR)),
    ((0, 20), 12, (WIN, 0.6, MET), (LOSS, 0.4, BELOW)),
    # A gain of 13: 7 of 13 is 0.538, 8 is 0.615.
    ((50, 63), 57, (DRAW, 0.538462, NEAR), (DRAW, 0.461538, NEAR)),
    ((50, 63), 58, (WIN, 0.615385, MET), (LOSS, 0.384615, BELOW)),
    ((0, 1), 0, (LOSS, 0.0, BELOW), (WIN, 1.0, MET)),
]


@pytest.mark.parametrize(("limits", "price", "seller", "buyer"), IN_ZONE)
def test_a_deal_is_judged_by_the_share_of_the_gain(limits: Any, price: int, seller: Any, buyer: Any) -> None:
    assert [(o.verdict, o.score, o.reason) for o in settled(limits, price, price)] == [seller, buyer]


@pytest.mark.parametrize("gap", range(1, 95))
def test_the_two_seats_of_a_deal_mirror_each_other(gap: int) -> None:
    """At every price inside the zone: one wins exactly if the other loses. Both borders once fell to rounding."""
    for price in range(3, 3 + gap + 1):
        seller, buyer = settled((3, 3 + gap), price, price)
        assert seller.reward is not None and buyer.reward is not None and seller.reward + buyer.reward == 0
        assert (seller.verdict is DRAW) == (45 * gap <= 100 * (price - 3) <= 55 * gap)
        assert seller.score + buyer.score == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize(
    ("seller", "buyer", "reason", "marked"),
    [
        (45, 44, "mismatched_commits", [0, 1]),
        (0, 99, "mismatched_commits", [0, 1]),
        (None, 45, "missed_agreement", [0]),
        (45, None, "missed_agreement", [1]),
        (None, None, "missed_agreement", [0, 1]),
    ],
)
def test_a_missed_agreement_loses_for_both(seller: int | None, buyer: int | None, reason: str, marked: list[int]) -> None:
    for outcome in settled((20, 60), seller, buyer):
        assert (outcome.verdict, outcome.score, outcome.reason) == (LOSS, 0.0, reason)
        assert [evidence.turn for evidence in outcome.evidence] == marked


WITHOUT_ZONE = [
    (None, None, (WIN, 1.0, "rightly_left"), (WIN, 1.0, "rightly_left")),
    (None, 40, (WIN, 1.0, "rightly_left"), (DRAW, 0.5, "no_agreement")),
    (60, None, (DRAW, 0.5, "no_agreement"), (WIN, 1.0, "rightly_left")),
    (60, 40, (DRAW, 0.5, "no_agreement"), (DRAW, 0.5, "no_agreement")),
    (60, 60, (DRAW, 0.5, "no_agreement"), (LOSS, 0.0, "deal_beyond_limit")),
    (59, 40, (LOSS, 0.0, "deal_beyond_limit"), (DRAW, 0.5, "no_agreement")),
    (50, 50, (LOSS, 0.0, "deal_beyond_limit"), (LOSS, 0.0, "deal_beyond_limit")),
    (None, 41, (WIN, 1.0, "rightly_left"), (LOSS, 0.0, "deal_beyond_limit")),
]


@pytest.mark.parametrize(("seller", "buyer", "first", "second"), WITHOUT_ZONE)
def test_without_a_zone_leaving_is_right(seller: int | None, buyer: int | None, first: Any, second: Any) -> None:
    """The seller's limit is 60, the buyer's 40."""
    outcomes = settled((60, 40), seller, buyer)
    assert [(o.verdict, o.score, o.reason) for o in outcomes] == [first, second]
    assert [[evidence.turn for evidence in o.evidence] for o in outcomes] == [[0], [1]]


def test_the_certificate_names_the_first_winning_joint_commit_of_each_seat() -> None:
    found = HAGGLE.certificate(HAGGLE.setup(scenario(20, 60, messages=4, first=1)))
    assert {w.seat: w.turns[0][1] for w in found.witnesses} == {"buyer": "DEAL_PRICE: 0", "seller": "DEAL_PRICE: 43"}
    assert all([seat for seat, _ in w.turns] == ["buyer", "seller"] for w in found.witnesses)
    found = HAGGLE.certificate(HAGGLE.setup(scenario(60, 40)))
    assert {w.seat: w.turns[0][1] for w in found.witnesses} == {"buyer": "NO_DEAL", "seller": "NO_DEAL"}
    # Between limits 0 and 1 of a range of 99 both can still win, each by a price at or beyond the other's limit.
    assert HAGGLE.certificate(HAGGLE.setup(scenario(0, 1))).winners == {"seller", "buyer"}
    # No price is beyond a buyer's limit of 99 for the seller to name, yet 99 itself gives it everything.
    assert HAGGLE.certificate(HAGGLE.setup(scenario(98, 99))).winners == {"seller", "buyer"}


def test_instances_have_the_drawn_zone_and_range() -> None:
    train = [HAGGLE.setup(HAGGLE.generate(seed)) for seed in range(400)]
    gaps = [setup.private[1].limit - setup.private[0].limit for setup in train]
    assert 0.1 < sum(gap < 0 for gap in gaps) / 400 < 0.2
    assert {abs(gap) for gap in gaps if gap < 0} <= set(range(4, 21)) and {gap for gap in gaps if gap > 0} <= set(range(12, 57))
    assert {setup.public.messages for setup in train} == {4, 5, 6} and {setup.public.first for setup in train} == {0, 1}
    far = [HAGGLE.setup(HAGGLE.generate(seed, "range")) for seed in range(50)]
    assert {setup.public.high for setup in train} == {99} and {setup.public.high for setup in far} == {299}


def test_the_instructions_hold_the_own_limit_and_no_other_number_but_the_public_ones() -> None:
    setup = HAGGLE.setup(scenario(23, 67, messages=5))
    for seat, own in enumerate(setup.private):
        text = HAGGLE.instructions(setup.public, own, seat, setup.names)
        assert prices(text) == [0, 99, 5, own.limit]
    assert "sell a car" in HAGGLE.instructions(setup.public, setup.private[0], 0, setup.names)
    assert "buy a car" in HAGGLE.instructions(setup.public, setup.private[1], 1, setup.names)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"high": 0}, "high must lie"),
        ({"messages": -1}, "messages in"),
        ({"first": 2}, "first in"),
        ({"high": 59}, "limits must lie in 0..59"),
    ],
)
def test_contradictory_parameters_are_refused(change: dict[str, Any], says: str) -> None:
    dealt = scenario(20, 60)
    with pytest.raises(ScenarioError, match=says):
        HAGGLE.setup(Scenario(**{**{f: getattr(dealt, f) for f in dealt.__struct_fields__}, "public": dealt.public | change}))
    with pytest.raises(ScenarioError, match=r"limits must lie in 0\.\.99 and differ"):
        HAGGLE.setup(scenario(40, 40))
    with pytest.raises(ScenarioError, match="haggle has 2 seats, this scenario has 1"):
        HAGGLE.check(HAGGLE.setup(dealt).public, (Private(limit=3),))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I say 50.", [50]),
        ("50? No: 45!", [50, 45]),
        ("$60 or 55,", [60, 55]),
        ("DEAL_PRICE: 40", [40]),
        ("0 is my price.", [0]),
        ("1.5 million", []),
        ("-5", []),
        ("12,000", []),
        ("99999999", []),
        ("fifty", []),
        ("", []),
    ],
)
def test_reading_prices(text: str, found: list[int]) -> None:
    assert prices(text) == found


# Scripts


def test_scripts_are_pure_and_never_invalid() -> None:
    pairs = list(product(HAGGLE.strategies.values(), repeat=2))
    for number in range(400):
        dealt, acts = HAGGLE.generate(number, SPLITS[number % 4]), pairs[number % len(pairs)]
        game = play(dealt, acts, number)
        outcome = game.outcome() or {}
        assert not {o.reason for o in outcome.values()} & {Reason.INVALID_COMMIT, Reason.PARTNER_INVALID}
        assert len(game.turns) <= dealt.public["messages"] + 2
        assert play(dealt, acts, number).turns == game.turns and replay(dealt, game.turns).outcome() == outcome


@pytest.mark.parametrize("name", HAGGLE.strategies)
def test_no_script_commits_beyond_its_limit(name: str) -> None:
    for number in range(60):
        dealt = HAGGLE.generate(number)
        game = play(dealt, (HAGGLE.strategies[name], HAGGLE.strategies["conceder"]), number)
        assert (game.outcome() or {})[dealt.seat_names[0]].reason is not Reason.DEAL_BEYOND_LIMIT


def asks(name: str, offers: tuple[int, ...], said: int, seat: int = 0) -> int | str:
    """What the script does as a seller with limit 20 after these offers: the price it asks for, or its commit line."""
    setup = HAGGLE.setup(scenario(20, 60, messages=6))
    heard = tuple(Message("buyer", f"How about {offer}?") for offer in offers)
    view = View(setup.public, Private(limit=20), seat, setup.names, heard, ("I say 90.",) * said, False)
    text = HAGGLE.strategies[name](view, Random(3))
    return text if text.startswith("DEAL") else prices(text)[-1]


def test_tit_for_tat_concedes_only_to_concessions() -> None:
    firm = asks("tit_for_tat", (), 0)
    assert firm == asks("tit_for_tat", (5,), 1) == asks("tit_for_tat", (5, 5), 2)
    assert isinstance(firm, int) and asks("tit_for_tat", (5, 12), 2) == firm - 7


def test_the_conceder_gives_early_and_boulware_late() -> None:
    conceder = [asks("conceder", (1,) * k, k) for k in range(3)]
    boulware = [asks("boulware", (1,) * k, k) for k in range(3)]
    assert all(isinstance(ask, int) for ask in conceder + boulware)
    assert conceder[0] - conceder[1] > 2 * (conceder[1] - conceder[2]) > 0  # type: ignore[operator]
    assert 0 <= boulware[0] - boulware[1] < boulware[1] - boulware[2]  # type: ignore[operator]
    assert asks("holder", (1,), 1) == asks("holder", (1, 1), 2)


def test_a_good_offer_is_taken_and_one_beyond_the_limit_never() -> None:
    for name in HAGGLE.partners:
        assert asks(name, (80,), 1) == "DEAL_PRICE: 80"
        assert isinstance(asks(name, (20,), 1), int)


# What wins by reflex


@pytest.fixture(scope="module")
def thousand() -> list[Scenario]:
    return [HAGGLE.generate(seed) for seed in range(1000)]


def win_rate(act: Act, instances: list[Scenario]) -> float:
    """Share of wins, seats and training partners in rotation."""
    won = 0
    for number, dealt in enumerate(instances):
        partner = HAGGLE.strategies[HAGGLE.partners[number // 2 % len(HAGGLE.partners)]]
        acts = (act, partner) if number % 2 == 0 else (partner, act)
        won += (play(dealt, acts, number).outcome() or {})[dealt.seat_names[number % 2]].verdict is WIN
    return won / len(instances)


def fixed(text: str, talk: str | None = None) -> Act:
    return lambda view, rng: text if talk is None or view.must_commit else talk


def echo(opening: str, *, early: bool) -> Act:
    """Agrees to whatever the partner named last, at its first chance or when time is up."""

    def act(view: View[Any, Any], rng: Random) -> str:
        named = [found[-1] for m in view.heard if m.author != "referee" and (found := prices(m.text))]
        if named and (early or view.must_commit):
            return f"DEAL_PRICE: {named[-1]}"
        return "NO_DEAL" if view.must_commit else opening

    return act


CONSTANTS: dict[str, Act] = {
    "leaves": fixed("NO_DEAL"),
    "leaves at the end": fixed("NO_DEAL", "Hello."),
    **{f"commits to {price}": fixed(f"DEAL_PRICE: {price}") for price in (25, 50, 75)},
    **{f"insists on {price}": fixed(f"DEAL_PRICE: {price}", f"I say {price}.") for price in (30, 40, 50, 60, 70)},
    "takes the first offer": echo("Your price?", early=True),
    "takes the last offer": echo("Your price?", early=False),
    "haggles at 50 and takes the last offer": echo("I say 50.", early=False),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_no_constant_script_wins_more_than_55_percent(name: str, thousand: list[Scenario]) -> None:
    assert win_rate(CONSTANTS[name], thousand) <= 0.55


def test_knowing_the_own_limit_pays_and_another_instances_does_not(thousand: list[Scenario]) -> None:
    some, tit_for_tat = thousand[:400], HAGGLE.strategies["tit_for_tat"]
    donors = iter([Private(**dealt.seats[i % 2].private) for i, dealt in enumerate(thousand[400:800])])
    shown: list[Private] = []

    def misled(view: View[Any, Any], rng: Random) -> str:
        """Reads one wrong limit a game."""
        if not view.said:
            shown.append(next(donors))
        return tit_for_tat(replace(view, private=shown[-1]), rng)

    informed, naive = win_rate(tit_for_tat, some), win_rate(HAGGLE.strategies["naive"], some)
    assert informed >= 0.5 and 0.25 <= naive <= 0.4
    assert win_rate(misled, some) <= informed - 0.1
