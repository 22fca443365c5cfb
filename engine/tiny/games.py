"""The corpus of the tiny model: the verifiable families, played by scripts that are legal but mediocre."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from random import Random

from sparring.engine.tiny.corpus import Corpus, Lessons, Teacher, encode_seat, play_scripts
from sparring.rollout.chat import ChatFormat
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios import registry

SAME_STORY = 4
PIECES = r"[A-Za-z_]+[^\sA-Za-z0-9]{0,2}[ \n]?|[0-9]|[^A-Za-z0-9\s]+ ?|\s"
"""Every digit is a token of its own, so that numbers can be copied and compared digit by digit. Words keep the punctuation and
the blank that follow them (`DEAL_PRICE: `, `assistant\\n`), which makes a turn of a game a handful of tokens."""

FIRST_LESSONS = (
    Teacher("haggle", {"naive": 0.3, "conceder": 0.15, "holder": 0.2, "boulware": 0.15, "tit_for_tat": 0.2}),
    Teacher("split", {"naive": 0.35, "conceder": 0.2, "greedy": 0.1, "trader": 0.25, "fair": 0.1}),
    Teacher("dilemma", {"naive": 0.25, "tit_for_tat": 0.15, "always_cooperate": 0.15, "always_defect": 0.1, "forecaster": 0.35}),
    Teacher("haggle", {"naive": 0.3, "conceder": 0.15, "holder": 0.2, "boulware": 0.15, "tit_for_tat": 0.2}),
    Teacher("split", {"naive": 0.35, "conceder": 0.2, "greedy": 0.1, "trader": 0.25, "fair": 0.1}),
    Teacher("auction", {"naive": 0.5, "shader": 0.15, "overbidder": 0.15, "talker": 0.1, "timid": 0.1}),
)
"""Whom the model imitates, in turn, while it learns to copy numbers and to keep to the rules."""

FINISHING_LESSONS = (
    Teacher("haggle", {"naive": 0.45, "conceder": 0.1, "holder": 0.1, "tit_for_tat": 0.35}),
    Teacher("split", {"naive": 0.6, "conceder": 0.1, "trader": 0.3}),
    Teacher("dilemma", {"naive": 0.4, "tit_for_tat": 0.1, "always_cooperate": 0.1, "forecaster": 0.4}),
    Teacher("haggle", {"naive": 0.45, "conceder": 0.1, "holder": 0.1, "tit_for_tat": 0.35}),
    Teacher("split", {"naive": 0.6, "conceder": 0.1, "trader": 0.3}),
    Teacher("dilemma", {"naive": 0.4, "tit_for_tat": 0.1, "always_cooperate": 0.1, "forecaster": 0.4}),
    Teacher("dilemma", {"naive": 0.4, "tit_for_tat": 0.1, "always_cooperate": 0.1, "forecaster": 0.4}),
    Teacher("auction", {"naive": 0.55, "shader": 0.1, "overbidder": 0.1, "sniper": 0.25}),
)
"""Whom it imitates in the end: mostly naive players, and a better one now and then, whose play training can build on."""


def example(chat: ChatFormat, lessons: Lessons, seed: int, number: int) -> Trajectory:
    """Example `number` of a corpus: the families in turn, a scenario of the training split, the teacher at a random seat.

    `SAME_STORY` examples in a row share skin and seat, so that packing computes the rules they begin with once.
    """
    group = number // SAME_STORY
    teacher = lessons[group % len(lessons)]
    family = registry.get(teacher.family)
    story = Random(f"corpus/{seed}/{group}")
    skin, place = story.choice([skin for skin in family.skins if skin not in family.held_out_skins]), story.randrange(60)
    rng = Random(f"corpus/{seed}/{group}/{number}")
    scenario = family.generate(rng.randrange(10**9), skin=skin)
    seat, partner = scenario.seat_names[place % len(scenario.seats)], rng.choice(family.partners)
    cast = {name: (teacher.draw(rng) if name == seat else partner) for name in scenario.seat_names}
    game, said = play_scripts(scenario, cast, rng.randrange(10**9))
    return encode_seat(chat, game, seat, said[seat])


def texts(per_family: int = 300) -> Iterator[str]:
    """Instructions, messages as heard, and messages as written."""
    for name in registry.names():
        family = registry.get(name)
        scripts = tuple(family.strategies)
        for number in range(per_family):
            scenario = family.generate(number)
            cast = {seat: scripts[(number + i) % len(scripts)] for i, seat in enumerate(scenario.seat_names)}
            game, _ = play_scripts(scenario, cast, number)
            for seat in scenario.seats:
                yield f"user\n{seat.instructions}\nassistant\n"
                yield from (f"user\n{message.author}: {message.text}\n" for message in game.observe(seat.name).heard)
            yield from (turn.text for turn in game.turns)


GAMES = Corpus(
    texts=texts,
    pieces=PIECES,
    first=FIRST_LESSONS,
    finishing=FINISHING_LESSONS,
    finishing_share=Fraction(5, 19),
    example=example,
    card="games.md",
)
