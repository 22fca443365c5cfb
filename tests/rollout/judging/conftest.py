"""Contest games with given answers, entries, criteria, and judges whose mistakes are known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from types import SimpleNamespace

import pytest

from sparring.rollout.errors import CallError
from sparring.rollout.judging.judge import Comparison, Preference
from sparring.rollout.trajectory import Game, Trajectory
from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Criterion, Entry
from sparring.scenarios.game import GameState
from sparring.scenarios.outcome import Verdict

BRIEF = "Speak for the motion: Cities should ban private cars. Give one speech.\nTopic words: cities; ban; private; cars"
GOOD = (
    "Cities should ban private cars. The air gets cleaner, because engines no longer burn fuel between houses. For example, Oslo "
    "took away 700 parking places and its streets filled with walkers. Shops fear for their trade; however, people on foot buy "
    "more often than drivers do. Therefore a city without private cars is healthier and richer."
)
CRITERION = Criterion(name="argument", question="Which makes the stronger case?")


class FakeJudge:
    """Answers by a function of the comparison; counts what it was asked."""

    def __init__(self, answer: Callable[[Comparison], Preference | None], name: str = "fake") -> None:
        self.name, self.answer = name, answer
        self.asked: list[Comparison] = []

    async def compare(self, comparison: Comparison) -> Preference | None:
        self.asked.append(comparison)
        return self.answer(comparison)


def by_size(value: Callable[[str], float], margin: float = 0.0) -> Callable[[Comparison], Preference]:
    """Prefers the text of the larger value."""

    def answer(comparison: Comparison) -> Preference:
        lead = value(comparison.first) - value(comparison.second)
        return Preference.TIE if abs(lead) <= margin else Preference.FIRST if lead > 0 else Preference.SECOND

    return answer


def chance(comparison: Comparison, salt: str = "") -> Random:
    """A generator that the comparison, its order included, decides."""
    held = repr((salt, comparison.brief, comparison.criterion.name, comparison.first, comparison.second))
    return Random(hashlib.sha256(held.encode()).digest())


def quality(text: str) -> float:
    """What a noisy judge sees through a haze: a normal figure that a text's first hundred characters decide."""
    return Random(text[:100]).gauss(0.0, 1.0)


def noisy(comparison: Comparison) -> Preference:
    """A reasonable judge: sees the difference of qualities with noise, anew in each order, and ties where it is small."""
    lead = quality(comparison.first) - quality(comparison.second) + chance(comparison).gauss(0.0, 0.5)
    return Preference.TIE if abs(lead) < 0.7 else Preference.FIRST if lead > 0 else Preference.SECOND


def first_always(comparison: Comparison) -> Preference:
    return Preference.FIRST


def coin(comparison: Comparison) -> Preference:
    return chance(comparison).choice((Preference.FIRST, Preference.SECOND))


def dice(comparison: Comparison) -> Preference:
    return chance(comparison).choice(tuple(Preference))


longest = by_size(len)


def failing(comparison: Comparison) -> Preference:
    raise CallError("the judge cannot be reached")


def entry(text: str, *, empty: bool = False, form: float = 1.0, reasoning: str = "") -> Entry:
    return Entry(brief=BRIEF, text=text, reasoning=reasoning, form=form, empty=empty)


def contest_game(number: int, seed: int, message: str, *, policy: str = "policy@1", error: str | None = None) -> Game:
    """A finished debate: game `seed`/`number`, in which the policy wrote `message`."""
    scenario = registry.get("debate").generate(seed=seed)
    state, (seat,) = GameState(scenario), scenario.seat_names
    state.submit(seat, message)
    outcomes = state.outcome()
    assert outcomes is not None
    trajectory = Trajectory(
        game_id=f"{seed}/{number}",
        scenario_id=scenario.id,
        family="debate",
        seat=seat,
        partner="",
        token_ids=[1, 2],
        logprobs=[0.0, -1.0],
        loss_mask=[False, True],
        temperature=1.0,
        policy=policy,
        reward=None,
        verdict=Verdict.VOID,
        score=0.0,
    )
    return Game(
        id=f"{seed}/{number}",
        scenario=scenario,
        players={seat: "policy"},
        turns=tuple(state.turns),
        outcomes=outcomes,
        trajectories=(trajectory,),
        seconds=0.0,
        error=error,
    )


def answered(text: str, reasoning: str = "notes") -> str:
    return f"<reasoning>{reasoning}</reasoning><answer>{text}</answer>"


def step_of_games(groups: int = 16, size: int = 8) -> list[Game]:
    """A usual step: each group's answers grow from a clause to a speech, in an order of their own."""
    sentences = [sentence + "." for sentence in GOOD.split(". ")]
    games = []
    for seed in range(groups):
        rng = Random(seed)
        for number in range(size):
            said = rng.sample(sentences, rng.randint(1, len(sentences)))
            extra = f" We saw this in town number {rng.randint(1, 999)} {'for many years ' * rng.randint(0, 3)}too."
            games.append(contest_game(number, seed, answered(" ".join(said) + extra)))
    return games


@pytest.fixture(scope="session")
def a_step() -> list[Game]:
    return step_of_games()


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """What this file defines, for tests."""
    return SimpleNamespace(
        BRIEF=BRIEF,
        GOOD=GOOD,
        CRITERION=CRITERION,
        FakeJudge=FakeJudge,
        answered=answered,
        by_size=by_size,
        coin=coin,
        contest_game=contest_game,
        dice=dice,
        entry=entry,
        failing=failing,
        first_always=first_always,
        longest=longest,
        noisy=noisy,
        quality=quality,
    )
