"""Which adapter version lies in which slot, and who still uses it. Pure bookkeeping: no tensors, no threads, no vLLM.

Every publication makes a new version in a slot of its own; requests keep the version they began with, and a version that is
neither published nor used by a request gives its slot back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(slots=True, eq=False)
class Version:
    """One publication of an adapter."""

    number: int
    """Counts publications, from 1: never used twice."""
    name: str
    fingerprint: str
    slot: int
    checksum: tuple[int, ...] = ()
    """Of what was written to the slot."""
    published: bool = False
    num_requests: int = 0
    """Requests that are computed with it."""

    @property
    def unused(self) -> bool:
        return not self.published and not self.num_requests

    @property
    def label(self) -> str:
        """Unique among all versions: what the prefix cache is keyed by."""
        return f"{self.name}@{self.number}-{self.fingerprint}"


class SlotTable:
    """Versions in `num_slots` slots. `on_free` is told of every version that leaves its slot.

    Example:
        >>> table = SlotTable(num_slots=2)
        >>> version = table.reserve("policy", "0a1b2c3d4e5f")
        >>> table.publish(version)
        >>> table.find("policy") is version
        True
    """

    def __init__(self, num_slots: int, on_free: Callable[[Version], None] = lambda version: None) -> None:
        self._free = list(range(num_slots))
        self._published: dict[str, Version] = {}
        self._count = 0
        self._on_free = on_free
        self.num_slots = num_slots

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return MappingProxyType({name: version.fingerprint for name, version in self._published.items()})

    @property
    def num_free(self) -> int:
        return len(self._free)

    def find(self, name: str) -> Version | None:
        """The version that is served as `name`."""
        return self._published.get(name)

    def reserve(self, name: str, fingerprint: str) -> Version:
        """A new version in a free slot, not served yet. At least one slot must be free."""
        self._count += 1
        return Version(self._count, name, fingerprint, self._free.pop(0))

    def cancel(self, version: Version) -> None:
        """Gives a reserved slot back."""
        assert version.unused
        self._release(version)

    def publish(self, version: Version) -> None:
        """Serves the version under its name from now on; what was served so before goes when its last request has ended."""
        former = self._published.get(version.name)
        self._published[version.name] = version
        version.published = True
        if former is not None:
            self._withdraw(former)

    def unpublish(self, name: str) -> None:
        self._withdraw(self._published.pop(name))

    def begin(self, version: Version) -> None:
        """A request starts on the version."""
        version.num_requests += 1

    def end(self, version: Version) -> None:
        """A request on the version has ended, however it did."""
        assert version.num_requests > 0
        version.num_requests -= 1
        if version.unused:
            self._release(version)

    def _withdraw(self, version: Version) -> None:
        version.published = False
        if version.unused:
            self._release(version)

    def _release(self, version: Version) -> None:
        self._free.append(version.slot)
        self._on_free(version)
