"""What a wire format must offer, and what both have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec

from sparring.bench.provider.ask import Answer, Ask
from sparring.bench.provider.limits import Admission

STREAM_PIECES = 6
"""Into how many events a streamed text is divided, at most."""


class Wire(Protocol):
    """One provider's way of writing requests, answers and errors."""

    name: str
    overloaded: int
    """The status that says so."""

    def authorized(self, headers: Mapping[str, str], key: str) -> bool:
        """Whether the request carries the key; with an empty `key`, any."""
        ...

    def parse(self, payload: Any) -> Ask:
        """Raises `BadRequest`."""
        ...

    def body(self, ask: Ask, answer: Answer, ident: str) -> dict[str, Any]:
        """The answer as one JSON document."""
        ...

    def events(self, ask: Ask, answer: Answer, ident: str) -> Iterator[bytes]:
        """The answer as server-sent events."""
        ...

    def error(self, status: int, message: str) -> dict[str, Any]: ...

    def headers(self, admission: Admission) -> dict[str, str]:
        """What the rate limit says of itself."""
        ...


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def pieces(text: str) -> list[str]:
    """The text in at most `STREAM_PIECES` parts; none for an empty one."""
    size = max(1, -(-len(text) // STREAM_PIECES))
    return [text[start : start + size] for start in range(0, len(text), size)]


def milliseconds(seconds: float) -> int:
    """Rounded up, so that waiting it out suffices."""
    return math.ceil(seconds * 1000 - 1e-6)  # less what floats add


def seconds_text(seconds: float) -> str:
    """To the millisecond: "2", "0.137"."""
    return f"{milliseconds(seconds) / 1000:.3f}".rstrip("0").rstrip(".")
