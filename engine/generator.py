"""What the loop asks of a generator: sampling, adapters by name, and a KV cache that can be given back between phases.

Owns the interface and its figures only. `embedded/generator.py` is the embedded implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from sparring.engine.errors import GeneratorError
from sparring.learner.adapter import Adapter
from sparring.rollout.sampler import Sampler, SampleRequest


class GeneratorStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the generator was made; subtract two to measure a phase.

    Example:
        >>> before = generator.stats
        >>> ...
        >>> (generator.stats - before).sampled_tokens_per_second
    """

    requests: int = 0
    """Requests answered."""
    prompt_tokens: int = 0
    """Prompt tokens that went through the model."""
    cached_tokens: int = 0
    """Prompt tokens whose KV was reused instead."""
    sampled_tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Time spent computing, not waiting for players."""

    @property
    def sampled_tokens_per_second(self) -> float:
        return self.sampled_tokens / self.seconds if self.seconds else 0.0

    def __sub__(self, earlier: GeneratorStats) -> GeneratorStats:
        return GeneratorStats(**{name: getattr(self, name) - getattr(earlier, name) for name in self.__struct_fields__})


class Generator(Sampler, Protocol):
    """A `Sampler` that serves the base model and published adapters side by side.

    `Sample.policy` is the adapter's `fingerprint`, and `fingerprint_model` of the base where there is none.
    """

    def publish(self, name: str, adapter: Adapter) -> None:
        """Serves `adapter` as `name` to requests made from now on; those in flight finish on the version they began with."""
        ...

    def unpublish(self, name: str) -> None:
        """Stops serving `name`; raises `GeneratorError` if it is unknown."""
        ...

    def verify(self, name: str) -> None:
        """Raises `FenceError` if what would play as `name` is not, to the last bit, what was published so."""
        ...

    @property
    def adapters(self) -> Mapping[str, str]:
        """Published names, each with its fingerprint."""
        ...

    @property
    def num_in_flight(self) -> int:
        """Requests that are waiting or being computed."""
        ...

    def release(self) -> None:
        """Gives the KV cache's memory back; raises `GeneratorError` while requests are in flight."""
        ...

    def resume(self) -> None:
        """Takes the KV cache back, empty. Without effect if it was never released."""
        ...

    @property
    def stats(self) -> GeneratorStats: ...

    def close(self) -> None:
        """Fails what is in flight with `GeneratorStopped` and gives all memory back; the generator is of no use afterwards."""
        ...


def check_request(request: SampleRequest, *, max_context: int, vocab_size: int) -> None:
    """Raises `GeneratorError`, saying what to change, for a request that no generator of these sizes can serve."""
    length = len(request.prompt_ids)
    if length == 0 or request.max_tokens < 1:
        raise GeneratorError(f"prompt_ids has {length} tokens and max_tokens is {request.max_tokens}: both must be at least 1")
    if length + request.max_tokens > max_context:
        raise GeneratorError(
            f"a prompt of {length} tokens and max_tokens {request.max_tokens} exceed max_context {max_context}: "
            f"set max_context (sampling.context of a run) to {length + request.max_tokens} or more, or shorten the game"
        )
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocab_size:
        raise GeneratorError(f"prompt_ids must lie in the model's vocabulary of {vocab_size}: is this its tokenizer?")
    if not 0 <= request.temperature < float("inf") or not 0 < request.top_p <= 1:
        raise GeneratorError(
            f"temperature {request.temperature} must be at least 0, and top_p {request.top_p} above 0 and at most 1"
        )


def check_base(adapter: Adapter, base_model: str) -> None:
    """Raises `GeneratorError` for an adapter that says it was trained on another model than the one of this fingerprint."""
    if adapter.base_model and base_model and adapter.base_model != base_model:
        raise GeneratorError(
            f"adapter {adapter.name!r} was trained on base model {adapter.base_model}, this generator serves {base_model}: make "
            "the generator of the model it was trained on"
        )
