"""Scripted games as training text: what a policy would have read and written in a scripted player's place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from sparring.rollout.chat import ChatFormat
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios import registry
from sparring.scenarios.game import GameState
from sparring.scenarios.scenario import Scenario

SAME_STORY = 4


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


def encode_seat(chat: ChatFormat, game: GameState, seat: str, said: list[tuple[int, str]]) -> Trajectory:
    """One seat's side of a finished game, in exactly the form that `PolicyPlayer` records; what it wrote is trained."""
    observation, outcomes = game.observe(seat), game.outcome()
    assert outcomes is not None
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
    return Trajectory(
        game_id="",
        scenario_id=game.scenario.id,
        family=game.scenario.family,
        seat=seat,
        partner="",
        token_ids=ids,
        logprobs=[0.0] * len(ids),
        loss_mask=mask,
        temperature=1.0,
        policy="scripts",
        reward=None,
        verdict=outcomes[seat].verdict,
        score=outcomes[seat].score,
    )


def example(chat: ChatFormat, teachers: tuple[Teacher, ...], seed: int, number: int) -> Trajectory:
    """Example `number` of a corpus: the families in turn, a scenario of the training split, the teacher at a random seat.

    `SAME_STORY` examples in a row share skin and seat, so that packing computes the rules they begin with once.
    """
    group = number // SAME_STORY
    teacher = teachers[group % len(teachers)]
    family = registry.get(teacher.family)
    story = Random(f"corpus/{seed}/{group}")
    skin, place = story.choice([skin for skin in family.skins if skin not in family.held_out_skins]), story.randrange(60)
    rng = Random(f"corpus/{seed}/{group}/{number}")
    scenario = family.generate(rng.randrange(10**9), skin=skin)
    seat, partner = scenario.seat_names[place % len(scenario.seats)], rng.choice(family.partners)
    cast = {name: (teacher.draw(rng) if name == seat else partner) for name in scenario.seat_names}
    game, said = play_scripts(scenario, cast, rng.randrange(10**9))
    return encode_seat(chat, game, seat, said[seat])


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
