"""`Gate`: the one door to a model at its endpoint. Calls queue before it; it opens as far as limits and breaker permit.

Owns the queue. What is permitted is `limits.py`'s and `breaker.py`'s word; retries and money are `governor.py`'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from sparring.rollout.remote.breaker import Breaker
from sparring.rollout.remote.call import ChatRequest, Result, Usage
from sparring.rollout.remote.config import RemoteConfig
from sparring.rollout.remote.headers import Limits
from sparring.rollout.remote.limits import Bucket, Concurrency

LEARNING = 0.05
"""How fast the ratio of tokens to bytes follows what providers count."""
WALL = 3
"""So many refusals in a row with a pause asked for, and all calls observe the pause."""


@dataclass(eq=False)
class Pass:
    """Leave to send one request. Give it back through `Gate.leave`."""

    tokens: float
    sent: float
    request_mark: float
    token_mark: float
    probe: bool
    used: bool = False
    """Whether the request went out."""


@dataclass(eq=False)
class _Waiter:
    tokens: float
    granted: asyncio.Future[Pass]


class Gate:
    """Limits, breaker and queue of one model. Belongs to the event loop that it is first used in."""

    def __init__(self, config: RemoteConfig, breaker: Breaker) -> None:
        self._breaker = breaker
        self._requests = Bucket(config.requests_per_minute)
        self._tokens = Bucket(config.tokens_per_minute)
        self._concurrency = Concurrency(config.concurrency)
        self._queue: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._tokens_per_byte = 0.3
        self._refusals = 0

    @property
    def in_flight(self) -> int:
        return self._concurrency.in_flight

    @property
    def closed(self) -> bool:
        """Whether the server failed so often that nothing is sent for now."""
        return self._breaker.is_open

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def expected_tokens(self, request: ChatRequest, prompt_bytes: int) -> float:
        """What the provider will count: the prompt by what it counted so far, and the answer's limit, as providers do."""
        return prompt_bytes * self._tokens_per_byte + request.max_tokens

    def learn(self, prompt_bytes: int, usage: Usage) -> None:
        """Follows what the provider counts for a prompt."""
        if prompt_bytes > 0:
            seen = min(1.0, usage.prompt_tokens / prompt_bytes)
            self._tokens_per_byte += LEARNING * (seen - self._tokens_per_byte)

    def try_enter(self, tokens: float) -> Pass | None:
        """A pass if one can be had without waiting and nobody waits."""
        now = asyncio.get_running_loop().time()
        return self._grant(tokens, now) if not self._queue and self._pause(tokens, now) == 0 else None

    async def enter(self, tokens: float, *, deadline: float, again: bool = False) -> Pass:
        """Waits for a pass; `again` goes before calls not sent yet. Raises `TimeoutError` at the deadline (loop time)."""
        if (free := self.try_enter(tokens)) is not None:
            return free
        waiter = _Waiter(tokens, asyncio.get_running_loop().create_future())
        if again:
            self._queue.appendleft(waiter)
        else:
            self._queue.append(waiter)
        self._serve()
        try:
            async with asyncio.timeout_at(deadline):
                return await waiter.granted
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise
        except TimeoutError:
            self._withdraw(waiter)
            raise

    def leave(self, entered: Pass, result: Result, limits: Limits, usage: Usage | None) -> None:
        """The request came to its end, as `result` says, with what the provider told of its limits and of the tokens used."""
        now = asyncio.get_running_loop().time()
        self._end(entered)
        self._tell_breaker(entered, result, now)
        if usage is not None:
            self._tokens.correct(entered.tokens - usage.prompt_tokens - usage.completion_tokens)
        self._requests.hear(limits.requests, entered.request_mark, sent=entered.sent, now=now)
        self._tokens.hear(limits.tokens, entered.token_mark, sent=entered.sent, now=now)
        if result is Result.RATE_LIMITED:
            self._refused(limits, now)
        elif result is not Result.CANCELLED:
            self._refusals = 0
            self._concurrency.answered(refused=False)
        self._serve()

    def withdraw(self, entered: Pass) -> None:
        """A pass that was not used."""
        self._end(entered)
        self._breaker.abandoned(probe=entered.probe)
        self._serve()

    def _end(self, entered: Pass) -> None:
        self._concurrency.in_flight -= 1
        self._requests.end(1)
        self._tokens.end(entered.tokens)

    def _refused(self, limits: Limits, now: float) -> None:
        """A bucket that is empty explains a refusal. Otherwise it may be that too many are in flight, or one stray refusal."""
        self._refusals += 1
        explained = False
        for bucket, window in ((self._requests, limits.requests), (self._tokens, limits.tokens)):
            if window.remaining is not None and window.remaining < 1:
                explained = True
                bucket.block(limits.retry_after or 0.0, now)
        if not explained and self._refusals >= WALL and limits.retry_after:
            self._requests.block(limits.retry_after, now)
        self._concurrency.answered(refused=not explained)

    def _tell_breaker(self, entered: Pass, result: Result, now: float) -> None:
        if result in (Result.SERVER, Result.CONNECTION):
            self._breaker.failed(now, probe=entered.probe)
        elif result in (Result.CANCELLED, Result.TIMEOUT, Result.CUT):
            self._breaker.abandoned(probe=entered.probe)
        else:
            self._breaker.succeeded()

    def _pause(self, tokens: float, now: float) -> float:
        """Seconds until a pass can be had; infinite where only an answer can tell."""
        if self._concurrency.full:
            return float("inf")
        return max(self._breaker.wait(now), self._requests.wait(1, now), self._tokens.wait(tokens, now))

    def _grant(self, tokens: float, now: float) -> Pass:
        self._concurrency.in_flight += 1
        request_mark, token_mark = self._requests.take(1, now), self._tokens.take(tokens, now)
        return Pass(tokens, now, request_mark, token_mark, self._breaker.enter())

    def _serve(self) -> None:
        """Lets in whom it can, in order, and wakes up when the next one can enter."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            waiter = self._queue[0]
            if waiter.granted.done():
                self._queue.popleft()
                continue
            now = loop.time()
            pause = self._pause(waiter.tokens, now)
            if pause > 0:
                if pause != float("inf"):
                    self._timer = loop.call_at(now + pause + 1e-6, self._serve)
                return
            self._queue.popleft()
            waiter.granted.set_result(self._grant(waiter.tokens, now))

    def _withdraw(self, waiter: _Waiter) -> None:
        with suppress(ValueError):
            self._queue.remove(waiter)
        if waiter.granted.done() and not waiter.granted.cancelled():
            self.withdraw(waiter.granted.result())
        else:
            waiter.granted.cancel()
            self._serve()
