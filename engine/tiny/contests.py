"""The corpus of the contests' small model: the apprentice's speeches on the motions of the training split, and on made-up ones.

There are too few motions to learn copying from; made-up ones put other words, some of them mere syllables, in the place of a
motion's own, so that the model learns to take up whatever words it reads. It learns that first from drills, most of whose prompts
break off soon after the motion: in a whole prompt it would take many thousand steps to find out where to look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from random import Random
from typing import Any

import msgspec

from sparring.engine.tiny.apprentice import speak
from sparring.engine.tiny.corpus import Corpus, Lessons, Teacher, encode, encode_seat, play_scripts
from sparring.rollout.chat import ChatFormat
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.contests.debate import Debate
from sparring.scenarios.contests.speakers import lowered
from sparring.scenarios.contests.topics import content_words
from sparring.scenarios.family import View
from sparring.scenarios.scenario import Scenario

SAME_PROMPT = 3
"""Examples in a row that answer one prompt, which packing then computes once."""
MADE_UP = 0.7
"""Share of the prompts whose motion is made up."""
SYLLABLES = 0.15
"""Share of a made-up motion's words that are made up themselves."""
PIECES = r"</?[a-z]+>| ?[A-Za-z']+|[0-9]| ?[^A-Za-z0-9\s<>]+|[<>]|\s"
"""A word is the same token whatever follows it, so that it can be copied; the format's marks are tokens of their own."""
CONSONANTS, VOWELS, ENDS = "bcdfghklmnprstvw", "aeiou", "nrlstmkd"
"""Of made-up words."""

DRILLS = (Teacher("drill", {}),)
DEBATES = (Teacher("debate", {"apprentice": 1.0}),)


def apprentice(view: View[Any, Any], rng: Random) -> str:
    """The apprentice as a strategy of `debate`."""
    return speak(view.public.motion, view.names[view.seat], rng)


STRATEGIES = {"apprentice": apprentice}


@cache
def vocabulary() -> tuple[str, ...]:
    """The words of all contests' training topics, as far as they carry a subject."""
    texts = (text for name in registry.contests() for topic in _topics(name) for text in _texts(msgspec.to_builtins(topic)))
    return tuple(dict.fromkeys(word for text in texts for word in content_words(text)))


def made_up(rng: Random, motion: str, pool: Sequence[str]) -> str:
    """The motion with other words in the place of those that carry its subject."""
    own = set(content_words(motion))
    words = [_word(rng, pool) if word.lower() in own else word for word in motion.split()]
    return " ".join([words[0].capitalize(), *words[1:]])


def story(seed: int, number: int, made: float = MADE_UP) -> Scenario:
    """Prompt `number` of a corpus: a motion of the training split, or one made up after it, in a skin of training."""
    debate, rng = registry.get("debate"), Random(f"contests/{seed}/{number}")
    assert isinstance(debate, Debate)
    scenario = debate.generate(rng.randrange(10**9))
    if rng.random() >= made:
        return scenario
    setup = debate.setup(scenario)
    topic = rng.choice(debate.topics("train"))
    topic = msgspec.structs.replace(topic, text=made_up(rng, topic.text, vocabulary()))
    public, names = debate.pose(rng, topic, scenario.skin, far=False)
    return debate.build(0, scenario.skin, public, setup.private, names)


def example(chat: ChatFormat, lessons: Lessons, seed: int, number: int) -> Trajectory:
    """Example `number` of a corpus; `SAME_PROMPT` speeches in a row answer the same prompt."""
    prompt = number // SAME_PROMPT
    teacher, rng = lessons[prompt % len(lessons)], Random(f"contests/{seed}/{prompt}/{number}")
    if teacher in DRILLS:
        return drill(chat, seed, number)
    scenario = story(seed, prompt)
    (seat,) = scenario.seat_names
    game, said = play_scripts(scenario, {seat: teacher.draw(rng)}, rng.randrange(10**9), STRATEGIES)
    return encode_seat(chat, game, seat, said[seat])


def drill(chat: ChatFormat, seed: int, number: int) -> Trajectory:
    """A prompt that breaks off somewhere after its made-up motion, mostly soon, and the motion or words of it said again."""
    rng = Random(f"drill/{seed}/{number}")
    scenario = story(seed, rng.randrange(10**9), made=1.0)
    motion = str(scenario.public["motion"])
    before, _, after = scenario.seats[0].instructions.partition(motion)
    words = content_words(motion)
    some = " and ".join(rng.sample(words, min(3, len(words))))
    context = before + motion + after[: int(len(after) * rng.random() ** 3)]
    return encode(chat.opening(context, []), chat.answer(f"I say {rng.choice((lowered(motion), some))}."))


def texts(count: int = 1500) -> Iterator[str]:
    """Instructions and speeches."""
    for number in range(count):
        scenario, rng = story(0, number), Random(f"contests/texts/{number}")
        yield f"user\n{scenario.seats[0].instructions}\nassistant\n"
        yield speak(scenario.public["motion"], scenario.seat_names[0], rng)
    for word in vocabulary():
        yield from (f" {word}", f" {word}", f" {word.capitalize()}")


def _topics(contest: str) -> Sequence[Any]:
    found = registry.get(contest)
    assert isinstance(found, Contest)
    return found.topics("train")


def _texts(topic: Any) -> Iterator[str]:
    """Every text of a topic."""
    if isinstance(topic, str):
        yield topic
    elif isinstance(topic, (dict, list)):
        for part in topic.values() if isinstance(topic, dict) else topic:
            yield from _texts(part)


def _word(rng: Random, pool: Sequence[str]) -> str:
    if rng.random() >= SYLLABLES:
        return rng.choice(pool)
    syllables = (rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 3)))
    return "".join(syllables) + rng.choice(ENDS)


CONTESTS = Corpus(
    texts=texts,
    pieces=PIECES,
    first=DRILLS,
    finishing=DEBATES * 3 + DRILLS,
    finishing_share=Fraction(6, 11),
    example=example,
    card="contests.md",
)
