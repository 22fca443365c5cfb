"""`comedy`: a short bit on a premise in a named style, and a judge ranks the bits.

Theory: humour as a benign violation (McGraw & Warren 2010). The skin is the style, and each premise belongs to one: the held-out
style brings premises that training never meets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar

import msgspec

from sparring.scenarios.contests.contest import FORMAT, Contest, Criterion, NoSecret, Task
from sparring.scenarios.contests.speakers import PARTNERS, UNSEEN, Material, speakers, upper
from sparring.scenarios.contests.topics import content_words, load_topics
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Strategy, View
from sparring.scenarios.scenario import Tags

SEAT = "comic"
FAR_WORDS = 11
"""A premise of so many words belongs to the held-out range."""
STYLES: Mapping[str, tuple[str, str]] = {
    "observational": ("everyday life, looked at closely", "everyday"),
    "absurd": ("a mad idea taken seriously", "fantasy"),
    "deadpan": ("nonsense told in a sober voice", "office"),
    "wordplay": ("puns and double meanings", "club"),
    "parody": ("a known form filled with the wrong thing", "media"),
    "noir": ("a tired detective speaks about small matters", "street"),
}
"""Skin: the style in a few words, and the context."""


class Premise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A topic: what the bit is about, its style, and clauses that it can use."""

    text: str
    style: str
    angles: tuple[str, ...]

    @property
    def skin(self) -> str:
        return self.style


class Public(Task, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The premise and its style; the angles are for judges."""

    premise: str
    style: str
    manner: str
    angles: tuple[str, ...]


class Comedy(Contest[Public, Premise]):
    name = "comedy"
    title = "a short bit on a premise"
    public_type = Public
    skins = tuple(STYLES)
    held_out_skins = frozenset({"noir"})
    criteria = (
        Criterion(name="funny", question="Which bit is funnier, with the more surprising turn?", weight=2.0),
        Criterion(name="style", question="Which bit keeps better to the style that was asked for?"),
        Criterion(name="premise", question="Which bit makes more of its premise, without repeating itself?"),
    )
    topic_guide = (
        "`text` is the premise of a comic bit, a few words without a full stop. `style` is how it is played. `angles` are three "
        "clauses that a bit about it can use."
    )

    def load(self) -> tuple[Premise, ...]:
        return load_topics("premises.toml", Premise)

    def is_far(self, topic: Premise) -> bool:
        return len(topic.text.split()) >= FAR_WORDS

    def pose(self, rng: Random, topic: Premise, skin: str, *, far: bool) -> tuple[Public, tuple[str, ...]]:
        return Public(words=80, premise=topic.text, style=skin, manner=STYLES[skin][0], angles=topic.angles), (SEAT,)

    def tags(self, skin: str) -> Tags:
        return Tags(
            theory="humour as a benign violation (McGraw & Warren 2010)",
            interdependence="independent",
            relation="communal sharing",
            resource="love",
            context=STYLES[skin][1] if skin in STYLES else "everyday",
        )

    def instructions(self, public: Public, private: NoSecret, seat: int, names: tuple[str, ...]) -> str:
        return f"You are a {names[seat]} on a small stage. {self.task(public, seat)} {FORMAT.format(kind='bit')}"

    def subject(self, public: Public) -> str:
        return public.premise

    def task(self, public: Public, seat: int) -> str:
        style = f"Style: {public.style}, {public.manner}."
        return f"Make people laugh in at most {public.words} words. Premise: {public.premise}. {style}"

    def support(self, public: Public, seat: int) -> Sequence[str]:
        return public.angles

    def check(self, public: Public, private: tuple[NoSecret, ...]) -> None:
        super().check(public, private)
        if len(private) != 1:
            raise ScenarioError(f"comedy has 1 seat, this scenario has {len(private)}")

    strategies: ClassVar[Mapping[str, Strategy]]
    partners = PARTNERS
    unseen_partner = UNSEEN


OPENINGS = ("Let me tell you about {}.", "We need to talk about {}.", "Today I met it: {}.", "You all know {}.")
FIRST = ("The first thing you notice is that {}.", "It starts small: {}.", "Nobody warns you that {}.")
THEN = ("For example, {}.", "And then, of course, {}.", "It gets worse, because {}.")
ENDINGS = (
    "And that is why I no longer trust the word {}.",
    "So if you see {}, say hello from me.",
    "In the end, {} wins every time.",
)
TALES = ("My aunt has a photo of it, and in the photo {}.", "My cousin tried it once, and {}.")


def _write(view: View[Public, NoSecret], rng: Random) -> Material:
    angles = rng.sample(view.public.angles, len(view.public.angles))
    return Material(
        opening=rng.choice(OPENINGS).format(view.public.premise),
        support=(rng.choice(FIRST).format(angles[0]), rng.choice(THEN).format(angles[1])),
        closing=upper(rng.choice(ENDINGS).format(rng.choice(content_words(view.public.premise)))),
        tale=rng.choice(TALES).format(angles[0]),
    )


Comedy.strategies = speakers(_write)
