"""What every provider is to the governor: `send` one request once. Owns the nouns of an answer and of a failure.

Retries, limits and money are the governor's business. `wire.py` has what the providers over HTTP share.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from sparring.rollout.remote.call import ChatReply, ChatRequest, Result, Usage
from sparring.rollout.remote.headers import UNTOLD, Limits

RETRIED = frozenset({Result.RATE_LIMITED, Result.SERVER, Result.TIMEOUT, Result.CONNECTION, Result.CUT, Result.MALFORMED})
"""Failures after which the same request may succeed."""
UNBILLED = frozenset({Result.RATE_LIMITED, Result.SERVER, Result.CONNECTION, Result.BAD_REQUEST, Result.AUTH})
"""Failures that no provider takes money for. After the others it is unknown, and the most possible is counted."""


class ProviderReply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer. `reply.usage` is what the provider reported, and None in its place where it reported nothing usable."""

    reply: ChatReply
    usage: Usage | None
    limits: Limits = UNTOLD


class ProviderFault(Exception):
    """One attempt failed. The text is for the user, without keys."""

    def __init__(
        self, result: Result, message: str, *, limits: Limits = UNTOLD, usage: Usage | None = None, fatal: bool = False
    ) -> None:
        """`usage` is that of an answer which came and cannot be used. `fatal`: every further call would fail alike."""
        super().__init__(message)
        self.result, self.message, self.limits, self.usage, self.fatal = result, message, limits, usage, fatal


class Provider(Protocol):
    """One model at one endpoint."""

    async def send(self, request: ChatRequest, *, within: float) -> ProviderReply:
        """Sends once, taking up to `within` seconds. Raises `ProviderFault` for whatever went wrong."""
        ...

    async def close(self) -> None:
        """Lets go of connections and threads."""
        ...
