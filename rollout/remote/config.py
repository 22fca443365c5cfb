"""`RemoteConfig`: how models elsewhere are called, and what they may cost. Owns no behaviour; others obey it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0)]
Dollars = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars for a million tokens."""

    input: Dollars
    output: Dollars
    cached: Dollars | None = None
    """Of prompt tokens that the provider finds in its own cache; none counts them like others."""
    batch: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """The share of all three that a request in a batch costs."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server that speaks a provider's wire format. One named "openai" or "anthropic" takes the place of the provider's own.

    Example:
        >>> Endpoint(base_url="http://localhost:8000/v1")  # [remote.endpoints.mine]; its models are called "mine:NAME"
    """

    base_url: str
    kind: Literal["openai", "anthropic"] | None = None
    """The wire format; none is that of the provider whose name the endpoint has, and else OpenAI's."""
    api_key_env: str = ""
    """The environment variable that holds the key; "" where the server asks for none."""


class ChatSampling(msgspec.Struct, frozen=True, kw_only=True):
    """How a partner answers."""

    max_tokens: int = 256
    """Of one message."""
    temperature: float | None = None
    """None leaves it to the provider."""


class RemoteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Partners and judges over the network."""

    max_tokens: Count = 256
    """Of one message of a partner."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    """Of partners; "none" leaves it to the provider: some models take no other."""

    timeout: Seconds = 60.0
    """Seconds until one attempt is given up."""
    deadline: Seconds = 300.0
    """Seconds until a call is given up: waiting for the limits, attempts and the pauses between them."""
    max_retries: NonNegative = 5
    """Further attempts after one that failed. A refusal for the rate counts only against the deadline."""
    backoff: Seconds = 0.5
    """Before the first retry a pause is drawn from 0 to this many seconds, and from twice as many before each further one."""
    max_backoff: Seconds = 30.0
    """Where the doubling ends."""
    hedge_after: Seconds | None = None
    """After so many seconds without an answer the same call goes out again, and the first answer counts; "none" never does.
    Both may have to be paid."""

    concurrency: Count = 256
    """Requests in flight to one model at most; fewer where it refuses some."""
    requests_per_minute: NonNegative = 0
    """0 learns it from the provider's headers."""
    tokens_per_minute: NonNegative = 0
    """0 learns it from the provider's headers."""

    breaker_failures: Count = 10
    """So many failures of the server or of the connection in a row, and nothing is sent there for a while."""
    breaker_seconds: Seconds = 5.0
    """How long; twice as long each time that the probe after it fails too, up to `breaker_max_seconds`."""
    breaker_max_seconds: Seconds = 60.0

    budget: Dollars | None = None
    """US dollars that the whole run may pay at most, earlier processes of it included; "none" sets no bound."""

    cassette: str = ""
    """A file that records calls or answers them."""
    cassette_mode: Literal["off", "record", "replay"] = "off"
    """"replay" answers every call from the cassette, without network or keys."""

    prices: dict[str, Price] = {}
    """Your own, by model or player spec, before those that ship: `"openai:gpt-4o" = {input = 2.5, output = 10.0}`."""
    endpoints: dict[str, Endpoint] = {}
    """Servers by the name that player specs begin with."""

    @property
    def sampling(self) -> ChatSampling:
        """How partners answer."""
        return ChatSampling(max_tokens=self.max_tokens, temperature=self.temperature)
