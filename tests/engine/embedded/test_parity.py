"""Generator and learner give the same log-probs to the tokens of whole games, under a trained adapter."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from sparring.engine.config import load_run_config
from sparring.engine.deal import deal
from sparring.engine.engine import POLICY, Engine
from sparring.engine.train import trained_on
from sparring.rollout.trajectory import Trajectory

SETTINGS = ["scenarios_per_step=4", "games_per_scenario=4", "sampling.max_tokens=24", "learner.learning_rate=0.01"]


async def play(engine: Engine, step: int) -> list[Trajectory]:
    deals = deal(engine.config, step)
    async with aclosing(engine.play(deals, adapter=POLICY)) as played:  # type: ignore[type-var]
        return trained_on([game async for game in played], deals)


@pytest.mark.parametrize("share", ["true", "false"])
def test_log_probs_of_played_games_are_the_learners(share: str) -> None:
    """The generator caches turns and prefixes, the learner packs and shares them: neither may change a number (fp32, 1e-4)."""
    settings = [*SETTINGS, f"learner.share_prefixes={share}", "learner.schedule=constant"]
    with Engine.open(load_run_config("demo", overrides=settings)) as engine:
        learner = engine.learner()
        engine.publish(POLICY, learner.adapter())
        assert learner.step(asyncio.run(play(engine, 0))).updates == 1
        engine.publish(POLICY, learner.adapter())
        before = engine.generator.stats
        trajectories = asyncio.run(play(engine, 1))
        assert (engine.generator.stats - before).cached_tokens > 0
        of_base = 0.0
        theirs, base = learner.logprobs(trajectories), learner.logprobs(trajectories, base=True)
        for trajectory, mine, untrained in zip(trajectories, theirs, base, strict=True):
            sampled = [i for i, trained in enumerate(trajectory.loss_mask) if trained]
            assert [mine[i] for i in sampled] == pytest.approx([trajectory.logprobs[i] for i in sampled], abs=1e-4)
            of_base = max(of_base, *(abs(untrained[i] - mine[i]) for i in sampled))
        assert of_base > 1e-2
