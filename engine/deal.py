"""Dealing: which games a training step plays, as a pure function of settings and step: a resumed run deals the same."""

from __future__ import annotations

from random import Random

from sparring.engine.config import MEMBERS, RunConfig, partner_specs
from sparring.engine.contests import find_family
from sparring.rollout.chat import ChatFormat
from sparring.rollout.player import turn_seed
from sparring.rollout.trajectory import Deal
from sparring.scenarios.game import GameState


def deal(config: RunConfig, step: int) -> list[Deal]:
    """The deals of a step: `scenarios_per_step` scenarios of the training split, and `games_per_scenario` games of each for each
    policy in training.

    Families take turns; seat and partner are drawn once a scenario, so that its games form one group. The members of a population
    play the same scenarios: in a contest, their entries meet.
    """
    return [one for member in config.members for one in _deal(config, step, member)]


def _deal(config: RunConfig, step: int, member: str) -> list[Deal]:
    deals: list[Deal] = []
    for place in range(config.scenarios_per_step):
        rng = Random(f"sparring/deal/{config.seed}/{step}/{place}")
        name = config.families[(step * config.scenarios_per_step + place) % len(config.families)]
        family = find_family(name, config.contest_topics)
        scenario = family.generate(rng.randrange(1 << 48))
        trained = rng.choice(scenario.seat_names)
        partner = _partner(config, family.name, member, rng) if len(scenario.seats) > 1 else ""
        players = {seat: "policy" if seat == trained else partner for seat in scenario.seat_names}
        for game in range(config.games_per_scenario):
            seed = rng.randrange(1 << 62)
            ident = f"{step}/{place}/{game}"
            if member:
                ident, seed = f"{ident}@{member}", turn_seed(seed, member, 0)
            deals.append(Deal(id=ident, scenario=scenario, players=players, seed=seed, member=member))
    return deals


def _partner(config: RunConfig, family: str, member: str, rng: Random) -> str:
    """Who sits across; "members" stands for another policy of the population, as it plays now."""
    partner = rng.choice(partner_specs(family, config.partners))
    if partner != MEMBERS:
        return partner
    return f"policy:{rng.choice([other for other in config.members if other != member])}"


def openings(config: RunConfig, chat: ChatFormat, count: int) -> list[list[int]]:
    """`count` prompts as the policy first reads them, each of another game of the run's first steps: the same at every step."""
    prompts: list[list[int]] = []
    for number in range(count):
        step, place = divmod(number, config.scenarios_per_step)
        first = deal(config, step)[place * config.games_per_scenario]
        seen = GameState(first.scenario, first.cast).observe(first.trained_seats[0])
        prompts.append(chat.opening(seen.instructions, seen.heard))
    return prompts
