"""`BatchRunner`: many calls through OpenAI's Batch API, at half the price and within a day: for evaluation and authoring.

It fills the journal. Whoever then asks `RemoteModels` the same requests is answered from there; `batch_model.py` gathers calls
into batches by itself, so evaluation is the same with and without. A job is submitted once, wherever the process dies: its name
is on disk before anything is sent, goes with the batch as metadata, and is looked for at the provider before a batch is made.

Owns what is asked and what is paid. The steps are `batch_job.py`'s, the files' lines `batch_lines.py`'s, the state
`batch_state.py`'s.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sparring.rollout.errors import CallError, RemoteError
from sparring.rollout.remote.batch_job import BatchJob, BatchProgress, Polling, how_it_ended
from sparring.rollout.remote.batch_lines import input_file, read_attempts
from sparring.rollout.remote.batch_state import BatchState, drop_state, load_state, save_state
from sparring.rollout.remote.budget import UNITS, Budget
from sparring.rollout.remote.call import Attempt, CallJournal, ChatReply, ChatRequest
from sparring.rollout.remote.config import RemoteConfig
from sparring.rollout.remote.models import ModelRef, most_cost, most_usage, resolve
from sparring.rollout.remote.providers.openai import open_openai
from sparring.rollout.remote.secrets import Secrets

MOST_REQUESTS = 50_000
MOST_BYTES = 200 * 10**6
Answer = ChatReply | CallError


class BatchRunner:
    """Runs one batch at a time, of one model. `state` is its file, which must be the same after a crash.

    `checkpoint` is called with the name of each step once it is done.

    Example:
        >>> runner = BatchRunner(config.remote, Path("runs/x/batch.json"), journal=ledger, budget=remote.budget)
        >>> answers = await runner.run(requests)  # half an hour later
        >>> await remote.chat(requests[0])  # free: the journal holds it
    """

    def __init__(
        self,
        config: RemoteConfig,
        state: Path,
        *,
        journal: CallJournal,
        budget: Budget | None = None,
        on_progress: Callable[[BatchProgress], None] | None = None,
        polling: Polling | None = None,
        checkpoint: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._config, self._path, self._journal = config, state, journal
        self._budget = budget or Budget(config.budget, journal.spent())
        self._on_progress, self._polling, self._checkpoint = on_progress, polling or Polling(), checkpoint
        self._secrets = Secrets()

    async def run(self, requests: Sequence[ChatRequest]) -> list[Answer]:
        """The answer to each request, in order; a `CallError` where one failed, expired or was cancelled.

        What the journal holds is not asked again; a job that an earlier process began is ended first. Raises `BudgetError`
        where the batch might cost more than is left, `RemoteError` for requests of several models, a model without a price or
        Batch API, or a state that belongs to other requests, and `CallError` where the provider stays out of reach.
        """
        wanted = {request.digest: request for request in requests}
        found: dict[str, Answer] = {}
        state = load_state(self._path)
        if state is not None:
            self._check_belongs(state, wanted)
            found |= await self._end(state, {digest: wanted[digest] for digest in state.digests}, resumed=True)
        for digest in wanted.keys() - found.keys():
            if (held := self._journal.find(digest)) is not None:
                found[digest] = held
        left = {digest: request for digest, request in wanted.items() if digest not in found}
        if left:
            found |= await self._begin(left)
        return [found[request.digest] for request in requests]

    async def _begin(self, requests: dict[str, ChatRequest]) -> dict[str, Answer]:
        """A new job."""
        models = sorted({request.model for request in requests.values()})
        if len(models) > 1:
            raise RemoteError(f"a batch is of one model, and these requests are of {', '.join(models)}: give each its own")
        ref = self._resolve(models[0])
        size = len(input_file(requests, ref))
        if len(requests) > MOST_REQUESTS or size > MOST_BYTES:
            raise RemoteError(f"{len(requests):,} requests of {size:,} bytes: a batch takes {MOST_REQUESTS:,} and {MOST_BYTES:,}")
        assert ref.endpoint is not None
        state = BatchState(
            job=uuid.uuid4().hex,
            model=ref.spec,
            endpoint=ref.endpoint.base_url,
            digests=tuple(requests),
            started=time.time(),
        )
        return await self._end(state, requests, resumed=False)

    async def _end(self, state: BatchState, requests: dict[str, ChatRequest], *, resumed: bool) -> dict[str, Answer]:
        """Takes a job from wherever it is to its answers."""
        ref = self._resolve(state.model)
        most = ref.price.batch * sum(most_cost(ref.price, most_usage(request)) for request in requests.values())
        hold = self._budget.open_hold("", most)
        held = True
        if not resumed:
            await hold.secure()
        else:
            held = hold.try_secure()  # it is under way, and is paid for in any case
        paid = 0.0
        try:
            attempts = await self._work(ref, state, requests, resumed)
            paid = self._record(attempts)
        except BaseException:
            left = load_state(self._path)
            paid = most if left is not None and left.file else 0.0  # it may be running, and nobody knows what it will take
            raise
        finally:
            if held:
                hold.settle(paid)
            else:
                self._budget.pay_freely(math.ceil(paid * UNITS))
            hold.close()
        drop_state(self._path)
        return {digest: attempt.reply or CallError(attempt.error) for digest, attempt in attempts.items()}

    async def _work(
        self, ref: ModelRef, state: BatchState, requests: dict[str, ChatRequest], resumed: bool
    ) -> dict[str, Attempt]:
        save_state(self._path, state)
        self._checkpoint("job saved")
        async with open_openai(ref, self._secrets, connections=2) as client:
            job = BatchJob(
                client,
                state,
                save=lambda state: save_state(self._path, state),
                secrets=self._secrets,
                polling=self._polling,
                on_progress=self._on_progress,
                checkpoint=self._checkpoint,
            )
            await job.submit(input_file(requests, ref), resumed=resumed)
            batch = await job.wait()
            files = await job.fetch(batch)
        seconds = max(0.0, time.time() - state.started)
        return read_attempts(files, requests, ref, self._secrets, seconds, how_it_ended(batch))

    def _record(self, attempts: dict[str, Attempt]) -> float:
        """Stores what is not stored yet, as some is where an earlier process died here. Returns the dollars of all."""
        fresh = [attempt for digest, attempt in attempts.items() if self._journal.find(digest) is None]
        for attempt in fresh:
            self._journal.record(attempt)
            self._checkpoint("recorded one")
        return sum(attempt.cost for attempt in fresh)

    def _resolve(self, spec: str) -> ModelRef:
        return find_batched(spec, self._config)

    def _check_belongs(self, state: BatchState, wanted: dict[str, ChatRequest]) -> None:
        ref = self._resolve(state.model)
        assert ref.endpoint is not None
        if not set(state.digests) <= wanted.keys():
            raise RemoteError(f"{self._path} is of a batch with other requests: finish those first, or move it away")
        if state.endpoint != ref.endpoint.base_url:
            raise RemoteError(
                f"{self._path} is of a batch at {state.endpoint}, and {state.model} is now at {ref.endpoint.base_url}"
            )


def find_batched(spec: str, config: RemoteConfig) -> ModelRef:
    """The model of a player spec. Raises `RemoteError` where it has no Batch API, and as `resolve` does."""
    ref = resolve(spec, config)
    if ref.endpoint is None or ref.kind != "openai":
        raise RemoteError(f"{spec!r} has no Batch API here: batches go to endpoints of the kind openai")
    return ref


def portions(requests: Mapping[str, ChatRequest], ref: ModelRef) -> list[list[ChatRequest]]:
    """Requests by digest, in order, cut into what a batch takes."""
    found: list[list[ChatRequest]] = [[]]
    size = 0
    for digest, request in requests.items():
        own = len(input_file({digest: request}, ref))
        if found[-1] and (len(found[-1]) == MOST_REQUESTS or size + own > MOST_BYTES):
            found.append([])
            size = 0
        found[-1].append(request)
        size += own
    return found
