"""The official clients against servers on a real socket: what is sent, what is read, and every way to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
import pytest
from aiohttp import web

from sparring.bench.fake_provider import FakeProvider, Fault, Faults, RateLimit
from sparring.rollout.errors import CallError, RemoteError
from sparring.rollout.remote.call import ChatMessage, ChatRequest, Finish, Result, Schema, Usage
from sparring.rollout.remote.config import Endpoint, Price, RemoteConfig
from sparring.rollout.remote.models import resolve
from sparring.rollout.remote.providers.provider import Provider, ProviderFault, ProviderReply
from sparring.rollout.remote.providers.providers import Providers
from sparring.rollout.remote.remote import RemoteModels
from sparring.rollout.remote.secrets import Secrets

Kind = Literal["openai", "anthropic"]
KINDS: tuple[Kind, ...] = ("openai", "anthropic")
PRICE = Price(input=1.0, output=2.0)
CHAT = (
    ChatMessage("system", "You sell."),
    ChatMessage("user", "buyer: 40?"),
    ChatMessage("assistant", "60."),
    ChatMessage("user", "50?"),
)
SCHEMA = Schema(name="verdict", body={"type": "object", "properties": {"winner": {"type": "string"}}})


def configured(url: str, kind: Kind, **settings: Any) -> RemoteConfig:
    endpoint = Endpoint(base_url=url, kind=kind, api_key_env="E_KEY")
    return RemoteConfig(endpoints={"e": endpoint}, prices={"e:m": PRICE}, **settings)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E_KEY", "any-key-at-all")


def request_of(**changes: Any) -> ChatRequest:
    return msgspec.structs.replace(ChatRequest(model="e:m", messages=CHAT, max_tokens=16), **changes)


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], kind: Kind) -> AsyncIterator[Provider]:
    """A provider whose endpoint is `handler`."""
    app = web.Application()
    app.router.add_post("/{any:.*}", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config, secrets = configured(f"http://127.0.0.1:{runner.addresses[0][1]}", kind), Secrets()
    providers = Providers(config, secrets, {})
    try:
        yield providers.open(resolve("e:m", config))
    finally:
        await providers.close()
        secrets.close()
        await runner.cleanup()


def answer_to(kind: Kind, body: Any, request: ChatRequest | None = None, **how: Any) -> tuple[ProviderReply | ProviderFault, Any]:
    """What a provider makes of one response, and the request's body."""
    seen: list[Any] = []

    async def handler(got: web.Request) -> web.Response:
        seen.append((got.path, msgspec.json.decode(await got.read())))
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return web.Response(body=raw, content_type="application/json", **how)

    async def main() -> ProviderReply | ProviderFault:
        async with serving(handler, kind) as provider:
            try:
                return await provider.send(request or request_of(), within=5.0)
            except ProviderFault as fault:
                return fault

    outcome = asyncio.run(main())
    (asked,) = seen
    return outcome, asked


def openai_body(content: Any = "I say 55.", finish: str = "stop", **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 10}}
    message = {"role": "assistant", "content": content}
    return {"model": "m-1", "choices": [{"message": message, "finish_reason": finish}], "usage": usage} | more


def anthropic_body(text: str = "I say 55.", stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 15, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 5, "output_tokens": 5}
    return {"model": "m-1", "content": [{"type": "text", "text": text}], "stop_reason": stop, "usage": usage} | more


def both(prompt: Any, completion: Any) -> dict[str, Any]:
    """A usage as either provider writes it."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "input_tokens": prompt, "output_tokens": completion}


NO_USAGE = [
    *(None, {}, [], "x", both(-1, 2), both(0, 2), both("7", 2.5), both(True, 1), both(1 << 60, 1)),
    {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}},
]
NO_ANSWER = [
    *(b"", b"{", b"null", b"[]", b"\xff", b"<html>ok</html>", b"[" * 50_000),
    b'{"choices": 3, "content": 3}',
    b'{"error": {"message": "overloaded"}}',
]
BODIES = {"openai": openai_body, "anthropic": anthropic_body}


def good_reply(outcome: ProviderReply | ProviderFault) -> ProviderReply:
    assert isinstance(outcome, ProviderReply), outcome
    return outcome


def fault(outcome: ProviderReply | ProviderFault) -> ProviderFault:
    assert isinstance(outcome, ProviderFault), outcome
    return outcome


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer(kind: Kind) -> None:
    outcome, _ = answer_to(kind, BODIES[kind]())
    reply = good_reply(outcome)
    assert (reply.reply.text, reply.reply.finish, reply.reply.model) == ("I say 55.", Finish.STOP, "m-1")
    assert reply.usage == Usage(prompt_tokens=30, cached_tokens=10, completion_tokens=5)


def test_what_openai_is_sent() -> None:
    _, (path, body) = answer_to("openai", openai_body(), request_of(temperature=0.5, schema=SCHEMA))
    assert path == "/chat/completions"
    assert body == {
        "model": "m",
        "messages": [{"role": message.role, "content": message.text} for message in CHAT],
        "max_tokens": 16,
        "temperature": 0.5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA.body, "strict": True}},
    }


def test_what_anthropic_is_sent() -> None:
    chat = (*CHAT, ChatMessage("user", "Well?"), ChatMessage("system", "Be brief."))
    _, (path, body) = answer_to("anthropic", anthropic_body(), request_of(messages=chat, schema=SCHEMA))
    assert path == "/v1/messages"
    assert body == {
        "model": "m",
        "system": "You sell.\nBe brief.",
        "messages": [
            {"role": "user", "content": "buyer: 40?"},
            {"role": "assistant", "content": "60."},
            {"role": "user", "content": "50?\nWell?"},
        ],
        "max_tokens": 16,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA.body}},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_lone_surrogates_are_sent_as_question_marks(kind: Kind) -> None:
    _, (_, body) = answer_to(kind, BODIES[kind](), request_of(messages=(ChatMessage("user", "a\ud800b"),)))
    assert body["messages"] == [{"role": "user", "content": "a?b"}]


@pytest.mark.parametrize(
    ("kind", "body", "text", "finish"),
    [
        ("openai", openai_body("cut", "length"), "cut", Finish.LENGTH),
        ("openai", openai_body(None, "length"), "", Finish.LENGTH),
        ("openai", openai_body(None, "content_filter"), "", Finish.REFUSED),
        ("openai", openai_body("x", "something_new"), "x", Finish.STOP),
        ("openai", {"choices": [{"message": {"refusal": "No."}, "finish_reason": "stop"}]}, "No.", Finish.REFUSED),
        ("anthropic", anthropic_body("cut", "max_tokens"), "cut", Finish.LENGTH),
        ("anthropic", anthropic_body("", "refusal", content=[]), "", Finish.REFUSED),
        ("anthropic", anthropic_body(content=[{"type": "thinking"}, {"type": "text", "text": "a"}]), "a", Finish.STOP),
    ],
)
def test_how_answers_end(kind: Kind, body: Any, text: str, finish: Finish) -> None:
    reply = good_reply(answer_to(kind, body)[0]).reply
    assert (reply.text, reply.finish) == (text, finish)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("usage", NO_USAGE)
def test_a_usage_that_is_none_does_not_cost_the_answer(kind: Kind, usage: Any) -> None:
    reply = good_reply(answer_to(kind, BODIES[kind](usage=usage))[0])
    assert reply.reply.text == "I say 55." and reply.usage is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", NO_ANSWER)
def test_what_is_no_answer_is_malformed(kind: Kind, body: bytes) -> None:
    found = fault(answer_to(kind, body)[0])
    assert found.result is Result.MALFORMED and found.message.startswith("e:m: the answer is not the JSON of one")


@pytest.mark.parametrize(
    ("kind", "body"),
    [("openai", openai_body("")), ("openai", openai_body(choices=[])), ("anthropic", anthropic_body(""))],
)
def test_an_empty_answer_is_paid_for_and_asked_again(kind: Kind, body: Any) -> None:
    found = fault(answer_to(kind, body)[0])
    assert found.result is Result.MALFORMED
    assert found.usage == Usage(prompt_tokens=30, cached_tokens=10, completion_tokens=5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "result", "fatal"),
    [
        (301, Result.BAD_REQUEST, True),
        (400, Result.BAD_REQUEST, False),
        (401, Result.AUTH, True),
        (403, Result.AUTH, True),
        (404, Result.BAD_REQUEST, True),
        (408, Result.TIMEOUT, False),
        (409, Result.SERVER, False),
        (413, Result.BAD_REQUEST, False),
        (422, Result.BAD_REQUEST, False),
        (429, Result.RATE_LIMITED, False),
        (500, Result.SERVER, False),
        (503, Result.SERVER, False),
        (529, Result.SERVER, False),
    ],
)
def test_every_status_has_a_meaning(kind: Kind, status: int, result: Result, fatal: bool) -> None:
    body = {"type": "error", "error": {"type": "some_error", "message": "because"}}
    found = fault(answer_to(kind, body, status=status, headers={"retry-after": "3", "x-ratelimit-remaining-requests": "0"})[0])
    assert (found.result, found.fatal) == (result, fatal)
    assert found.message.startswith(f"e:m answered {status}: because")
    assert (found.limits.retry_after, found.limits.requests.remaining) == (3.0, 0.0)
    assert found.__cause__ is None and found.__context__ is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_credit_left_ends_the_run_though_it_looks_like_a_rate_limit(kind: Kind) -> None:
    body = {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}}
    found = fault(answer_to(kind, body, status=429)[0])
    assert (found.result, found.fatal) == (Result.AUTH, True) and "no credit left" in found.message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b"\xff\xfe", b'{"error": "plain"}', b'{"error": {}}'])
def test_an_error_without_the_usual_body(kind: Kind, body: bytes) -> None:
    found = fault(answer_to(kind, body, status=502)[0])
    assert found.result is Result.SERVER and found.message.startswith("e:m answered 502")


@pytest.mark.parametrize("kind", KINDS)
def test_broken_connections(kind: Kind) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        await request.read()
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "1000", "content-type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.close()
        return response

    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    async def result(handler: Any, within: float = 5.0) -> Result:
        async with serving(handler, kind) as provider:
            with pytest.raises(ProviderFault) as caught:
                await provider.send(request_of(), within=within)
        assert caught.value.__cause__ is None and caught.value.__context__ is None
        return caught.value.result

    async def main() -> list[Result]:
        return [await result(hang_up), await result(cut), await result(never, 0.05)]

    assert asyncio.run(main()) == [Result.CUT, Result.CUT, Result.TIMEOUT]


@pytest.mark.parametrize("kind", KINDS)
def test_where_nobody_listens_nothing_is_billed(kind: Kind) -> None:
    async def main() -> ProviderFault:
        config, secrets = configured("http://127.0.0.1:9", kind), Secrets()
        providers = Providers(config, secrets, {})
        try:
            with pytest.raises(ProviderFault) as caught:
                await providers.open(resolve("e:m", config)).send(request_of(), within=5.0)
            return caught.value
        finally:
            await providers.close()
            secrets.close()

    assert asyncio.run(main()).result is Result.CONNECTION


def test_without_the_extra_anthropic_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anthropic", None)

    async def main() -> None:
        async with RemoteModels(configured("http://127.0.0.1:9", "anthropic")) as remote:
            with pytest.raises(RemoteError, match=r'e:m needs Anthropic\'s client: pip install "sparring\[anthropic\]"'):
                remote.check("e:m")

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_provider_at_its_worst_is_survived_and_the_ledgers_agree(kind: Kind, journal: Any) -> None:
    """A third of the requests go wrong in every way there is: each call is answered or fails alone, each request has its row."""

    async def main() -> None:
        # Without those that never answer: a timeout short enough for a test would hit others on a busy machine.
        faults = Faults(rate=0.33, kinds={kind: 1.0 for kind in Fault if kind is not Fault.TIMEOUT})
        async with FakeProvider(faults, scale=0.002, seed=3) as server:
            url = server.url if kind == "openai" else server.anthropic_url
            config = configured(url, kind, backoff=0.005, max_backoff=0.05, breaker_seconds=0.02, budget=1.0)
            async with RemoteModels(config, journal) as remote:
                calls = (remote.chat(request_of(key=str(number))) for number in range(150))
                ends = await asyncio.gather(*calls, return_exceptions=True)
                assert remote.budget.reserved == 0
                assert remote.budget.spent == pytest.approx(journal.spent())
            assert sum(not isinstance(end, BaseException) for end in ends) >= 149
            assert all(isinstance(end, CallError) for end in ends if isinstance(end, BaseException))
            assert len(journal.rows) == server.ledger.total.requests
            assert server.ledger.connections <= 256
            kinds = {row.result for row in journal.rows}
            assert kinds == {Result.OK, Result.RATE_LIMITED, Result.SERVER, Result.CUT, Result.MALFORMED}

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("one", list(Fault))
def test_every_single_fault_is_overcome(kind: Kind, one: Fault, journal: Any) -> None:
    async def main() -> None:
        async with FakeProvider(scale=0.001, script=[one.value], reply="short") as server:
            url = server.url if kind == "openai" else server.anthropic_url
            timeout = 1.0 if one is Fault.TIMEOUT else 30.0
            async with RemoteModels(configured(url, kind, timeout=timeout, backoff=0.001), journal) as remote:
                reply = await remote.chat(request_of())
        refused = one is Fault.REFUSED
        assert (reply.finish is Finish.REFUSED) is refused and (reply.text or refused)
        assert len(journal.rows) == (1 if refused or one.wrong_usage else 2)
        assert journal.rows[0].estimated is (one.wrong_usage or one.breaks)
        assert (journal.rows[0].cost > 0) is one.billed

    asyncio.run(main())


def test_a_limit_on_a_real_socket_is_met_nearly_without_refusals(journal: Any) -> None:
    """The headers alone tell it; only those that went out before the first answer may be too many."""

    async def main() -> None:
        limit = RateLimit(requests_per_minute=12, burst=30)
        async with FakeProvider(scale=0.002, limit=limit) as server:
            remote = RemoteModels(configured(server.url, "openai", backoff=0.01), journal)
            await asyncio.gather(*(remote.chat(request_of(key=str(number))) for number in range(100)))
            await remote.close()

    asyncio.run(main())
    assert len(journal.rows) <= 125
