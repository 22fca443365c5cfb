"""`auction`: one item, sealed bids, each seat knowing only its own value and budget.

Theory: sealed-bid auctions with independent private values (Vickrey 1961; Milgrom & Weber 1982). In the first-price format the
buyer pays its own bid, in the second-price format the highest bid of the others. Some games open with one round of talk, which
binds nobody. The price level changes from game to game and budgets cap bids, so no fixed number wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import ClassVar, Literal

import msgspec

from sparring.scenarios.commit import Line, whole_number
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Certificate, Family, Record, Rejected, Setup, Stage, Strategy, View, Witness
from sparring.scenarios.outcome import Evidence, Outcome, Reason, Verdict
from sparring.scenarios.scenario import Resource, Tags

MAX_SEATS = 6
SECOND_PRICE_SHARE = 0.4
TALK_SHARE = 0.25
BINDING_SHARE = 0.2
"""How often a seat's budget lies below its value."""

STORIES: Mapping[str, tuple[str, str, Resource, tuple[str, ...]]] = {
    "house clearance": (
        "an old painting",
        "market",
        "goods",
        ("dealer", "collector", "decorator", "curator", "tourist", "painter"),
    ),
    "radio licence": (
        "a radio licence",
        "work",
        "services",
        ("newspaper", "startup", "college", "network", "theatre", "council"),
    ),
    "concert ticket": (
        "a concert ticket",
        "online",
        "services",
        ("fan", "student", "reseller", "critic", "traveller", "drummer"),
    ),
    "beehive": ("a beehive", "community", "goods", ("gardener", "baker", "teacher", "farmer", "brewer", "florist")),
    "family clock": ("the family clock", "family", "goods", ("sister", "brother", "cousin", "aunt", "uncle", "nephew")),
}
"""Skin: what is sold, the context, the resource, and the names to draw seats from."""


class Public(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every seat knows: the highest bid allowed, who sets the price, whether a round of talk comes first, and the item."""

    high: int
    format: Literal["first", "second"]
    talk: Literal[0, 1]
    item: str


class Private(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the item is worth to the seat, and the most it may bid."""

    value: int
    budget: int


Table = Setup[Public, Private]


class Auction(Family[Public, Private]):
    name = "auction"
    title = "sealed-bid auction with private values and budgets"
    commit_tags = ("FINAL_BID",)
    public_type = Public
    private_type = Private
    skins = tuple(STORIES)
    held_out_skins = frozenset({"family clock"})

    def draw(self, rng: Random, skin: str, *, far: bool) -> tuple[Public, tuple[Private, ...], tuple[str, ...]]:
        """A price level first, then each seat's value around it: seats compete, and levels differ between games."""
        item, _, _, people = STORIES[skin]
        high, seats = (299, rng.randint(4, 6)) if far else (99, rng.choices((2, 3, 4), (70, 25, 5))[0])
        level = high * rng.uniform(0.12, 0.75)
        values = [max(2, min(high, round(level * rng.uniform(0.65, 1.35)))) for _ in range(seats)]
        private = tuple(Private(value=value, budget=_budget(rng, value, high)) for value in values)
        format_: Literal["first", "second"] = "second" if rng.random() < SECOND_PRICE_SHARE else "first"
        talk: Literal[0, 1] = 1 if rng.random() < TALK_SHARE else 0
        return Public(high=high, format=format_, talk=talk, item=item), private, tuple(rng.sample(people, seats))

    def tags(self, skin: str) -> Tags:
        _, context, resource, _ = STORIES.get(skin, STORIES["house clearance"])
        theory = "sealed-bid auctions (Vickrey 1961; Milgrom & Weber 1982)"
        return Tags(theory=theory, interdependence="full", relation="market pricing", resource=resource, context=context)

    def instructions(self, public: Public, private: Private, seat: int, names: tuple[str, ...]) -> str:
        pays = "its own bid" if public.format == "first" else "only the second highest bid"
        talk = "Everyone first says one sentence; then all bid at once." if public.talk else "All bid at once."
        return (
            f"You bid for {public.item} in secret. The highest bid buys; a tie goes to the bidder named first. You win by buying "
            f"below your worth, and lose by overpaying or by missing a profit. End with the line FINAL_BID: n, from 0 to "
            f"{public.high}. {talk} The buyer pays {pays}. Bidders: {', '.join(names[:-1])} and {names[-1]}; you are the "
            f"{names[seat]}. It is worth {private.value} to you; your budget is {private.budget}."
        )

    def check(self, public: Public, private: tuple[Private, ...]) -> None:
        if not 2 <= len(private) <= MAX_SEATS:
            raise ScenarioError(f"auction has 2 to {MAX_SEATS} seats, this scenario has {len(private)}")
        if not 1 <= public.high <= 10**6:
            raise ScenarioError("auction: high must lie in 1..1000000")
        if not all(1 <= own.value <= public.high and 0 <= own.budget <= public.high for own in private):
            raise ScenarioError(f"auction: values must lie in 1..{public.high} and budgets in 0..{public.high}")

    def stage(self, setup: Table, record: Record) -> Stage | None:
        """Talk, all at once, where the instance has it; then every seat that has not bid yet bids. A bid made early stands."""
        everyone = tuple(range(len(setup.names)))
        if setup.public.talk and not record:
            return Stage(everyone)
        bidders = tuple(seat for seat in everyone if seat not in {entry.seat for entry in record if entry.commit is not None})
        return Stage(bidders, must_commit=True, notice="Bid now." if record else "") if bidders else None

    def parse(self, setup: Table, record: Record, seat: int, line: Line) -> int:
        bid = whole_number(line.value, 0, setup.public.high)
        if bid is None:
            raise Rejected(f"FINAL_BID takes a plain whole number from 0 to {setup.public.high}")
        if bid > setup.private[seat].budget:
            raise Rejected(f"{bid} is above your budget of {setup.private[seat].budget}")
        return bid

    def settle(self, setup: Table, record: Record) -> tuple[Outcome, ...]:
        entries = {entry.seat: entry for entry in record if entry.commit is not None}
        seats = range(len(setup.names))
        return verdicts(setup, [entries[i].commit for i in seats], [entries[i].evidence for i in seats])

    def should_win(self, setup: Table) -> frozenset[str]:
        """Every seat: each has a profitable bid when the others bid half of what the item is worth to them.

        Not all seats can profit against equilibrium play (of truthful bidders only the highest does). Half the value is the
        first-price equilibrium of two seats with uniform values, so this leaves out hopeless seats and keeps the contest open.
        """
        return frozenset(setup.names)

    def certificate(self, setup: Table) -> Certificate:
        """For each seat, its lowest bid that wins against the reference bids of the others, found by enumeration."""
        reference = [min(own.value // 2, own.budget) for own in setup.private]
        nowhere = [Evidence(0, 0, 0)] * len(reference)
        found: list[Witness] = []
        for seat, own in enumerate(setup.private):
            for bid in range(min(own.budget, own.value) + 1):
                bids = [*reference[:seat], bid, *reference[seat + 1 :]]
                if verdicts(setup, bids, nowhere)[seat].verdict is Verdict.WIN:
                    talk = [(name, "Hello.") for name in setup.names if setup.public.talk]
                    lines = [(name, f"FINAL_BID: {b}") for name, b in zip(setup.names, bids, strict=True)]
                    found.append(Witness(seat=setup.names[seat], cast={}, turns=(*talk, *lines)))
                    break
        return Certificate(witnesses=tuple(found), method="enumeration of own bids against bids of half the value")

    strategies: ClassVar[Mapping[str, Strategy]]
    partners = ("timid", "shader", "talker", "overbidder")
    unseen_partner = "sniper"


def _budget(rng: Random, value: int, high: int) -> int:
    """Usually above the value, so that a bid of the whole budget overpays; sometimes below it, so that it binds."""
    share = rng.uniform(0.7, 0.95) if rng.random() < BINDING_SHARE else rng.uniform(1.1, 1.9)
    return max(1, min(high, round(value * share)))


def verdicts(setup: Table, bids: Sequence[int], evidence: Sequence[Evidence]) -> tuple[Outcome, ...]:
    """Each seat's outcome: the highest bid buys, the earliest seat among equals.

    The buyer wins below its value, draws at it and loses above it. A seat that did not buy is judged by its best reply to the
    others' bids. The lowest bid that would have bought is the winning bid w, or w + 1 where a tie would have gone to the
    winner; its price is that bid (first price) or w (second price). The seat missed a profit, and loses, exactly if this bid
    lies within its budget and the price below its value; else it was rightly outbid, a draw.
    """
    buyer = max(range(len(bids)), key=lambda seat: (bids[seat], -seat))
    runner_up = max((seat for seat in range(len(bids)) if seat != buyer), key=lambda seat: (bids[seat], -seat))
    first = setup.public.format == "first"
    found = []
    for seat, own in enumerate(setup.private):
        if seat == buyer:
            price = bids[buyer] if first else bids[runner_up]
            marks = (evidence[buyer],) if first else (evidence[buyer], evidence[runner_up])
            found.append(_bought(price, own.value, marks))
        else:
            needed = bids[buyer] + (seat > buyer)
            price = needed if first else bids[buyer]
            missed = needed <= min(own.budget, setup.public.high) and price < own.value
            found.append(_outbid(missed, (evidence[seat], evidence[buyer])))
    return tuple(found)


def _bought(price: int, value: int, evidence: tuple[Evidence, ...]) -> Outcome:
    if price < value:
        return Outcome.of(Verdict.WIN, 0.5 + 0.5 * (value - price) / value, Reason.PROFIT, evidence)
    if price == value:
        return Outcome.of(Verdict.DRAW, 0.5, Reason.NEAR_TARGET, evidence)
    return Outcome.of(Verdict.LOSS, 0.0, Reason.OVERPAID, evidence)


def _outbid(missed: bool, evidence: tuple[Evidence, ...]) -> Outcome:
    if missed:
        return Outcome.of(Verdict.LOSS, 0.0, Reason.MISSED_PROFIT, evidence)
    return Outcome.of(Verdict.DRAW, 0.5, Reason.RIGHTLY_OUTBID, evidence)


# Scripted players: a bid as a function of the view, and a sentence where there is talk.

View_ = View[Public, Private]
EAGER = ("I want this badly.", "I will bid high.", "This one is mine.")
COOL = ("I am only looking.", "I will bid low.", "It is not worth much to me.")
_EAGER = re.compile(r"\b(badly|high|mine|strong|win|all in|rich)\b", re.IGNORECASE)


def _bidder(bid: Callable[[View_, Random], float], eager: Callable[[View_, Random], bool]) -> Strategy:
    """A player that bids `bid`, cut to what it may bid; in the talk it sounds eager or cool."""

    def act(view: View_, rng: Random) -> str:
        if not view.must_commit:
            phrases = EAGER if eager(view, rng) else COOL
            return phrases[rng.randrange(len(phrases))]
        return f"FINAL_BID: {min(view.public.high, view.private.budget, max(0, round(bid(view, rng))))}"

    return act


def _coin(view: View_, rng: Random) -> bool:
    return rng.random() < 0.5


def _frank(view: View_, rng: Random) -> bool:
    return view.private.value > view.public.high // 2


def _bluffer(view: View_, rng: Random) -> bool:
    """Sounds eager above its station one time in three."""
    return _frank(view, rng) or rng.random() < 1 / 3


def _naive(view: View_, rng: Random) -> float:
    return rng.randint(0, view.private.budget)


def _timid(view: View_, rng: Random) -> float:
    return view.private.value * rng.uniform(0.3, 0.5)


def _overbidder(view: View_, rng: Random) -> float:
    return view.private.value * rng.uniform(0.9, 1.2)


def _truthful(view: View_, rng: Random) -> float:
    """Dominant in the second-price format (Vickrey 1961); without profit in the first-price format."""
    return view.private.value


def _shader(view: View_, rng: Random) -> float:
    """The equilibrium for uniform private values: (n - 1) / n of the value in the first-price format, the value in the second."""
    seats = len(view.names)
    return view.private.value * ((seats - 1) / seats if view.public.format == "first" else 1)


def _talker(view: View_, rng: Random) -> float:
    """Shades a little, and loses heart when another bidder sounds eager."""
    eager = any(_EAGER.search(message.text) for message in view.heard if message.author != "referee")
    return view.private.value * (rng.uniform(0.4, 0.6) if eager else rng.uniform(0.65, 0.95))


def _sniper(view: View_, rng: Random) -> float:
    """Stays just below its value in the first-price format, and at it in the second."""
    return view.private.value - (rng.randint(1, 3) if view.public.format == "first" else 0)


def _always_eager(view: View_, rng: Random) -> bool:
    return True


Auction.strategies = {
    "naive": _bidder(_naive, _coin),
    "timid": _bidder(_timid, _frank),
    "overbidder": _bidder(_overbidder, _frank),
    "truthful": _bidder(_truthful, _frank),
    "shader": _bidder(_shader, _frank),
    "talker": _bidder(_talker, _bluffer),
    "sniper": _bidder(_sniper, _always_eager),
}
