"""`Governor`: gets one answer out of a provider that fails at times. All calls of one model at one endpoint share one.

Owns attempts: when the next goes out, which hedge, when to give up, and the row that each leaves. When a request may be sent is
`gate.py`'s word, what may be spent `budget.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import msgspec

from sparring.rollout.errors import BudgetError, CallError, RemoteError
from sparring.rollout.remote.budget import Hold
from sparring.rollout.remote.call import Attempt, ChatReply, ChatRequest, Result, Usage
from sparring.rollout.remote.config import RemoteConfig
from sparring.rollout.remote.gate import Gate, Pass
from sparring.rollout.remote.headers import UNTOLD, Limits
from sparring.rollout.remote.models import ModelRef, charge, most_cost, most_usage
from sparring.rollout.remote.providers.provider import RETRIED, UNBILLED, Provider, ProviderFault, ProviderReply

MOST_CHARACTERS = 512
"""In a token, with room: the longest of the usual vocabularies, runs of spaces and signs, have 128."""
Record = Callable[[Attempt], None]
Announce = Callable[[Attempt], Record]
"""Notes an attempt that is about to go out, and returns what notes how it ended."""


class Governed:
    """One call under way."""

    def __init__(self, request: ChatRequest, digest: str, hold: Hold, deadline: float) -> None:
        self.request, self.digest, self.hold, self.deadline = request, digest, hold, deadline
        self.most = most_usage(request)
        self.sent = 0
        self.reply: ChatReply | None = None
        self.fault: ProviderFault | None = None
        """Of the latest attempt that failed."""


class Governor:
    """Retries, hedges and deadlines over one provider. Times are the running loop's, in seconds."""

    def __init__(
        self, ref: ModelRef, provider: Provider, gate: Gate, config: RemoteConfig, announce: Announce, rng: Random | None = None
    ) -> None:
        """`announce` and what it returns store each attempt. `rng` draws the pauses."""
        self.gate = gate
        self._ref, self._provider, self._config, self._announce = ref, provider, config, announce
        self._rng = rng or Random()

    def serves(self, ref: ModelRef) -> bool:
        """Whether this is the model, whatever it is called."""
        own = self._ref
        return (own.endpoint_name, own.model, own.price) == (ref.endpoint_name, ref.model, ref.price)

    def most_cost(self, request: ChatRequest) -> float:
        """US dollars that one attempt can cost."""
        return most_cost(self._ref.price, most_usage(request))

    async def call(self, request: ChatRequest, digest: str, hold: Hold) -> ChatReply:
        """The answer. Raises `CallError` where there is none within deadline and retries, `RemoteError` where every other call
        would fail alike, and `BudgetError` where the first attempt cannot be paid for."""
        loop = asyncio.get_running_loop()
        call = Governed(request, digest, hold, loop.time() + self._config.deadline)
        failures = counted = 0
        while True:
            fault = await self._try(call)
            if fault is None:
                assert call.reply is not None
                return call.reply
            if fault.fatal:
                raise RemoteError(fault.message)
            call.fault = fault
            failures += 1
            counted += fault.result is not Result.RATE_LIMITED
            if fault.result not in RETRIED or counted > self._config.max_retries:
                raise self._given_up(call)
            pause = self.pause(failures, fault.limits.retry_after)
            if loop.time() + pause >= call.deadline:
                raise self._given_up(call, f"its deadline of {self._config.deadline:g} s leaves no time for another")
            await asyncio.sleep(pause)

    def pause(self, failures: int, retry_after: float | None) -> float:
        """Seconds before the next attempt: full jitter (Brooker 2015) over a doubling range, but at least what was asked for."""
        bound = min(self._config.max_backoff, self._config.backoff * 2.0 ** min(failures - 1, 60))
        return max(self._rng.uniform(0.0, bound), retry_after or 0.0)

    async def _try(self, call: Governed) -> ProviderFault | None:
        """One attempt, with its hedge where one is due. Returns the failure; the answer is `call.reply`."""
        entered = await self._enter(call)
        hedge_after = self._config.hedge_after
        if hedge_after is None:
            return await self._send(call, entered)
        passes = [entered]
        tasks = [asyncio.create_task(self._send(call, entered))]
        try:
            done, _ = await asyncio.wait(tasks, timeout=hedge_after)
            if not done and (second := self._enter_hedge(call)) is not None:
                passes.append(second)
                tasks.append(asyncio.create_task(self._send(call, second, hedge=True)))
            fault: ProviderFault | None = None
            for finished in asyncio.as_completed(tasks):
                fault = await finished
                if call.reply is not None:
                    return None
            return fault
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for unused in (entered for entered in passes if not entered.used):  # cancelled before it began
                call.hold.settle(0.0)
                self.gate.withdraw(unused)

    async def _enter(self, call: Governed) -> Pass:
        """Dollars and leave for an attempt. Raises `CallError` where the deadline passes first."""
        first = call.sent == 0
        try:
            async with asyncio.timeout_at(call.deadline):
                await call.hold.secure()
        except TimeoutError:
            raise self._given_up(call, "its deadline passed while it waited for budget") from None
        except BudgetError as error:
            if first and not call.hold.admitted:
                raise
            raise self._given_up(call, f"there is no budget for another attempt: {error}") from None
        try:
            tokens = self.gate.expected_tokens(call.request, call.most.prompt_tokens)
            return await self.gate.enter(tokens, deadline=call.deadline, again=not first)
        except BaseException as error:
            call.hold.settle(0.0)
            if isinstance(error, TimeoutError):
                what = "a server that failed too often to pass" if self.gate.closed else "the provider's limits"
                raise self._given_up(call, f"its deadline passed while it waited for {what}") from None
            raise

    def _enter_hedge(self, call: Governed) -> Pass | None:
        """Dollars and leave for a second attempt beside the first, if both can be had at once."""
        if not call.hold.try_secure():
            return None
        entered = self.gate.try_enter(self.gate.expected_tokens(call.request, call.most.prompt_tokens))
        if entered is None:
            call.hold.settle(0.0)
        return entered

    async def _send(self, call: Governed, entered: Pass, *, hedge: bool = False) -> ProviderFault | None:
        """Sends once and notes what came of it, whatever it is."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        attempt = self._attempt(call, hedge)
        record = self._announce(attempt)
        call.sent += 1
        entered.used = True
        until = min(started + self._config.timeout, call.deadline)
        answer: ProviderReply | None = None
        fault: ProviderFault | None = None
        try:
            async with asyncio.timeout_at(until):
                answer = await self._provider.send(call.request, within=until - started)
            if (fault := self._too_long(call, answer)) is not None:
                answer = None
        except ProviderFault as error:
            fault = error
        except TimeoutError:
            fault = ProviderFault(Result.TIMEOUT, f"{self._ref.spec}: no answer within {until - started:.3g} s")
        finally:  # also where the task is cancelled
            attempt = msgspec.structs.replace(attempt, seconds=loop.time() - started)
            record(self._settled(call, entered, attempt, answer, fault))
        return fault

    def _too_long(self, call: Governed, answer: ProviderReply) -> ProviderFault | None:
        """The failure that an answer is which its limit cannot hold: it would be stored, and sent and paid for with each call
        that follows in its game."""
        length, most = len(answer.reply.text), call.request.max_tokens
        if length <= most * MOST_CHARACTERS:
            return None
        said = f"{self._ref.spec}: the answer has {length:,} characters, which {most} tokens cannot hold"
        return ProviderFault(Result.MALFORMED, said, limits=answer.limits, usage=answer.usage)

    def _attempt(self, call: Governed, hedge: bool) -> Attempt:
        """One that is about to go out."""
        request = call.request
        return Attempt(
            digest=call.digest,
            number=call.sent,
            model=request.model,
            purpose=request.purpose,
            game=request.game,
            seat=request.seat,
            result=Result.SENT,
            seconds=0.0,
            cost=most_cost(self._ref.price, call.most),
            estimated=True,
            hedge=hedge,
        )

    def _settled(
        self, call: Governed, entered: Pass, attempt: Attempt, answer: ProviderReply | None, fault: ProviderFault | None
    ) -> Attempt:
        """The attempt with what came of it; its dollars are settled, and the gate has learned from it."""
        result = Result.OK if answer else fault.result if fault else Result.CANCELLED
        limits: Limits = answer.limits if answer else fault.limits if fault else UNTOLD
        reported = answer.usage if answer else fault.usage if fault else None
        usage, dollars, estimated, remark = self._charge(call, result, reported)
        reply: ChatReply | None = None
        if answer is not None and call.reply is None:
            call.reply = reply = _with_usage(answer.reply, usage)
        call.hold.settle(dollars)
        if reported is not None and not estimated:
            self.gate.learn(call.most.prompt_tokens, usage)
        self.gate.leave(entered, result, limits, None if estimated else usage if result is Result.OK else None)
        error = "; ".join(part for part in (fault.message if fault else "", remark) if part)
        return msgspec.structs.replace(
            attempt, result=result, usage=usage, cost=dollars, estimated=estimated, reply=reply, error=error
        )

    def _charge(self, call: Governed, result: Result, reported: Usage | None) -> tuple[Usage, float, bool, str]:
        """Tokens and dollars of an attempt, whether they are the most possible, and what was odd."""
        if result in UNBILLED:
            return Usage(), 0.0, False, ""
        usage, dollars, remark = charge(self._ref.price, call.most, reported)
        return usage, dollars, bool(remark), remark if result is Result.OK or reported is not None else ""

    def _given_up(self, call: Governed, why: str = "") -> CallError:
        attempts = f"{call.sent} attempt{'s' * (call.sent != 1)}"
        said = "; ".join(part for part in (call.fault.message if call.fault else "", why) if part)
        return CallError(f"{self._ref.spec} gave no answer in {attempts}: {said}")


def _with_usage(reply: ChatReply, usage: Usage) -> ChatReply:
    return ChatReply(text=reply.text, finish=reply.finish, usage=usage, model=reply.model)
