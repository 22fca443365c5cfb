"""`Member`: one of the policies that a run trains, with its own learner and its own fence; several side by side are a population.

Owns the names that they are published under and how their files lie in a checkpoint. They share the base model and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sparring.engine.engine import POLICY, Engine
from sparring.engine.fence import Fence
from sparring.learner.learner import Learner
from sparring.rollout.trajectory import Deal, Game, Trajectory

MEMBER = "member.json"
RATING_RATE = 0.1
"""Of the newest step in a rating."""
ALONE = ""
"""The name that deals give to the only policy of a run."""


@dataclass
class Member:
    """A policy in training. `name` is what deals call it."""

    name: str
    learner: Learner
    fence: Fence
    rating: float = 0.5
    """Moving mean of its scores, in [0, 1]: who leads a population."""

    @property
    def adapter(self) -> str:
        """What it is published under."""
        return self.name or POLICY

    @property
    def folder(self) -> str:
        """Before the names of its files in a checkpoint: a policy that is alone needs none."""
        return f"{self.name}/" if self.name else ""

    def files(self) -> dict[str, bytes]:
        """Its part of a checkpoint."""
        files = self.learner.files() | {MEMBER: msgspec.json.encode({"rating": self.rating})}
        return {self.folder + name: data for name, data in files.items()}

    def load(self, checkpoint: Path) -> None:
        """Takes its part of a checkpoint."""
        self.learner.load(checkpoint / self.folder)
        self.rating = msgspec.json.decode((checkpoint / self.folder / MEMBER).read_bytes(), type=dict[str, float])["rating"]


def open_members(engine: Engine) -> list[Member]:
    """The policies of a run, each with a fresh adapter of its own seed."""
    members = []
    for number, name in enumerate(engine.config.members):
        learner = engine.learner(seed=engine.config.seed + number, name=name or POLICY)
        members.append(Member(name, learner, engine.fence(learner)))
    return members


def trained_on(games: Iterable[Game], deals: Iterable[Deal], member: str = ALONE) -> list[Trajectory]:
    """A member's trajectories in the order of the deals: what is computed must not depend on which game ended first."""
    by_id = {game.id: game for game in games}
    return [trajectory for deal in deals if deal.member == member for trajectory in by_id[deal.id].trajectories]


def rate(members: Iterable[Member], trajectories: Mapping[str, Sequence[Trajectory]]) -> None:
    """Moves each member's rating towards its mean score of a step. Games without a reward do not count."""
    for member in members:
        scores = [own.score for own in trajectories[member.name] if own.reward is not None]
        if scores:
            member.rating += RATING_RATE * (sum(scores) / len(scores) - member.rating)
