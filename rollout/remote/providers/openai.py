"""OpenAI's Chat Completions, and every server that speaks them, on the official client."""

from __future__ import annotations

from typing import Any

import httpx2
import msgspec
from openai import APIError, AsyncOpenAI

from sparring.rollout.errors import RemoteError
from sparring.rollout.remote.call import ChatReply, ChatRequest, Finish, Usage
from sparring.rollout.remote.headers import Limits, read_limits
from sparring.rollout.remote.models import ModelRef
from sparring.rollout.remote.providers.provider import Provider, ProviderReply
from sparring.rollout.remote.providers.wire import NO_KEY, clean, counted, decode_body, fault_of, malformed, new_http_client
from sparring.rollout.remote.secrets import Secrets

PATH = "/chat/completions"
"""Posted as it is: the client's typed call walks through all messages again, which takes as long as the rest of the request."""
_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "content_filter": Finish.REFUSED}


class OpenAIProvider(Provider):
    """A model behind an OpenAI-compatible endpoint; models of one endpoint share the client's connections."""

    def __init__(self, ref: ModelRef, client: AsyncOpenAI, secrets: Secrets) -> None:
        self._ref, self._client, self._secrets = ref, client, secrets

    async def send(self, request: ChatRequest, *, within: float) -> ProviderReply:
        try:
            body = completion_body(request, self._ref)
            answer = await self._client.post(PATH, body=body, cast_to=httpx2.Response, options={"timeout": within})
        except (APIError, httpx2.HTTPError) as error:
            fault = fault_of(error, self._secrets, self._ref.spec)
        else:
            return read_completion(answer.content, read_limits(answer.headers), self._ref, self._secrets)
        raise fault  # outside of the handler: the client's own error, which may quote a key, is not carried along

    async def close(self) -> None:
        await self._client.close()


def open_openai(ref: ModelRef, secrets: Secrets, connections: int) -> AsyncOpenAI:
    """A client of the model's endpoint. Raises `RemoteError` where the key is not set."""
    assert ref.endpoint is not None
    variable = ref.endpoint.api_key_env
    key = secrets.read(variable, ref.spec) if variable else NO_KEY
    try:
        # Its own retries are off: they would pay without the ledger.
        return AsyncOpenAI(
            api_key=key,
            base_url=ref.endpoint.base_url,
            max_retries=0,
            http_client=new_http_client(connections),
        )
    except httpx2.InvalidURL:
        pass
    raise RemoteError(f"remote.endpoints.{ref.endpoint_name}.base_url is no URL: write http://HOST:PORT/v1")


def read_completion(content: bytes, limits: Limits, ref: ModelRef, secrets: Secrets) -> ProviderReply:
    """The answer that the body of a chat completion is. Raises `ProviderFault` where it is none."""
    body: _Completion = decode_body(content, _Completion, ref.spec, limits)
    usage = _usage(body.usage)
    if not body.choices:
        raise malformed("the answer has no choices", ref.spec, limits, usage)
    choice = body.choices[0]
    finish = Finish.REFUSED if choice.message.refusal else _FINISHES.get(choice.finish_reason or "", Finish.STOP)
    text = secrets.hide_known(choice.message.refusal or choice.message.content or "")
    if not text and finish is Finish.STOP:
        raise malformed("the answer is empty", ref.spec, limits, usage)
    named = secrets.hide_known(body.model or "")
    return ProviderReply(reply=ChatReply(text=text, finish=finish, model=named), usage=usage, limits=limits)


def completion_body(request: ChatRequest, ref: ModelRef) -> dict[str, Any]:
    """OpenAI's newer models refuse `max_tokens`, most compatible servers know nothing else."""
    body: dict[str, Any] = {
        "model": ref.model,
        "messages": [{"role": message.role, "content": clean(message.text)} for message in request.messages],
        "max_completion_tokens" if ref.endpoint_name == "openai" else "max_tokens": request.max_tokens,
    }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.schema is not None:
        schema = {"name": request.schema.name, "schema": request.schema.body, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _usage(reported: Any) -> Usage | None:
    if not isinstance(reported, dict):
        return None
    details = reported.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return counted(reported.get("prompt_tokens"), cached, reported.get("completion_tokens"))


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: Any = None
