"""A call of a chat model that is not the policy: what is asked, what comes back, and what is noted of every attempt.

Owns the nouns that partners, judges, providers, the governor, cassettes and the run's database hand each other. Who sends a
request, and how often, is `remote.py`'s and `governor.py`'s business.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Literal, Protocol

import msgspec

Role = Literal["system", "user", "assistant"]
Purpose = Literal["partner", "judge", "compare", "author"]
"""Why a call is made: a seat at the table, a judge's verdict, a comparison model's answer, material for scenarios."""


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a chat."""

    role: Role
    text: str


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON that an answer must be, for providers with structured output; others are told in words by the caller."""

    name: str
    body: dict[str, Any]
    """A JSON Schema."""


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to ask for.

    Example:
        >>> ChatRequest(model="openai:gpt-4o", messages=(ChatMessage("user", "40?"),), max_tokens=64, key="train/3/0/1/buyer/2")
    """

    model: str
    """The player spec, such as "openai:gpt-4o"."""
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    """Of the answer."""
    temperature: float | None = None
    """None leaves it to the provider: some models take no other."""
    schema: Schema | None = None
    key: str = ""
    """Tells apart calls of equal content that must have answers of their own. Judges at temperature 0 leave it empty: equal
    questions then share one answer."""
    game: str = ""
    """The deal's id, or the comparison's; for the ledger alone."""
    seat: str = ""
    purpose: Purpose = "partner"

    @property
    def digest(self) -> str:
        """32 hex digits of everything that decides the answer, under which journals and cassettes keep it."""
        held = (
            self.model,
            [(message.role, message.text) for message in self.messages],
            self.max_tokens,
            self.temperature,
            self.schema,
            self.key,
        )
        return hashlib.blake2b(msgspec.json.encode(held, order="sorted"), digest_size=16).hexdigest()


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens as the provider counts them."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's, those that the provider found in its own cache."""
    completion_tokens: int = 0


class Finish(StrEnum):
    """How an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    REFUSED = "refused"


class ChatReply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer. A refusal is one too, and it was paid for."""

    text: str
    finish: Finish = Finish.STOP
    usage: Usage = Usage()
    model: str = ""
    """As the provider names what answered."""


class Result(StrEnum):
    """What came of one attempt."""

    SENT = "sent"
    """It went out, and the process ended before anybody knew what came of it."""
    OK = "ok"
    RATE_LIMITED = "rate_limited"
    SERVER = "server"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    CUT = "cut"
    MALFORMED = "malformed"
    BAD_REQUEST = "bad_request"
    AUTH = "auth"
    CANCELLED = "cancelled"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One request that went out: a row of the ledger. A call that is retried or hedged has several, under one digest.

    `cost` is in US dollars: by the usage that the provider reported, or the most that it can be where it reported none
    (`estimated`). `reply` is set on the attempt whose answer was taken.
    """

    digest: str
    number: int
    """0 for a call's first attempt."""
    model: str
    purpose: Purpose
    game: str
    seat: str
    result: Result
    seconds: float
    usage: Usage = Usage()
    cost: float = 0.0
    estimated: bool = False
    hedge: bool = False
    reply: ChatReply | None = None
    error: str = ""


class CallJournal(Protocol):
    """Where attempts are kept, and where a paid answer is found again."""

    def announce(self, attempt: Attempt) -> int | None:
        """Stores one that is about to go out, at the most that it can cost, so that a process that dies leaves its bill. Returns
        its number for `record`; `None` where announcements are not kept."""
        return None

    def record(self, attempt: Attempt, number: int | None = None) -> None:
        """Stores what came of it, in place of its announcement where it had one; on return it survives the process."""
        ...

    def find(self, digest: str) -> ChatReply | None:
        """The answer that was taken for this digest, if any."""
        ...

    def spent(self) -> float:
        """US dollars over all attempts so far, of earlier processes too."""
        ...


class ChatModel(Protocol):
    """Anything that answers chats: the governed providers, a cassette, a model in this process, a stub in a test."""

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Raises `CallError` where no answer could be had, `BudgetError` where none may be paid for."""
        ...

    def called_off(self, game: str) -> None:
        """Told of a game whose time ran out. `game` is what the keys of its calls hold before seat and turn."""
        return
