"""`RemoteModels`: the one object through which models elsewhere are called, within their limits and the run's budget.

A call is answered by the cassette, by the journal, by an equal call in flight, or by its provider. Owns who is asked; how often a
provider is asked is `governor.py`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType

from sparring.rollout.errors import CallError
from sparring.rollout.remote.breaker import Breaker
from sparring.rollout.remote.budget import Budget
from sparring.rollout.remote.call import Attempt, CallJournal, ChatModel, ChatReply, ChatRequest
from sparring.rollout.remote.cassette import Cassette, open_cassette
from sparring.rollout.remote.config import Price, RemoteConfig
from sparring.rollout.remote.gate import Gate
from sparring.rollout.remote.governor import Governor, Record
from sparring.rollout.remote.models import ModelRef, resolve
from sparring.rollout.remote.providers.provider import Provider
from sparring.rollout.remote.providers.providers import Providers
from sparring.rollout.remote.secrets import Secrets
from sparring.rollout.remote.stats import RemoteStats


class RemoteModels(ChatModel):
    """All models elsewhere of a run. Use it within one event loop, and close it there.

    Example:
        >>> async with RemoteModels(config.remote, journal=run.database.ledger) as remote:
        ...     async with remote.admit("3/0/1", dollars=0.002):
        ...         reply = await remote.chat(ChatRequest(model="gpt-4o-mini", messages=messages, max_tokens=64, game="3/0/1"))
        >>> remote.stats.cost, remote.stats.p99
        (0.0007, 1.9)
    """

    def __init__(
        self,
        config: RemoteConfig,
        journal: CallJournal | None = None,
        providers: Mapping[str, Provider] | None = None,
        *,
        rng: Random | None = None,
    ) -> None:
        """`journal` keeps every attempt and answers what it holds. `providers` stand in for the real ones, by player spec.

        Raises `CassetteError` for a cassette that cannot be used. Keys and prices are asked for at a model's first call.
        """
        self.config = config
        self.budget = Budget(config.budget, journal.spent() if journal else 0.0)
        self.stats = RemoteStats()
        self._journal, self._rng = journal, rng or Random()
        self._secrets = Secrets()
        self._providers = Providers(config, self._secrets, providers or {})
        self._cassette: Cassette | None = open_cassette(config)
        self._governors: dict[str, Governor] = {}
        self._breakers: dict[str, Breaker] = {}
        self._flights: dict[str, _Flight] = {}

    async def __aenter__(self) -> RemoteModels:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def chat(self, request: ChatRequest) -> ChatReply:
        """The answer.

        Raises `CallError` where no answer could be had, `BudgetError` where none may be paid for, `CassetteError` where the
        cassette holds none, `RemoteError` where a key, price, model or account is missing.
        """
        digest = request.digest
        flight = self._flights.get(digest)
        if flight is not None:
            self.stats.cached += 1
            return await flight.join()
        known = self._known(request, digest)
        if known is not None:
            self.stats.cached += 1
            return known
        flight = self._flights[digest] = _Flight(asyncio.create_task(self._ask(request, digest)))
        flight.task.add_done_callback(lambda _: self._flights.pop(digest, None))
        return await flight.join()

    def held(self, request: ChatRequest) -> ChatReply | None:
        """The answer that the cassette or the journal holds already, `None` where a provider would be asked.

        Raises `CallError` where a recorded failure is to be repeated, `CassetteError` where a replay holds nothing.
        """
        return self._known(request, request.digest)

    def keep(self, request: ChatRequest, outcome: ChatReply | CallError) -> None:
        """Puts on the cassette, where one records, what came of a call that went another way than `chat`, such as a batch."""
        if self._cassette is not None:
            self._cassette.record(request, request.digest, outcome)

    def called_off(self, game: str) -> None:
        """Puts on the cassette, where one records, that the game's time ran out: a replay, which is faster, voids it too."""
        if self._cassette is not None:
            self._cassette.call_off(game)

    def admit(self, game: str, dollars: float) -> AbstractAsyncContextManager[None]:
        """Enter it before a game begins and leave it when it has ended: reserves what the calls that name this game can cost.

        It waits while games in play may give enough back; raises `BudgetError` where the game cannot fit any more. A replay costs
        nothing and admits every game.
        """
        return self.budget.admit(game, 0.0 if self.replays else dollars)

    def check(self, spec: str) -> None:
        """Raises `RemoteError` where a model cannot be called: unknown, without price, without key. Sends nothing."""
        if not self.replays:
            self._governor(spec)

    def price(self, spec: str) -> Price:
        """US dollars for a million tokens. Raises `RemoteError` where nobody knows."""
        return self.ref(spec).price

    def ref(self, spec: str) -> ModelRef:
        """Where the model answers. Raises `RemoteError` where nobody knows."""
        return resolve(spec, self.config)

    @property
    def replays(self) -> bool:
        """Whether every answer comes from a cassette."""
        return self._cassette is not None and self._cassette.replays

    @property
    def waiting(self) -> int:
        """Calls that wait for a provider's limits."""
        return sum(governor.gate.waiting for governor in self._governors.values())

    async def close(self) -> None:
        """Ends calls in flight and lets go of connections and files."""
        flights = [flight.task for flight in self._flights.values()]
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        await self._providers.close()
        self._secrets.close()
        if self._cassette is not None:
            self._cassette.close()

    def _known(self, request: ChatRequest, digest: str) -> ChatReply | None:
        """The answer that is held already. Raises `CallError` where a failure is to be repeated, `CassetteError`."""
        cassette = self._cassette
        if cassette is not None and (reply := cassette.find(request, digest)) is not None:
            return reply
        reply = self._journal.find(digest) if self._journal else None
        if reply is not None and cassette is not None:
            cassette.record(request, digest, reply)  # the process ended between the two
        return reply

    async def _ask(self, request: ChatRequest, digest: str) -> ChatReply:
        governor, loop = self._governor(request.model), asyncio.get_running_loop()
        started = loop.time()
        self.stats.calls += 1
        self.stats.in_flight += 1
        hold = self.budget.open_hold(request.game, governor.most_cost(request))
        try:
            reply = await governor.call(request, digest, hold)
        except CallError as error:
            self.stats.failed += 1
            if self._cassette is not None:
                self._cassette.record(request, digest, error)
            raise
        finally:
            hold.close()
            self.stats.in_flight -= 1
        self.stats.answered(loop.time() - started)
        if self._cassette is not None:
            self._cassette.record(request, digest, reply)
        return reply

    def _governor(self, spec: str) -> Governor:
        """The model's governor; specs that mean the same model share one."""
        governor = self._governors.get(spec)
        if governor is None:
            ref = self.ref(spec)
            governor = next((held for held in self._governors.values() if held.serves(ref)), None)
            if governor is None:
                breaker = self._breakers.setdefault(ref.endpoint_name, Breaker(self.config))
                gate = Gate(self.config, breaker)
                governor = Governor(ref, self._providers.open(ref), gate, self.config, self._announce, self._rng)
            self._governors[spec] = governor
        return governor

    def _announce(self, attempt: Attempt) -> Record:
        journal = self._journal
        number = journal.announce(attempt) if journal else None

        def record(ended: Attempt) -> None:
            self.stats.add(ended)
            if journal is not None:
                journal.record(ended, number)

        return record


class _Flight:
    """A call that several may wait for. It ends early only when all of them gave up."""

    def __init__(self, task: asyncio.Task[ChatReply]) -> None:
        self.task = task
        self._waiting = 0

    async def join(self) -> ChatReply:
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self._waiting == 1 and not self.task.done():
                self.task.cancel()
                await asyncio.gather(self.task, return_exceptions=True)
            raise
        finally:
            self._waiting -= 1
