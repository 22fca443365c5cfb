"""The fence: before any game of a step is played, that the policy which plays is the policy which learns.

A policy that was silently not delivered, was overwritten, or reads stale keys and values plays on, and its games teach nonsense.
Three checks after each publication, and two on the games, each raising `FenceError`:

- the adapter that serves has the learner's fingerprint, and its weights are, to the last bit, what was published;
- the first canary after a publication finds none of its prompt in the prefix cache: what lies there is another version's;
- canaries: prompts of real games, sampled by the generator and scored by the learner, whose log-probs must agree;
- every trajectory carries the fingerprint of the policy that was to play;
- over all the games of a step, the generator's log-probs agree with the learner's.

Equality of weights says nothing of how they are used, agreement of log-probs says nothing of an update smaller than its noise:
neither stands in for the other.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import torch
from msgspec import Meta

from sparring.engine.errors import FenceError
from sparring.engine.generator import Generator
from sparring.learner.learner import Learner
from sparring.learner.stats import StepStats
from sparring.rollout.sampler import Sample, SampleRequest
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios.outcome import Verdict

LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}
"""Of the mean |log-prob of the generator - log-prob of the learner|, in nats, where the settings give none. Two programs that
compute the same policy in float32 differ by about 1e-6; half precision moves each logit by some of its last bits."""


class FenceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the policy that plays is held to the one that learns."""

    canaries: Annotated[int, Meta(ge=0, le=256)] = 4
    """Prompts that are sampled and scored after each publication; 0 leaves them out."""
    tokens: Annotated[int, Meta(ge=1, le=1024)] = 8
    """Sampled from each."""
    mismatch_limit: Annotated[float, Meta(ge=0)] = 0.0
    """Nats of mean difference that end the run; 0 takes 0.001 in float32, 0.03 in float16 and 0.1 in bfloat16."""


class FenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """How well generator and learner agreed on the canaries."""

    mismatch_mean: float = 0.0
    """|log-prob of the generator - log-prob of the learner|, in nats."""
    mismatch_max: float = 0.0
    effective_sample_size: float = 1.0
    """(sum w)^2 / (n sum w^2) with w = exp(learner - generator): 1 where both agree (Kong 1992)."""
    tokens: int = 0


class Fence:
    """Holds one published policy to the learner's.

    Example:
        >>> fence = Fence(generator, learner, FenceConfig(), prompts, temperature=1.0)
        >>> generator.publish("policy", learner.adapter())
        >>> (await fence.check("policy")).mismatch_mean
        3e-06
    """

    def __init__(
        self,
        generator: Generator,
        learner: Learner,
        config: FenceConfig,
        prompts: Sequence[list[int]],
        *,
        temperature: float,
        steps_ahead: int = 0,
    ) -> None:
        """Games may have been begun by the policy of any of the last `steps_ahead` + 1 steps."""
        self._generator, self._learner, self._config = generator, learner, config
        self._prompts = list(prompts[: config.canaries])
        self._temperature = temperature
        self._checked: str | None = None
        self._may_have_played: deque[str] = deque(maxlen=1 + steps_ahead)
        self._trusted: frozenset[str] = frozenset()
        self.limit = config.mismatch_limit or LIMITS.get(learner.dtype, max(LIMITS.values()))

    async def check(self, name: str) -> FenceReport:
        """Of what is served as `name`, which should be the learner's policy as it stands. No other request may be in flight.

        Raises `FenceError`.
        """
        fingerprint = self._learner.adapter().fingerprint
        served = self._generator.adapters.get(name)
        if served != fingerprint:
            raise FenceError(
                f"the learner's policy {fingerprint} was never delivered: the generator serves {served or 'nothing'} as {name!r}"
                + _STOPPED
            )
        self._generator.verify(name)
        fresh, self._checked = fingerprint != self._checked, fingerprint
        if fingerprint not in self._may_have_played:
            self._may_have_played.append(fingerprint)
        if not self._prompts:
            return FenceReport()
        samples = [await self._first(name, fresh=fresh)]
        samples += await asyncio.gather(*(self._sample(name, number) for number in range(1, len(self._prompts))))
        report = self._compare(samples)
        if not report.mismatch_mean <= self.limit:
            raise FenceError(
                f"after policy {fingerprint} was published, generator and learner give the same tokens log-probs that differ by "
                f"{report.mismatch_mean:.2g} nats in the mean, where {self.limit:g} is the limit: the generator computes another "
                "policy than the learner, though its adapter is in place: its base weights or its cache are not those of this "
                "policy" + _STOPPED
            )
        return report

    def trust(self, policies: Iterable[str]) -> None:
        """Takes games of these policies too: an earlier process of the same run played them."""
        self._trusted = frozenset(policies)

    def check_games(self, trajectories: Iterable[Trajectory]) -> None:
        """That no policy played them but those that were checked, for this step or as many before as games may be ahead.

        Raises `FenceError`.
        """
        known = self._trusted.union(self._may_have_played)
        for trajectory in trajectories:
            for policy in (trajectory.policy, *trajectory.later):
                if policy not in known:
                    raise FenceError(
                        f"game {trajectory.game_id} was played by policy {policy}, and {self._checked} was published for "
                        "this step" + _STOPPED
                    )

    def staleness(self, trajectory: Trajectory) -> int:
        """How many updates older than the learner's policy the one is that played first; 0 for another process's."""
        played = list(reversed(self._may_have_played))
        return played.index(trajectory.policy) if trajectory.policy in played else 0

    def check_step(self, stats: StepStats) -> None:
        """That the step's games were sampled from the policy that they were learned for. Raises `FenceError`."""
        if not stats.mismatch_mean <= self.limit:
            raise FenceError(
                f"over the games of step {stats.step} the generator's log-probs differ from the learner's by "
                f"{stats.mismatch_mean:.2g} nats in the mean, and {self.limit:g} is the limit: they were sampled from another "
                "policy than the one that learned, as with stale keys and values in the prefix cache; the step's update is not "
                "saved" + _STOPPED
            )

    async def _first(self, name: str, *, fresh: bool) -> Sample:
        before = self._generator.stats.cached_tokens
        sample = await self._sample(name, 0)
        found = self._generator.stats.cached_tokens - before
        if fresh and found:
            raise FenceError(
                f"the first prompt after a new policy was published as {name!r} found {found} of its tokens in the prefix cache: "
                "they were computed with an earlier policy, and the cache was not told apart by version" + _STOPPED
            )
        return sample

    async def _sample(self, name: str, number: int) -> Sample:
        request = SampleRequest(
            prompt_ids=self._prompts[number],
            seed=number,
            max_tokens=self._config.tokens,
            temperature=self._temperature,
            adapter=name,
        )
        return await self._generator.sample(request)

    def _compare(self, samples: Sequence[Sample]) -> FenceReport:
        played = [self._trajectory(number, sample) for number, sample in enumerate(samples)]
        self.check_games(played)
        scored = self._learner.logprobs(played)
        pairs = [
            (theirs, ours)
            for trajectory, scores in zip(played, scored, strict=True)
            for theirs, ours, sampled in zip(trajectory.logprobs, scores, trajectory.loss_mask, strict=True)
            if sampled
        ]
        differences = [abs(theirs - ours) for theirs, ours in pairs]
        weights = [math.exp(max(-50.0, min(ours - theirs, 50.0))) for theirs, ours in pairs]  # none so small that all are 0
        return FenceReport(
            mismatch_mean=math.fsum(differences) / len(pairs),
            mismatch_max=max(differences),
            effective_sample_size=math.fsum(weights) ** 2 / (len(pairs) * math.fsum(w * w for w in weights)),
            tokens=len(pairs),
        )

    def _trajectory(self, number: int, sample: Sample) -> Trajectory:
        prompt = self._prompts[number]
        return Trajectory(
            game_id=f"canary/{number}",
            scenario_id="canary",
            family="canary",
            seat="canary",
            partner="none",
            token_ids=prompt + sample.token_ids,
            logprobs=[0.0] * len(prompt) + sample.logprobs,
            loss_mask=[False] * len(prompt) + [True] * len(sample.token_ids),
            temperature=self._temperature,
            policy=sample.policy,
            reward=None,
            verdict=Verdict.VOID,
            score=0.0,
            truncated=0,
        )


_STOPPED = "; the run was stopped: go on with --resume from its last checkpoint, or report it if it comes again"
