"""`split`: two seats divide a pool of things that each values differently and in private.

Theory: the Nash bargaining solution (Nash 1950; Raiffa 1982), with talk as in Lewis et al. (2017). They talk in turn, then
commit in secret to what they take; the takes must add up to the pool. A seat wins with its share of the division that has the
largest product of gains: it must get what it values itself and leave the rest. `draw` keeps only instances where half loses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import product
from math import ceil, prod
from random import Random
from typing import ClassVar

import msgspec

from sparring.scenarios.commit import Line, whole_number
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Certificate, Family, Record, Rejected, Setup, Stage, Strategy, View, Witness
from sparring.scenarios.outcome import Evidence, Outcome, Reason, Verdict
from sparring.scenarios.scenario import Relation, Resource, Tags

Take = tuple[int, ...]
"""How many of each kind a seat takes, in the order of `Public.kinds`."""


class Story(msgspec.Struct, frozen=True):
    """A skin: the seats' names, the kinds of things, and where it stands on the axes."""

    seats: tuple[str, str]
    kinds: tuple[str, str, str]
    relation: Relation
    resource: Resource
    context: str


STORIES: Mapping[str, Story] = {
    "attic": Story(("niece", "nephew"), ("books", "hats", "balls"), "equality matching", "goods", "family"),
    "garden shed": Story(("grower", "neighbour"), ("rakes", "pots", "hoses"), "communal sharing", "goods", "community"),
    "media hours": Story(("producer", "planner"), ("radio", "print", "video"), "market pricing", "services", "work"),
    "camping trip": Story(("hiker", "climber"), ("tents", "lamps", "ropes"), "communal sharing", "goods", "leisure"),
    "shared kitchen": Story(("tenant", "flatmate"), ("pans", "cups", "jars"), "equality matching", "goods", "home"),
}


class Public(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both seats know: the pool, how many messages they have together, and who speaks first."""

    kinds: tuple[str, ...]
    counts: tuple[int, ...]
    messages: int
    first: int


class Private(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one thing of each kind is worth to the seat, and the points that bring it no gain (disagreement)."""

    values: tuple[int, ...]
    floor: int


Table = Setup[Public, Private]


def points(values: tuple[int, ...], take: Take) -> int:
    return sum(value * number for value, number in zip(values, take, strict=True))


def rest(counts: tuple[int, ...], take: Take) -> Take:
    """What a take leaves of the pool."""
    return tuple(count - number for count, number in zip(counts, take, strict=True))


def takes(counts: tuple[int, ...]) -> list[Take]:
    """Everything that one seat may take, from nothing to the whole pool."""
    return list(product(*(range(count + 1) for count in counts)))


def best_divisions(public: Public, private: tuple[Private, ...]) -> list[tuple[Take, Take]]:
    """The divisions with the largest product of gains, (u_0 - d_0)(u_1 - d_1); none where no division brings both a gain."""
    found: list[tuple[Take, Take]] = []
    best = 1
    for take in takes(public.counts):
        shares = (take, rest(public.counts, take))
        gains = [points(own.values, share) - own.floor for own, share in zip(private, shares, strict=True)]
        if min(gains) <= 0 or prod(gains) < best:
            continue
        if prod(gains) > best:
            found, best = [], prod(gains)
        found.append(shares)
    return found


def targets(public: Public, private: tuple[Private, ...]) -> tuple[int, ...]:
    """The points that win: each seat's least over the best divisions, so that any of them wins for both."""
    divisions = best_divisions(public, private)
    return tuple(min(points(own.values, shares[seat]) for shares in divisions) for seat, own in enumerate(private))


class Split(Family[Public, Private]):
    name = "split"
    title = "dividing things with private values"
    commit_tags = ("ALLOCATION",)
    public_type = Public
    private_type = Private
    skins = tuple(STORIES)
    held_out_skins = frozenset({"shared kitchen"})

    def draw(self, rng: Random, skin: str, *, far: bool) -> tuple[Public, tuple[Private, ...], tuple[str, ...]]:
        story = STORIES[skin]
        least, most, dearest = (2, 5, 19) if far else (1, 3, 9)
        while True:
            counts = tuple(rng.randint(least, most) for _ in story.kinds)
            private = tuple(
                Private(values=tuple(rng.randint(0, dearest) for _ in story.kinds), floor=rng.randint(0, 2)) for _ in story.seats
            )
            public = Public(kinds=story.kinds, counts=counts, messages=rng.randint(3, 5), first=rng.randint(0, 1))
            if sum(counts) >= 4 and _rewards_trade(public, private):
                return public, private, story.seats

    def tags(self, skin: str) -> Tags:
        story = STORIES.get(skin, STORIES["attic"])
        axes = {"relation": story.relation, "resource": story.resource, "context": story.context}
        return msgspec.convert({"theory": "bargaining solution (Nash 1950)", "interdependence": "partly", **axes}, Tags)

    def instructions(self, public: Public, private: Private, seat: int, names: tuple[str, ...]) -> str:
        form, other = ",".join(f"{kind}=n" for kind in public.kinds), names[1 - seat]
        return (
            f"You are the {names[seat]}. You and the {other}, who has other values, divide {', '.join(public.kinds)}. "
            f"Talk about what you take. To accept, commit in secret to what the {other} leaves: end a message with the line "
            f"ALLOCATION: {form} naming what you take. Unless both takes add up to everything, both lose. You win with your Nash "
            f"share (highest product of both gains) or more. {public.messages} messages in all. There are "
            f"{named(public, public.counts)}. Points to you for one: {named(public, private.values)}. You lose with "
            f"{private.floor} points or fewer."
        )

    def check(self, public: Public, private: tuple[Private, ...]) -> None:
        if len(private) != 2:
            raise ScenarioError(f"split has 2 seats, this scenario has {len(private)}")
        kinds, rows = public.kinds, (public.counts, *(own.values for own in private))
        if not all(re.fullmatch(r"[a-z]{1,20}", kind) for kind in kinds) or len(set(kinds)) != len(kinds):
            raise ScenarioError("split: kinds must be different words of 1 to 20 plain lower-case letters")
        if not 1 <= len(kinds) <= 4 or any(len(row) != len(kinds) for row in rows):
            raise ScenarioError("split: give 1 to 4 kinds, and one count and one value per seat for each")
        if not (all(1 <= count <= 9 for count in public.counts) and 0 <= public.messages <= 100 and public.first in (0, 1)):
            raise ScenarioError("split: counts must lie in 1..9, messages in 0..100, first in 0..1")
        if not all(0 <= value <= 10**6 for own in private for value in (*own.values, own.floor)):
            raise ScenarioError("split: values and floors must lie in 0..1000000")
        if not best_divisions(public, private):
            raise ScenarioError("split: no division brings both seats more than their floor; lower a floor or raise a value")

    def stage(self, setup: Table, record: Record) -> Stage | None:
        committed = {entry.seat for entry in record if entry.commit is not None}
        if len(committed) == 2:
            return None
        if committed:
            (done,) = committed
            return Stage((1 - done,), must_commit=True, notice=f"The {setup.names[done]} has committed. Commit now.")
        if len(record) < setup.public.messages:
            return Stage(((setup.public.first + len(record)) % 2,))
        return Stage((0, 1), must_commit=True, notice="Time is up. Commit now.")

    def parse(self, setup: Table, record: Record, seat: int, line: Line) -> Take:
        public = setup.public
        found: dict[str, int] = {}
        for part in line.value.split(","):
            kind, equals, number = part.strip(" ").partition("=")
            if not equals or kind not in public.kinds:
                raise Rejected(f"write ALLOCATION: and what you take of {named(public, public.counts)}, in that form")
            if kind in found:
                raise Rejected(f"{kind} is named twice: name each kind once")
            count = public.counts[public.kinds.index(kind)]
            taken = whole_number(number, 0, count)
            if taken is None:
                raise Rejected(f"{kind} takes a plain whole number from 0 to {count}")
            found[kind] = taken
        return tuple(found.get(kind, 0) for kind in public.kinds)

    def settle(self, setup: Table, record: Record) -> tuple[Outcome, ...]:
        entries = {entry.seat: entry for entry in record if entry.commit is not None}
        shares = tuple(entries[seat].commit for seat in (0, 1))
        evidence = tuple(entries[seat].evidence for seat in (0, 1))
        if shares[1] != rest(setup.public.counts, shares[0]):
            return tuple(Outcome.of(Verdict.LOSS, 0.0, Reason.MISMATCH, evidence) for _ in shares)
        wanted = targets(setup.public, setup.private)
        return tuple(
            _graded(own, points(own.values, share), target, points(own.values, setup.public.counts), evidence)
            for own, share, target in zip(setup.private, shares, wanted, strict=True)
        )

    def should_win(self, setup: Table) -> frozenset[str]:
        return frozenset(setup.names)

    def certificate(self, setup: Table) -> Certificate:
        """Enumerates all divisions: the first with the largest product of gains wins for both seats."""
        shares = best_divisions(setup.public, setup.private)[0]
        order = (setup.public.first, 1 - setup.public.first)
        turns = tuple((setup.names[seat], f"ALLOCATION: {named(setup.public, shares[seat])}") for seat in order)
        witnesses = tuple(Witness(seat=name, cast={}, turns=turns) for name in setup.names)
        return Certificate(witnesses=witnesses, method="enumeration of divisions")

    strategies: ClassVar[Mapping[str, Strategy]]
    partners = ("conceder", "boulware", "tit_for_tat", "fair")
    unseen_partner = "linear"


def _rewards_trade(public: Public, private: tuple[Private, ...]) -> bool:
    """Whether each seat's target lies above half of what the pool is worth to it, and below all of it."""
    if not best_divisions(public, private):
        return False
    whole = (points(own.values, public.counts) for own in private)
    return all(0.5 * most < target < most for target, most in zip(targets(public, private), whole, strict=True))


def _graded(own: Private, gained: int, target: int, most: int, evidence: tuple[Evidence, ...]) -> Outcome:
    score = gained / most
    if gained >= target:
        return Outcome.of(Verdict.WIN, score, Reason.TARGET_MET, evidence)
    if gained > own.floor:
        return Outcome.of(Verdict.DRAW, score, Reason.NEAR_TARGET, evidence)
    return Outcome.of(Verdict.LOSS, score, Reason.BELOW_TARGET, evidence)


def named(public: Public, numbers: tuple[int, ...]) -> str:
    """`books=2,hats=1,balls=0`: every kind with its number."""
    return ",".join(f"{kind}={number}" for kind, number in zip(public.kinds, numbers, strict=True))


# Scripted players. In talk a seat names what it would take; the last take named is the proposal on the table.

View_ = View[Public, Private]
PHRASES = ("I take {}.", "Let me take {}.", "I want {}.", "I take {}?")
_SPEAKER = r"(?P<me>\b(?:i|me|mine)\b)|(?P<you>\byou (?:take|get|keep|have|receive)\b)|(?P<stop>[.;!?\n])"


def proposal(public: Public, text: str) -> Take | None:
    """What the writer of a message says it would take: its last statement of `kind=number` pairs; kinds not named count 0.

    Pairs after "you take" are the reader's; without others the writer takes the rest. `None` where a number exceeds the pool.
    """
    pair = rf"\b(?P<kind>{'|'.join(public.kinds)})\s?[=:]\s?(?P<number>\d{{1,9}})(?![\d.]*\d)"
    stated: list[tuple[bool, dict[str, int]]] = [(True, {})]
    for match in re.finditer(f"{_SPEAKER}|{pair}", text, re.IGNORECASE | re.ASCII):
        if match["kind"]:
            stated[-1][1][match["kind"].lower()] = int(match["number"])
        else:
            stated.append((not match["you"], {}))
    for mine in (True, False):
        for speaker, pairs in reversed(stated):
            if pairs and speaker is mine:
                take = tuple(pairs.get(kind, 0) for kind in public.kinds)
                within = all(number <= count for number, count in zip(take, public.counts, strict=True))
                return (take if mine else rest(public.counts, take)) if within else None
    return None


def _offers(view: View_) -> list[Take]:
    """What the other seat's messages leave to this one, oldest first."""
    named_takes = (proposal(view.public, message.text) for message in view.heard if message.author != "referee")
    return [rest(view.public.counts, take) for take in named_takes if take is not None]


def _asks(view: View_) -> list[Take]:
    return [take for text in view.said if (take := proposal(view.public, text)) is not None]


def _worth(view: View_, take: Take) -> float:
    """The share of the pool's worth to this seat that a take brings."""
    return points(view.private.values, take) / points(view.private.values, view.public.counts)


def _wants(view: View_) -> list[float]:
    """How much more of each kind the other asked for, on average, than of the kind it asked least: 0 if it asks for all."""
    counts, offers = view.public.counts, _offers(view)
    asked = [sum(1 - offer[k] / count for offer in offers) / max(1, len(offers)) for k, count in enumerate(counts)]
    return [share - min(asked) for share in asked]


def _trade(view: View_, least: float, rng: Random) -> Take:
    """A take worth at least `least` with nothing to spare, that leaves most of what the other seems to want."""
    values, counts = view.private.values, view.public.counts
    goal = max(1, min(points(values, counts), ceil(least * points(values, counts) - 1e-9)))

    def tight(take: Take) -> bool:
        worth = points(values, take)
        return worth >= goal and all(worth - value < goal for value, number in zip(values, take, strict=True) if number)

    found, wants = [take for take in takes(counts) if tight(take)], _wants(view)
    rng.shuffle(found)
    return max(found, key=lambda take: sum(want * left for want, left in zip(wants, rest(counts, take), strict=True)))


Level = Callable[[View_, Random, float], float]
Choice = Callable[[View_, float, Random], Take]


def _bargainer(level: Level, reserve: float = 0.35, choose: Choice = _trade) -> Strategy:
    """A player that asks for `level(view, rng, t)` of its worth at time t in [0, 1] and takes an offer that brings as much.

    When a commit is due it accepts the other's take if that was named last and leaves it its reserve; otherwise it commits what
    it named itself.
    """

    def act(view: View_, rng: Random) -> str:
        offers, asks = _offers(view), _asks(view)
        least = max(reserve, level(view, rng, min(1.0, len(view.said) / max(1, (view.public.messages - 1) // 2))))
        if view.must_commit:
            heard = sum(message.author != "referee" for message in view.heard)
            theirs = bool(offers) and heard - len(view.said) == (0 if view.public.first == view.seat else 1)
            if offers and (theirs or not asks) and _worth(view, offers[-1]) >= reserve:
                return _commit(view, offers[-1])
            return _commit(view, asks[-1] if asks else choose(view, least, rng))
        if offers and _worth(view, offers[-1]) >= least:
            return _commit(view, offers[-1])
        ask = choose(view, least, rng)
        return PHRASES[rng.randrange(len(PHRASES))].format(named(view.public, ask))

    return act


def _commit(view: View_, take: Take) -> str:
    return f"ALLOCATION: {named(view.public, take)}"


def _conceding(low: float, high: float, drop: float, beta: float = 1.0) -> Level:
    """Starts between `low` and `high` and falls by drop * t^(1/beta): late for beta < 1 (Faratin, Sierra & Jennings 1998)."""

    def level(view: View_, rng: Random, t: float) -> float:
        return rng.uniform(low, high) - drop * float(t ** (1 / beta))

    return level


def _tit_for_tat(view: View_, rng: Random, t: float) -> float:
    """Gives as much as it is given: its ask falls by what the other's offers rose, in its own worth."""
    offers = _offers(view)
    given = _worth(view, offers[-1]) - _worth(view, offers[0]) if offers else 0.0
    return rng.uniform(0.65, 0.9) - max(0.0, given)


def _fair(view: View_, rng: Random, t: float) -> float:
    """Its share of the best division under the values that the other's asks suggest."""
    counts, offers = view.public.counts, _offers(view)
    asked = [1.0 + sum(1 - offer[k] / count for offer in offers) for k, count in enumerate(counts)]

    def gains(take: Take) -> float:
        return _worth(view, take) * sum(value * left for value, left in zip(asked, rest(counts, take), strict=True))

    return _worth(view, max(takes(counts), key=gains))


def _anything(view: View_, least: float, rng: Random) -> Take:
    """Of each kind any number, or all of it with a chance that rises with its value: 0 at none, 60% at the dearest kind's."""
    counts, values = view.public.counts, view.private.values
    for _ in range(len(view.said) + 1):
        odds = [0.6 * value / max(values) for value in values]
        take = tuple(n if rng.random() < p else rng.randint(0, n) for n, p in zip(counts, odds, strict=True))
    return take


Split.strategies = {
    "naive": _bargainer(lambda view, rng, t: 0.35, 0.0, _anything),
    "greedy": _bargainer(_conceding(1.0, 1.0, 0.2)),
    "conceder": _bargainer(_conceding(0.8, 0.95, 0.4, beta=3.0)),
    "linear": _bargainer(_conceding(0.75, 1.0, 0.4)),
    "tit_for_tat": _bargainer(_tit_for_tat),
    "boulware": _bargainer(_conceding(0.8, 1.0, 0.4, beta=0.3)),
    "fair": _bargainer(_fair, reserve=0.5),
    "trader": _bargainer(_conceding(0.85, 0.85, 0.15)),
}
