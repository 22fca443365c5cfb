"""Specs, endpoints and prices; the most that a request can take."""

from __future__ import annotations

import tomllib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.rollout.errors import RemoteError
from sparring.rollout.remote.call import ChatMessage, ChatRequest, Schema, Usage
from sparring.rollout.remote.config import Endpoint, Price, RemoteConfig
from sparring.rollout.remote.models import cost, most_cost, most_usage, price_table, resolve

MINE = Endpoint(base_url="http://localhost:8000/v1")
AMOUNT = st.integers(0, 10**7)
DOLLARS = st.floats(0, 1000)


@pytest.mark.parametrize(
    ("spec", "kind", "model", "endpoint", "price"),
    [
        ("openai:gpt-4o", "openai", "gpt-4o", "openai", 2.5),
        ("gpt-4o-mini", "openai", "gpt-4o-mini", "openai", 0.15),
        ("gpt-4o-2024-08-06", "openai", "gpt-4o-2024-08-06", "openai", 2.5),
        ("gpt-4o-2024-05-13", "openai", "gpt-4o-2024-05-13", "openai", 5.0),
        ("claude-3-5-haiku-latest", "anthropic", "claude-3-5-haiku-latest", "anthropic", 0.8),
        ("anthropic:claude-sonnet-4-20250514", "anthropic", "claude-sonnet-4-20250514", "anthropic", 3.0),
        ("mine:org/name:7b", "openai", "org/name:7b", "mine", 0.0),
        ("local:/models/x", "local", "/models/x", "local", 0.0),
    ],
)
def test_specs(spec: str, kind: str, model: str, endpoint: str, price: float) -> None:
    config = RemoteConfig(endpoints={"mine": MINE}, prices={"org/name:7b": Price(input=0, output=0)})
    ref = resolve(spec, config)
    assert (ref.spec, ref.kind, ref.model, ref.endpoint_name, ref.price.input) == (spec, kind, model, endpoint, price)


def test_an_endpoint_may_take_the_place_of_a_provider() -> None:
    config = RemoteConfig(endpoints={"openai": MINE})
    assert resolve("gpt-4o", config).endpoint == MINE
    assert resolve("gpt-4o", config).price.input == 2.5


def test_own_prices_go_first_the_whole_spec_before_the_name() -> None:
    prices = {"gpt-4o": Price(input=7, output=7), "mine:gpt-4o": Price(input=9, output=9)}
    config = RemoteConfig(endpoints={"mine": MINE}, prices=prices)
    assert [resolve(spec, config).price.input for spec in ("gpt-4o", "openai:gpt-4o", "mine:gpt-4o")] == [7, 7, 9]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("unheard-of", "nobody lists a model 'unheard-of': say who serves it, such as 'openai:unheard-of'"),
        ("openia:gpt-4o", "no endpoint is called 'openia' .did you mean 'openai'..: choose from openai, anthropic, local, mine"),
        ("scrpt:linear", "did you mean 'script'"),
        ("openai:", "names no model"),
        ("query:x", r"remote\.endpoints\.query\.base_url must not carry a key"),
        ("user:x", r"remote\.endpoints\.user\.base_url must not carry a key"),
        ("part:x", r"remote\.endpoints\.part\.base_url must not carry a key"),
        ("odd:x", r"remote\.endpoints\.odd\.base_url is no URL"),
        ("six:x", r"remote\.endpoints\.six\.base_url is no URL"),  # Python's own parser raised a ValueError here
        ("port:x", r"remote\.endpoints\.port\.base_url is no URL"),
        ("gap:x", r"remote\.endpoints\.gap\.base_url is no URL"),
    ],
)
def test_what_cannot_be_resolved(spec: str, said: str) -> None:
    endpoints = {
        "mine": MINE,
        "query": Endpoint(base_url="https://host/v1?key=hush"),
        "user": Endpoint(base_url="https://me:hush@host/v1"),
        "part": Endpoint(base_url="https://host/v1#hush"),
        "odd": Endpoint(base_url="host/v1"),
        "six": Endpoint(base_url="http://[::1/v1"),
        "port": Endpoint(base_url="http://host:abc/v1"),
        "gap": Endpoint(base_url="http://ho st/v1"),
    }
    with pytest.raises(RemoteError, match=said) as caught:
        resolve(spec, RemoteConfig(endpoints=endpoints))
    assert "hush" not in str(caught.value)


def test_an_unknown_price_shows_the_lines_to_add() -> None:
    with pytest.raises(RemoteError, match="no price is known for 'mine:m'") as caught:
        resolve("mine:m", RemoteConfig(endpoints={"mine": MINE}))
    added = tomllib.loads(str(caught.value).partition("\n\n")[2])
    assert added == {"remote": {"prices": {"mine:m": {"input": 0.0, "output": 0.0}}}}


def test_a_listed_price_is_not_taken_for_another_server() -> None:
    """A name says nothing of what somebody else asks for it."""
    with pytest.raises(RemoteError, match="no price is known"):
        resolve("mine:gpt-4o", RemoteConfig(endpoints={"mine": MINE}))


def test_the_table_is_plausible() -> None:
    for models in price_table().values():
        for price in models.values():
            assert 0 < price.input < price.output and (price.cached is None or price.cached < price.input)


def test_dollars() -> None:
    usage = Usage(prompt_tokens=1000, cached_tokens=400, completion_tokens=100)
    assert cost(Price(input=2, cached=1, output=8), usage) == pytest.approx((600 * 2 + 400 * 1 + 100 * 8) / 1e6)
    assert cost(Price(input=2, output=8), usage) == pytest.approx((1000 * 2 + 100 * 8) / 1e6)


@given(DOLLARS, DOLLARS, st.none() | DOLLARS, AMOUNT, AMOUNT, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_no_usage_within_the_most_costs_more(
    dear: float, out: float, cached: float | None, prompt: int, answer: int, a: float, b: float, c: float
) -> None:
    price, read = Price(input=dear, output=out, cached=cached), int(prompt * a)
    used = Usage(prompt_tokens=read, cached_tokens=int(read * b), completion_tokens=int(answer * c))
    most = Usage(prompt_tokens=prompt, completion_tokens=answer)
    assert cost(price, used) <= most_cost(price, most) * (1 + 1e-12)


@given(st.lists(st.text(), min_size=1, max_size=5), st.integers(1, 1000), st.booleans())
def test_a_token_is_at_least_a_byte(texts: list[str], max_tokens: int, structured: bool) -> None:
    messages = tuple(ChatMessage("user", text) for text in texts)
    schema = Schema(name="verdict", body={"type": "object"}) if structured else None
    most = most_usage(ChatRequest(model="m", messages=messages, max_tokens=max_tokens, schema=schema))
    assert most.completion_tokens == max_tokens
    assert most.prompt_tokens >= sum(len(text.encode("utf-8", "replace")) + 10 for text in texts) + 30 * structured


def test_the_digest_holds_what_decides_the_answer_and_nothing_else(ask: Callable[..., ChatRequest]) -> None:
    same = [ask("k"), ask("k", game="g"), ask("k", seat="s"), ask("k", purpose="judge")]
    other = [ask("j"), ask("k", max_tokens=11), ask("k", temperature=0.0), ask("k", model="test:n")]
    assert len({request.digest for request in same}) == 1
    assert len({request.digest for request in same + other}) == 5
