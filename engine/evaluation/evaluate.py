"""Measuring a policy on held-out scenarios: from every seat, across from several partners, on common seeds.

`held_out` finds the scenarios, `arrange` seats the policy, `evaluate` plays. The same arguments give the same deals whoever plays
them, so that two evaluations pair up game by game; what their difference is worth is `compare.py`'s business.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from sparring.engine.config import partner_specs
from sparring.engine.errors import EvaluationError
from sparring.engine.evaluation.figures import Evaluation, Result
from sparring.rollout.player import PlayerFactory
from sparring.rollout.runner import Admit, admit_all, play
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry
from sparring.scenarios.control import with_shuffled_values
from sparring.scenarios.family import Split
from sparring.scenarios.outcome import Reason
from sparring.scenarios.scenario import Scenario

BARGAINS = frozenset({"haggle", "split"})
"""Families whose games end with a deal or without one; others have no agreement rate."""
DEAL = frozenset({Reason.TARGET_MET, Reason.NEAR_TARGET, Reason.BELOW_TARGET, Reason.DEAL_BEYOND_LIMIT})
"""How a seat's bargain ends where the deal was struck."""


@dataclass(frozen=True)
class Match:
    """One game of an evaluation: the deal, and what it counts towards. The deal's scenario may be a shuffled version."""

    deal: Deal
    scenario_id: str
    seat: str
    partner: str
    unseen: bool

    @property
    def key(self) -> str:
        """Equal for the games that pair up across evaluations."""
        return f"{self.scenario_id}/{self.seat}/{self.partner}/{self.deal.seed}"


def held_out(families: Sequence[str], count: int, *, split: Split = "seed", seed: int = 0) -> list[Scenario]:
    """`count` different scenarios of a split, spread evenly over the families; the same ones on every machine.

    Raises `EvaluationError` where a family has no more that differ.
    """
    found: list[Scenario] = []
    for number, name in enumerate(families):
        share = count // len(families) + (number < count % len(families))
        family, own, first = registry.get(name), dict[str, Scenario](), seed * 1_000_000
        for at in range(first, first + 100 * share):
            if len(own) == share:
                break
            scenario = family.generate(at, split)
            own.setdefault(scenario.id, scenario)
        if len(own) < share:
            raise EvaluationError(
                f"{name} has only {len(own)} different scenarios in split {split!r}: ask for fewer than {share}"
            )
        found += own.values()
    return found


def arrange(
    scenarios: Sequence[Scenario],
    *,
    policy: str = "policy",
    partners: Sequence[str] = ("scripts", "unseen"),
    games: int = 1,
    seed: int = 0,
    shuffled: bool = False,
    label: str = "evaluation",
) -> list[Match]:
    """`games` games from each seat of each scenario: `policy` there, one partner in all other seats.

    Partners (`partner_specs`) take turns, so that every seat meets each about as often. With `shuffled`, the policy reads the
    private values of another instance. `label` begins the deals' ids; neither it nor `policy` changes anything else.

    Raises `RolloutError` for a partner that a family does not have.
    """
    versions = with_shuffled_values(scenarios, seed) if shuffled else [(s,) * len(s.seats) for s in scenarios]
    matches: list[Match] = []
    place: dict[str, int] = {}
    for scenario, version in zip(scenarios, versions, strict=True):
        number = place[scenario.family] = place.get(scenario.family, -1) + 1
        specs = partner_specs(scenario.family, partners)
        for at, seat in enumerate(scenario.seat_names):
            for game in range(games):
                partner = specs[(number * games + at + game) % len(specs)]
                players = {name: policy if name == seat else partner for name in scenario.seat_names}
                name = f"{scenario.id}/{seat}/{partner}/{game}"
                deal = Deal(id=f"{label}/{name}", scenario=version[at], players=players, seed=_seed(f"{seed}/{name}"))
                unseen = partner == f"script:{registry.get(scenario.family).unseen_partner}"
                matches.append(Match(deal, scenario.id, seat, partner, unseen))
    return matches


async def evaluate(
    matches: Sequence[Match],
    players: PlayerFactory,
    *,
    concurrency: int = 64,
    time_limit: float | None = None,
    on_game: Callable[[Game], None] | None = None,
    admit: Admit = admit_all,
) -> Evaluation:
    """Plays the matches. Raises `EvaluationError` where there are none, or none could be played to its end.

    Example:
        >>> matches = arrange(held_out(["haggle"], 100), policy="base", label="baseline")
        >>> baseline = await evaluate(matches, Seating(sampler=generator, chat=chat))
    """
    if not matches:
        raise EvaluationError("nothing to evaluate: ask for at least one scenario")
    started, played = time.perf_counter(), dict[str, Game]()
    deals = (match.deal for match in matches)
    games = play(deals, players, concurrency=concurrency, time_limit=time_limit, on_game=on_game, admit=admit)
    async with aclosing(games):  # type: ignore[type-var]
        async for game in games:
            played[game.id] = game
    failed = [game.error for game in played.values() if game.error is not None]
    if len(failed) == len(matches):
        raise EvaluationError(f"none of {len(matches)} games could be played; the first: {failed[0]}")
    shuffled = any(match.deal.scenario.id != match.scenario_id for match in matches)
    results = tuple(_result(match, played[match.deal.id]) for match in matches)
    return Evaluation(results=results, seconds=time.perf_counter() - started, shuffled=shuffled)


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def _result(match: Match, game: Game) -> Result:
    family = match.deal.scenario.family
    agreed = all(outcome.reason in DEAL for outcome in game.outcomes.values()) if family in BARGAINS else None
    return Result(
        key=match.key,
        scenario_id=match.scenario_id,
        family=family,
        partner=match.partner,
        unseen=match.unseen,
        outcome=game.outcomes[match.seat],
        agreed=agreed,
    )
