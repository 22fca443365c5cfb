"""How much of a provider's rate limit is used: the governor beside a plain `asyncio.gather` over the official client.

Both keep the same number of games in flight, each game a few calls one after the other, against a provider of their own in a
process of its own, in turn within one run. Neither is told the limit: the client retries as it ships, the governor reads headers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from openai import APIError, AsyncOpenAI

from sparring.bench.provider.latency import Latency
from sparring.bench.provider.ledger import LIMITED, Price, Totals
from sparring.bench.provider.limits import RateLimit
from sparring.bench.provider.process import ProviderProcess
from sparring.rollout.errors import CallError
from sparring.rollout.remote.call import ChatMessage, ChatRequest
from sparring.rollout.remote.config import Endpoint, RemoteConfig
from sparring.rollout.remote.config import Price as ModelPrice
from sparring.rollout.remote.remote import RemoteModels

MODEL = "small"
CALLS_PER_GAME = 4
MAX_TOKENS = 64
RULES = "You are the seller. You sell a used car; the buyer is across the table. Talk prices, then commit. " * 3
Call = Callable[[int, int], Awaitable[bool]]
"""Makes the call of a game and turn; whether it was answered."""
Window = Callable[[Call], Awaitable[None]]
Side = Callable[[str, "LimitPlan", Window], Awaitable[None]]
"""Opens its client at a URL and plays a window through it."""


class LimitPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured."""

    games: int = 256
    """In flight."""
    latency: Latency = Latency(p50=2.0, p99=20.0)
    limit: RateLimit = RateLimit(requests_per_minute=3000, burst=6)
    """Of the provider. 256 games would ask 4,700 times a minute if nothing held them back (mean latency 3.3 s)."""
    scale: float = 1.0
    warm_up: float = 5.0
    """Seconds before the count begins."""
    seconds: float = 30.0

    @property
    def permitted(self) -> float:
        """Requests a minute of this machine's clock."""
        return self.limit.requests_per_minute / self.scale


class LimitUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one side reached within the window."""

    name: str
    per_minute: float
    """Requests that the provider let in, a minute."""
    share: float
    """Of what its limit permits."""
    refused: int
    """429s."""
    failed_calls: int
    """Calls that were given up, each with its game."""
    games: int
    """That ended with every call answered."""
    seconds: float


def measure_limits(plan: LimitPlan) -> list[LimitUse]:
    """Both sides, one after the other."""
    return [asyncio.run(_measure(plan, "governor", _governed)), asyncio.run(_measure(plan, "gather, client's retries", _plain))]


@dataclass
class Count:
    """What the games came to since the window began."""

    ended: int = 0
    failed: int = 0


async def _measure(plan: LimitPlan, name: str, side: Side) -> LimitUse:
    found: list[LimitUse] = []
    prices = {MODEL: Price(input=1.0, output=4.0)}
    with ProviderProcess(latency=plan.latency, limit=plan.limit, scale=plan.scale, reply="short", prices=prices) as provider:

        async def window(call: Call) -> None:
            found.append(await _window(plan, name, provider, call))

        await side(provider.url, plan, window)
    return found[0]


async def _window(plan: LimitPlan, name: str, provider: ProviderProcess, call: Call) -> LimitUse:
    """Keeps the games going, and counts between two looks at the provider's ledger."""
    count = Count()
    games = asyncio.gather(*(_games(call, place, count) for place in range(plan.games)))
    await asyncio.sleep(plan.warm_up)
    before, started = await asyncio.to_thread(provider.ledger), time.perf_counter()
    count.ended = count.failed = 0
    await asyncio.sleep(plan.seconds)
    after, seconds = await asyncio.to_thread(provider.ledger), time.perf_counter() - started
    ended, failed = count.ended, count.failed
    games.cancel()
    await asyncio.gather(games, return_exceptions=True)
    per_minute = 60 * (_let_in(after) - _let_in(before)) / seconds
    return LimitUse(
        name=name,
        per_minute=per_minute,
        share=per_minute / plan.permitted,
        refused=_refused(after) - _refused(before),
        failed_calls=failed,
        games=ended,
        seconds=seconds,
    )


async def _games(call: Call, place: int, count: Count) -> None:
    """One place: game after game, each given up with its first failed call."""
    number = place
    while True:
        for turn in range(CALLS_PER_GAME):
            if not await call(number, turn):
                count.failed += 1
                break
        else:
            count.ended += 1
        number += 1_000_000


async def _governed(url: str, plan: LimitPlan, window: Window) -> None:
    config = RemoteConfig(
        endpoints={"fake": Endpoint(base_url=url)}, prices={MODEL: ModelPrice(input=1.0, output=4.0)}, concurrency=plan.games
    )
    async with RemoteModels(config) as remote:

        async def call(game: int, turn: int) -> bool:
            messages = (ChatMessage("system", RULES), ChatMessage("user", f"{game}, {turn}?"))
            try:
                await remote.chat(ChatRequest(model=f"fake:{MODEL}", messages=messages, max_tokens=MAX_TOKENS))
            except CallError:
                return False
            return True

        await window(call)


async def _plain(url: str, plan: LimitPlan, window: Window) -> None:
    async with AsyncOpenAI(base_url=url, api_key="none") as client:

        async def call(game: int, turn: int) -> bool:
            try:
                await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "system", "content": RULES}, {"role": "user", "content": f"{game}, {turn}?"}],
                    max_tokens=MAX_TOKENS,
                )
            except APIError:
                return False
            return True

        await window(call)


def _refused(totals: Totals) -> int:
    return totals.total.outcomes.get(LIMITED, 0)


def _let_in(totals: Totals) -> int:
    return totals.total.requests - _refused(totals)
