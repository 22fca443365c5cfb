"""A loop whose time jumps to whatever comes next, a provider that follows a script, and a journal in memory."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import msgspec
import pytest

from sparring.rollout.remote.call import Attempt, CallJournal, ChatMessage, ChatReply, ChatRequest, Usage
from sparring.rollout.remote.config import Price, RemoteConfig
from sparring.rollout.remote.providers.provider import Provider, ProviderFault, ProviderReply

T = TypeVar("T")


class JumpingSelector(selectors.DefaultSelector):
    """Never waits: it moves the loop's time on instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nobody will ever wake up"
        self.loop.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its `time` starts at 0 and passes only while everybody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@pytest.fixture(scope="session")
def virtually() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine in virtual time."""
    return run_virtually


class MemoryJournal(CallJournal):
    """Attempts in a list."""

    def __init__(self, rows: Iterable[Attempt] = ()) -> None:
        self.rows = list(rows)

    def record(self, attempt: Attempt, number: int | None = None) -> None:
        self.rows.append(attempt)

    def find(self, digest: str) -> ChatReply | None:
        return next((row.reply for row in self.rows if row.digest == digest and row.reply), None)

    def spent(self) -> float:
        return sum(row.cost for row in self.rows)


Step = tuple[float, ChatReply | ProviderReply | ProviderFault]
"""After so many seconds, this."""


class ScriptedProvider(Provider):
    """Meets each request with the next step of its script, and with the last one from then on. Notes when requests came."""

    def __init__(self, *script: Step) -> None:
        self._script = list(script)
        self.sent: list[float] = []
        self.cancelled = 0
        self.in_flight = self.most_in_flight = 0
        self.closed = False

    async def send(self, request: ChatRequest, *, within: float) -> ProviderReply:
        self.sent.append(asyncio.get_running_loop().time())
        seconds, outcome = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        if isinstance(outcome, ProviderFault):
            raise outcome
        if isinstance(outcome, ChatReply):
            return ProviderReply(reply=outcome, usage=outcome.usage)
        return outcome

    async def close(self) -> None:
        self.closed = True


PRICE = Price(input=1.0, cached=0.5, output=2.0)
GOOD = ChatReply(text="I say 40.", usage=Usage(prompt_tokens=20, cached_tokens=10, completion_tokens=5))
"""It costs 10 + 5 + 10 millionths of a dollar."""


@pytest.fixture(scope="session")
def scripted() -> Callable[..., ScriptedProvider]:
    return ScriptedProvider


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture(scope="session")
def make_journal() -> Callable[..., MemoryJournal]:
    return MemoryJournal


@pytest.fixture(scope="session")
def good() -> ChatReply:
    return GOOD


@pytest.fixture(scope="session")
def ask() -> Callable[..., ChatRequest]:
    """A request of the model "test:m" that differs by its key."""

    def make(key: str = "", **changes: Any) -> ChatRequest:
        fields: dict[str, Any] = {"model": "test:m", "messages": (ChatMessage("user", "40?"),), "max_tokens": 10, "key": key}
        return ChatRequest(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def settings() -> Callable[..., RemoteConfig]:
    """Settings that know the endpoint "test" and what its model "m" costs."""

    def make(**changes: Any) -> RemoteConfig:
        fields: dict[str, Any] = {"endpoints": {"test": {"base_url": "http://127.0.0.1:9/v1"}}, "prices": {"test:m": PRICE}}
        fields = msgspec.to_builtins(fields) | changes
        return msgspec.convert(fields, RemoteConfig)

    return make
