"""OpenAI's chat completions on the wire: requests read, answers, streams, errors and rate-limit headers written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparring.bench.provider.ask import Answer, Ask, BadRequest, Ending
from sparring.bench.provider.limits import Admission
from sparring.bench.provider.schema import check_strict
from sparring.bench.provider.wire import Wire, encode, milliseconds, pieces, seconds_text

CREATED = 1_700_000_000
"""Every answer's time, so that equal answers are equal bytes."""
DEFAULT_MAX_TOKENS = 256
FINISH = {Ending.STOP: "stop", Ending.LENGTH: "length", Ending.REFUSED: "content_filter"}
TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
REFUSAL = "I'm sorry, but I can't help with that."


class OpenAIWire(Wire):
    name = "openai"
    overloaded = 503

    def authorized(self, headers: Mapping[str, str], key: str) -> bool:
        given = headers.get("Authorization", "").removeprefix("Bearer ").strip()
        return given == key if key else bool(given)

    def parse(self, payload: Any) -> Ask:
        if not isinstance(payload, dict) or not isinstance(payload.get("model"), str):
            raise BadRequest("you must provide a model parameter")
        model = payload["model"]
        messages = payload.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadRequest("messages must be a non-empty array", model=model)
        most = payload.get("max_completion_tokens", payload.get("max_tokens", DEFAULT_MAX_TOKENS))
        if not isinstance(most, int) or most < 1:
            raise BadRequest("max_tokens must be at least 1", model=model)
        return Ask(
            model=model,
            messages=tuple((str(entry.get("role")), text_of(entry.get("content"), model)) for entry in messages),
            max_tokens=most,
            stream=payload.get("stream") is True,
            schema=_schema(payload.get("response_format")),
            stream_usage=bool((payload.get("stream_options") or {}).get("include_usage")),
        )

    def body(self, ask: Ask, answer: Answer, ident: str) -> dict[str, Any]:
        refused = answer.ending is Ending.REFUSED
        # Structured output is refused in words, in a field of its own; the content filter leaves nothing.
        says_no = refused and ask.schema is not None
        message = {"role": "assistant", "content": None if refused else answer.text, "refusal": REFUSAL if says_no else None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop" if says_no else FINISH[answer.ending]}
        found = {"id": f"chatcmpl-{ident}", "object": "chat.completion", "created": CREATED, "model": ask.model}
        return {**found, "choices": [choice], **({} if answer.reported is None else {"usage": _usage(answer.reported)})}

    def events(self, ask: Ask, answer: Answer, ident: str) -> Iterator[bytes]:
        head = {"id": f"chatcmpl-{ident}", "object": "chat.completion.chunk", "created": CREATED, "model": ask.model}

        def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
            return _event({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})

        refused = answer.ending is Ending.REFUSED
        says_no = refused and ask.schema is not None
        yield event({"role": "assistant", "content": ""})
        for piece in pieces(REFUSAL if says_no else answer.text):
            yield event({"refusal" if says_no else "content": piece})
        yield event({}, "stop" if says_no else FINISH[answer.ending])
        if ask.stream_usage and answer.reported is not None:
            yield _event({**head, "choices": [], "usage": _usage(answer.reported)})
        yield b"data: [DONE]\n\n"

    def error(self, status: int, message: str) -> dict[str, Any]:
        kind = TYPES.get(status, "server_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": CODES.get(status)}}

    def headers(self, admission: Admission) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, standing in (("requests", admission.requests), ("tokens", admission.tokens)):
            if standing is not None:
                found[f"x-ratelimit-limit-{name}"] = str(standing.limit)
                found[f"x-ratelimit-remaining-{name}"] = str(standing.remaining)
                found[f"x-ratelimit-reset-{name}"] = duration(standing.reset)
        if not admission.passed:
            found["retry-after"] = seconds_text(admission.retry_after)
            found["retry-after-ms"] = str(milliseconds(admission.retry_after))
        return found


def text_of(content: Any, model: str) -> str:
    """A message's text, from a string or from parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    raise BadRequest("content must be a string or an array of text parts", model=model)


def duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 6s, 1m0s, 1h0m0s.

    Example:
        >>> duration(61.5)
        '1m1.5s'
    """
    if seconds < 1:
        return f"{milliseconds(seconds)}ms"
    minutes, rest = divmod(milliseconds(seconds) / 1000, 60)
    hours, minutes = divmod(minutes, 60)
    lead = f"{hours:.0f}h{minutes:.0f}m" if hours else f"{minutes:.0f}m" if minutes else ""
    return f"{lead}{rest:.3f}".rstrip("0").rstrip(".") + "s"


def _schema(response_format: Any) -> dict[str, Any] | None:
    if not isinstance(response_format, dict) or response_format.get("type") in (None, "text"):
        return None
    if response_format["type"] == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    given = response_format.get("json_schema")
    if not isinstance(given, dict) or not given.get("name") or not isinstance(given.get("schema"), dict):
        raise BadRequest("response_format.json_schema needs a name and a schema")
    if given.get("strict"):
        check_strict(given["schema"])
    return dict(given["schema"])


def _usage(reported: tuple[int, int]) -> dict[str, Any]:
    prompt, completion = reported
    found = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**found, "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}}


def _event(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"
