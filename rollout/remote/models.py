"""Which server a player spec means, and what its tokens cost. Owns the price table's reading and all arithmetic of dollars.

Keys are `secrets.py`'s, and what is sent is the providers'.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from sparring.rollout.errors import RemoteError
from sparring.rollout.remote.call import ChatRequest, Usage
from sparring.rollout.remote.config import Endpoint, Price, RemoteConfig

Kind = Literal["openai", "anthropic", "local"]

LOCAL = "local"
FREE = Price(input=0.0, output=0.0)
PROVIDERS = {
    "openai": Endpoint(base_url="https://api.openai.com/v1", kind="openai", api_key_env="OPENAI_API_KEY"),
    "anthropic": Endpoint(base_url="https://api.anthropic.com", kind="anthropic", api_key_env="ANTHROPIC_API_KEY"),
}
"""The providers' own endpoints."""

MESSAGE_TOKENS = 16
"""What a provider may add to a message in tokens: role, separators. Seen: 3 to 7."""
CALL_TOKENS = 64
"""What it may add to a whole prompt. With a schema, also the schema's bytes and twice this."""

_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$")


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """A model, found: where it answers and what it costs.

    Example:
        >>> resolve("gpt-4o-mini", RemoteConfig()).endpoint_name
        'openai'
    """

    spec: str
    kind: Kind
    model: str
    """As its server names it."""
    endpoint_name: str
    endpoint: Endpoint | None
    """None for a model in this process."""
    price: Price


def resolve(spec: str, config: RemoteConfig) -> ModelRef:
    """Finds the model of a player spec. Raises `RemoteError` for an endpoint nobody configured and a model without price."""
    name, colon, model = spec.partition(":")
    if not colon:
        name, model = listed_provider(spec) or "", spec
        if not name:
            raise RemoteError(f"nobody lists a model {spec!r}: say who serves it, such as {'openai:' + spec!r}")
    if not model:
        raise RemoteError(f"{spec!r} names no model: add one after the colon")
    if name == LOCAL:
        return ModelRef(spec=spec, kind="local", model=model, endpoint_name=LOCAL, endpoint=None, price=FREE)
    endpoint = config.endpoints.get(name) or PROVIDERS.get(name)
    if endpoint is None:
        raise RemoteError(f"{spec!r}: {_nearest(name, config)}")
    _check_url(name, endpoint)
    kind = endpoint.kind or (PROVIDERS[name].kind if name in PROVIDERS else None) or "openai"
    price = _price(spec, name, model, config)
    return ModelRef(spec=spec, kind=kind, model=model, endpoint_name=name, endpoint=endpoint, price=price)


def listed_provider(model: str) -> str | None:
    """The provider that the price table lists a bare model name under, dated names too."""
    return next((name for name, models in price_table().items() if _listed(model, models)), None)


@cache
def price_table() -> dict[str, dict[str, Price]]:
    """The prices that ship, by provider and model."""
    text = Path(__file__).with_name("prices.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, dict[str, Price]])


def cost(price: Price, usage: Usage) -> float:
    """US dollars of a usage."""
    cached = price.input if price.cached is None else price.cached
    fresh = usage.prompt_tokens - usage.cached_tokens
    return (fresh * price.input + usage.cached_tokens * cached + usage.completion_tokens * price.output) / 1e6


def charge(price: Price, most: Usage, reported: Usage | None) -> tuple[Usage, float, str]:
    """The tokens and dollars to count for an answer, and what was odd about them: then they are the most possible.

    A usage beyond what the request can take is a wrong one, and is not believed.
    """
    if reported is None:
        return most, most_cost(price, most), "no usage was reported"
    if reported.prompt_tokens > most.prompt_tokens or reported.completion_tokens > most.completion_tokens:
        remark = f"a usage of {reported.prompt_tokens} + {reported.completion_tokens} tokens was reported, which cannot be"
        return most, most_cost(price, most), remark
    return reported, cost(price, reported), ""


def most_usage(request: ChatRequest) -> Usage:
    """The most tokens that one attempt can take: a token of text is at least one byte of it, and an answer ends at its limit."""
    text = sum(len(message.text.encode("utf-8", "replace")) for message in request.messages)
    added = CALL_TOKENS + MESSAGE_TOKENS * len(request.messages)
    if request.schema is not None:
        added += 2 * CALL_TOKENS + len(msgspec.json.encode(request.schema))
    return Usage(prompt_tokens=text + added, completion_tokens=request.max_tokens)


def most_cost(price: Price, usage: Usage) -> float:
    """US dollars of a `most_usage`, in which nothing counts as cached, however dear a cached token is."""
    dearest = max(price.input, price.cached or 0.0)
    return (usage.prompt_tokens * dearest + usage.completion_tokens * price.output) / 1e6


def _price(spec: str, name: str, model: str, config: RemoteConfig) -> Price:
    own = config.prices.get(spec) or config.prices.get(f"{name}:{model}") or config.prices.get(model)
    listed = _listed(model, price_table().get(name, {}))
    found = own or listed
    if found is None:
        raise RemoteError(
            f"no price is known for {spec!r}, and a budget must know what it spends. Add to the run's settings, in US dollars "
            f'for a million tokens:\n\n[remote.prices]\n"{name}:{model}" = {{ input = 0.0, output = 0.0 }}\n'
        )
    return found


def _listed(model: str, models: dict[str, Price]) -> Price | None:
    return models.get(model) or models.get(_DATED.sub("", model))


def _nearest(name: str, config: RemoteConfig) -> str:
    known = [*PROVIDERS, LOCAL, *config.endpoints]
    near = difflib.get_close_matches(name, [*known, "script", "policy"], n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"no endpoint is called {name!r}{meant}: choose from {', '.join(dict.fromkeys(known))}, or add [remote.endpoints.{name}]"
    )


def _check_url(name: str, endpoint: Endpoint) -> None:
    """A key in the URL would stand in every message about it."""
    try:
        parts = urlsplit(endpoint.base_url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        sound = False
    if not sound or re.search(r"[\s\x00-\x1f]", endpoint.base_url):
        raise RemoteError(f"remote.endpoints.{name}.base_url is no URL: write http://HOST:PORT/v1 or https://HOST/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise RemoteError(f"remote.endpoints.{name}.base_url must not carry a key: name its variable in api_key_env")
