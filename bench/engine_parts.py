"""Pieces of the acceptance script: a cycle timed phase by phase, publications taken apart, games beside `LLM.generate`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import msgspec
import torch

from sparring.bench.engine_report import Generation
from sparring.bench.flops import step_flops
from sparring.bench.phase_memory import PhaseMemory
from sparring.bench.plain_vllm import PlainVllm, Replayed
from sparring.engine.deal import deal
from sparring.engine.engine import POLICY, Engine
from sparring.engine.fence import Fence, FenceReport
from sparring.engine.generator import Generator
from sparring.engine.members import trained_on
from sparring.engine.memory.model_shape import ModelShape
from sparring.engine.vllm import layout as adapter_layout
from sparring.engine.vllm.generator import VllmGenerator
from sparring.learner.learner import Learner
from sparring.learner.stats import StepStats
from sparring.rollout.player import Seating
from sparring.rollout.runner import play
from sparring.rollout.sampler import Sample, SampleRequest
from sparring.rollout.trajectory import Deal, Game, Trajectory

WARM_UP_STEP = 1 << 20
"""A step far from those of the cycles and of the seeds."""


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """One cycle's figures, in seconds."""

    resume: float
    check: float
    play: float
    release: float
    learn: float
    publish: float
    computing: float
    """The generator's own time while games were played."""
    games: int
    sampled_tokens: int
    flops: float
    stats: StepStats
    agreement: FenceReport
    held: int
    """Bytes in use at the end."""

    @property
    def seconds(self) -> float:
        return self.resume + self.check + self.play + self.release + self.learn + self.publish


class Cycles:
    """Play, learn, publish: as in `engine/train.py`, with a clock on every part and nothing kept."""

    def __init__(self, engine: Engine, learner: Learner, shape: ModelShape, *, ballast: int = 0) -> None:
        self.engine, self.learner, self.shape = engine, learner, shape
        self.fence: Fence = engine.fence(learner)
        self.memory = PhaseMemory(learner.device, ballast)
        self.parts: dict[str, list[float]] = defaultdict(list)
        """Seconds of each part of every publication."""
        self.publish()
        self.parts.clear()  # the first one warms up

    async def cycle(self, number: int) -> Cycle:
        deals = deal(self.engine.config, number)
        generator = self.engine.generator
        self.memory.begin()
        resume, _ = _clocked(generator.resume)
        started = perf_counter()
        agreement = await self.fence.check(POLICY)
        check = perf_counter() - started
        before, started = generator.stats, perf_counter()
        games = await played(self.engine, generator, deals)
        seconds = perf_counter() - started
        spent = generator.stats - before
        self.memory.end("play")
        release, _ = _clocked(generator.release)
        trajectories = dealt_rewards(trained_on(games, deals))
        self.fence.check_games(trajectories)
        self.memory.begin()
        learn, stats = _clocked(lambda: self.learner.step(trajectories))
        self.memory.end("learn")
        self.fence.check_step(stats)
        self.memory.begin()
        publish = self.publish()
        self.memory.end("publish")
        return Cycle(
            resume=resume,
            check=check,
            play=seconds,
            release=release,
            learn=learn,
            publish=publish,
            computing=spent.seconds,
            games=len(games),
            sampled_tokens=sum(game.sampled_tokens for game in games),
            flops=step_flops(self.shape, self.learner.config.lora, stats, trajectories),
            stats=stats,
            agreement=agreement,
            held=self.memory.held(),
        )

    def publish(self) -> float:
        """Hands the learner's policy over; the seconds that it took."""
        adapter = self.learner.adapter()
        with timed_parts(self.parts):
            seconds, _ = _clocked(lambda: adapter.fingerprint)
            self.parts["fingerprint"].append(seconds)
            rest, _ = _clocked(lambda: self.engine.publish(POLICY, adapter))
        self.parts["all"].append(seconds + rest)
        return seconds + rest


async def played(engine: Engine, sampler: Generator | Recorder, deals: Sequence[Deal]) -> list[Game]:
    """All games of the deals. A failed one fails the measurement."""
    config = engine.config
    seating = Seating(sampler=sampler, chat=engine.chat, adapter=POLICY, sampling=config.sampling)
    running = play(deals, seating, concurrency=config.concurrency, time_limit=config.time_limit)
    async with aclosing(running) as games:  # type: ignore[type-var]
        found = [game async for game in games]
    assert [game.error for game in found if game.error] == []
    return found


def dealt_rewards(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Win and loss are dealt in turn, so that every group is learned from whatever the model can do."""
    return [msgspec.structs.replace(t, reward=1.0 if i % 2 else -1.0) for i, t in enumerate(trajectories)]


@contextmanager
def timed_parts(parts: dict[str, list[float]]) -> Iterator[None]:
    """Notes the seconds of each part of a publication to vLLM, with the device waited for after each."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            seconds, result = _clocked(lambda: function(*args))
            parts[name].append(seconds)
            return result

        return call

    with ExitStack() as stack:
        for name in ("check_fit", "write", "read_back"):
            function = timed(name.replace("_", " "), getattr(adapter_layout, name))
            stack.enter_context(patch.object(adapter_layout, name, function))
        yield


class Recorder:
    """A sampler that passes requests on and keeps them, with the numbers of tokens that came back."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.replayed: list[Replayed] = []
        self.token_ids: list[list[int]] = []

    async def sample(self, request: SampleRequest) -> Sample:
        sample = await self._generator.sample(request)
        self.replayed.append(Replayed(request, len(sample.token_ids)))
        self.token_ids.append(sample.token_ids)
        return sample

    def end_session(self, session: str) -> None:
        self._generator.end_session(session)


def beside_plain(engine: Engine, seeds: int) -> Generation:
    """Games, and then their requests all at once through `LLM.generate`, on the same engine; the prefix cache is empty before
    each. Every seed deals other games; which side comes first alternates from the second seed on."""
    generator = engine.generator
    if not isinstance(generator, VllmGenerator):
        return Generation()
    generator.resume()
    plain = PlainVllm(generator)
    rounds = [_round(engine, plain, WARM_UP_STEP + number) for number in range(seeds + 1)][1:]
    generator.release()
    ratios = [games / alone for games, alone, _, _ in rounds]
    requests = sum(count for *_, count in rounds)
    return Generation(
        requests=requests,
        games_tokens_per_second=tuple(round(games, 1) for games, *_ in rounds),
        plain_tokens_per_second=tuple(round(alone, 1) for _, alone, *_ in rounds),
        ratio=round(median(ratios), 4),
        lowest_ratio=round(min(ratios), 4),
        same_tokens=round(sum(same for *_, same, _ in rounds) / requests, 4),
    )


def _round(engine: Engine, plain: PlainVllm, step: int) -> tuple[float, float, int, int]:
    """Tokens/s of the games and of `LLM.generate`, the requests that sampled the same ids, and all requests."""
    recorder = Recorder(engine.generator)
    deals = deal(engine.config, step)
    plain.reset_prefix_cache()
    seconds, _ = _clocked(lambda: asyncio.run(played(engine, recorder, deals)))
    plain.reset_prefix_cache()
    generated = plain.generate(recorder.replayed)
    tokens = sum(map(len, recorder.token_ids))
    assert sum(map(len, generated.token_ids)) == tokens
    same = sum(one == other for one, other in zip(generated.token_ids, recorder.token_ids, strict=True))
    return tokens / seconds, tokens / generated.seconds, same, len(recorder.replayed)


def _clocked(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until the device is done, and the result."""
    started = perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - started, result
