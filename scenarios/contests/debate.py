"""`debate` and `debate_rounds`: speeches for or against a motion, ranked by a judge.

Theory: arguments as claim, grounds and warrant (Toulmin 1958). In `debate` the table has one seat, called `pro` or `con`, that
speaks once. In `debate_rounds` both sit at it: in turn, PRO opening, or both at once in each round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar

import msgspec

from sparring.scenarios.contests.contest import FORMAT, Contest, Criterion, NoSecret, Task
from sparring.scenarios.contests.speakers import PARTNERS, UNSEEN, Material, lowered, speakers, upper
from sparring.scenarios.contests.topics import content_words, load_topics
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Strategy, View
from sparring.scenarios.scenario import Tags

SIDES = ("pro", "con")
MAX_ROUNDS = 8
FAR_WORDS = 10
"""A motion of so many words belongs to the held-out range."""
SCENES: Mapping[str, tuple[str, str]] = {
    "school debate": ("A school debate. The motion: {}.", "education"),
    "town hall": ("The town hall is full tonight. On the table: {}.", "community"),
    "online forum": ("A thread in an online forum asks you to take a side: {}.", "online"),
    "radio show": ("You are on air in a radio show. The claim of the day: {}.", "media"),
    "parliament": ("The house sits. The motion before it: {}.", "politics"),
}
"""Skin: how the motion is put, and the context."""


class Motion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A topic: a claim without a full stop, and clauses that speak for each side."""

    text: str
    pro: tuple[str, ...]
    con: tuple[str, ...]

    @property
    def skin(self) -> str:
        return ""


class Public(Task, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The motion as it is put, the side of each seat, and each side's points, which are for judges.

    `rounds` speeches a seat, in turn or `at_once`.
    """

    motion: str
    scene: str
    sides: tuple[str, ...]
    pro: tuple[str, ...]
    con: tuple[str, ...]
    rounds: int = 1
    at_once: bool = False


class Debate(Contest[Public, Motion]):
    name = "debate"
    title = "a speech for or against a motion"
    public_type = Public
    skins = tuple(SCENES)
    held_out_skins = frozenset({"parliament"})
    criteria = (
        Criterion(name="argument", question="Which speech makes the stronger case for its side of the motion?", weight=2.0),
        Criterion(name="support", question="Which speech backs its claims with better reasons and examples?"),
        Criterion(name="clarity", question="Which speech is clearer and better built, without repeating itself?"),
    )
    topic_guide = (
        "`text` is a claim that people can disagree about, without a full stop. `pro` and `con` are three clauses each that "
        'speak for and against it and can follow "because".'
    )
    seats: ClassVar[int] = 1

    def load(self) -> tuple[Motion, ...]:
        return load_topics("motions.toml", Motion)

    def is_far(self, topic: Motion) -> bool:
        return len(topic.text.split()) >= FAR_WORDS

    def pose(self, rng: Random, topic: Motion, skin: str, *, far: bool) -> tuple[Public, tuple[str, ...]]:
        sides = (rng.choice(SIDES),)
        scene = SCENES[skin][0].format(topic.text)
        return Public(words=120, motion=topic.text, scene=scene, sides=sides, pro=topic.pro, con=topic.con), sides

    def tags(self, skin: str) -> Tags:
        return Tags(
            theory="argument as claim, grounds and warrant (Toulmin 1958)",
            interdependence="independent" if self.seats == 1 else "full",
            relation="equality matching",
            resource="information",
            context=SCENES[skin][1] if skin in SCENES else "education",
        )

    def instructions(self, public: Public, private: NoSecret, seat: int, names: tuple[str, ...]) -> str:
        side = f"Your side: {public.sides[seat]}, {_stance(public, seat)} the motion."
        return f"{public.scene} {side} {self._manner(public)} {FORMAT.format(kind='speech')}"

    def subject(self, public: Public) -> str:
        return public.motion

    def task(self, public: Public, seat: int) -> str:
        return f"Speak {_stance(public, seat)} the motion: {public.motion}. {self._manner(public)}"

    def support(self, public: Public, seat: int) -> Sequence[str]:
        return _points(public, seat)[0]

    def check(self, public: Public, private: tuple[NoSecret, ...]) -> None:
        super().check(public, private)
        if len(private) != self.seats or public.sides not in (SIDES[:1], SIDES[1:], SIDES) or len(public.sides) != self.seats:
            wanted = "sides are pro or con" if self.seats == 1 else "sides are pro and con"
            raise ScenarioError(f"{self.name} has {self.seats} seat{'s' * (self.seats > 1)}, whose {wanted}")
        if not 1 <= public.rounds <= MAX_ROUNDS or (self.seats == 1 and public.rounds > 1):
            raise ScenarioError(f"{self.name}: rounds must lie in 1..{1 if self.seats == 1 else MAX_ROUNDS}, not {public.rounds}")

    def _manner(self, public: Public) -> str:
        return f"Give one speech of at most {public.words} words."

    strategies: ClassVar[Mapping[str, Strategy]]
    partners = PARTNERS
    unseen_partner = UNSEEN


class DebateRounds(Debate):
    name = "debate_rounds"
    title = "a debate of two sides in rounds"
    seats = 2

    def pose(self, rng: Random, topic: Motion, skin: str, *, far: bool) -> tuple[Public, tuple[str, ...]]:
        public, _ = super().pose(rng, topic, skin, far=far)
        rounds, at_once = (4 if far else rng.randint(2, 3)), rng.random() < 0.3
        return msgspec.structs.replace(public, words=80, sides=SIDES, rounds=rounds, at_once=at_once), SIDES

    def order(self, public: Public, seats: int) -> Sequence[tuple[tuple[int, ...], str]]:
        """PRO opens and CON answers in each round, or both speak at once; the last round closes."""
        stages: list[tuple[tuple[int, ...], str]] = []
        for number in range(1, public.rounds + 1):
            kind = "opening" if number == 1 else "closing" if number == public.rounds else "reply to the other side"
            notice = f"Round {number} of {public.rounds}: {kind}."
            stages += [((0, 1), notice)] if public.at_once else [((0,), notice), ((1,), notice)]
        return stages

    def _manner(self, public: Public) -> str:
        turns = "both sides at once" if public.at_once else "the sides in turn"
        return f"There are {public.rounds} rounds, {turns}; each speech has at most {public.words} words."


def _stance(public: Public, seat: int) -> str:
    return "for" if public.sides[seat] == "pro" else "against"


def _points(public: Public, seat: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The seat's own points and the other side's."""
    return (public.pro, public.con) if public.sides[seat] == "pro" else (public.con, public.pro)


OPENINGS = {
    "for": ("I am for this motion: {}.", "My claim is simple: {}.", "I say yes: {}.", "The case is clear: {}."),
    "against": ("I am against this motion: {}.", "I say no to the claim that {}.", "It is wrong to say that {}.",
                "I do not agree that {}."),
}  # fmt: skip
REASONS = ("I say so because {}.", "This is so because {}.", "The first reason is that {}.", "It matters because {}.")
EXAMPLES = ("For example, {}.", "A second reason is that {}.", "We also see that {}.", "For example, in daily life {}.")
CLOSINGS = ("So, on {} and {}, my side has the better case.", "In short, for {} and {} my side is right.",
            "That is why, on {} and {}, you should trust my side.")  # fmt: skip
TALES = ("My neighbour once asked me about {}. After a year she saw that {}.", "Last year I read about {}. I soon saw that {}.")


def _write(view: View[Public, NoSecret], rng: Random) -> Material:
    """In each round another reason first; from the second on, an answer to what the other side stands for."""
    public, turn = view.public, len(view.said)
    points, other = _points(public, view.seat)
    own = rng.sample(points, len(points))
    own = own[turn % len(own) :] + own[: turn % len(own)]
    rng = Random(f"{rng.random()}/{turn}")  # a strategy's generator starts alike at every turn
    keys = content_words(public.motion)
    first, second = sorted(rng.sample(range(len(keys)), 2))
    opening = rng.choice(OPENINGS[_stance(public, view.seat)]).format(lowered(public.motion))
    if turn:
        opening = f"The other side may say that {other[turn % len(other)]}, but that is not the whole story."
    return Material(
        opening=opening,
        support=(rng.choice(REASONS).format(own[0]), rng.choice(EXAMPLES).format(own[1])),
        closing=upper(rng.choice(CLOSINGS).format(keys[first], keys[second])),
        tale=rng.choice(TALES).format(keys[second], own[0]),
    )


Debate.strategies = speakers(_write)
