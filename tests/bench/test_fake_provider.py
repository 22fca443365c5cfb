"""The fake provider as OpenAI's and Anthropic's own clients see it: answers, streams, every fault, the limit, the bill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from sparring.bench.fake_provider import (
    FakeProvider,
    Fault,
    Faults,
    Latency,
    Price,
    RateLimit,
    RehearsalError,
    count_tokens,
    prompt_tokens,
)

pytestmark = pytest.mark.anyio

MODEL = "small"
PRICES = {MODEL: Price(input=1.0, output=4.0)}
ASK: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "40?"}]
PROMPT = prompt_tokens((("system", "Be brief."), ("user", "40?")))
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reasoning": {"type": "string"},
        "points": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 5}, "minItems": 2, "maxItems": 3},
        "verdict": {"type": "string", "enum": ["first", "second", "tie"]},
    },
    "required": ["reasoning", "points", "verdict"],
    "additionalProperties": False,
}
UNBILLED = {Fault.RATE_LIMITED, Fault.SERVER_ERROR, Fault.BAD_GATEWAY, Fault.UNAVAILABLE, Fault.OVERLOADED}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def openai_client(provider: FakeProvider, **options: Any) -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(verify=False)  # reading the certificates takes longer than the test
    return openai.AsyncOpenAI(
        **{"base_url": provider.url, "api_key": "any", "max_retries": 0, "timeout": 5.0} | options, http_client=http
    )


def anthropic_client(provider: FakeProvider, **options: Any) -> anthropic.AsyncAnthropic:
    http = httpx2.AsyncClient(verify=False)
    given = {"base_url": provider.anthropic_url, "api_key": "any", "max_retries": 0, "timeout": 5.0} | options
    return anthropic.AsyncAnthropic(**given, http_client=http)


async def ask_openai(provider: FakeProvider, messages: Sequence[Any] = ASK, **options: Any) -> Any:
    async with openai_client(provider) as client:
        return await client.chat.completions.create(model=MODEL, messages=list(messages), max_tokens=64, **options)


async def stream_openai(provider: FakeProvider, **options: Any) -> list[Any]:
    async with openai_client(provider) as client:
        told = {"include_usage": True}
        made: Any = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True, stream_options=told, **options)
        return [chunk async for chunk in made]


async def stream_anthropic(provider: FakeProvider, **options: Any) -> list[Any]:
    async with anthropic_client(provider) as client:
        messages: list[Any] = [{"role": "user", "content": "40?"}]
        made: Any = await client.messages.create(
            model=MODEL, system="Be brief.", messages=messages, max_tokens=64, stream=True, **options
        )
        return [event async for event in made]


async def ask_anthropic(provider: FakeProvider, text: str = "40?", **options: Any) -> Any:
    async with anthropic_client(provider) as client:
        messages: list[Any] = [{"role": "user", "content": text}]
        return await client.messages.create(model=MODEL, system="Be brief.", messages=messages, max_tokens=64, **options)


async def test_openai_answers_and_bills_what_it_says() -> None:
    async with FakeProvider(prices=PRICES, reply="echo") as provider:
        found = await ask_openai(provider)
    assert found.choices[0].message.content == "40?"
    assert (found.model, found.choices[0].finish_reason) == (MODEL, "stop")
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (PROMPT, 1)
    count = provider.ledger.models[MODEL]
    assert (count.requests, count.billed, count.outcomes) == (1, 1, {"answered": 1})
    assert (count.prompt_tokens, count.completion_tokens) == (PROMPT, 1)
    assert count.dollars == pytest.approx((PROMPT + 4) / 1e6, rel=1e-12)


async def test_anthropic_answers_and_bills_what_it_says() -> None:
    async with FakeProvider(prices=PRICES, reply="echo") as provider:
        found = await ask_anthropic(provider)
    assert [block.text for block in found.content] == ["40?"]
    assert (found.stop_reason, found.usage.input_tokens, found.usage.output_tokens) == ("end_turn", PROMPT, 1)
    assert provider.ledger.total.dollars == pytest.approx((PROMPT + 4) / 1e6, rel=1e-12)


async def test_streams_hold_the_same_answer_and_usage() -> None:
    async with FakeProvider(reply=lambda ask: "a longer answer, in pieces: ü🙂") as provider:
        chunks, events = await stream_openai(provider), await stream_anthropic(provider)
        async with anthropic_client(provider) as client:
            messages: list[Any] = [{"role": "user", "content": "40?"}]
            async with client.messages.stream(model=MODEL, messages=messages, max_tokens=64) as stream:
                final = await stream.get_final_message()
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "a longer answer, in pieces: ü🙂"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (PROMPT, count_tokens(text))
    assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == text
    assert final.usage.output_tokens == count_tokens(text)
    assert len(provider.ledger.models[MODEL].outcomes) == 1


async def test_an_answer_is_cut_at_max_tokens() -> None:
    async with FakeProvider(reply=lambda ask: "x" * 1000) as provider:
        one, other = await ask_openai(provider), await ask_anthropic(provider)
    assert (one.choices[0].finish_reason, len(one.choices[0].message.content), one.usage.completion_tokens) == ("length", 256, 64)
    assert (other.stop_reason, len(other.content[0].text), other.usage.output_tokens) == ("max_tokens", 256, 64)


@pytest.mark.parametrize("reply", ["short", "judge:random"])
async def test_structured_output_conforms(reply: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
    tool = {"name": "judge", "input_schema": SCHEMA}
    verdicts: list[dict[str, Any]] = []
    async with FakeProvider(reply=reply) as provider:
        for number in range(10):
            text = f"question {number}"
            one = await ask_openai(provider, [{"role": "user", "content": text}], response_format=form)
            given = await ask_anthropic(provider, text, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
            called = await ask_anthropic(provider, text, tools=[tool], tool_choice={"type": "tool", "name": "judge"})
            assert (called.stop_reason, called.content[0].name) == ("tool_use", "judge")
            verdicts += [json.loads(one.choices[0].message.content), json.loads(given.content[0].text), called.content[0].input]
    assert {verdict["verdict"] for verdict in verdicts} == {"first", "second", "tie"}
    for verdict in verdicts:
        assert list(verdict) == ["reasoning", "points", "verdict"]
        assert verdict["verdict"] in ("first", "second", "tie")
        assert 2 <= len(verdict["points"]) <= 3
        assert all(1 <= point <= 5 for point in verdict["points"])


async def test_a_strict_schema_must_be_closed() -> None:
    open_schema = {key: value for key, value in SCHEMA.items() if key != "additionalProperties"}
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": open_schema, "strict": True}}
    async with FakeProvider() as provider:
        with pytest.raises(openai.BadRequestError, match="additionalProperties"):
            await ask_openai(provider, response_format=form)
    assert provider.ledger.total.outcomes == {"rejected": 1}
    assert provider.ledger.total.billed == 0


STATUSES = {
    Fault.RATE_LIMITED: (429, 429),
    Fault.SERVER_ERROR: (500, 500),
    Fault.BAD_GATEWAY: (502, 502),
    Fault.UNAVAILABLE: (503, 503),
    Fault.OVERLOADED: (503, 529),
}


@pytest.mark.parametrize("fault", STATUSES)
async def test_refusals_at_the_door_have_their_status(fault: Fault) -> None:
    async with FakeProvider(script=[fault, fault], scale=0.5, prices=PRICES) as provider:
        with pytest.raises(openai.APIStatusError) as one:
            await ask_openai(provider)
        with pytest.raises(anthropic.APIStatusError) as other:
            await ask_anthropic(provider)
    assert (one.value.status_code, other.value.status_code) == STATUSES[fault]
    if fault is Fault.RATE_LIMITED:
        assert one.value.response.headers["retry-after"] == other.value.response.headers["retry-after"] == "0.5"
        assert one.value.response.headers["retry-after-ms"] == "500"
        assert isinstance(one.value, openai.RateLimitError)
        assert isinstance(other.value, anthropic.RateLimitError)
    total = provider.ledger.total
    assert (total.outcomes, total.billed, total.dollars) == ({fault.value: 2}, 0, 0.0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.DISCONNECT, Fault.CUT, Fault.MALFORMED])
async def test_answers_that_do_not_arrive_are_billed(fault: Fault, stream: bool) -> None:
    async with FakeProvider(script=[fault, fault], prices=PRICES, reply=lambda ask: "word " * 40) as provider:
        wait = {"timeout": 0.2} if fault is Fault.TIMEOUT else {}
        with pytest.raises(EXPECTED[fault]):
            await (stream_openai if stream else ask_openai)(provider, **wait)
        with pytest.raises(EXPECTED[fault]):
            await (stream_anthropic if stream else ask_anthropic)(provider, **wait)
        while provider.ledger.in_flight:
            await asyncio.sleep(0.001)
    total = provider.ledger.total
    assert (total.outcomes, total.billed) == ({fault.value: 2}, 2)
    assert (total.prompt_tokens, total.completion_tokens) == (2 * PROMPT, 100)
    assert provider.ledger.abandoned == 0


EXPECTED: dict[Fault, Any] = {
    Fault.TIMEOUT: (openai.APITimeoutError, anthropic.APITimeoutError),
    Fault.DISCONNECT: (openai.APIConnectionError, anthropic.APIConnectionError),
    Fault.CUT: (openai.APIConnectionError, anthropic.APIConnectionError, httpx2.RemoteProtocolError),
    Fault.MALFORMED: (json.JSONDecodeError, openai.APIResponseValidationError, anthropic.APIResponseValidationError),
}


async def test_empty_and_refused_answers() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
    async with FakeProvider(script=["empty", "empty", "refused", "refused", "refused"]) as provider:
        empty, nothing = await ask_openai(provider), await ask_anthropic(provider)
        refused, no, structured = (
            await ask_openai(provider),
            await ask_anthropic(provider),
            await ask_openai(provider, response_format=form),
        )
    assert (empty.choices[0].message.content, empty.choices[0].finish_reason, empty.usage.completion_tokens) == ("", "stop", 0)
    assert (nothing.content, nothing.stop_reason, nothing.usage.output_tokens) == ([], "end_turn", 0)
    assert (refused.choices[0].message.content, refused.choices[0].finish_reason) == (None, "content_filter")
    assert (no.content, no.stop_reason) == ([], "refusal")
    assert structured.choices[0].message.refusal
    assert provider.ledger.total.billed == 5


@pytest.mark.parametrize(
    ("fault", "prompt", "completion"),
    [("usage_missing", None, None), ("usage_zero", 0, 0), ("usage_absurd", 10**9, 10**9), ("usage_negative", -PROMPT, -1)],
)
async def test_wrong_usage_is_told_and_the_truth_billed(fault: str, prompt: int | None, completion: int | None) -> None:
    async with FakeProvider(script=[fault, fault], reply="echo") as provider:
        one, other = await ask_openai(provider), await ask_anthropic(provider)
    assert one.choices[0].message.content == other.content[0].text == "40?"
    if prompt is None:
        assert one.usage is None
        assert getattr(other, "usage", None) is None
    else:
        assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (prompt, completion)
        assert (other.usage.input_tokens, other.usage.output_tokens) == (prompt, completion)
    assert (provider.ledger.total.prompt_tokens, provider.ledger.total.completion_tokens) == (2 * PROMPT, 2)


async def test_a_storm_of_faults_adds_up() -> None:
    """Everything that clients met is what the ledger says, to the request and to the cent."""
    async with FakeProvider(Faults(rate=0.5), prices=PRICES, seed=3) as provider:
        good = 0
        async with openai_client(provider, timeout=1.0) as client:

            async def one(number: int) -> bool:
                messages: list[Any] = [{"role": "user", "content": f"question {number}"}]
                try:
                    found = await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=64)
                except (openai.APIError, json.JSONDecodeError, httpx2.HTTPError):
                    return False
                return found.choices[0].finish_reason == "stop" and bool(found.choices[0].message.content)

            good = sum(await asyncio.gather(*(one(number) for number in range(200))))
    total = provider.ledger.total
    outcomes = total.outcomes
    assert total.requests == sum(outcomes.values()) == 200
    assert good == outcomes["answered"] + sum(outcomes.get(fault, 0) for fault in Fault if fault.wrong_usage)
    assert total.billed == 200 - sum(outcomes.get(fault, 0) for fault in UNBILLED)
    assert set(outcomes) == {"answered", *Fault}
    assert 80 <= 200 - outcomes["answered"] <= 120
    assert total.dollars == pytest.approx((total.prompt_tokens + 4 * total.completion_tokens) / 1e6, rel=1e-9)
    assert 1 < provider.ledger.peak_in_flight <= 200


async def test_the_same_questions_meet_the_same_fate() -> None:
    """Whatever the order; asked again, a question meets another one."""

    async def outcomes(numbers: Sequence[int], seed: int) -> dict[int, str]:
        found: dict[int, str] = {}
        async with FakeProvider(Faults(rate=0.5, kinds={"server_error": 1, "empty": 1}), seed=seed) as provider:
            for number in numbers:
                before = dict(provider.ledger.total.outcomes)
                with suppress(openai.InternalServerError):
                    await ask_openai(provider, [{"role": "user", "content": str(number)}])
                after = provider.ledger.total.outcomes
                (found[number],) = [kind for kind in after if after[kind] != before.get(kind, 0)]
        return found

    first = await outcomes(range(12), 7)
    assert await outcomes(range(11, -1, -1), 7) == first
    assert await outcomes(range(12), 8) != first
    async with FakeProvider(Faults(rate=0.5, kinds={"empty": 1}), seed=7) as provider:
        again = [(await ask_openai(provider)).choices[0].message.content for _ in range(12)]
    assert 0 < sum(text == "" for text in again) < 12
    assert (provider.ledger.total.repeats, provider.ledger.total.requests) == (11, 12)


def test_latency_has_the_asked_median_and_tail() -> None:
    latency, rng = Latency(p50=2.0, p99=20.0), Random(0)
    drawn = sorted(latency.sample(rng) for _ in range(200_000))
    assert drawn[100_000] == pytest.approx(2.0, rel=0.02)
    assert drawn[198_000] == pytest.approx(20.0, rel=0.03)
    assert Latency().sample(rng) == 0.0
    assert Latency(p50=3.0, p99=3.0).sample(rng) == 3.0


async def test_the_rate_limit_is_kept_and_told() -> None:
    """Three requests fill a bucket of three; the fourth is told when to come, and no sooner may it."""
    now = 0.0
    limit = RateLimit(requests_per_minute=60, tokens_per_minute=60_000, burst=3)
    async with FakeProvider(limit=limit, scale=0.1, clock=lambda: now) as provider, openai_client(provider) as client:
        asked = client.chat.completions.with_raw_response
        told = [(await asked.create(model=MODEL, messages=ASK, max_tokens=50)).headers for _ in range(3)]
        refusals = []
        for now in (0.0, 0.099, 0.1):  # noqa: B007 - the provider's clock
            try:
                await asked.create(model=MODEL, messages=ASK, max_tokens=50)
            except openai.RateLimitError as error:
                refusals.append(error)
        with pytest.raises(anthropic.RateLimitError) as same:
            await ask_anthropic(provider)
    assert [headers["x-ratelimit-limit-requests"] for headers in told] == ["600"] * 3
    assert [headers["x-ratelimit-remaining-requests"] for headers in told] == ["2", "1", "0"]
    assert [headers["x-ratelimit-reset-requests"] for headers in told] == ["100ms", "200ms", "300ms"]
    assert told[0]["x-ratelimit-limit-tokens"] == "600000"
    assert told[0]["x-ratelimit-remaining-tokens"] == str(3000 - (PROMPT + 50))
    assert [error.response.headers["retry-after"] for error in refusals] == ["0.1", "0.001"]
    assert "on requests per min" in str(refusals[0])
    told_too = same.value.response.headers
    assert told_too["anthropic-ratelimit-requests-limit"] == "600"
    assert told_too["anthropic-ratelimit-requests-remaining"] == "0"
    assert told_too["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert provider.ledger.total.outcomes == {"answered": 4, "limited": 3}


async def test_tokens_are_limited_too() -> None:
    async with FakeProvider(limit=RateLimit(tokens_per_minute=60, burst=60)) as provider:
        await ask_openai(provider)
        with pytest.raises(openai.RateLimitError, match="on tokens") as error:
            await ask_openai(provider)
    assert "x-ratelimit-limit-requests" not in error.value.response.headers
    assert float(error.value.response.headers["retry-after"]) > 60


async def test_keys_and_unknown_models() -> None:
    async with FakeProvider(models=["small"], api_key="right") as provider:
        async with openai_client(provider, api_key="wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with openai_client(provider, api_key="right") as client:
            assert [model.id async for model in client.models.list()] == ["small"]
            with pytest.raises(openai.NotFoundError, match="large"):
                await client.chat.completions.create(model="large", messages=ASK)
        async with anthropic_client(provider, api_key="wrong") as stranger:
            messages: list[Any] = [{"role": "user", "content": "40?"}]
            with pytest.raises(anthropic.AuthenticationError):
                await stranger.messages.create(model="small", messages=messages, max_tokens=4)


async def test_a_client_that_leaves_pays_and_is_seen() -> None:
    async with FakeProvider(latency=Latency(p50=60.0, p99=60.0), prices=PRICES, reply="echo") as provider:
        with pytest.raises(openai.APITimeoutError):
            await ask_openai(provider, timeout=0.2)
        while provider.ledger.in_flight:
            await asyncio.sleep(0.001)
    assert (provider.ledger.abandoned, provider.ledger.total.billed, provider.ledger.total.completion_tokens) == (1, 1, 1)


def test_served_from_a_thread_the_ledger_is_a_page() -> None:
    with FakeProvider(prices=PRICES, reply="echo").running() as provider:
        with openai.OpenAI(base_url=provider.url, api_key="any", max_retries=0) as client:
            for _ in range(2):
                client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=64)
        page = httpx2.get(f"{provider.anthropic_url}/ledger").json()
    assert page["total"]["requests"] == page["models"][MODEL]["billed"] == 2
    assert (page["total"]["repeats"], page["total"]["paid_again"], page["in_flight"]) == (1, 1, 0)
    assert page["connections"] == 2
    assert page["total"]["dollars"] == pytest.approx(2 * (PROMPT + 4) / 1e6, rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Latency(p50=2.0, p99=1.0),
        lambda: Faults(rate=1.1),
        lambda: Faults(rate=0.1, kinds={"boredom": 1.0}),
        lambda: Faults(rate=0.1, kinds={"cut": 0.0}),
        lambda: RateLimit(requests_per_minute=-1),
        lambda: FakeProvider(scale=0),
        lambda: FakeProvider(reply="oracle"),
        lambda: FakeProvider(script=["boredom"]),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(RehearsalError):
        make()
