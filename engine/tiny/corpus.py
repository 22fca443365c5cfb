"""A corpus: training text in exactly the form in which a policy would have read and written it in a scripted player's place.

Owns what corpora share. What is played, and whom the model imitates, is `games.py`'s and `contests.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

from sparring.rollout.chat import ChatFormat
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios.family import Strategy
from sparring.scenarios.game import GameState
from sparring.scenarios.outcome import Verdict
from sparring.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Teacher:
    """Who is imitated: how often each strategy plays a family. Seats that are not imitated are played by the partners."""

    family: str
    weights: dict[str, float]

    def draw(self, rng: Random) -> str:
        return rng.choices(list(self.weights), list(self.weights.values()))[0]


Lessons = tuple[Teacher, ...]


@dataclass(frozen=True)
class Corpus:
    """What a model is warm-started on."""

    texts: Callable[[], Iterator[str]]
    """What the tokenizer is trained on."""
    pieces: str
    """The tokenizer's splitting rule."""
    first: Lessons
    """Whom the model imitates, in turn, while it learns to copy and to keep to the rules ..."""
    finishing: Lessons
    """... and in the end ..."""
    finishing_share: Fraction
    """... for this part of the steps."""
    example: Callable[[ChatFormat, Lessons, int, int], Trajectory]
    """Example number `number` of the lessons under a seed: `example(chat, lessons, seed, number)`."""
    card: str
    """The model's card, a template beside this file."""


def play_scripts(
    scenario: Scenario, cast: dict[str, str], seed: int, strategies: Mapping[str, Strategy] | None = None
) -> tuple[GameState, dict[str, list[tuple[int, str]]]]:
    """The finished game, and for each seat its (messages heard before, text) turns.

    `cast` names `strategies`, which are the family's own where none are given.
    """
    game = GameState(scenario, cast)
    known: Mapping[str, Any] = game.family.strategies if strategies is None else strategies
    said: dict[str, list[tuple[int, str]]] = {seat: [] for seat in scenario.seat_names}
    while game.outcome() is None:
        for seat in game.to_move:
            text = known[cast[seat]](game.view(seat), Random(f"{seed}/{seat}"))
            said[seat].append((len(game.observe(seat).heard), text))
            game.submit(seat, text)
    return game, said


def encode_seat(chat: ChatFormat, game: GameState, seat: str, said: list[tuple[int, str]]) -> Trajectory:
    """One seat's side of a finished game, in exactly the form that `PolicyPlayer` records; what it wrote is trained."""
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
    return _trajectory(ids, mask)


def encode(context: list[int], written: list[int]) -> Trajectory:
    """What was read and written outside of any game."""
    return _trajectory(context + written, [False] * len(context) + [True] * len(written))


def _trajectory(ids: list[int], mask: list[bool]) -> Trajectory:
    """A text to imitate; nobody sampled it and nothing came of it."""
    return Trajectory(
        game_id="",
        scenario_id="",
        family="",
        seat="",
        partner="",
        token_ids=ids,
        logprobs=[0.0] * len(ids),
        loss_mask=mask,
        temperature=1.0,
        policy="scripts",
        reward=None,
        verdict=Verdict.VOID,
        score=0.0,
    )
