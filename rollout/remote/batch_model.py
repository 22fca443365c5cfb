"""`BatchModel`: a `ChatModel` that gathers the calls made at about the same time into batches, at the batch's price.

Owns the gathering: which calls go together, and who gets which answer. Submitting and paying is `batch.py`'s. The requests of a
batch under way lie beside its state, so that a later process ends the batch whatever it asks itself, and in whatever order.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sparring.rollout.errors import CallError, RemoteError
from sparring.rollout.files import write_durably
from sparring.rollout.remote.batch import Answer, BatchRunner, find_batched, portions
from sparring.rollout.remote.batch_job import BatchProgress, Polling
from sparring.rollout.remote.batch_state import load_state
from sparring.rollout.remote.call import Attempt, CallJournal, ChatModel, ChatReply, ChatRequest
from sparring.rollout.remote.remote import RemoteModels
from sparring.rollout.remote.stats import RemoteStats

UNDER_WAY, ASKED = ".batch.json", ".requests.json"
"""How the files of a model's batch under way end: its state, and the requests."""


class BatchModel(ChatModel):
    """Calls that the journal or the cassette of `remote` holds are answered at once, all others in batches.

    `folder` keeps the batches under way and must be the same after a crash, as must `journal`, which is also that of `remote`.
    A gathering ends once no call has come for `settle` seconds. Use it within one event loop, and close it there.

    Example:
        >>> model = BatchModel(remote, Path("runs/x/batch"), journal=ledger, say=print)
        >>> replies = await asyncio.gather(*(model.chat(request) for request in requests))  # one batch
    """

    def __init__(
        self,
        remote: RemoteModels,
        folder: Path,
        *,
        journal: CallJournal,
        settle: float = 0.25,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        polling: Polling | None = None,
        say: Callable[[str], None] = lambda line: None,
        checkpoint: Callable[[str], None] = lambda step: None,
    ) -> None:
        """`say` gets a line whenever a batch has come further; `checkpoint` is the runner's."""
        self._remote, self._folder, self._journal = remote, folder, _Counting(journal, remote.stats)
        self._settle, self._sleep, self._polling = settle, sleep, polling
        self._say, self._checkpoint = say, checkpoint
        self._recovery: asyncio.Task[None] | None = None
        self._queues: dict[str, _Queue] = {}
        self._failed: dict[str, str] = {}
        """What became of the calls that a batch has not answered: they are not asked again."""

    def check(self, spec: str) -> None:
        """Raises `RemoteError` where the model has no Batch API. Sends nothing."""
        if not self._remote.replays:
            find_batched(spec, self._remote.config)

    async def chat(self, request: ChatRequest) -> ChatReply:
        """The answer, once its batch has ended: as soon as that is, or a day later.

        Raises `CallError` where the batch has no answer to it, `BudgetError` where the whole batch might cost more than is left,
        `RemoteError` where no batch can be made or the provider stays out of reach, and what `RemoteModels.chat` raises.
        """
        if self._remote.replays:
            return await self._remote.chat(request)
        await self._recover()
        digest = request.digest
        if digest in self._failed:
            raise CallError(self._failed[digest])
        if (held := self._remote.held(request)) is not None:
            self._remote.stats.cached += 1
            return held
        queue = self._queues.setdefault(request.model, _Queue())
        call = queue.waiting.setdefault(digest, _Call(request))
        if queue.worker is None or queue.worker.done():
            queue.worker = asyncio.create_task(self._work(queue))
        return await asyncio.shield(call.reply)

    async def close(self) -> None:
        """Ends the gathering. A batch under way stays, and whoever opens the same folder goes on with it."""
        tasks = [task for task in (self._recovery, *(queue.worker for queue in self._queues.values())) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, queue: _Queue) -> None:
        """Gathers and answers, one batch after the other, until nobody waits."""
        while queue.waiting:
            gathered = 0
            while gathered < len(queue.waiting):
                gathered = len(queue.waiting)
                await self._sleep(self._settle)
            calls, queue.waiting = queue.waiting, {}
            try:
                await self._answer(calls)
            except BaseException as error:
                for call in (*calls.values(), *queue.waiting.values()):
                    call.fail(error)
                queue.waiting = {}
                if not isinstance(error, ValueError):  # `RolloutError` goes to those who wait, and to nobody else
                    raise

    async def _answer(self, calls: dict[str, _Call]) -> None:
        requests = {digest: call.request for digest, call in calls.items()}
        (spec,) = {request.model for request in requests.values()}
        for portion in portions(requests, find_batched(spec, self._remote.config)):
            write_durably(self._path(spec, ASKED), msgspec.json.encode(portion))
            self._say(f"a batch of {len(portion):,} calls to {spec}")
            for request, answer in zip(portion, await self._run(portion), strict=True):
                calls[request.digest].settle(answer)

    async def _recover(self) -> None:
        """Ends what earlier processes began, once."""
        if self._recovery is None:
            self._recovery = asyncio.create_task(self._end_earlier())
        await asyncio.shield(self._recovery)

    async def _end_earlier(self) -> None:
        for path in sorted(self._folder.glob(f"*{UNDER_WAY}")):
            state = load_state(path)
            if state is None:
                continue
            asked = _read_requests(self._path(state.model, ASKED), set(state.digests))
            self._say(f"going on with the batch of {len(asked):,} calls to {state.model} that is under way")
            await self._run(asked)

    async def _run(self, requests: Sequence[ChatRequest]) -> list[Answer]:
        """The answers of one batch, noted for good."""
        spec, stats = requests[0].model, self._remote.stats
        runner = BatchRunner(
            self._remote.config,
            self._path(spec, UNDER_WAY),
            journal=self._journal,
            budget=self._remote.budget,
            on_progress=_Telling(self._say),
            polling=self._polling,
            checkpoint=self._checkpoint,
        )
        stats.calls += len(requests)
        stats.in_flight += len(requests)
        try:
            answers = await runner.run(requests)
        except CallError as error:  # of the batch as a whole: its calls have not failed
            raise RemoteError(str(error)) from error
        finally:
            stats.in_flight -= len(requests)
        for request, answer in zip(requests, answers, strict=True):
            self._remote.keep(request, answer)
            if isinstance(answer, CallError):
                self._failed[request.digest] = str(answer)
        failures = [str(answer) for answer in answers if isinstance(answer, CallError)]
        stats.failed += len(failures)
        if failures:
            self._say(f"{len(failures):,} of {len(answers):,} calls failed, the first: {failures[0]}")
        self._path(spec, ASKED).unlink(missing_ok=True)
        return answers

    def _path(self, spec: str, ending: str) -> Path:
        name = hashlib.blake2b(spec.encode("utf-8", "replace"), digest_size=6).hexdigest()
        return self._folder / f"{name}{ending}"


@dataclass
class _Call:
    """One who waits, or several with one question."""

    request: ChatRequest
    reply: asyncio.Future[ChatReply] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, answer: Answer) -> None:
        if isinstance(answer, ChatReply):
            if not self.reply.done():
                self.reply.set_result(answer)
        else:
            self.fail(answer)

    def fail(self, error: BaseException) -> None:
        if self.reply.done():
            return
        if isinstance(error, Exception):
            self.reply.set_exception(error)
            self.reply.exception()  # who gave up waiting does not ask for it
        else:
            self.reply.cancel()


@dataclass
class _Queue:
    """The calls of one model that are being gathered, and the task that sends them."""

    waiting: dict[str, _Call] = field(default_factory=dict)
    worker: asyncio.Task[None] | None = None


@dataclass(frozen=True)
class _Counting(CallJournal):
    """The journal, with what it records counted in the display's figures."""

    journal: CallJournal
    stats: RemoteStats

    def record(self, attempt: Attempt, number: int | None = None) -> None:
        self.stats.add(attempt)
        self.journal.record(attempt, number)

    def find(self, digest: str) -> ChatReply | None:
        return self.journal.find(digest)

    def spent(self) -> float:
        return self.journal.spent()


@dataclass
class _Telling:
    """Says where a batch is, when it has come further."""

    say: Callable[[str], None]
    last: BatchProgress | None = None

    def __call__(self, progress: BatchProgress) -> None:
        if progress != self.last:
            self.last = progress
            failed = f", {progress.failed:,} failed" if progress.failed else ""
            self.say(f"batch {progress.status}: {progress.completed:,}/{progress.total:,} calls{failed}")


def _read_requests(path: Path, digests: Iterable[str]) -> list[ChatRequest]:
    """The requests of a batch under way. Raises `RemoteError` where they are gone."""
    try:
        asked = msgspec.json.decode(path.read_bytes(), type=list[ChatRequest])
    except (FileNotFoundError, msgspec.MsgspecError, ValueError) as error:
        raise RemoteError(f"{path} does not hold the requests of the batch under way ({error}): move the folder away") from error
    if not set(digests) <= {request.digest for request in asked}:
        raise RemoteError(f"{path} is of another batch than the one under way: move the folder away")
    return asked
