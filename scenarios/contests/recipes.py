"""`recipes`: a dish from a basket of ingredients under one constraint, and a judge ranks the recipes.

Theory: invention within given parts (Finke, Ward & Smith 1992). A basket's larger relatives, with six ingredients and more, are
held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar

import msgspec

from sparring.scenarios.contests.contest import FORMAT, Contest, Criterion, NoSecret, Task
from sparring.scenarios.contests.speakers import PARTNERS, UNSEEN, Material, speakers, upper
from sparring.scenarios.contests.topics import load_topics
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Strategy, View
from sparring.scenarios.scenario import Relation, Tags

SEAT = "cook"
FAR_SIZE = 6
"""A basket of so many ingredients belongs to the held-out range."""
KITCHENS: Mapping[str, tuple[str, str, Relation]] = {
    "home kitchen": ("Friends are coming to your home kitchen.", "family", "communal sharing"),
    "school canteen": ("You plan the menu of a school canteen.", "education", "authority ranking"),
    "food truck": ("You run a food truck with a short menu.", "market", "market pricing"),
    "recipe club": ("A recipe club on the web has set its weekly task.", "online", "equality matching"),
    "mountain hut": ("You cook in a mountain hut for tired hikers.", "travel", "communal sharing"),
}
"""Skin: where the dish is made, the context, and the relation to those who eat it."""


class Basket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A topic: ingredients that must all be used, and the constraint on the dish."""

    ingredients: tuple[str, ...]
    limit: str

    @property
    def text(self) -> str:
        """The ingredients in the order of the alphabet: a basket is the same whatever lies on top."""
        return ", ".join(sorted(self.ingredients))

    @property
    def skin(self) -> str:
        return ""


class Public(Task, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The basket, the constraint, and where the dish is made."""

    ingredients: tuple[str, ...]
    limit: str
    place: str


class Recipes(Contest[Public, Basket]):
    name = "recipes"
    title = "a dish from a basket of ingredients"
    public_type = Public
    skins = tuple(KITCHENS)
    held_out_skins = frozenset({"mountain hut"})
    criteria = (
        Criterion(name="dish", question="Which recipe would make the better dish, and would really work?", weight=2.0),
        Criterion(name="basket", question="Which recipe makes better use of every ingredient and keeps to the constraint?"),
        Criterion(name="clarity", question="Which recipe is easier to follow, step by step?"),
    )
    topic_guide = (
        "`ingredients` are four to six that go together, each one or two words. `limit` is a constraint on the dish that can "
        'follow "a dish", such as "in one pan" or "for six guests".'
    )

    def load(self) -> tuple[Basket, ...]:
        return load_topics("baskets.toml", Basket)

    def is_far(self, topic: Basket) -> bool:
        return len(topic.ingredients) >= FAR_SIZE

    def pose(self, rng: Random, topic: Basket, skin: str, *, far: bool) -> tuple[Public, tuple[str, ...]]:
        basket = tuple(rng.sample(topic.ingredients, len(topic.ingredients)))
        return Public(words=120, ingredients=basket, limit=topic.limit, place=KITCHENS[skin][0]), (SEAT,)

    def tags(self, skin: str) -> Tags:
        _, context, relation = KITCHENS.get(skin, KITCHENS["home kitchen"])
        return Tags(
            theory="invention within given parts (Finke, Ward & Smith 1992)",
            interdependence="independent",
            relation=relation,
            resource="goods",
            context=context,
        )

    def instructions(self, public: Public, private: NoSecret, seat: int, names: tuple[str, ...]) -> str:
        return f"{public.place} You are the {names[seat]}. {self.task(public, seat)} {FORMAT.format(kind='recipe')}"

    def subject(self, public: Public) -> str:
        return ", ".join(public.ingredients)

    def task(self, public: Public, seat: int) -> str:
        basket = f"{', '.join(public.ingredients[:-1])} and {public.ingredients[-1]}"
        return f"Invent a dish from {basket}, {public.limit}. Name it and say how to cook it in at most {public.words} words."

    def support(self, public: Public, seat: int) -> Sequence[str]:
        return ()

    def check(self, public: Public, private: tuple[NoSecret, ...]) -> None:
        super().check(public, private)
        if len(private) != 1:
            raise ScenarioError(f"recipes has 1 seat, this scenario has {len(private)}")
        if len(public.ingredients) < 2:
            raise ScenarioError("recipes: a basket holds 2 ingredients or more")

    strategies: ClassVar[Mapping[str, Strategy]]
    partners = PARTNERS
    unseen_partner = UNSEEN


KINDS = ("bowl", "plate", "supper", "special", "surprise")
FIRST = ("First, wash and cut the {}, then warm {} gently.", "Start with the {}, and add the {} after a few minutes.")
THEN = ("Then stir in {}, because it rounds off the taste.", "Next, add {}, so that nothing gets too dry.")
ENDINGS = ("Serve it warm: it is made {}, as asked.", "Taste, season and serve: a dish {}, with nothing left in the basket.")
TALES = ("My aunt made it each year with {} and told us to wait.", "A neighbour once showed me how much {} can do.")


def _write(view: View[Public, NoSecret], rng: Random) -> Material:
    first, second, *rest = rng.sample(view.public.ingredients, len(view.public.ingredients))
    name = upper(f"{first} and {second} {rng.choice(KINDS)}")
    others = " and ".join(rest) or first
    return Material(
        opening=f"{name}: a simple dish, made {view.public.limit}.",
        support=(rng.choice(FIRST).format(first, second), rng.choice(THEN).format(others)),
        closing=rng.choice(ENDINGS).format(view.public.limit),
        tale=rng.choice(TALES).format(first),
    )


Recipes.strategies = speakers(_write)
