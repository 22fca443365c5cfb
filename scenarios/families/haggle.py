"""`haggle`: two seats bargain over one price, each knowing only its own limit.

Theory: bilateral trade under private values (Myerson & Satterthwaite 1983). Seat 0 sells, seat 1 buys. They talk in turn, then
commit in secret: equal prices close the deal. Where the limits leave no zone of agreement, walking away is the right answer,
so neither agreeing nor refusing wins by reflex.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random
from typing import ClassVar

import msgspec

from sparring.scenarios.commit import Line, whole_number
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Certificate, Entry, Family, Record, Rejected, Setup, Stage, Strategy, View, Witness
from sparring.scenarios.outcome import Evidence, Outcome, Reason, Verdict
from sparring.scenarios.scenario import Tags

SELLER, BUYER = 0, 1
NO_ZONE_SHARE = 0.15
WIN_SHARE = 0.55
DRAW_SHARE = 0.45

STORIES: Mapping[str, tuple[str, str, str, str]] = {
    "used car": ("seller", "buyer", "a used car", "market"),
    "old piano": ("owner", "dealer", "an old piano", "market"),
    "salary": ("candidate", "employer", "a week of work", "work"),
    "garden plot": ("tenant", "neighbour", "a garden plot for the summer", "community"),
    "web shop": ("vendor", "client", "a small web shop", "online"),
}
"""Skin: the names of seats 0 and 1, what changes hands, and the context."""


class Public(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both seats know: the price range, how many messages they have together, who speaks first, and what is sold."""

    high: int
    messages: int
    first: int
    item: str


class Private(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The price beyond which a deal costs the seat more than it brings."""

    limit: int


Table = Setup[Public, Private]


class Haggle(Family[Public, Private]):
    name = "haggle"
    title = "price bargaining with private limits"
    commit_tags = ("DEAL_PRICE", "NO_DEAL")
    public_type = Public
    private_type = Private
    skins = tuple(STORIES)
    held_out_skins = frozenset({"web shop"})

    def draw(self, rng: Random, skin: str, *, far: bool) -> tuple[Public, tuple[Private, ...], tuple[str, ...]]:
        high = 299 if far else 99
        gap = -rng.randint(4, 20) if rng.random() < NO_ZONE_SHARE else rng.randint(12, 56)
        gap *= 3 if far else 1
        lower = rng.randint(5, high - abs(gap) - 5)
        limits = (lower, lower + gap) if gap > 0 else (lower - gap, lower)
        public = Public(high=high, messages=rng.randint(4, 6), first=rng.randint(0, 1), item=STORIES[skin][2])
        return public, (Private(limit=limits[0]), Private(limit=limits[1])), STORIES[skin][:2]

    def tags(self, skin: str) -> Tags:
        theory = "bilateral trade (Myerson & Satterthwaite 1983)"
        context = STORIES[skin][3] if skin in STORIES else "market"
        return Tags(theory=theory, interdependence="full", relation="market pricing", resource="money", context=context)

    def instructions(self, public: Public, private: Private, seat: int, names: tuple[str, ...]) -> str:
        verb, worth, other = ("sell", "costs", names[BUYER]) if seat == SELLER else ("buy", "is worth", names[SELLER])
        return (
            f"You are the {names[seat]}. You {verb} {public.item}; the {other} is across the table. Talk prices, then commit in "
            f"secret: end a message with the line DEAL_PRICE: n. Equal prices make the deal. The line NO_DEAL walks away: right "
            f"only when no price suits both. You win with more than half of the gain. Prices go from 0 to {public.high}, "
            f"{public.messages} messages in all. To you it {worth} {private.limit}."
        )

    def check(self, public: Public, private: tuple[Private, ...]) -> None:
        if len(private) != 2:
            raise ScenarioError(f"haggle has 2 seats, this scenario has {len(private)}")
        if not (1 <= public.high <= 10**6 and 0 <= public.messages <= 100 and public.first in (0, 1)):
            raise ScenarioError("haggle: high must lie in 1..1000000, messages in 0..100, first in 0..1")
        if not all(0 <= own.limit <= public.high for own in private) or private[SELLER].limit == private[BUYER].limit:
            raise ScenarioError(f"haggle: limits must lie in 0..{public.high} and differ")

    def stage(self, setup: Table, record: Record) -> Stage | None:
        committed = {entry.seat for entry in record if entry.commit is not None}
        if len(committed) == 2:
            return None
        if committed:
            (done,) = committed
            return Stage((1 - done,), must_commit=True, notice=f"The {setup.names[done]} has committed. Commit now.")
        if len(record) < setup.public.messages:
            return Stage(((setup.public.first + len(record)) % 2,))
        return Stage((SELLER, BUYER), must_commit=True, notice="Time is up. Commit now.")

    def parse(self, setup: Table, record: Record, seat: int, line: Line) -> int | str:
        if line.tag == "NO_DEAL":
            if line.value:
                raise Rejected("NO_DEAL stands alone")
            return "NO_DEAL"
        price = whole_number(line.value, 0, setup.public.high)
        if price is None:
            raise Rejected(f"DEAL_PRICE takes a plain whole number from 0 to {setup.public.high}")
        return price

    def settle(self, setup: Table, record: Record) -> tuple[Outcome, ...]:
        entries = {entry.seat: entry for entry in record if entry.commit is not None}
        commits = tuple(entries[seat].commit for seat in (SELLER, BUYER))
        evidence = tuple(entries[seat].evidence for seat in (SELLER, BUYER))
        limits = tuple(own.limit for own in setup.private)
        if limits[BUYER] > limits[SELLER]:
            return _settle_in_zone(limits, commits, evidence)
        return tuple(_settle_without_zone(seat, limits[seat], commits, evidence) for seat in (SELLER, BUYER))

    def should_win(self, setup: Table) -> frozenset[str]:
        return frozenset(setup.names)

    def certificate(self, setup: Table) -> Certificate:
        """Enumerates the joint commits: every price agreed on by both, and leaving together."""
        first, second = setup.names[setup.public.first], setup.names[1 - setup.public.first]
        lines = ["NO_DEAL", *(f"DEAL_PRICE: {price}" for price in range(setup.public.high + 1))]
        found: dict[str, Witness] = {}
        for line in lines:
            commit = "NO_DEAL" if line == "NO_DEAL" else int(line.split()[1])
            outcomes = self.settle(setup, tuple(Entry(i, i, commit, 0, 0) for i in (0, 1)))
            for name, outcome in zip(setup.names, outcomes, strict=True):
                if outcome.verdict is Verdict.WIN and name not in found:
                    found[name] = Witness(seat=name, cast={}, turns=((first, line), (second, line)))
        return Certificate(witnesses=tuple(found.values()), method="enumeration of joint commits")

    strategies: ClassVar[Mapping[str, Strategy]]
    partners = ("conceder", "boulware", "tit_for_tat", "holder")
    unseen_partner = "linear"


def _settle_in_zone(
    limits: tuple[int, ...], commits: tuple[int | str, ...], evidence: tuple[Evidence, ...]
) -> tuple[Outcome, ...]:
    left = tuple(e for commit, e in zip(commits, evidence, strict=True) if commit == "NO_DEAL")
    if left:
        return tuple(Outcome.of(Verdict.LOSS, 0.0, Reason.MISSED_AGREEMENT, left) for _ in limits)
    price, other = commits
    if price != other:
        return tuple(Outcome.of(Verdict.LOSS, 0.0, Reason.MISMATCH, evidence) for _ in limits)
    assert isinstance(price, int)
    gap = limits[BUYER] - limits[SELLER]
    # Two divisions, not 1 - share: only so are 9/20 and 11/20 the very floats that DRAW_SHARE and WIN_SHARE are.
    return tuple(_graded(gain / gap, evidence) for gain in (price - limits[SELLER], limits[BUYER] - price))


def _graded(share: float, evidence: tuple[Evidence, ...]) -> Outcome:
    """A deal by the seat's share of the surplus; below 0 it is a deal beyond the seat's own limit."""
    if share > WIN_SHARE:
        return Outcome.of(Verdict.WIN, share, Reason.TARGET_MET, evidence)
    if share >= DRAW_SHARE:
        return Outcome.of(Verdict.DRAW, share, Reason.NEAR_TARGET, evidence)
    return Outcome.of(Verdict.LOSS, share, Reason.DEAL_BEYOND_LIMIT if share < 0 else Reason.BELOW_TARGET, evidence)


def _settle_without_zone(seat: int, limit: int, commits: tuple[int | str, ...], evidence: tuple[Evidence, ...]) -> Outcome:
    """No price suits both: leaving wins, a price beyond one's own limit loses, another price gains nothing."""
    own = commits[seat]
    if own == "NO_DEAL":
        return Outcome.of(Verdict.WIN, 1.0, Reason.RIGHTLY_LEFT, (evidence[seat],))
    assert isinstance(own, int)
    if (limit - own if seat == SELLER else own - limit) > 0:
        return Outcome.of(Verdict.LOSS, 0.0, Reason.DEAL_BEYOND_LIMIT, (evidence[seat],))
    return Outcome.of(Verdict.DRAW, 0.5, Reason.NO_AGREEMENT, (evidence[seat],))


# Scripted players. A price is seen as its distance beyond the own limit, so one rule serves both seats.

View_ = View[Public, Private]
_PRICE = re.compile(r"(?<![\d.,-])\d{1,7}(?![\d.,]*\d)")
PHRASES = ("I say {}.", "How about {}?", "{} is my price.", "{}?")


def prices(text: str) -> list[int]:
    """The plain whole numbers of a message, in order."""
    return [int(found) for found in _PRICE.findall(text)]


def _gain(view: View_, price: int) -> int:
    return price - view.private.limit if view.seat == SELLER else view.private.limit - price


def _price(view: View_, gain: float) -> int:
    """The price that brings `gain`, inside the range."""
    sign = 1 if view.seat == SELLER else -1
    return min(view.public.high, max(0, view.private.limit + sign * round(gain)))


def _offers(view: View_) -> list[int]:
    """What the other seat named last in each of its messages."""
    heard = (prices(message.text) for message in view.heard if message.author != "referee")
    return [found[-1] for found in heard if found]


def _own(view: View_) -> list[int]:
    return [found[-1] for text in view.said if (found := prices(text))]


def _bargainer(gain_at: Callable[[View_, Random, float], float], reserve: int = 1) -> Strategy:
    """A player that asks for `gain_at(view, rng, t)` at time t in [0, 1] and takes an offer at least as good as its next ask.

    When time is up it commits the price named last, if that is within its reserve; once the other has committed, the price it
    named itself: an early commit accepts.
    """

    def act(view: View_, rng: Random) -> str:
        offers, own = _offers(view), _own(view)
        ask = _price(view, max(reserve, gain_at(view, rng, min(1.0, len(view.said) / max(1, (view.public.messages - 1) // 2)))))
        if view.must_commit:
            accepted = any("has committed" in m.text for m in view.heard if m.author == "referee")
            mine_last = (view.public.messages - 1 + view.public.first) % 2 == view.seat
            named = own if accepted or mine_last else offers
            price = named[-1] if named else ask
            return f"DEAL_PRICE: {price}" if _gain(view, price) >= reserve else "NO_DEAL"
        if offers and _gain(view, offers[-1]) >= max(reserve, _gain(view, ask)):
            return f"DEAL_PRICE: {offers[-1]}"
        return PHRASES[rng.randrange(len(PHRASES))].format(ask)

    return act


def _boulware(view: View_, rng: Random, t: float) -> float:
    """Concedes late (Faratin, Sierra & Jennings 1998, beta = 0.3)."""
    top = rng.randint(24, 40)
    return top * (1 - float(t ** (1 / 0.3))) + 6 * t


def _conceder(view: View_, rng: Random, t: float) -> float:
    """Concedes early (Faratin, Sierra & Jennings 1998, beta = 3)."""
    return rng.randint(20, 36) * (1 - 0.9 * float(t ** (1 / 3)))


def _linear(view: View_, rng: Random, t: float) -> float:
    return rng.randint(22, 40) * (1 - 0.8 * t)


def _tit_for_tat(view: View_, rng: Random, t: float) -> float:
    """Gives as much as it is given: its ask falls by what the other's offers rose."""
    offers, start = _offers(view), rng.randint(22, 38)
    given = _gain(view, offers[-1]) - _gain(view, offers[0]) if offers else 0
    return start - max(0, given)


def _holder(view: View_, rng: Random, t: float) -> float:
    return rng.randint(14, 26)


def _naive(view: View_, rng: Random, t: float) -> float:
    """Names a price anywhere between its limit and far beyond, and wanders."""
    steps = [rng.randint(1, 40) for _ in range(len(view.said) + 1)]
    return steps[-1]


Haggle.strategies = {
    "naive": _bargainer(_naive),
    "conceder": _bargainer(_conceder),
    "linear": _bargainer(_linear),
    "tit_for_tat": _bargainer(_tit_for_tat),
    "boulware": _bargainer(_boulware),
    "holder": _bargainer(_holder),
}
