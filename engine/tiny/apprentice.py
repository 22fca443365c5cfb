"""The apprentice: a debater of uneven quality, whom the small model of the contests imitates.

It knows the prompt and nothing else: what it says on the topic, it says with words of the motion. Every message has a level from
careless to good, drawn anew, so that a model that imitates it writes good and bad speeches for the same prompt and can be trained
towards the good ones. Owns the sentences; topics and lessons are `contests.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sparring.scenarios.contests.speakers import ASIDES, framed, lowered, upper
from sparring.scenarios.contests.topics import content_words

NOTES = ("My case.", "I will try.", "Say it short.", "I have a view.", "Let me see.")
PLANS = (
    "First my claim about {a}, then a reason, then the end.",
    "I talk of {a} because {b} comes next.",
    "Claim first, then an example with {a}, so that it is clear.",
)
OPENINGS = {
    "pro": (
        "I say that {motion}.",
        "We should stand up for {a}.",
        "I believe {a} and {b} should be taken seriously.",
        "Yes, {motion}.",
    ),
    "con": (
        "I do not think that {motion}.",
        "We should be careful with {a}.",
        "I believe {a} and {b} should be left alone.",
        "No, I am against {a} here.",
    ),
}
REASONS = {
    "pro": (
        "{A} can help people because it saves them time.",
        "For example, {a} would make life easier in small towns.",
        "Families need {a}, and children learn from it too.",
        "If we choose {a} now, then everyone can gain later.",
        "A study of {a} found that 8 in 10 people were glad.",
        "With {a} we would spend less money than before.",
        "Some fear {a}, but the fear will pass.",
        "{A} would give workers a better chance, so that nobody is left behind.",
        "As a result of {a}, our streets would be safer.",
        "However small it looks, {a} can change a whole school.",
        "Imagine a year with {a} and more health for all.",
        "Doctors and teachers have asked for {a} since last year.",
    ),
    "con": (
        "{A} can hurt people because it takes their time.",
        "For example, {a} would make life harder in small towns.",
        "Families worry about {a}, and children pay for it too.",
        "If we choose {a} now, then everyone may lose later.",
        "A study of {a} found that 8 in 10 people were unhappy.",
        "With {a} we would spend more money than before.",
        "Some like {a}, but the joy will pass.",
        "{A} would take chances from workers, so that many are left behind.",
        "As a result of {a}, our streets would be less safe.",
        "However nice it looks, {a} can harm a whole school.",
        "Imagine a year with {a} and less freedom for all.",
        "Doctors and teachers have warned of {a} since last year.",
    ),
}
TALK = (
    "People say many things.",
    "That is how I see it.",
    "It is not easy to say.",
    "There are two sides here.",
    "We talked about this before.",
    "Everyone knows that.",
    "It is a big question.",
    "I could say more.",
)
CLOSINGS = {
    "pro": ("Therefore we should choose {a}.", "In short, {a} and {b} deserve a yes.", "So I ask you to vote for {a}."),
    "con": ("Therefore we should not choose {a}.", "In short, {a} and {b} deserve a no.", "So I ask you to vote against {a}."),
}
ENDS = ("That is all.", "Thank you.", "I have said it.")


@dataclass(frozen=True)
class Level:
    """How well a message is written: probabilities of its parts."""

    opening: float
    """That it opens on the topic."""
    reason: float
    """That a sentence gives a reason on the topic; otherwise it is talk or an aside."""
    repeat: float
    """That a sentence is said again."""
    closing: float
    """That it ends with the sum on the topic."""
    sentences: tuple[int, int]
    """Between opening and end: least and most."""
    plan: float
    """That the reasoning plans something."""
    strict: float
    """That the format is kept."""


LEVELS = (
    (0.35, Level(opening=0.35, reason=0.1, repeat=0.35, closing=0.05, sentences=(1, 3), plan=0.1, strict=0.8)),
    (0.45, Level(opening=0.7, reason=0.4, repeat=0.15, closing=0.25, sentences=(1, 3), plan=0.25, strict=0.88)),
    (0.2, Level(opening=0.9, reason=0.75, repeat=0.05, closing=0.6, sentences=(1, 4), plan=0.5, strict=0.94)),
)
"""Share of messages, and their level."""


def speak(motion: str, side: str, rng: Random) -> str:
    """A message for the motion, in the contest's format more often than not."""
    level = rng.choices([level for _, level in LEVELS], [share for share, _ in LEVELS])[0]
    words = _subjects(motion)
    said = [_fill(rng.choice(OPENINGS[side] if rng.random() < level.opening else TALK), motion, words, rng)]
    fresh = rng.sample(REASONS[side], len(REASONS[side]))
    for _ in range(rng.randint(*level.sentences)):
        draw = rng.random()
        if draw < level.repeat:
            said.append(rng.choice(said))
        elif draw < level.repeat + (1 - level.repeat) * level.reason:
            said.append(_fill(fresh.pop(), motion, words, rng))
        else:
            said.append(rng.choice(TALK + ASIDES[:4]))
    if rng.random() < level.closing:
        said.append(_fill(rng.choice(CLOSINGS[side]), motion, words, rng))
    elif rng.random() < 0.3:
        said.append(rng.choice(ENDS))
    notes = _fill(rng.choice(PLANS if rng.random() < level.plan else NOTES), motion, words, rng)
    return _format(notes, " ".join(said), rng.random() < level.strict, rng)


def _subjects(motion: str) -> Sequence[str]:
    """The words that a sentence can be about: participles and adverbs are left out where others are there."""
    words = content_words(motion)
    return [word for word in words if not word.endswith(("ed", "ly")) and word != "better"] or words


def _fill(sentence: str, motion: str, words: Sequence[str], rng: Random) -> str:
    """The sentence with words of the motion: mostly its last, which is what the claim is about, or its first."""
    one = rng.choices((words[-1], words[0], rng.choice(words)), (5, 3, 2))[0]
    other = rng.choice([word for word in words if word != one] or words)
    return sentence.format(motion=lowered(motion), a=one, b=other, A=upper(one))


def _format(notes: str, answer: str, strict: bool, rng: Random) -> str:
    """The message in its format, or with one of the slips that beginners make."""
    if strict:
        return framed(notes, answer)
    slips = (answer, f"<answer>{answer}</answer>", f"<reasoning>{notes}</reasoning>{answer}", f"{notes}<answer>{answer}</answer>")
    return rng.choice((*slips, framed(notes, answer).removesuffix("</answer>")))
