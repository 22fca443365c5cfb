"""Scoring a step: finished contest games go in, the same games with outcomes and rewards come out.

Owns which entries meet and what a reward is made of. Pairs and scores are `tournament.py`'s, what
the judgements say about the judges is `audit.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sparring.rollout.judging.audit import Audit, audit
from sparring.rollout.judging.clerk import Clerk, gather
from sparring.rollout.judging.controls import Subject, controls
from sparring.rollout.judging.judge import Judgement
from sparring.rollout.judging.judging import Judging
from sparring.rollout.judging.panel import Vote
from sparring.rollout.judging.tournament import Contestant, Standing, hold
from sparring.rollout.trajectory import Game, Trajectory
from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Contest, Entry
from sparring.scenarios.game import replay
from sparring.scenarios.outcome import Outcome, Reason, Verdict


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A step's games, scored. Games that are no contests, or failed, are as they were.

    Example:
        >>> judged = await score_games(games, judging, step=3)
        >>> judged.scores["3/0/1"]["pro"], judged.audit.findings
        (0.42857143, ())
    """

    games: tuple[Game, ...]
    judgements: tuple[Judgement, ...]
    audit: Audit
    scores: Mapping[str, Mapping[str, float | None]]
    """Game id to seat to tournament score in [-1, 1]; `None` where no pair of the entry counted."""
    metrics: Mapping[str, float]
    """The audit's, and means over entries: `form`, `reasoning`, `empty`; shares of pairs: `dropped`."""


@dataclass(frozen=True)
class _Place:
    """One trajectory's place in a tournament."""

    game: Game
    trajectory: Trajectory
    entry: Entry


@dataclass(frozen=True)
class _Group:
    """The entries that are compared with each other, and what came of it. `ratings` are of reasoning."""

    name: str
    places: tuple[_Place, ...]
    standing: Standing
    ratings: tuple[float, ...]


async def score_games(
    games: Sequence[Game], judging: Judging, *, step: int, on_judgement: Callable[[Judgement], None] | None = None
) -> Judged:
    """Judges the contest games of a step, all groups at once, and puts outcomes and rewards in their place.

    A group is that of `Trajectory.group`, whoever's policies sampled it. The reward is the tournament score plus the weighted
    format and reasoning (neither for an empty entry); the outcome is a win, draw or loss by the sign of the score. An entry of
    which no pair counted is void: a failed call never loses a game.

    Raises what ends a run (`BudgetError`, `RemoteError`, `CassetteError`), and `RolloutError` where no judge takes a contest's
    criteria. `on_judgement` has had every judgement by then.
    """
    config = judging.config
    clerk = Clerk(asyncio.Semaphore(config.concurrency), on_judgement)
    groups = _groups(games)
    votes = {name: judging.panel.votes(_contest_of(places[0]).criteria) for name, places in groups.items()}
    work: list[Coroutine[Any, Any, _Group | None]] = [
        _judge_group(name, places, votes[name], judging, clerk, step) for name, places in groups.items()
    ]
    subjects = [
        Subject(name, Contestant(place.game.id, place.entry), votes[name]) for name, places in groups.items() for place in places
    ]
    work += controls(subjects, clerk, config.controls, f"{config.seed}/{step}")
    judged = [group for group in await gather(work) if group is not None]
    judgements = clerk.judgements
    found = audit(judgements, _lengths(groups))
    return Judged(
        games=_rescored(games, judged, judging),
        judgements=judgements,
        audit=found,
        scores=_scores(judged),
        metrics=found.metrics | _means(judged),
    )


def entry_of(game: Game, seat: str) -> Entry:
    """What a seat of a finished contest game handed in, read from the transcript. Raises `ScenarioError` for an unknown seat."""
    state = replay(game.scenario, list(game.turns), game.cast)
    contest = registry.get(game.scenario.family)
    assert isinstance(contest, Contest)
    return contest.entry(state, seat)


def _groups(games: Sequence[Game]) -> dict[str, tuple[_Place, ...]]:
    found: dict[str, list[_Place]] = {}
    for game in games:
        if game.error is None and isinstance(registry.get(game.scenario.family), Contest):
            for trajectory in game.trajectories:
                place = _Place(game, trajectory, entry_of(game, trajectory.seat))
                found.setdefault(trajectory.group, []).append(place)
    return {name: tuple(places) for name, places in found.items()}


def _contest_of(place: _Place) -> Contest[Any, Any]:
    contest = registry.get(place.game.scenario.family)
    assert isinstance(contest, Contest)
    return contest


async def _judge_group(
    name: str, places: tuple[_Place, ...], votes: Sequence[Vote], judging: Judging, clerk: Clerk, step: int
) -> _Group:
    config = judging.config
    ratings = await _rate(places, judging, clerk)
    standing = await hold(
        name,
        [Contestant(place.game.id, place.entry) for place in places],
        votes,
        clerk,
        pairing=config.pairing,
        degree=config.degree,
        seed=f"{config.seed}/{step}/{name}",
    )
    return _Group(name, places, standing, ratings)


async def _rate(places: Sequence[_Place], judging: Judging, clerk: Clerk) -> tuple[float, ...]:
    """Each entry's reasoning in [0, 1]. One that could not be rated takes the mean of the group's: it neither gains nor loses."""
    if not judging.config.reasoning_weight:
        return (0.0,) * len(places)
    rated = await gather(
        clerk.rate(judging.reasoning, place.entry.brief, "" if place.entry.empty else place.entry.reasoning) for place in places
    )
    known = [rating for rating in rated if rating is not None]
    mean = sum(known) / len(known) if known else 0.0
    return tuple(mean if rating is None else rating for rating in rated)


def _lengths(groups: Mapping[str, Sequence[_Place]]) -> dict[tuple[str, str], int]:
    return {(name, place.game.id): len(place.entry.text) for name, places in groups.items() for place in places}


def _rescored(games: Sequence[Game], groups: Sequence[_Group], judging: Judging) -> tuple[Game, ...]:
    trajectories: dict[tuple[str, str], Trajectory] = {}
    outcomes: dict[str, dict[str, Outcome]] = {}
    for group in groups:
        for place, score, rating in zip(group.places, group.standing.scores, group.ratings, strict=True):
            game, seat = place.game, place.trajectory.seat
            outcome = _outcome(score, place.entry, game.outcomes[seat])
            outcomes.setdefault(game.id, {})[seat] = outcome
            reward = None if score is None else reward_of(score, place.entry, rating, judging)
            trajectories[game.id, seat] = msgspec.structs.replace(
                place.trajectory, reward=reward, verdict=outcome.verdict, score=outcome.score
            )
    return tuple(
        msgspec.structs.replace(
            game,
            outcomes={**game.outcomes, **outcomes[game.id]},
            trajectories=tuple(trajectories.get((game.id, own.seat), own) for own in game.trajectories),
        )
        if game.id in outcomes
        else game
        for game in games
    )


def reward_of(score: float, entry: Entry, rating: float, judging: Judging) -> float:
    """Tournament score plus what form and reasoning add; an empty entry has neither."""
    if entry.empty:
        return score
    return score + judging.config.format_weight * entry.form + judging.config.reasoning_weight * rating


def _outcome(score: float | None, entry: Entry, before: Outcome) -> Outcome:
    """An empty entry keeps the loss that its contest gave it, even among its like."""
    if score is None:
        return Outcome.of(Verdict.VOID, 0.0, Reason.UNJUDGED, before.evidence)
    if entry.empty:
        return before
    verdict = Verdict.WIN if score > 0 else Verdict.LOSS if score < 0 else Verdict.DRAW
    return Outcome.of(verdict, (score + 1) / 2, Reason.JUDGED, before.evidence)


def _scores(groups: Sequence[_Group]) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for group in groups:
        for place, score in zip(group.places, group.standing.scores, strict=True):
            found.setdefault(place.game.id, {})[place.trajectory.seat] = score
    return found


def _means(groups: Sequence[_Group]) -> dict[str, float]:
    entries = [place.entry for group in groups for place in group.places]
    pairs = sum(len(group.standing.pairs) for group in groups)
    if not entries:
        return {}
    return {
        "form": sum(entry.form for entry in entries) / len(entries),
        "reasoning": sum(sum(group.ratings) for group in groups) / len(entries),
        "empty": sum(entry.empty for entry in entries) / len(entries),
        "dropped": sum(group.standing.dropped for group in groups) / pairs if pairs else 0.0,
    }
