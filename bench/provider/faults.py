"""What a fake provider can do wrong, how often, and which of it costs money.

**What is billed:** whatever the model computed an answer for, whether or not the answer arrived. So a timed-out, cut, malformed,
empty or refused answer is billed, and so is one with wrong usage: prompt and whole answer. A 429 and a 5xx are not, nor is
anything that was refused before the model saw it. Owns no wire format.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from random import Random

import msgspec

from sparring.bench.provider.latency import RehearsalError


class Fault(StrEnum):
    """One way to go wrong. OpenAI knows no 529: there `overloaded` is a 503 that says so."""

    RATE_LIMITED = "rate_limited"
    """429 with retry-after, although the limit was not met."""
    SERVER_ERROR = "server_error"
    """500."""
    BAD_GATEWAY = "bad_gateway"
    """502 with a page of HTML, as proxies send it."""
    UNAVAILABLE = "unavailable"
    """503."""
    OVERLOADED = "overloaded"
    """529."""
    TIMEOUT = "timeout"
    """Never answers; the connection stays open until the client leaves."""
    DISCONNECT = "disconnect"
    """The connection closes where the answer should begin."""
    CUT = "cut"
    """The connection closes in the middle of the answer, streamed or not."""
    MALFORMED = "malformed"
    """200 with JSON that breaks off; the body itself is complete."""
    EMPTY = "empty"
    """An answer without text."""
    REFUSED = "refused"
    """The content filter, or stop_reason "refusal"."""
    USAGE_MISSING = "usage_missing"
    USAGE_ZERO = "usage_zero"
    USAGE_ABSURD = "usage_absurd"
    """A thousand million tokens each."""
    USAGE_NEGATIVE = "usage_negative"

    @property
    def billed(self) -> bool:
        """Whether the provider takes money for it."""
        return self not in UNBILLED

    @property
    def breaks(self) -> bool:
        """Whether the answer is lost on its way. In a batch nothing is: there it is a 500, and not billed."""
        return self in (Fault.TIMEOUT, Fault.DISCONNECT, Fault.CUT, Fault.MALFORMED)

    @property
    def wrong_usage(self) -> bool:
        """Whether the answer itself is good, and only its usage is wrong."""
        return self.value.startswith("usage_")


UNBILLED = frozenset({Fault.RATE_LIMITED, Fault.SERVER_ERROR, Fault.BAD_GATEWAY, Fault.UNAVAILABLE, Fault.OVERLOADED})
ABSURD_TOKENS = 10**9
EVEN: Mapping[str, float] = {fault.value: 1.0 for fault in Fault}


def fault_named(name: str) -> Fault | None:
    """The fault, `None` for "ok". Raises `RehearsalError` listing the names."""
    if name != "ok" and name not in EVEN:
        raise RehearsalError(f"no fault is named {name!r}: choose from ok, {', '.join(Fault)}")
    return None if name == "ok" else Fault(name)


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """How often a request goes wrong, and how.

    Raises `RehearsalError` for a share outside 0..1 and for an unknown kind.

    Example:
        >>> Faults(rate=0.3)                                      # every kind alike
        >>> Faults(rate=0.1, kinds={"timeout": 1, "cut": 2})
    """

    rate: float = 0.0
    """Share of requests, 0 to 1."""
    kinds: Mapping[str, float] = msgspec.field(default_factory=lambda: dict(EVEN))
    """The weight of each kind; what is not named never happens."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise RehearsalError(f"the share of faults is {self.rate:g}: give one from 0 to 1")
        known = ", ".join(Fault)
        for kind, weight in self.kinds.items():
            if kind not in EVEN or weight < 0:
                raise RehearsalError(f"fault {kind!r} with weight {weight:g}: give weights of at least 0 to kinds among {known}")
        if self.rate and not sum(self.kinds.values()):
            raise RehearsalError(f"faults are asked for, but every kind weighs 0: choose among {known}")

    def draw(self, rng: Random) -> Fault | None:
        """The fault of one request, `None` for a good answer."""
        if rng.random() >= self.rate:
            return None
        return Fault(rng.choices(list(self.kinds), list(self.kinds.values()))[0])
