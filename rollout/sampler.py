"""What a rollout asks of a generator: token ids in; token ids, log-probs and a finish reason out.

Every `Generator` of `engine/` satisfies `Sampler` structurally; `rollout` never imports `engine`.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length"]


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One completion to sample. The result depends on these fields alone, never on what else is in the batch."""

    prompt_ids: list[int]
    seed: int
    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    stop_ids: tuple[int, ...] = ()
    adapter: str | None = None
    """Name of a published adapter; `None` is the base model."""
    session: str | None = None
    """A hint: requests of one session extend each other's ids, so a generator may keep their KV cache between them."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A completion: the sampled ids (the stop id included), and each one's log-prob.

    Log-probs are those of the model at the request's temperature (of the unscaled model at temperature 0), before top-p.
    `policy` is the fingerprint of the weights that sampled it.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    policy: str


class Sampler(Protocol):
    """Anything that samples. Cancelling the coroutine aborts the request and leaves nothing behind."""

    async def sample(self, request: SampleRequest) -> Sample: ...

    def end_session(self, session: str) -> None:
        """Forgets what was kept for a session; an unknown one is fine."""
        ...
