"""Which weights are served under which name: the base model's, and merged ones of every published adapter.

A `Policy` lives as long as somebody holds it: requests in flight keep theirs, whatever is published meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType

import torch

from sparring.engine.embedded.decoder import Decoder, Weights
from sparring.engine.errors import FenceError, GeneratorError
from sparring.engine.generator import check_base
from sparring.kernels.checksum import checksums
from sparring.learner.adapter import Adapter


@dataclass(frozen=True, slots=True)
class Policy:
    """Weights and what tells them from others: `number` in this process, `fingerprint` anywhere."""

    number: int
    fingerprint: str
    weights: Weights
    checksum: tuple[int, ...] = ()
    """Of the merged weights as they were published; empty for the base model."""


class Policies:
    """The policies in service. Each costs a copy of the matrices that its adapter changes."""

    def __init__(self, decoder: Decoder, base_fingerprint: str) -> None:
        self._decoder = decoder
        self._numbers = count()
        self._published: dict[str, Policy] = {}
        self.base = Policy(next(self._numbers), base_fingerprint, decoder.base)

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return MappingProxyType({name: policy.fingerprint for name, policy in self._published.items()})

    def find(self, name: str | None) -> Policy:
        """The policy of that name, the base one for `None`. Raises `GeneratorError`."""
        if name is None:
            return self.base
        if name not in self._published:
            known = ", ".join(sorted(self._published)) or "none yet"
            raise GeneratorError(
                f"no adapter is published as {name!r} (published: {known}): publish it first, or ask for None, the base model"
            )
        return self._published[name]

    def serves(self, policy: Policy) -> bool:
        return policy is self.base or any(policy is published for published in self._published.values())

    def publish(self, name: str, adapter: Adapter) -> Policy | None:
        """Serves `adapter` as `name` and returns what was served so before.

        Adapters of equal fingerprint share one policy. Raises `GeneratorError` for one that does not fit, and changes nothing.
        """
        check_base(adapter, self.base.fingerprint)
        fingerprint = adapter.fingerprint
        policy = next((policy for policy in self._published.values() if policy.fingerprint == fingerprint), None)
        if policy is None:
            with torch.inference_mode():
                weights = self._decoder.merge(adapter.merged_deltas())
            policy = Policy(next(self._numbers), fingerprint, weights, _checksum(weights))
        former = self._published.get(name)
        self._published[name] = policy
        return former

    def verify(self, name: str) -> None:
        """Raises `FenceError` if the weights that serve `name` are not those that were published."""
        policy = self.find(name)
        if _checksum(policy.weights) != policy.checksum:
            raise FenceError(
                f"what serves {name!r} is no longer adapter {policy.fingerprint}: its weights were overwritten after it was "
                "published, so games would be played by another policy than the one that learns; resume the run from its last "
                "checkpoint"
            )

    def unpublish(self, name: str) -> Policy:
        """Stops serving `name` and returns what was served so. Raises `GeneratorError`."""
        policy = self.find(name)
        del self._published[name]
        return policy

    def clear(self) -> None:
        self._published.clear()


def _checksum(weights: Weights) -> tuple[int, ...]:
    linears = [linear for layer in weights.layers for linear in layer] + [weights.head]
    return tuple(checksums([linear.weight for linear in linears]))
