"""A request and its answer, free of any wire format, and how a fake provider counts tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

MESSAGE_TOKENS = 4
"""What each message takes beside its text."""
BYTES_PER_TOKEN = 4


class BadRequest(Exception):
    """What no provider would take; answered with `status`."""

    def __init__(self, message: str, status: int = 400, model: str = "") -> None:
        super().__init__(message)
        self.status, self.model = status, model


@dataclass(frozen=True)
class Ask:
    """What a client asks for."""

    model: str
    messages: tuple[tuple[str, str], ...]
    """Role and text, the system's first."""
    max_tokens: int
    stream: bool = False
    schema: dict[str, Any] | None = None
    """The JSON Schema that the answer must conform to."""
    tool: str = ""
    """The tool that must be called, where the schema is that of a tool's input."""
    stream_usage: bool = True
    """Whether a stream ends with the usage."""
    rng: Random = field(default_factory=lambda: Random(0))
    """Seeded by the body and how often it came."""

    @property
    def prompt_tokens(self) -> int:
        return prompt_tokens(self.messages)

    @property
    def instructions(self) -> str:
        """All system text."""
        return "\n".join(text for role, text in self.messages if role == "system")

    @property
    def text(self) -> str:
        """Everything that is said, system included."""
        return "\n".join(text for _, text in self.messages)

    def last(self, role: str = "user") -> str:
        """The role's last message, "" where there is none."""
        return next((text for who, text in reversed(self.messages) if who == role), "")


Reply = Callable[[Ask], str]
"""Writes the answer to a request; it is cut at `max_tokens`."""


class Ending(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    REFUSED = "refused"


@dataclass(frozen=True)
class Answer:
    """What a client is told. `reported` is the usage on the wire: prompt and completion tokens, or none."""

    text: str
    ending: Ending
    prompt_tokens: int
    completion_tokens: int
    reported: tuple[int, int] | None


def count_tokens(text: str) -> int:
    """A token for every four bytes of UTF-8, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def prompt_tokens(messages: tuple[tuple[str, str], ...]) -> int:
    """Every message's text and `MESSAGE_TOKENS` more for each."""
    return sum(MESSAGE_TOKENS + count_tokens(text) for _, text in messages)


def cut_tokens(text: str, most: int) -> str:
    """The text's beginning that counts at most `most` tokens."""
    return text.encode()[: BYTES_PER_TOKEN * most].decode(errors="ignore")
