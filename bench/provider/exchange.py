"""One HTTP answer of a fake provider: the good one, whole or streamed, and every way for it to go wrong.

What goes wrong has been decided and counted before; here it only happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from sparring.bench.provider.ask import Answer, Ask, Ending, Reply, count_tokens, cut_tokens
from sparring.bench.provider.faults import ABSURD_TOKENS, Fault
from sparring.bench.provider.limits import Admission
from sparring.bench.provider.openai_wire import REFUSAL
from sparring.bench.provider.wire import Wire, encode

STATUS = {Fault.SERVER_ERROR: 500, Fault.BAD_GATEWAY: 502, Fault.UNAVAILABLE: 503, Fault.OVERLOADED: 529}
MESSAGE = {
    Fault.RATE_LIMITED: "Rate limit reached.",
    Fault.SERVER_ERROR: "The server had an error while processing your request.",
    Fault.UNAVAILABLE: "The service is temporarily unavailable.",
    Fault.OVERLOADED: "Overloaded.",
}
AT_ONCE = frozenset({Fault.RATE_LIMITED, Fault.OVERLOADED})
"""Faults that a provider meets at its door."""
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>upstream</body></html>"
JSON_TYPE, HTML_TYPE = "application/json", "text/html"
PAUSE = 1.0
"""Seconds, of the provider's, that an injected 429 asks to wait."""
KEPT = 2 / 3
"""Of a body or stream that breaks off."""


@dataclass(frozen=True)
class Fate:
    """What becomes of one request. `seconds` is until the answer, by this machine's clock."""

    ask: Ask
    fault: Fault | None
    answer: Answer
    seconds: float
    ident: str


def write_answer(ask: Ask, reply: Reply, fault: Fault | None) -> Answer:
    """What the model says, and what its usage claims."""
    whole = "" if fault is Fault.EMPTY else REFUSAL if fault is Fault.REFUSED else reply(ask)
    text = cut_tokens(whole, ask.max_tokens)
    ending = Ending.REFUSED if fault is Fault.REFUSED else Ending.STOP if text == whole else Ending.LENGTH
    prompt, completion = ask.prompt_tokens, count_tokens(text)
    reported: Mapping[Fault | None, tuple[int, int] | None] = {
        Fault.USAGE_MISSING: None,
        Fault.USAGE_ZERO: (0, 0),
        Fault.USAGE_ABSURD: (ABSURD_TOKENS, ABSURD_TOKENS),
        Fault.USAGE_NEGATIVE: (-prompt, -max(1, completion)),
    }
    return Answer(text, ending, prompt, completion, reported.get(fault, (prompt, completion)))


def error_message(fault: Fault) -> str:
    return MESSAGE.get(fault, MESSAGE[Fault.SERVER_ERROR])


def error_body(wire: Wire, fault: Fault, status: int) -> bytes:
    return HTML if fault is Fault.BAD_GATEWAY else encode(wire.error(status, error_message(fault)))


async def play_out(request: web.Request, wire: Wire, fate: Fate, admission: Admission, scale: float) -> web.StreamResponse:
    """Waits, and sends what the fate says. Ends early where the client leaves."""
    fault, headers = fate.fault, wire.headers(admission)
    if fault is Fault.RATE_LIMITED:
        refused = msgspec.structs.replace(admission, passed=False, retry_after=PAUSE * scale)
        return _respond(error_body(wire, fault, 429), wire.headers(refused), 429)
    if fault in STATUS:
        await asyncio.sleep(0 if fault in AT_ONCE else fate.seconds)
        status = wire.overloaded if fault is Fault.OVERLOADED else STATUS[fault]
        return _respond(error_body(wire, fault, status), headers, status, HTML_TYPE if fault is Fault.BAD_GATEWAY else JSON_TYPE)
    if fault is Fault.TIMEOUT:
        await asyncio.Event().wait()
    if fate.ask.stream and fault is not Fault.DISCONNECT:
        return await _stream(request, wire, fate, headers)
    await asyncio.sleep(fate.seconds)
    if fault is Fault.DISCONNECT:
        return _hang_up(request, web.Response())
    body = encode(wire.body(fate.ask, fate.answer, fate.ident))
    if fault is Fault.CUT:
        response = web.StreamResponse(headers={**headers, "Content-Type": JSON_TYPE, "Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: int(KEPT * len(body))])
        return _hang_up(request, response)
    if fault is Fault.MALFORMED:
        body = body[: int(KEPT * len(body))]
    return _respond(body, headers)


async def _stream(request: web.Request, wire: Wire, fate: Fate, headers: Mapping[str, str]) -> web.StreamResponse:
    """Server-sent events: half of the time until the first, the rest between the others."""
    events = list(wire.events(fate.ask, fate.answer, fate.ident))
    if fate.fault in (Fault.CUT, Fault.MALFORMED):
        del events[int(KEPT * len(events)) :]
    if fate.fault is Fault.MALFORMED:
        events.append(events[-1].rstrip()[:-3] + b"\n\n")
    response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await asyncio.sleep(fate.seconds / 2)
    await response.prepare(request)
    for event in events:
        await response.write(event)
        await asyncio.sleep(fate.seconds / 2 / len(events))
    if fate.fault is Fault.CUT:
        return _hang_up(request, response)
    await response.write_eof()
    return response


def _hang_up(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Closes the connection once what was written is sent."""
    if request.transport is not None:
        request.transport.close()
    return response


def _respond(body: bytes, headers: Mapping[str, str], status: int = 200, kind: str = JSON_TYPE) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type=kind)
