"""`BatchJob`: one job at OpenAI's Batch API, from wherever an earlier process left it: upload, submit, poll, fetch.

What may already have been done is looked for before it is done: after a crash, and after a request whose answer got lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2
import msgspec
from openai import APIError, AsyncOpenAI
from openai.types import Batch

from sparring.rollout.errors import CallError, RemoteError
from sparring.rollout.remote.batch_lines import URL
from sparring.rollout.remote.batch_state import BatchState
from sparring.rollout.remote.providers.provider import RETRIED
from sparring.rollout.remote.providers.wire import fault_of
from sparring.rollout.remote.secrets import Secrets

JOB = "sparring_job"
"""The metadata under which a batch carries its job's name."""
FINAL = frozenset({"completed", "failed", "expired", "cancelled"})
CLOCKS_APART = 86400.0
"""Seconds that the provider's clock may differ from ours: a list is read back to what is older than the job by more."""
T = TypeVar("T")


class BatchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a batch is, as the provider says."""

    status: str
    total: int
    completed: int = 0
    failed: int = 0


class Polling(msgspec.Struct, frozen=True, kw_only=True):
    """How often a batch is looked at, in seconds, and for how long the provider may be out of reach."""

    first: float = 5.0
    growth: float = 1.5
    """Each pause is so many times the last one,"""
    longest: float = 60.0
    """up to this."""
    failures: int = 20
    """After so many failed requests in a row the run stops. The job stays, and a later run goes on with it."""
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def pause(self, number: int) -> float:
        """Seconds before the look of this number, from 0."""
        return min(self.longest, self.first * self.growth ** min(number, 1000))


class BatchJob:
    """A job on its way. `save` stores the state; `checkpoint` hears of each step that is done."""

    def __init__(
        self,
        client: AsyncOpenAI,
        state: BatchState,
        *,
        save: Callable[[BatchState], None],
        secrets: Secrets,
        polling: Polling,
        on_progress: Callable[[BatchProgress], None] | None,
        checkpoint: Callable[[str], None],
    ) -> None:
        self.state = state
        self._client, self._store, self._secrets, self._polling = client, save, secrets, polling
        self._on_progress, self._checkpoint = on_progress, checkpoint

    async def submit(self, content: bytes, *, resumed: bool) -> None:
        """Sees to it that the batch exists, once. Raises `CallError` and `RemoteError`."""
        if self.state.batch:
            return
        batch = await self._insist(self._find_batch) if resumed else None
        if batch is None:
            if not self.state.file:
                file = await self._insist(self._find_file) if resumed else None
                if file is None:
                    file = await self._insist(lambda: self._upload(content), self._find_file)
                self._save(file=file)
            batch = await self._insist(self._create, self._find_batch)
            self._checkpoint("submitted")
        self._save(batch=batch.id)

    async def wait(self) -> Batch:
        """Looks at the batch until it has ended."""
        looks = 0
        while True:
            batch = await self._insist(lambda: self._client.batches.retrieve(self.state.batch))
            self._tell(batch)
            self._checkpoint("polled")
            if batch.status in FINAL:
                return batch
            await self._polling.sleep(self._polling.pause(looks))
            looks += 1

    async def fetch(self, batch: Batch) -> list[bytes]:
        """The output and the error file, where there are any."""
        found = []
        for name in (batch.output_file_id, batch.error_file_id):
            if name:
                found.append(await self._insist(lambda name=name: self._download(name)))  # type: ignore[misc]
        self._checkpoint("fetched")
        return found

    async def _upload(self, content: bytes) -> str:
        file = await self._client.files.create(file=(self._file_name, content), purpose="batch")
        self._checkpoint("uploaded")
        return file.id

    async def _create(self) -> Batch:
        return await self._client.batches.create(
            input_file_id=self.state.file, endpoint=URL, completion_window="24h", metadata={JOB: self.state.job}
        )

    async def _download(self, name: str) -> bytes:
        return (await self._client.files.content(name)).content

    async def _find_batch(self) -> Batch | None:
        async for batch in self._client.batches.list(limit=100):
            if (batch.metadata or {}).get(JOB) == self.state.job:
                return batch
            if batch.created_at < self.state.started - CLOCKS_APART:
                break
        return None

    async def _find_file(self) -> str | None:
        async for file in self._client.files.list(purpose="batch", limit=100, order="desc"):
            if file.filename == self._file_name:
                return file.id
            if file.created_at < self.state.started - CLOCKS_APART:
                break
        return None

    @property
    def _file_name(self) -> str:
        return f"{self.state.job}.jsonl"

    def _save(self, *, file: str = "", batch: str = "") -> None:
        self.state = msgspec.structs.replace(self.state, file=file or self.state.file, batch=batch or self.state.batch)
        self._store(self.state)
        self._checkpoint("submission saved" if batch else "upload saved")

    def _tell(self, batch: Batch) -> None:
        if self._on_progress is not None:
            counts, total = batch.request_counts, len(self.state.digests)
            completed, failed = (counts.completed, counts.failed) if counts else (0, 0)
            self._on_progress(BatchProgress(status=batch.status, total=total, completed=completed, failed=failed))

    async def _insist(self, ask: Callable[[], Awaitable[T]], done_already: Callable[[], Awaitable[T | None]] | None = None) -> T:
        """Asks until there is an answer. Between two attempts, `done_already` finds what the lost one may have done."""
        failures = 0
        while True:
            try:
                return await ask()
            except (APIError, httpx2.HTTPError) as error:
                fault = fault_of(error, self._secrets, f"{self.state.model} (batch)")
            if fault.fatal:
                raise RemoteError(fault.message)
            failures += 1
            if fault.result not in RETRIED or failures > self._polling.failures:
                raise CallError(
                    f"{fault.message}. The batch {self.state.batch or 'of this job'} stays: run again to go on with it"
                )
            await self._polling.sleep(max(self._polling.pause(failures - 1), fault.limits.retry_after or 0.0))
            if done_already is not None and (made := await self._insist(done_already)) is not None:
                return made


def how_it_ended(batch: Batch) -> str:
    """What became of a request that is in neither file."""
    errors = batch.errors.data if batch.errors and batch.errors.data else []
    why = "; ".join(f"{error.code}: {error.message}" for error in errors[:3])
    if batch.status == "completed":
        return f"the batch {batch.id} was completed without an answer to this request"
    return f"the batch {batch.id} {'was cancelled' if batch.status == 'cancelled' else batch.status}{': ' if why else ''}{why}"
