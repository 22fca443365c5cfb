"""`FakeProvider`: OpenAI's and Anthropic's APIs on a real socket of this machine, with latency, faults, limits and a bill.

A request's fate depends on the seed, on its body and on how often that body came before, so a run that asks the same questions
meets the same faults whatever its timing; only the rate limit goes by the clock. Time can be compressed: with `scale` 0.05 a
provider's minute lasts three seconds, in latency and rate limits alike, and the headers tell the real ones.

Owns what is served where. The wire formats, replies, faults, limits, batches and the ledger stand in the files beside this one.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import msgspec
from aiohttp import web

from sparring.bench.provider.anthropic_wire import AnthropicWire
from sparring.bench.provider.ask import Ask, BadRequest, Reply
from sparring.bench.provider.batches import BATCHED, Batches, BatchPlan
from sparring.bench.provider.exchange import STATUS, Fate, error_message, play_out, write_answer
from sparring.bench.provider.faults import Fault, Faults, fault_named
from sparring.bench.provider.latency import Latency, RehearsalError
from sparring.bench.provider.ledger import LIMITED, REJECTED, Ledger, Price
from sparring.bench.provider.limits import Limiter, RateLimit
from sparring.bench.provider.openai_wire import OpenAIWire
from sparring.bench.provider.replies import find_reply
from sparring.bench.provider.wire import Wire, encode

MOST_BYTES = 256 * 2**20
"""Of one upload."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeProvider:
    """A provider in this process. An async context manager; `running` serves it from a thread of its own.

    `script` decides the first requests one by one, in order of arrival ("ok" or a fault's name), before `faults` does.
    `api_key` empty takes any key, but not none. With `models` given, others are 404. `clock` is the rate limit's, in seconds.

    Example:
        >>> async with FakeProvider(Faults(rate=0.3), prices={"gpt-4o-mini": Price(input=0.15, output=0.6)}) as provider:
        ...     client = AsyncOpenAI(base_url=provider.url, api_key="any")
        ...     ...
        ...     provider.ledger.total.dollars
    """

    def __init__(
        self,
        faults: Faults | None = None,
        latency: Latency | None = None,
        *,
        limit: RateLimit | None = None,
        scale: float = 1.0,
        seed: int = 0,
        reply: str | Reply = "auto",
        prices: Mapping[str, Price] | None = None,
        models: Sequence[str] = (),
        api_key: str = "",
        script: Sequence[str] = (),
        batch: BatchPlan | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not scale > 0:
            raise RehearsalError(f"the time scale is {scale:g}: give one above 0, such as 0.05")
        self.faults, self.latency, self.scale, self.seed = faults or Faults(), latency or Latency(), scale, seed
        self.ledger = Ledger(prices)
        self._models, self._listed = frozenset(models), sorted({*models, *(prices or ())})
        self._reply, self._api_key = find_reply(reply), api_key
        self._script = [fault_named(kind) for kind in script]
        self._host, self._port = host, port
        self._limiter = Limiter(limit or RateLimit(), scale, clock)
        self._batches = Batches(batch or BatchPlan(), self._batched, self.ledger)
        self._sockets: set[Any] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The base URL for OpenAI's client."""
        return f"{self.anthropic_url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The base URL for Anthropic's client, which adds the version itself."""
        return f"http://{self._host}:{self._port}"

    async def __aenter__(self) -> FakeProvider:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens; a port of 0 takes a free one. Raises `OSError` where the port is taken."""
        # A handler ends when its client leaves: so a request that is never answered ends, and abandoned ones are seen.
        runner = web.AppRunner(self._app(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, backlog=1024).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner, self._port = runner, runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes every connection."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @contextmanager
    def running(self) -> Iterator[FakeProvider]:
        """Serves from a thread with an event loop of its own, for callers that have none, or block theirs."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="fake provider", daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), loop).result()
            try:
                yield self
            finally:
                asyncio.run_coroutine_threadsafe(self.stop(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=MOST_BYTES, middlewares=[self._watch])
        app.router.add_post(BATCHED, self._completions(OpenAIWire()))
        app.router.add_post("/v1/messages", self._completions(AnthropicWire()))
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/ledger", self._show_ledger)
        app.router.add_routes(self._batches.routes())
        return app

    @web.middleware
    async def _watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Counts sockets, and asks for a key where the real ones do."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        if peer is not None and peer not in self._sockets:
            self._sockets.add(peer)
            self.ledger.connections += 1
        if request.path != "/ledger":
            wire: Wire = AnthropicWire() if "x-api-key" in request.headers else OpenAIWire()
            if not wire.authorized(request.headers, self._api_key):
                self.ledger.turned_away("", REJECTED)
                return _json(wire.error(401, "Incorrect API key provided."), 401)
        return await handler(request)

    def _completions(self, wire: Wire) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            with self.ledger.open_request():
                return await self._complete(request, wire)

        return handle

    async def _complete(self, request: web.Request, wire: Wire) -> web.StreamResponse:
        raw = await request.read()
        try:
            ask = self._parse(raw, wire)
        except BadRequest as error:
            self.ledger.turned_away(error.model, REJECTED)
            return _json(wire.error(error.status, str(error)), error.status)
        admission = self._limiter.admit(ask.model, ask.prompt_tokens + ask.max_tokens)
        if not admission.passed:
            self.ledger.turned_away(ask.model, LIMITED)
            message = f"Rate limit reached for {ask.model} on {admission.met} per min."
            return _json(wire.error(429, message), 429, wire.headers(admission))
        fate = self._decide(ask, raw)
        try:
            return await play_out(request, wire, fate, admission, self.scale)
        except (asyncio.CancelledError, ConnectionError):
            self.ledger.abandoned += fate.fault is not Fault.TIMEOUT
            raise

    def _parse(self, raw: bytes, wire: Wire) -> Ask:
        try:
            payload = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise BadRequest(f"the body is not JSON: {error}") from error
        ask = wire.parse(payload)
        if self._models and ask.model not in self._models:
            raise BadRequest(f"The model `{ask.model}` does not exist or you do not have access to it.", 404, ask.model)
        return ask

    def _decide(self, ask: Ask, raw: bytes, *, batched: bool = False) -> Fate:
        """Draws the request's fate and enters it in the ledger."""
        body = hashlib.blake2b(raw, digest_size=16).hexdigest()
        came_before = self.ledger.times_seen(ask.model, body)
        rng = Random(f"{self.seed}/{body}/{came_before}")
        drawn = self.faults.draw(rng)
        fault = self._script.pop(0) if self._script and not batched else drawn
        seconds = self.scale * self.latency.sample(rng)
        ask = replace(ask, rng=rng)
        answer = write_answer(ask, self._reply, fault)
        self.ledger.served(ask.model, body, fault, answer.prompt_tokens, answer.completion_tokens, batched=batched)
        return Fate(ask, fault, answer, seconds, f"{body[:20]}{came_before:04d}")

    def _batched(self, body: Any) -> tuple[int, Any]:
        """One request of a batch. What would break a connection is an error 500 here, for which nothing is billed."""
        wire = OpenAIWire()
        try:
            ask = self._parse(encode(body), wire)
        except BadRequest as error:
            self.ledger.turned_away(error.model, REJECTED)
            return error.status, wire.error(error.status, str(error))
        fate = self._decide(ask, encode(body), batched=True)
        if fate.fault is not None and (not fate.fault.billed or fate.fault.breaks):
            status = STATUS.get(fate.fault, 429 if fate.fault is Fault.RATE_LIMITED else 500)
            return status, wire.error(status, error_message(fate.fault))
        return 200, wire.body(fate.ask, fate.answer, fate.ident)

    async def _list_models(self, request: web.Request) -> web.Response:
        data = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "sparring"} for name in self._listed]
        return _json({"object": "list", "data": data})

    async def _show_ledger(self, request: web.Request) -> web.Response:
        return _json(self.ledger.totals())


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=encode(value), status=status, headers=headers, content_type="application/json")
