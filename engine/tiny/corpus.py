"""Scripted games as training text: what a policy would have read and written in a scripted player's place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from sparring.rollout.chat import ChatFormat
from sparring.scenarios import registry
from sparring.scenarios.game import GameState
from sparring.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Example:
    """One seat's game as token ids; `mask[t]` is true where the seat itself wrote token t."""

    token_ids: list[int]
    mask: list[bool]


@dataclass(frozen=True)
class Teacher:
    """Who is imitated: how often each strategy plays a family. Seats that are not imitated are played by the partners."""

    family: str
    weights: dict[str, float]

    def draw(self, rng: Random) -> str:
        return rng.choices(list(self.weights), list(self.weights.values()))[0]


def play_scripts(scenario: Scenario, cast: dict[str, str], seed: int) -> tuple[GameState, dict[str, list[tuple[int, str]]]]:
    """The finished game, and for each seat its (messages heard before, text) turns."""
    game = GameState(scenario, cast)
    strategies = game.family.strategies
    said: dict[str, list[tuple[int, str]]] = {seat: [] for seat in scenario.seat_names}
    while game.outcome() is None:
        for seat in game.to_move:
            text = strategies[cast[seat]](game.view(seat), Random(f"{seed}/{seat}"))
            said[seat].append((len(game.observe(seat).heard), text))
            game.submit(seat, text)
    return game, said


def encode_seat(chat: ChatFormat, game: GameState, seat: str, said: list[tuple[int, str]]) -> Example:
    """The ids of one seat's side of a finished game, in exactly the form that `PolicyPlayer` builds."""
    observation = game.observe(seat)
    ids: list[int] = []
    mask: list[bool] = []
    before = 0
    for turn, (heard, text) in enumerate(said):
        if turn == 0:
            context = chat.opening(observation.instructions, observation.heard[:heard])
        else:
            context = chat.reply(observation.heard[before:heard], finished=True)
        written = chat.answer(text)
        ids += context + written
        mask += [False] * len(context) + [True] * len(written)
        before = heard
    return Example(ids, mask)


def examples(chat: ChatFormat, teachers: tuple[Teacher, ...], seed: int) -> Iterator[Example]:
    """Endless examples: families in turn, a fresh scenario of the training split each, the teacher at a random seat."""
    number = 0
    while True:
        for teacher in teachers:
            family = registry.get(teacher.family)
            rng = Random(f"corpus/{seed}/{teacher.family}/{number}")
            scenario = family.generate(rng.randrange(10**9))
            seat, partner = rng.choice(scenario.seat_names), rng.choice(family.partners)
            cast = {name: (teacher.draw(rng) if name == seat else partner) for name in scenario.seat_names}
            game, said = play_scripts(scenario, cast, rng.randrange(10**9))
            yield encode_seat(chat, game, seat, said[seat])
        number += 1


def tokenizer_texts(per_family: int) -> Iterator[str]:
    """The texts that the tokenizer is trained on: instructions, messages as heard, and messages as written."""
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
