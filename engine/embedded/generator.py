"""`TorchGenerator`: the embedded generator, continuous batching over many games on plain PyTorch.

Owns requests and their scheduling: one asyncio task steps while there is work, and lets the players run between steps. A step
admits waiting requests into free cache slots, computes every running row's next tokens in one forward pass, and draws. The
cache is `kv_cache.py`, the model `decoder.py`, drawing `token_sampling.py`.

A request's result depends on its own fields alone: its uniforms are a function of its seed, and rows never mix. What remains is
the last bit of float32 matrix products, which may differ with the number of rows multiplied together: log-probs agree to about
1e-6, and a token can differ only if its uniform falls that close to a boundary of its distribution (of the order of once in a
million tokens), or for temperature 0 on a tie.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import msgspec
import numpy as np
import torch
from transformers import PreTrainedModel

from sparring.engine.embedded.batch_layout import Ints, lay_out
from sparring.engine.embedded.decoder import Decoder
from sparring.engine.embedded.kv_cache import KVCache
from sparring.engine.embedded.policies import Policies, Policy
from sparring.engine.embedded.token_sampling import Draws
from sparring.engine.errors import GeneratorError, GeneratorStopped
from sparring.engine.generator import GeneratorStats, check_request
from sparring.learner.adapter import Adapter
from sparring.learner.lora import fingerprint_model
from sparring.rollout.sampler import FinishReason, Sample, SampleRequest

_TURNS_FOR_PLAYERS = 3
"""Rounds of the event loop between steps: a player's next request passes through a few coroutines before it gets here."""


class TorchGeneratorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the embedded generator."""

    num_slots: int = 128
    """Requests computed at a time; also games whose cache is kept between turns. More wait, or lose their cache to others."""
    max_context: int = 512
    """Longest prompt plus completion, in tokens; the cache takes num_slots times this."""
    max_batch_tokens: int = 4096
    """Most tokens of one forward pass, at least num_slots; longer prompts take several."""


@dataclass(eq=False, slots=True)
class _Job:
    """A request on its way. `slot` is set while it runs."""

    request: SampleRequest
    policy: Policy
    future: asyncio.Future[Sample]
    prompt: Ints
    slot: int | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TorchGenerator:
    """A `Generator` for one process and one event loop at a time.

    Example:
        >>> generator = TorchGenerator(model, TorchGeneratorConfig(num_slots=64))
        >>> generator.publish("policy", adapter)
        >>> sample = await generator.sample(SampleRequest(prompt_ids=ids, seed=1, max_tokens=16, adapter="policy"))
    """

    def __init__(self, model: PreTrainedModel, config: TorchGeneratorConfig | None = None) -> None:
        self.config = config or TorchGeneratorConfig()
        _check_config(self.config, model)
        self._decoder = Decoder(model, self.config.max_context)
        self._cache = KVCache(
            num_layers=self._decoder.num_layers,
            num_kv_heads=self._decoder.num_kv_heads,
            head_dim=self._decoder.head_dim,
            num_slots=self.config.num_slots,
            capacity=self.config.max_context,
            dtype=self._decoder.dtype,
            device=self._decoder.device,
        )
        self._policies = Policies(self._decoder, fingerprint_model(model))
        self._draws = Draws(self.config.num_slots)
        self._waiting: dict[_Job, None] = {}
        self._running: dict[int, _Job] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._stats = GeneratorStats()

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._policies.fingerprints

    @property
    def stats(self) -> GeneratorStats:
        return self._stats

    @property
    def cache_bytes(self) -> int:
        """Memory of the KV cache: 0 while released."""
        return self._cache.num_bytes

    @property
    def num_in_flight(self) -> int:
        return len(self._waiting) + len(self._running)

    async def sample(self, request: SampleRequest) -> Sample:
        """Raises `GeneratorError` for a request that cannot be served, `GeneratorStopped` if the engine fails."""
        self._check(request)
        policy = self._policies.find(request.adapter)
        future: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        job = _Job(request, policy, future, np.array(request.prompt_ids, np.int64))
        self._start_engine()
        self._waiting[job] = None
        try:
            return await future
        finally:
            self._abort(job)

    def end_session(self, session: str) -> None:
        self._cache.end_session(session)

    def publish(self, name: str, adapter: Adapter) -> None:
        """Merges a copy of the changed weights; the base ones stay as they are. A failure leaves the former version in place."""
        self._retire(self._policies.publish(name, adapter))

    def unpublish(self, name: str) -> None:
        self._retire(self._policies.unpublish(name))

    def verify(self, name: str) -> None:
        """Raises `FenceError` if the merged weights that serve `name` are not those that were published."""
        self._policies.verify(name)

    def release(self) -> None:
        if self.num_in_flight:
            raise GeneratorError(
                f"the cache cannot be released with {self.num_in_flight} requests in flight: wait for them or cancel them"
            )
        self._cache.release()

    def resume(self) -> None:
        if not self._closed:
            self._cache.allocate()

    def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._fail_all(GeneratorStopped("the generator was closed with this request in flight"))
        self._policies.clear()
        self._cache.release()

    def _check(self, request: SampleRequest) -> None:
        if self._closed or self._cache.storage is None:
            raise GeneratorError(
                "the generator is closed: make a new one" if self._closed else "the cache is released: call resume() first"
            )
        check_request(request, max_context=self.config.max_context, vocab_size=self._decoder.vocab_size)

    def _start_engine(self) -> None:
        loop = asyncio.get_running_loop()
        task = self._task
        if task is not None and not task.done() and task.get_loop() is not loop:
            if not task.get_loop().is_closed():
                raise GeneratorError("this generator is in use by another event loop: make one generator per loop")
            self._drop_all()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="sparring generator")
            self._task.add_done_callback(self._engine_stopped)

    async def _run(self) -> None:
        while self._waiting or self._running:
            self._step()
            for _ in range(_TURNS_FOR_PLAYERS):
                await asyncio.sleep(0)

    def _engine_stopped(self, task: asyncio.Task[None]) -> None:
        """However the engine ended, nobody is left waiting for it."""
        if self._task is not task:
            return
        self._task = None
        if task.cancelled():
            self._fail_all(GeneratorStopped("the generator's task was cancelled"))
        elif (error := task.exception()) is not None:
            failure = GeneratorStopped(f"the generator failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail_all(failure)
        elif self.num_in_flight:
            self._start_engine()

    def _step(self) -> None:
        """Admit, compute, draw, record."""
        started = perf_counter()
        num_prompt, num_cached = self._admit()
        if not self._running:
            return
        slots, counts = self._next_tokens()
        weights = {job.policy.number: job.policy.weights for job in self._running.values()}
        with torch.inference_mode():
            layout = lay_out(self._cache, slots, counts, weights, self._decoder.num_heads // self._decoder.num_kv_heads)
            logits_MV = self._decoder.forward(layout, self._cache)
            self._cache.num_computed[slots] += counts
            ids, logprobs = self._draws.draw(logits_MV, layout.last_slots)
        num_finished = self._record(layout.last_slots, ids, logprobs)
        self._stats = GeneratorStats(
            requests=self._stats.requests + num_finished,
            prompt_tokens=self._stats.prompt_tokens + num_prompt,
            cached_tokens=self._stats.cached_tokens + num_cached,
            sampled_tokens=self._stats.sampled_tokens + len(ids),
            steps=self._stats.steps + 1,
            seconds=self._stats.seconds + perf_counter() - started,
        )

    def _admit(self) -> tuple[int, int]:
        """Gives waiting requests slots, in order of arrival. Prompt tokens to compute, and reused."""
        num_prompt = num_cached = 0
        for job in list(self._waiting):
            if not self._cache.has_room:
                break
            slot = self._cache.claim(job.prompt, job.policy.number, job.request.session)
            if slot is None:
                continue
            del self._waiting[job]
            job.slot = slot
            self._running[slot] = job
            self._draws.start(slot, seed=job.request.seed, temperature=job.request.temperature, top_p=job.request.top_p)
            num_cached += int(self._cache.num_computed[slot])
            num_prompt += len(job.prompt) - int(self._cache.num_computed[slot])
        return num_prompt, num_cached

    def _next_tokens(self) -> tuple[Ints, Ints]:
        """Running slots and how many tokens each computes now: those with least to do first, within max_batch_tokens."""
        slots = np.flatnonzero(self._cache.busy)
        left = (self._cache.num_known - self._cache.num_computed)[slots]
        if int(left.sum()) > self.config.max_batch_tokens:
            order = np.argsort(left, kind="stable")
            slots, left = slots[order], left[order]
            before = left.cumsum() - left
            left = np.minimum(left, self.config.max_batch_tokens - before)
            slots, left = slots[left > 0], left[left > 0]
        return slots, left

    def _record(self, slots: Ints, ids: Ints, logprobs: list[float]) -> int:
        """Hands out the drawn tokens; answers and frees those that are done, and counts them."""
        if len(slots):
            self._cache.append(slots, ids)
        num_finished = 0
        for slot, token_id, logprob in zip(slots.tolist(), ids.tolist(), logprobs, strict=True):
            job = self._running[slot]
            job.token_ids.append(token_id)
            job.logprobs.append(logprob)
            if token_id in job.request.stop_ids:
                self._finish(job, "stop")
            elif len(job.token_ids) == job.request.max_tokens:
                self._finish(job, "length")
            else:
                continue
            num_finished += 1
        return num_finished

    def _finish(self, job: _Job, reason: FinishReason) -> None:
        self._leave(job, keep=self._policies.serves(job.policy))
        if not job.future.done():
            fingerprint = job.policy.fingerprint
            job.future.set_result(
                Sample(token_ids=job.token_ids, logprobs=job.logprobs, finish_reason=reason, policy=fingerprint)
            )

    def _abort(self, job: _Job) -> None:
        """Takes a cancelled job out at once; without effect on a finished one."""
        self._waiting.pop(job, None)
        self._leave(job, keep=self._policies.serves(job.policy))

    def _leave(self, job: _Job, *, keep: bool) -> None:
        if job.slot is not None:
            del self._running[job.slot]
            self._cache.free(job.slot, keep=keep)
            job.slot = None

    def _fail_all(self, error: GeneratorStopped) -> None:
        """The cache's contents are in doubt after a failure: nothing of these requests is kept."""
        jobs = [*self._waiting, *self._running.values()]
        self._drop_all()
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(error)

    def _drop_all(self) -> None:
        self._waiting.clear()
        for job in list(self._running.values()):
            self._leave(job, keep=False)
        self._task = None

    def _retire(self, policy: Policy | None) -> None:
        if policy is not None and not self._policies.serves(policy):
            self._cache.drop_version(policy.number)


def _check_config(config: TorchGeneratorConfig, model: PreTrainedModel) -> None:
    for name in ("num_slots", "max_context", "max_batch_tokens"):
        if getattr(config, name) < 1:
            raise GeneratorError(f"{name} is {getattr(config, name)}: set it to at least 1")
    if config.max_batch_tokens < config.num_slots:
        raise GeneratorError(
            f"max_batch_tokens {config.max_batch_tokens} is less than num_slots: set max_batch_tokens={config.num_slots}"
        )
    longest = model.config.max_position_embeddings
    if config.max_context > longest:
        raise GeneratorError(
            f"max_context {config.max_context} exceeds the {longest} positions of the model: set max_context={longest} or less"
        )
