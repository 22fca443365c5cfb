"""`dilemma`: a symmetric 2x2 game played a few times, both seats moving at once, with one word beforehand.

Theory: repeated prisoner's dilemma, stag hunt and chicken (Axelrod 1984; Skyrms 2004), cheap talk (Farrell & Rabin 1996). Which
game it is, and which label cooperates, must be read off one's own points: no label, and no habit of trusting or defecting, wins
by reflex. Against a scripted partner, an automaton, the target is the exact best response to it; against anyone else it is
what cooperating throughout would have brought both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import msgspec

from sparring.scenarios.commit import Line
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Certificate, Family, Record, Rejected, Setup, Stage, Strategy, View, Witness
from sparring.scenarios.outcome import Outcome, Reason, Verdict
from sparring.scenarios.scenario import Interdependence, Relation, Resource, Tags

LABELS = (("A", "B"), ("X", "Y"))
KINDS = ("prisoner's dilemma", "stag hunt", "chicken")
MAX_ROUNDS = 50
LOOKAHEAD = 6
"""Rounds that the forecaster looks ahead: its tree grows up to fourfold with each."""


@dataclass(frozen=True)
class Story:
    names: tuple[str, str]
    scene: str
    interdependence: Interdependence
    relation: Relation
    resource: Resource
    context: str


STORIES: Mapping[str, Story] = {
    "market stalls": Story(("baker", "grocer"), "run stalls side by side", "partly", "market pricing", "money", "market"),
    "shared flat": Story(("tenant", "flatmate"), "share a flat", "full", "communal sharing", "services", "family"),
    "forest": Story(("hunter", "trapper"), "hunt in one forest", "full", "equality matching", "goods", "community"),
    "night shift": Story(("nurse", "porter"), "share a night shift", "partly", "authority ranking", "status", "work"),
    "web sellers": Story(("seller", "reseller"), "sell the same lamp online", "partly", "market pricing", "money", "online"),
}


class Public(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both seats know: the two labels, the horizon, whether both speak once before it (1) or not (0), and the story."""

    labels: tuple[str, str]
    rounds: int
    talk: int
    scene: str


class Private(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The seat's points in a round, by its own move and then the other's: `a` is the first label, `b` the second."""

    aa: int
    ab: int
    ba: int
    bb: int

    @property
    def cells(self) -> tuple[int, int, int, int]:
        return self.aa, self.ab, self.ba, self.bb

    def points(self, own: int, other: int) -> int:
        return self.cells[2 * own + other]

    @property
    def cooperative(self) -> int:
        """The label that both do better with when both play it."""
        return 0 if self.aa > self.bb else 1

    @property
    def minmax(self) -> int:
        """The most that the seat can secure in a round. Pure moves suffice: in all three games the same move of the other is
        the worse one whatever the seat plays."""
        return min(max(self.aa, self.ba), max(self.ab, self.bb))


Table = Setup[Public, Private]

Machine = tuple[tuple[bool, int, int], ...]
"""A Moore machine, start state first: (cooperates, next state if the other cooperated, next state if it did not)."""

AUTOMATA: Mapping[str, Machine] = {
    "always_cooperate": ((True, 0, 0),),
    "always_defect": ((False, 0, 0),),
    "suspicious": ((False, 1, 0), (True, 1, 0)),
    "tit_for_two_tats": ((True, 0, 1), (True, 0, 2), (False, 0, 2)),
    "tit_for_tat": ((True, 0, 1), (False, 0, 1)),
    "grim": ((True, 0, 1), (False, 1, 1)),
    "pavlov": ((True, 0, 1), (False, 1, 0)),
}
"""Players whose moves follow from the other's moves alone. Pavlov cooperates after equal moves and defects after unequal ones."""


class Dilemma(Family[Public, Private]):
    name = "dilemma"
    title = "repeated two-by-two games with talk"
    commit_tags = ("MOVE",)
    public_type = Public
    private_type = Private
    skins = tuple(STORIES)
    held_out_skins = frozenset({"web sellers"})

    def draw(self, rng: Random, skin: str, *, far: bool) -> tuple[Public, tuple[Private, ...], tuple[str, ...]]:
        rounds = rng.randint(5, 6) if far else rng.choice((3, 3, 4))
        own = _draw_points(rng, rng.choice(KINDS), rounds, high=30 if far else 9)
        public = Public(labels=rng.choice(LABELS), rounds=rounds, talk=1, scene=STORIES[skin].scene)
        return public, (own, own), STORIES[skin].names

    def tags(self, skin: str) -> Tags:
        story = STORIES.get(skin, STORIES["market stalls"])
        return Tags(
            theory="repeated games (Axelrod 1984; Skyrms 2004)",
            interdependence=story.interdependence,
            relation=story.relation,
            resource=story.resource,
            context=story.context,
        )

    def instructions(self, public: Public, private: Private, seat: int, names: tuple[str, ...]) -> str:
        a, b = public.labels
        talk = "First each says one short sentence. Then" if public.talk else "Each round"
        return (
            f"You are the {names[seat]}. You and the {names[1 - seat]} {public.scene}. In each round both choose at once, and "
            f"score by both choices. Collect as many points as this partner allows; their total does not matter. "
            f"{talk} end your message with the line MOVE: {a} or MOVE: {b}, {public.rounds} rounds in all. Your points: "
            f"you {a}, they {a}: {private.aa}. You {a}, they {b}: {private.ab}. "
            f"You {b}, they {a}: {private.ba}. You {b}, they {b}: {private.bb}. Theirs mirror yours."
        )

    def check(self, public: Public, private: tuple[Private, ...]) -> None:
        if len(private) != 2:
            raise ScenarioError(f"dilemma has 2 seats, this scenario has {len(private)}")
        if not (1 <= public.rounds <= MAX_ROUNDS and public.talk in (0, 1)):
            raise ScenarioError(f"dilemma: rounds must lie in 1..{MAX_ROUNDS}, talk in 0..1")
        if public.labels[0] == public.labels[1] or not all(re.fullmatch(r"[A-Za-z]{1,12}", label) for label in public.labels):
            raise ScenarioError("dilemma: labels must be two different words of 1 to 12 plain letters")
        if not all(0 <= cell <= 999 for own in private for cell in own.cells) or any(own.aa == own.bb for own in private):
            raise ScenarioError("dilemma: points must lie in 0..999, and aa must differ from bb")

    def stage(self, setup: Table, record: Record) -> Stage | None:
        done = len(record) // 2 - setup.public.talk
        if done < 0:
            return Stage((0, 1), notice="Talk first, no move yet.")
        if done == setup.public.rounds:
            return None
        notice = "Last round." if done + 1 == setup.public.rounds else f"Round {done + 1}."
        return Stage((0, 1), must_commit=True, reveal=True, notice=notice)

    def parse(self, setup: Table, record: Record, seat: int, line: Line) -> int:
        if len(record) // 2 < setup.public.talk:
            raise Rejected("no move yet: say one sentence")
        if line.value not in setup.public.labels:
            raise Rejected(f"MOVE takes {setup.public.labels[0]} or {setup.public.labels[1]}")
        return setup.public.labels.index(line.value)

    def settle(self, setup: Table, record: Record) -> tuple[Outcome, ...]:
        moves = [entry for entry in record if entry.commit is not None]
        evidence = tuple(entry.evidence for entry in moves)
        played = [[entry.commit for entry in moves if entry.seat == seat] for seat in (0, 1)]
        outcomes = []
        for seat, own in enumerate(setup.private):
            total = sum(own.points(mine, other) for mine, other in zip(played[seat], played[1 - seat], strict=True))
            score = total / (setup.public.rounds * max(own.cells))
            if 10 * total >= _target_times_ten(setup, seat):
                outcomes.append(Outcome.of(Verdict.WIN, score, Reason.TARGET_MET, evidence))
            elif total > setup.public.rounds * own.minmax:
                outcomes.append(Outcome.of(Verdict.DRAW, score, Reason.NEAR_TARGET, evidence))
            else:
                outcomes.append(Outcome.of(Verdict.LOSS, score, Reason.BELOW_TARGET, evidence))
        return tuple(outcomes)

    def should_win(self, setup: Table) -> frozenset[str]:
        return frozenset(setup.names)

    def certificate(self, setup: Table) -> Certificate:
        """The best response to every partner by dynamic programming, and cooperation throughout where no script plays."""
        together = [own.cooperative for own in setup.private]
        witnesses = []
        for seat in (0, 1):
            rounds = [(together[seat], together[1 - seat])] * setup.public.rounds
            witnesses.append(_witness(setup, seat, "", rounds))
            for partner in (*self.partners, self.unseen_partner):
                own, other = setup.private[seat], setup.private[1 - seat]
                _, rounds = best_response(own, AUTOMATA[partner], other.cooperative, setup.public.rounds)
                witnesses.append(_witness(setup, seat, partner, rounds))
        return Certificate(witnesses=tuple(witnesses), method="dynamic programming over the partner's automaton")

    strategies: ClassVar[Mapping[str, Strategy]]
    partners = ("tit_for_tat", "always_defect", "pavlov", "suspicious")
    unseen_partner = "grim"


def best_response(own: Private, machine: Machine, cooperative: int, rounds: int) -> tuple[int, list[tuple[int, int]]]:
    """The most points that a seat can make in `rounds` against an automaton whose cooperative label is `cooperative`, and the
    (own, other) moves that make them: backward induction over the automaton's states.
    """
    values, choices = [0] * len(machine), []
    for _ in range(rounds):
        table = []
        for state in range(len(machine)):
            other = _label(machine, state, cooperative)
            table.append([own.points(move, other) + values[_after(machine, state, move == cooperative)] for move in (0, 1)])
        choices.append([0 if first >= second else 1 for first, second in table])
        values = [max(pair) for pair in table]
    state, path = 0, []
    for choice in reversed(choices):
        path.append((choice[state], _label(machine, state, cooperative)))
        state = _after(machine, state, choice[state] == cooperative)
    return values[0], path


def _label(machine: Machine, state: int, cooperative: int) -> int:
    return cooperative if machine[state][0] else 1 - cooperative


def _after(machine: Machine, state: int, cooperated: bool) -> int:
    return machine[state][1 if cooperated else 2]


def _target_times_ten(setup: Table, seat: int) -> int:
    """Ten times the total that wins: 0.9 of the best response to a script, cooperation throughout with anyone else."""
    own, other, script = setup.private[seat], setup.private[1 - seat], setup.cast[1 - seat]
    if script in AUTOMATA:
        return 9 * best_response(own, AUTOMATA[script], other.cooperative, setup.public.rounds)[0]
    return 10 * setup.public.rounds * own.points(own.cooperative, other.cooperative)


def _witness(setup: Table, seat: int, partner: str, rounds: Sequence[tuple[int, int]]) -> Witness:
    me, them, labels = setup.names[seat], setup.names[1 - seat], setup.public.labels
    turns = [(me, VAGUE), (them, VAGUE)] * setup.public.talk
    for own, other in rounds:
        turns += [(me, f"MOVE: {labels[own]}"), (them, f"MOVE: {labels[other]}")]
    return Witness(seat=me, cast={them: partner} if partner else {}, turns=tuple(turns))


def _draw_points(rng: Random, kind: str, rounds: int, high: int) -> Private:
    """Four distinct numbers in the order of the game's kind, T(emptation) R(eward) P(unishment) S(ucker), drawn until one slip
    in the last round, or one against a partner who always defects, costs more than a tenth of the total."""
    while True:
        first, second, third, fourth = sorted(rng.sample(range(high + 1), 4), reverse=True)
        if kind == "prisoner's dilemma":
            t, r, p, s = first, second, third, fourth
        elif kind == "stag hunt":
            r, t, p, s = first, second, third, fourth
        else:
            t, r, s, p = first, second, third, fourth
        end, alone = sorted((r, t)), sorted((s, p))
        sharp_end = 10 * ((rounds - 1) * r + end[0]) < 9 * ((rounds - 1) * r + end[1])
        sharp_alone = 10 * ((rounds - 1) * alone[1] + alone[0]) < 9 * rounds * alone[1]
        if sharp_end and sharp_alone:
            return Private(aa=r, ab=s, ba=t, bb=p) if rng.random() < 0.5 else Private(aa=p, ab=t, ba=s, bb=r)


# Scripted players. An automaton says before the first round what kind of player it is, or something that means nothing.

View_ = View[Public, Private]
VAGUE = "Let us both do well."
PHRASES: Mapping[str, tuple[str, ...]] = {
    "always_cooperate": ("I mean you no harm.",),
    "always_defect": ("I look after myself.", "I never give in."),
    "suspicious": ("I copy your last move.", "I do what you did."),
    "tit_for_two_tats": ("I forgive one slip.",),
    "tit_for_tat": ("I copy your last move.", "I do what you did."),
    "grim": ("Cross me once and it is over.",),
    "pavlov": ("I keep what works.", "I switch when it goes badly."),
}
VAGUE_SHARE = 0.2
_MOVE = re.compile(r"(?:^|\n\| )MOVE: ?([A-Za-z]+)$")


def _moves(view: View_) -> tuple[str, list[int]]:
    """What the other said before the first round, and its moves so far. A move that cannot be read counts as a defection."""
    heard = [message.text for message in view.heard if message.author != "referee"]
    done = max(0, len(view.said) - view.public.talk)
    split = max(0, len(heard) - done)
    return " ".join(heard[:split]), [_read(view, text) for text in heard[split:]]


def _read(view: View_, text: str) -> int:
    found = _MOVE.search(text)
    labels = view.public.labels
    return labels.index(found[1]) if found and found[1] in labels else 1 - view.private.cooperative


def _player(words: Sequence[str], choose: Callable[[View_, Random], int]) -> Strategy:
    def act(view: View_, rng: Random) -> str:
        if not view.must_commit:
            return VAGUE if rng.random() < VAGUE_SHARE else words[rng.randrange(len(words))]
        return f"MOVE: {view.public.labels[choose(view, rng)]}"

    return act


def _automaton(name: str) -> Strategy:
    machine = AUTOMATA[name]

    def choose(view: View_, rng: Random) -> int:
        state, cooperative = 0, view.private.cooperative
        for move in _moves(view)[1]:
            state = _after(machine, state, move == cooperative)
        return _label(machine, state, cooperative)

    return _player(PHRASES[name], choose)


def _naive(view: View_, rng: Random) -> int:
    return [rng.randrange(2) for _ in range(len(view.said) + 1)][-1]


Guess = tuple[Machine, int]
"""An automaton that the partner may be, and the state it would be in."""


def _forecast(view: View_, rng: Random) -> int:
    """Keeps every automaton that fits the words and the moves so far, each as likely, and maximises the expected points."""
    words, theirs = _moves(view)
    mine = [_read(view, text) for text in view.said[view.public.talk :]]
    cooperative = view.private.cooperative
    named = [name for name in AUTOMATA if any(phrase in words for phrase in PHRASES[name])]
    guesses = [(AUTOMATA[name], 0) for name in named or AUTOMATA]
    for own, other in zip(mine, theirs, strict=False):
        guesses = _next(guesses, own, other, cooperative)
    if not guesses:
        guesses = [(AUTOMATA["tit_for_tat"], 0 if mine[-1] == cooperative else 1)]
    return _expected(view.private, guesses, min(view.public.rounds - len(mine), LOOKAHEAD))[1]


def _next(guesses: list[Guess], own: int, other: int, cooperative: int) -> list[Guess]:
    """The guesses that would have played `other`, after a round in which the seat itself played `own`."""
    fitting = [(machine, state) for machine, state in guesses if _label(machine, state, cooperative) == other]
    return [(machine, _after(machine, state, own == cooperative)) for machine, state in fitting]


def _expected(own: Private, guesses: list[Guess], rounds: int) -> tuple[int, int]:
    """(points summed over the guesses, best move now), learning from each round which guesses still fit."""
    if rounds == 0 or not guesses:
        return 0, own.cooperative
    totals = [0, 0]
    for move in (0, 1):
        for other in (0, 1):
            after = _next(guesses, move, other, own.cooperative)
            totals[move] += len(after) * own.points(move, other) + _expected(own, after, rounds - 1)[0]
    move = own.cooperative if totals[0] == totals[1] else totals.index(max(totals))
    return totals[move], move


Dilemma.strategies = {
    "naive": _player((VAGUE,), _naive),
    **{name: _automaton(name) for name in AUTOMATA},
    "forecaster": _player((VAGUE,), _forecast),
}
