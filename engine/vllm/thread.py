"""`EngineThread`: the thread that vLLM's engine lives in, and requests on their way through it.

The thread is an executor with one worker. A step admits what has come in, computes, answers, and submits the next step while
there is work; whatever else is submitted runs between steps, in order. Nothing polls. Owns no adapters: a request carries the
name of its version, and `on_end` tells its owner when it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import RLock
from time import perf_counter
from typing import ParamSpec, TypeVar

from sparring.engine.errors import GeneratorError, GeneratorStopped
from sparring.engine.generator import GeneratorStats
from sparring.engine.vllm.contact import Contact, Delta, EngineSettings, Served
from sparring.rollout.sampler import Sample, SampleRequest

P = ParamSpec("P")
T = TypeVar("T")

CLOSED = "closed"


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way. `served` is `None` for the base model; `policy` is the fingerprint of what samples it."""

    id: str
    request: SampleRequest
    served: Served | None
    policy: str
    future: asyncio.Future[Sample]
    loop: asyncio.AbstractEventLoop
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


Answer = Sample | GeneratorStopped | GeneratorError


class EngineThread:
    """One vLLM engine, its thread and its requests. Raises `GeneratorError` where vLLM cannot be used or refuses the model."""

    def __init__(self, settings: EngineSettings, on_end: Callable[[Job], None]) -> None:
        self._numbers = itertools.count()
        self._jobs: dict[str, Job] = {}
        self._incoming: deque[Job] = deque()
        self._aborted: deque[str] = deque()
        self._lock = RLock()
        """Guards the jobs and whether a step is due."""
        self._stepping = False
        self._on_end = on_end
        self.stopped: str | None = None
        """How the engine ended, if it did."""
        self.stats = GeneratorStats()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sparring-vllm")
        opening = self._executor.submit(Contact, settings)
        try:
            self.contact = opening.result()
        except BaseException:  # also Ctrl-C: vLLM goes on loading, and what it opens then nobody would close
            opening.add_done_callback(_close)
            self._executor.shutdown(wait=False)
            raise

    # From any thread

    @property
    def num_in_flight(self) -> int:
        return len(self._jobs)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs between steps; its result, or what it raises."""
        self.check_running()
        return self._executor.submit(function, *args, **kwargs).result()

    def post(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Runs between steps, before whatever is submitted later. Without effect on an engine that has stopped."""
        if self.stopped is None:
            self._executor.submit(function, *args, **kwargs)

    def start(self, request: SampleRequest, served: Served | None, policy: str) -> Job:
        """A job for the running event loop; await its `future` and `cancel` it whatever happens. Raises `GeneratorError` on an
        engine that has stopped: nobody would answer."""
        loop = asyncio.get_running_loop()
        job = Job(str(next(self._numbers)), request, served, policy, loop.create_future(), loop)
        with self._lock:
            self.check_running()
            self._jobs[job.id] = job
            self._incoming.append(job)
            self._see_to_a_step()
        return job

    def cancel(self, job: Job) -> None:
        """Takes a job out at once; without effect on a finished one."""
        with self._lock:
            if self._jobs.pop(job.id, None) is None:
                return
            self._aborted.append(job.id)
            self._see_to_a_step()
        self._on_end(job)

    def cancel_abandoned(self) -> None:
        """Takes out what an event loop asked for that was closed since: nobody will collect it."""
        for job in [job for job in list(self._jobs.values()) if job.loop.is_closed()]:
            self.cancel(job)

    def check_running(self) -> None:
        if self.stopped is not None:
            raise GeneratorError(f"the generator is {self.stopped}: make a new one")

    def close(self) -> None:
        """Fails what is in flight with `GeneratorStopped` and gives the engine's memory back."""
        if self.stopped == CLOSED:
            return
        self._stop(CLOSED, GeneratorStopped("the generator was closed with this request in flight"))
        self._executor.submit(self.contact.close).result()
        self._executor.shutdown()

    # In the engine's thread

    def num_held(self) -> int:
        """Requests that vLLM itself holds."""
        self._take_in()
        return self.contact.num_requests

    def drain(self) -> None:
        """Lets vLLM forget the requests that have ended."""
        self._take_in()
        while self.contact.busy:
            self.contact.step()

    def _see_to_a_step(self) -> None:
        """Under the lock."""
        if not self._stepping and self.stopped is None:
            try:
                step = self._executor.submit(self._step)
            except RuntimeError:  # the interpreter is shutting down
                self.stopped = CLOSED
                return
            self._stepping = True
            step.add_done_callback(self._stepped)

    def _step(self) -> None:
        """Admit, compute, answer."""
        started = perf_counter()
        self._take_in()
        if self.contact.busy:
            self._record(self.contact.step(), started)

    def _take_in(self) -> None:
        while self._incoming:
            job = self._incoming.popleft()
            if job.id in self._jobs:
                try:
                    self.contact.add(job.id, job.request, job.served)
                except (ValueError, TypeError) as error:  # vLLM's own checks of one request, before it takes it in
                    self._refuse(job, error)
        while self._aborted:
            self.contact.abort([self._aborted.popleft()])

    def _stepped(self, step: Future[None]) -> None:
        """However a step ended, the next one comes or nobody is left waiting."""
        if (error := step.exception()) is not None:
            failure = GeneratorStopped(f"the generator failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._stop(f"of no use after it failed ({type(error).__name__}: {error})", failure)
            return
        with self._lock:
            self._stepping = False
            if self.stopped is None and (self._incoming or self._aborted or self.contact.busy):
                self._see_to_a_step()

    def _record(self, deltas: list[Delta], started: float) -> None:
        """Hands out the step's tokens, counts them, and answers what is done: whoever has an answer finds it counted."""
        answers: list[tuple[Job, Answer]] = []
        cached = computed = 0
        for delta in deltas:
            if (job := self._jobs.get(delta.request_id)) is None:
                continue
            if not job.token_ids:
                cached += delta.cached_tokens
                computed += len(job.request.prompt_ids) - delta.cached_tokens
            job.token_ids += delta.token_ids
            job.logprobs += delta.logprobs
            if (answer := _answer(job, delta)) is not None and self._jobs.pop(job.id, None) is not None:
                answers.append((job, answer))
        stats = self.stats
        self.stats = GeneratorStats(
            requests=stats.requests + len(answers),
            prompt_tokens=stats.prompt_tokens + computed,
            cached_tokens=stats.cached_tokens + cached,
            sampled_tokens=stats.sampled_tokens + sum(len(delta.token_ids) for delta in deltas),
            steps=stats.steps + 1,
            seconds=stats.seconds + perf_counter() - started,
        )
        self._send(answers)

    def _refuse(self, job: Job, error: Exception) -> None:
        """One request is refused; the others go on."""
        if self._jobs.pop(job.id, None) is not None:
            refusal = GeneratorError(f"vLLM refuses this request: {error}")
            refusal.__cause__ = error
            self._send([(job, refusal)])

    def _stop(self, how: str, error: GeneratorStopped) -> None:
        with self._lock:
            if self.stopped != CLOSED:
                self.stopped = how
            jobs = list(self._jobs.values())
            self._jobs.clear()
        self._send([(job, error) for job in jobs])

    def _send(self, answers: list[tuple[Job, Answer]]) -> None:
        """Each event loop is woken once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Answer]]] = defaultdict(list)
        for job, answer in answers:
            self._on_end(job)
            by_loop[job.loop].append((job, answer))
        for loop, theirs in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is waiting
                loop.call_soon_threadsafe(_resolve, theirs)


def _close(opening: Future[Contact]) -> None:
    """What was opened for nobody; in the engine's thread, or in the caller's where it had failed already."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _answer(job: Job, delta: Delta) -> Answer | None:
    """What the job ends with, if it does."""
    if delta.error is not None:
        return GeneratorStopped(delta.error)
    if delta.finish_reason is None:
        return None
    return Sample(token_ids=job.token_ids, logprobs=job.logprobs, finish_reason=delta.finish_reason, policy=job.policy)


def _resolve(answers: list[tuple[Job, Answer]]) -> None:
    """In the jobs' event loop."""
    for job, answer in answers:
        if not job.future.done():
            if isinstance(answer, Sample):
                job.future.set_result(answer)
            else:
                job.future.set_exception(answer)
