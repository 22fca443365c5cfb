"""What the loop asks of a generator: sampling, adapters by name, and a KV cache that can be given back between phases.

Owns the interface and its figures only. `torch_generator.py` is the embedded implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from sparring.learner.adapter import Adapter
from sparring.rollout.sampler import Sampler


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

    @property
    def adapters(self) -> Mapping[str, str]:
        """Published names, each with its fingerprint."""
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
