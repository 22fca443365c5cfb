"""Games against a partner that fails three times in ten: what must hold of every game, of the budget and of the ledger.

Scripts sit on the other seat, so that the whole run is about calls. The run's ledger is a real `run.db`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec

from sparring.bench.provider.faults import Fault, Faults
from sparring.bench.provider.latency import Latency
from sparring.bench.provider.ledger import ModelCount
from sparring.bench.provider.ledger import Price as Billed
from sparring.bench.provider.server import FakeProvider
from sparring.engine.run.database import RunDatabase
from sparring.engine.run.ledger import CallTotals
from sparring.rollout.errors import BudgetError
from sparring.rollout.player import Seating
from sparring.rollout.remote.call import Result
from sparring.rollout.remote.chat_player import deal_bound
from sparring.rollout.remote.config import Endpoint, Price, RemoteConfig
from sparring.rollout.remote.remote import RemoteModels
from sparring.rollout.runner import play
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry
from sparring.scenarios.outcome import Reason, Verdict

MODEL = "small"
PRICE = Price(input=1.0, output=4.0)


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is played."""

    games: int = 400
    concurrency: int = 256
    faults: Faults = Faults(rate=0.3)
    latency: Latency = Latency(p50=2.0, p99=20.0)
    scale: float = 0.01
    budget: float | None = None
    """US dollars."""
    timeout: float = 5.0
    """Seconds of an attempt, by this machine's clock."""
    max_retries: int = 5
    seed: int = 0


class FaultRun(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `broken` names what should hold and does not."""

    games: int
    scored: int
    void: int
    ended_by_budget: bool
    calls: int
    attempts: int
    timeouts: int
    """Attempts that nobody answered in time."""
    provider_requests: int
    provider_outcomes: dict[str, int]
    budget: float | None
    spent: float
    """By the run's ledger: the most possible where an answer, or its usage, did not arrive."""
    provider_dollars: float
    seconds: float
    broken: tuple[str, ...]


def measure_faults(plan: FaultPlan) -> FaultRun:
    """Plays the games, and compares both ledgers.

    Example:
        >>> measure_faults(FaultPlan(games=50)).broken
        ()
    """
    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        database = RunDatabase(Path(folder) / "run.db")
        try:
            return asyncio.run(_measure(plan, database))
        finally:
            database.close()


async def _measure(plan: FaultPlan, database: RunDatabase) -> FaultRun:
    started, games, spent = time.perf_counter(), list[Game](), False
    billed = {MODEL: Billed(input=PRICE.input, output=PRICE.output)}
    provider = FakeProvider(plan.faults, plan.latency, scale=plan.scale, seed=plan.seed, reply="negotiator", prices=billed)
    async with provider:
        async with RemoteModels(_config(plan, provider.url), database.ledger) as remote:
            seating = Seating(remote=remote, partner=remote.config.sampling)

            @asynccontextmanager
            async def admit(deal: Deal) -> AsyncIterator[None]:
                async with remote.admit(deal.id, deal_bound(deal, remote.price, partner=seating.partner, policy_tokens=0)):
                    yield

            try:
                async with aclosing(play(_deals(plan.games), seating, concurrency=plan.concurrency, admit=admit)) as played:  # type: ignore[type-var]
                    async for game in played:
                        games.append(game)
            except BudgetError:
                spent = True
            timeouts = remote.stats.results[Result.TIMEOUT]
        total = provider.ledger.total
    ledger = database.ledger.totals()
    assert ledger is not None
    return FaultRun(
        games=len(games),
        scored=sum(game.error is None for game in games),
        void=sum(game.error is not None for game in games),
        ended_by_budget=spent,
        calls=ledger.calls,
        attempts=ledger.attempts,
        timeouts=timeouts,
        provider_requests=total.requests,
        provider_outcomes=dict(Counter(total.outcomes).most_common()),
        budget=plan.budget,
        spent=ledger.cost,
        provider_dollars=total.dollars,
        seconds=time.perf_counter() - started,
        broken=tuple(broken_promises(plan, games, spent, ledger, total, timeouts)),
    )


def broken_promises(
    plan: FaultPlan, games: list[Game], spent: bool, ledger: CallTotals, total: ModelCount, timeouts: int
) -> Iterator[str]:
    """What should hold, and does not."""
    if not spent and len(games) != plan.games:
        yield f"{plan.games - len(games)} games are missing"
    if spent and plan.budget is None:
        yield "a budget that nobody set is spent"
    for game in games:
        failed = {outcome.reason is Reason.PLAYER_FAILED for outcome in game.outcomes.values()}
        if failed != {game.error is not None}:
            yield f"{game.id}: {'a failure is scored' if game.error else 'void without a failure'}"
        if game.error is not None and any(outcome.verdict is not Verdict.VOID for outcome in game.outcomes.values()):
            yield f"{game.id}: a verdict although {game.error}"
    # On a starved machine an attempt may time out before its request is out: the provider never hears of that one.
    unheard = ledger.attempts - total.requests
    if not 0 <= unheard <= max(0, timeouts - total.outcomes.get(Fault.TIMEOUT, 0)):
        yield f"the ledger has {ledger.attempts} attempts, the provider counted {total.requests} requests"
    if ledger.cost < total.dollars - 1e-9:
        yield f"the ledger says ${ledger.cost:.6f}, the provider takes ${total.dollars:.6f}"
    if plan.budget is not None and ledger.cost > plan.budget:
        yield f"${ledger.cost:.6f} are spent of ${plan.budget:.6f}"


def _config(plan: FaultPlan, url: str) -> RemoteConfig:
    return RemoteConfig(
        endpoints={"fake": Endpoint(base_url=url)},
        prices={MODEL: PRICE},
        budget=plan.budget,
        timeout=plan.timeout,
        deadline=60 * plan.timeout,
        max_retries=plan.max_retries,
        max_tokens=64,
        backoff=0.5 * plan.scale,
        max_backoff=30 * plan.scale,
        breaker_seconds=5 * plan.scale,
        breaker_max_seconds=60 * plan.scale,
    )


def _deals(number: int) -> Iterator[Deal]:
    """Haggling, the partner on each seat in turn."""
    family = registry.get("haggle")
    for seed in range(number):
        scenario = family.generate(seed)
        script, model = f"script:{family.partners[seed % len(family.partners)]}", f"fake:{MODEL}"
        seats = scenario.seat_names if seed % 2 else scenario.seat_names[::-1]
        yield Deal(id=f"haggle/{seed}", scenario=scenario, players=dict(zip(seats, (script, model), strict=True)), seed=seed)
