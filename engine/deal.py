"""Dealing: which games a training step plays, as a pure function of settings and step: a resumed run deals the same."""

from __future__ import annotations

from random import Random

from sparring.engine.config import RunConfig, partner_specs
from sparring.rollout.chat import ChatFormat
from sparring.rollout.trajectory import Deal
from sparring.scenarios import registry
from sparring.scenarios.game import GameState


def deal(config: RunConfig, step: int) -> list[Deal]:
    """The deals of a step: `scenarios_per_step` scenarios of the training split, `games_per_scenario` games of each.

    Families take turns; seat and partner are drawn once a scenario, so that its games form one group.
    """
    deals: list[Deal] = []
    for place in range(config.scenarios_per_step):
        rng = Random(f"sparring/deal/{config.seed}/{step}/{place}")
        family = registry.get(config.families[(step * config.scenarios_per_step + place) % len(config.families)])
        scenario = family.generate(rng.randrange(1 << 48))
        trained = rng.choice(scenario.seat_names)
        partner = rng.choice(partner_specs(family.name, config.partners))
        players = {seat: "policy" if seat == trained else partner for seat in scenario.seat_names}
        for game in range(config.games_per_scenario):
            deals.append(Deal(id=f"{step}/{place}/{game}", scenario=scenario, players=players, seed=rng.randrange(1 << 62)))
    return deals


def openings(config: RunConfig, chat: ChatFormat, count: int) -> list[list[int]]:
    """`count` prompts as the policy first reads them, each of another game of the run's first steps: the same at every step."""
    prompts: list[list[int]] = []
    for number in range(count):
        step, place = divmod(number, config.scenarios_per_step)
        first = deal(config, step)[place * config.games_per_scenario]
        seen = GameState(first.scenario, first.cast).observe(first.trained_seats[0])
        prompts.append(chat.opening(seen.instructions, seen.heard))
    return prompts
