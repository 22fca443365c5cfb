"""Scripted speakers for contests, from weak to strong: opponents in rounds, teachers of a small model, fixtures for judges.

They differ in what a judge should see: on the topic or off it, repeating or not, with support or without, in the format or not.
The sentences are the contest's own; see `Material`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from sparring.scenarios.family import Strategy, View

ASIDES = (
    "I had soup for lunch.",
    "My shoes are quite new.",
    "It may rain on Sunday.",
    "I once saw a big dog.",
    "There is a lot to say.",
    "My uncle has a red boat.",
    "Some days are long.",
    "I like the colour green.",
)
PLANS = ("Say what I think and why.", "One claim and one reason.", "Keep it short and clear.")
GOOD_PLANS = (
    "First my claim, then reasons that fit it, then an end that sums up.",
    "Claim first. Then two reasons on the topic. Then a close.",
    "Start clear, support it twice, and end with the claim.",
)


@dataclass(frozen=True)
class Material:
    """The sentences that a contest's speakers are made of, about one topic; each a whole sentence.

    `opening` states the case, `support` backs it, `closing` sums up and differs from the opening; `tale` is a small story.
    """

    opening: str
    support: tuple[str, ...]
    closing: str
    tale: str


Write = Callable[[View[Any, Any], Random], Material]


def speakers(write: Write) -> Mapping[str, Strategy]:
    """A contest's strategies by name, from weak to strong."""

    def rambler(view: View[Any, Any], rng: Random) -> str:
        """Off the topic, and says it again."""
        aside, other = rng.sample(ASIDES, 2)
        return framed("Say something.", " ".join([aside, other, aside] + [aside, other] * rng.randint(1, 2)))

    def formless(view: View[Any, Any], rng: Random) -> str:
        """On the topic, without tags."""
        material = write(view, rng)
        return f"{material.opening} {material.support[0]}"

    def plain(view: View[Any, Any], rng: Random) -> str:
        """The case and one reason, and sometimes the case again for want of a second."""
        material = write(view, rng)
        end = material.opening if rng.random() < 0.4 else rng.choice(ASIDES)
        return framed(rng.choice(PLANS), f"{material.opening} {material.support[0]} {end}")

    def storyteller(view: View[Any, Any], rng: Random) -> str:
        """The case, a small story, an end."""
        material = write(view, rng)
        return framed("Tell a story that makes the point.", f"{material.opening} {material.tale} {material.closing}")

    def sourced(view: View[Any, Any], rng: Random) -> str:
        """The case, reasons and an example, an end that sums up."""
        material = write(view, rng)
        plan = f"{rng.choice(GOOD_PLANS)} {material.support[0]}"
        return framed(plan, " ".join((material.opening, *material.support, material.closing)))

    return {"rambler": rambler, "formless": formless, "plain": plain, "storyteller": storyteller, "sourced": sourced}


PARTNERS = ("rambler", "formless", "plain", "sourced")
UNSEEN = "storyteller"


def framed(reasoning: str, answer: str) -> str:
    """A message in the strict format."""
    return f"<reasoning>{reasoning}</reasoning><answer>{answer}</answer>"


def lowered(sentence: str) -> str:
    """A sentence as it stands inside another: its first letter small, unless it begins with a name in capitals."""
    return sentence if sentence[:2].isupper() or sentence.startswith("I ") else sentence[:1].lower() + sentence[1:]


def upper(clause: str) -> str:
    """A clause as it begins a sentence."""
    return clause[:1].upper() + clause[1:]
