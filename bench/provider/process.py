"""A fake provider in a process of its own, so that what it computes is not the measured process's time."""

from __future__ import annotations

import asyncio
import multiprocessing
import urllib.request
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import msgspec

from sparring.bench.provider.ledger import Totals
from sparring.bench.provider.server import FakeProvider


class ProviderProcess:
    """`FakeProvider(**settings)` elsewhere on this machine; the settings must be picklable.

    Example:
        >>> with ProviderProcess(latency=Latency(p50=2.0, p99=20.0), scale=0.1) as provider:
        ...     provider.url, provider.ledger().total.requests
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._settings, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.anthropic_url: str = self._ours.recv()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ours.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    @property
    def url(self) -> str:
        """The base URL for OpenAI's client."""
        return f"{self.anthropic_url}/v1"

    def ledger(self) -> Totals:
        """Its own count, as it is now."""
        with urllib.request.urlopen(f"{self.anthropic_url}/ledger", timeout=30) as answer:
            return msgspec.json.decode(answer.read(), type=Totals)


def _serve(settings: dict[str, Any], parent: Connection) -> None:
    async def serve() -> None:
        async with FakeProvider(**settings) as provider:
            parent.send(provider.anthropic_url)
            while not await asyncio.to_thread(parent.poll, 1.0):  # readable once the parent has closed its end, or has died
                pass

    try:
        asyncio.run(serve())
    except (EOFError, KeyboardInterrupt):
        return
