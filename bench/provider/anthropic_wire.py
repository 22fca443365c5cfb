"""Anthropic's messages on the wire: requests read, answers, streams, errors and rate-limit headers written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sparring.bench.provider.ask import Answer, Ask, BadRequest, Ending
from sparring.bench.provider.limits import Admission
from sparring.bench.provider.openai_wire import text_of
from sparring.bench.provider.wire import Wire, encode, pieces, seconds_text

STOP_REASON = {Ending.STOP: "end_turn", Ending.LENGTH: "max_tokens", Ending.REFUSED: "refusal"}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class AnthropicWire(Wire):
    name = "anthropic"
    overloaded = 529

    def authorized(self, headers: Mapping[str, str], key: str) -> bool:
        given = headers.get("x-api-key", "") or headers.get("Authorization", "").removeprefix("Bearer ").strip()
        return given == key if key else bool(given)

    def parse(self, payload: Any) -> Ask:
        if not isinstance(payload, dict) or not isinstance(payload.get("model"), str):
            raise BadRequest("model: Field required")
        model, most, messages = payload["model"], payload.get("max_tokens"), payload.get("messages")
        if not isinstance(most, int) or most < 1:
            raise BadRequest("max_tokens: Field required, at least 1", model=model)
        if not isinstance(messages, list) or not messages:
            raise BadRequest("messages: at least one message is required", model=model)
        roles = [entry.get("role") if isinstance(entry, dict) else None for entry in messages]
        if any(role not in ("user", "assistant") for role in roles) or roles[0] != "user":
            raise BadRequest("messages: roles are user and assistant, and the first is user", model=model)
        texts = [text_of(entry.get("content"), model) for entry in messages]
        if not all(text.strip() for text in texts):
            raise BadRequest("messages: text content blocks must be non-empty", model=model)
        system = text_of(payload.get("system"), model)
        schema, tool = _schema(payload, model)
        return Ask(
            model=model,
            messages=((("system", system),) if system else ()) + tuple(zip(map(str, roles), texts, strict=True)),
            max_tokens=most,
            stream=payload.get("stream") is True,
            schema=schema,
            tool=tool,
        )

    def body(self, ask: Ask, answer: Answer, ident: str) -> dict[str, Any]:
        found = {"id": f"msg_{ident}", "type": "message", "role": "assistant", "model": ask.model}
        ending = {"stop_reason": _stop_reason(ask, answer), "stop_sequence": None}
        usage = {} if answer.reported is None else {"usage": _usage(answer.reported)}
        return {**found, "content": _content(ask, answer, ident), **ending, **usage}

    def events(self, ask: Ask, answer: Answer, ident: str) -> Iterator[bytes]:
        start = {**self.body(ask, answer, ident), "content": [], "stop_reason": None}
        if answer.reported is not None:
            start["usage"] = _usage((answer.reported[0], 1))
        yield _event("message_start", message=start)
        for index, block in enumerate(_content(ask, answer, ident)):
            tool = block["type"] == "tool_use"
            empty = {**block, "input": {}} if tool else {**block, "text": ""}
            yield _event("content_block_start", index=index, content_block=empty)
            for piece in pieces(answer.text):
                delta = {"type": "input_json_delta", "partial_json": piece} if tool else {"type": "text_delta", "text": piece}
                yield _event("content_block_delta", index=index, delta=delta)
            yield _event("content_block_stop", index=index)
        usage = {} if answer.reported is None else {"usage": {"output_tokens": answer.reported[1]}}
        yield _event("message_delta", delta={"stop_reason": _stop_reason(ask, answer), "stop_sequence": None}, **usage)
        yield _event("message_stop")

    def error(self, status: int, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": TYPES.get(status, "api_error"), "message": message}, "request_id": None}

    def headers(self, admission: Admission) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, standing in (("requests", admission.requests), ("tokens", admission.tokens)):
            if standing is not None:
                found[f"anthropic-ratelimit-{name}-limit"] = str(standing.limit)
                found[f"anthropic-ratelimit-{name}-remaining"] = str(standing.remaining)
                full = datetime.now(UTC) + timedelta(seconds=standing.reset)
                found[f"anthropic-ratelimit-{name}-reset"] = full.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if not admission.passed:
            found["retry-after"] = seconds_text(admission.retry_after)
        return found


def _content(ask: Ask, answer: Answer, ident: str) -> list[dict[str, Any]]:
    if answer.ending is Ending.REFUSED or not answer.text:
        return []
    if ask.tool:
        try:
            given = json.loads(answer.text)
        except ValueError:  # cut by max_tokens, or a scripted reply that is no JSON: a tool's input is an object all the same
            given = {}
        return [{"type": "tool_use", "id": f"toolu_{ident}", "name": ask.tool, "input": given}]
    return [{"type": "text", "text": answer.text}]


def _stop_reason(ask: Ask, answer: Answer) -> str:
    return "tool_use" if ask.tool and answer.ending is Ending.STOP and answer.text else STOP_REASON[answer.ending]


def _schema(payload: dict[str, Any], model: str) -> tuple[dict[str, Any] | None, str]:
    """The schema that the answer must have, and the tool whose input it is."""
    form = (payload.get("output_config") or {}).get("format") or payload.get("output_format")
    if isinstance(form, dict):
        if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
            raise BadRequest("output_config.format: give type json_schema and a schema", model=model)
        return dict(form["schema"]), ""
    tools, choice = payload.get("tools") or [], payload.get("tool_choice") or {}
    if choice.get("type") not in ("tool", "any") or not tools:
        return None, ""
    named = [tool for tool in tools if tool.get("name") == choice.get("name", tool.get("name"))]
    if not named:
        raise BadRequest(f"tool_choice: there is no tool {choice.get('name')!r}", model=model)
    return dict(named[0].get("input_schema", {})), str(named[0]["name"])


def _usage(reported: tuple[int, int]) -> dict[str, Any]:
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": reported[0], **cached, "output_tokens": reported[1]}


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **fields}) + b"\n\n"
