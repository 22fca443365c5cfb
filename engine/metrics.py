"""A step's figures by name, as trackers take them, and which of them the terminal shows.

`play/...` is of the games, `judge/...` of the tournaments, `learn/...` of the update, `fence/...` of the canaries before them,
`remote/...` of calls of other models so far in this process; those of a population's members end in the member's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from sparring.engine.members import Member
from sparring.learner.stats import StepStats
from sparring.rollout.judging.score import Judged
from sparring.rollout.remote.stats import RemoteStats
from sparring.rollout.stats import RolloutStats
from sparring.rollout.trajectory import Trajectory

COLUMNS = {
    "play/win_rate": "{:.1%}",
    "play/invalid_rate": "{:.1%}",
    "play/games_per_hour": "{:,.0f}",
    "learn/groups": "{:.0f}",
    "learn/entropy": "{:.3f}",
    "learn/grad_norm": "{:.2f}",
    "learn/tokens_per_second": "{:,.0f}",
}
"""The metrics that the terminal shows each step, and how."""
CONTEST_COLUMNS = {
    "judge/form": "{:.1%}",
    "judge/flips": "{:.1%}",
    "judge/ties": "{:.1%}",
    "evaluate/win_rate": "{:.1%}",
    "learn/groups": "{:.0f}",
    "learn/entropy": "{:.3f}",
    "learn/grad_norm": "{:.2f}",
}
"""The same for runs of contests alone."""

REMOTE = (
    *("calls", "attempts", "retries", "hedges", "failed", "cached"),
    *("prompt_tokens", "completion_tokens", "cost", "p50", "p99"),
)


def step_metrics(
    rollout: RolloutStats,
    members: Sequence[Member],
    stats: Sequence[StepStats],
    agreement: Mapping[str, float],
    judged: Judged,
    trajectories: Mapping[str, Sequence[Trajectory]],
    *,
    idle: float,
) -> dict[str, float]:
    """One step's figures. `idle` is the share of the time of play and judging in which the generator computed nothing."""
    tally = rollout.tally
    played = {
        "win_rate": tally.win_rate,
        "mean_score": tally.mean_score,
        "invalid_rate": tally.invalid / tally.counted if tally.counted else 0.0,
        "void": tally.void,
        "games": rollout.games,
        "failed": rollout.failed,
        "truncated": rollout.truncated,
        "sampled_tokens": rollout.sampled_tokens,
        "tokens_per_second": rollout.tokens_per_second,
        "games_per_hour": rollout.games_per_hour,
        "seconds": rollout.seconds,
        "idle": idle,
    }
    ages = [member.fence.staleness(own) for member in members for own in trajectories[member.name]]
    if any(ages):
        played |= {"staleness_mean": sum(ages) / len(ages), "staleness_max": max(ages)}
    figures = {f"play/{name}": float(value) for name, value in played.items()}
    figures |= {f"play/win_rate/{family}": own.win_rate for family, own in rollout.families.items()}
    if judged.judgements:
        figures |= {f"judge/{name}": float(value) for name, value in judged.metrics.items()}
    for member, one in zip(members, stats, strict=True):
        figures |= learned(one, member.name)
        if member.name:
            figures[f"population/rating/{member.name}"] = member.rating
    return figures | {f"fence/{name}": float(value) for name, value in agreement.items()}


def learned(stats: StepStats, member: str = "") -> dict[str, float]:
    """An update's figures."""
    own = f"/{member}" if member else ""
    return {f"learn/{name}{own}": float(value) for name, value in msgspec.structs.asdict(stats).items() if name != "step"}


def remote_metrics(stats: RemoteStats) -> dict[str, float]:
    """What calls of other models came to so far in this process."""
    return {f"remote/{name}": float(getattr(stats, name)) for name in REMOTE}
