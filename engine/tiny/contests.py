"""The corpus of the contests' small model: the apprentice's speeches on the motions of the training split, and on made-up ones.

There are too few motions to learn copying from; made-up ones put other words, half of them of syllables, in the place of a
motion's own, so that the model learns to take up whatever words it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from sparring.engine.tiny.apprentice import speak
from sparring.engine.tiny.corpus import Corpus, Lessons, Teacher, encode_seat, play_scripts
from sparring.rollout.chat import ChatFormat
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios import registry
from sparring.scenarios.contests.debate import Debate
from sparring.scenarios.contests.topics import content_words
from sparring.scenarios.family import View
from sparring.scenarios.scenario import Scenario

SAME_PROMPT = 4
"""Examples in a row that answer one prompt, which packing then computes once."""
MADE_UP = 0.6
"""Share of the prompts whose motion is made up."""
PIECES = r"</?[a-z]+>| ?[A-Za-z']+|[0-9]| ?[^A-Za-z0-9\s<>]+|[<>]|\s"
"""A word is the same token whatever follows it, so that it can be copied; the format's marks are tokens of their own."""
CONSONANTS, VOWELS, ENDS = "bcdfghklmnprstvw", "aeiou", "nrlstmkd"
"""Of made-up words."""

DEBATE = (Teacher("debate", {"apprentice": 1.0}),)


def apprentice(view: View[Any, Any], rng: Random) -> str:
    """The apprentice as a strategy of `debate`."""
    return speak(view.public.motion, view.names[view.seat], rng)


STRATEGIES = {"apprentice": apprentice}


def made_up(rng: Random, motion: str, pool: list[str]) -> str:
    """The motion with other words in the place of those that carry its subject."""
    own = set(content_words(motion))
    words = [_word(rng, pool) if word.lower() in own else word for word in motion.split()]
    return " ".join([words[0].capitalize(), *words[1:]])


def story(seed: int, number: int) -> Scenario:
    """Prompt `number` of a corpus: a motion of the training split, or one made up after it, in a skin of training."""
    debate, rng = registry.get("debate"), Random(f"contests/{seed}/{number}")
    assert isinstance(debate, Debate)
    scenario = debate.generate(rng.randrange(10**9))
    if rng.random() >= MADE_UP:
        return scenario
    pool = [word for topic in debate.topics("train") for word in content_words(topic.text)]
    setup = debate.setup(scenario)
    topic = rng.choice(debate.topics("train"))
    topic = msgspec.structs.replace(topic, text=made_up(rng, topic.text, pool))
    public, names = debate.pose(rng, topic, scenario.skin, far=False)
    return debate.build(0, scenario.skin, public, setup.private, names)


def example(chat: ChatFormat, lessons: Lessons, seed: int, number: int) -> Trajectory:
    """Example `number` of a corpus; `SAME_PROMPT` in a row answer the same prompt."""
    prompt = number // SAME_PROMPT
    teacher = lessons[prompt % len(lessons)]
    rng, scenario = Random(f"contests/{seed}/{prompt}/{number}"), story(seed, prompt)
    (seat,) = scenario.seat_names
    game, said = play_scripts(scenario, {seat: teacher.draw(rng)}, rng.randrange(10**9), STRATEGIES)
    return encode_seat(chat, game, seat, said[seat])


def texts(count: int = 1500) -> Iterator[str]:
    """Instructions and speeches."""
    for number in range(count):
        scenario, rng = story(0, number), Random(f"contests/texts/{number}")
        yield f"user\n{scenario.seats[0].instructions}\nassistant\n"
        yield speak(scenario.public["motion"], scenario.seat_names[0], rng)


def _word(rng: Random, pool: list[str]) -> str:
    if rng.random() < 0.5:
        return rng.choice(pool)
    syllables = (rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 3)))
    return "".join(syllables) + rng.choice(ENDS)


CONTESTS = Corpus(texts, PIECES, DEBATE, DEBATE, example, card="contests.md")
