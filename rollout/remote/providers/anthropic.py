"""Anthropic's Messages, on the official client, which the extra `anthropic` installs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import msgspec

from sparring.rollout.errors import RemoteError
from sparring.rollout.remote.call import ChatReply, ChatRequest, Finish, Usage
from sparring.rollout.remote.headers import read_limits
from sparring.rollout.remote.models import ModelRef
from sparring.rollout.remote.providers.provider import Provider, ProviderReply
from sparring.rollout.remote.providers.wire import NO_KEY, clean, counted, decode_body, fault_of, malformed, new_http_client
from sparring.rollout.remote.secrets import Secrets

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

PATH = "/v1/messages"
"""Posted as it is, like OpenAI's: the client's typed call walks through all messages again."""
_FINISHES = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "tool_use": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "refusal": Finish.REFUSED,
}


class AnthropicProvider(Provider):
    """A model behind an endpoint that speaks Anthropic's Messages; models of one endpoint share the client's connections."""

    def __init__(self, ref: ModelRef, client: AsyncAnthropic, secrets: Secrets) -> None:
        from anthropic import APIError

        self._ref, self._client, self._secrets = ref, client, secrets
        self._errors = (APIError, httpx2.HTTPError)

    async def send(self, request: ChatRequest, *, within: float) -> ProviderReply:
        try:
            body = _body(request, self._ref)
            answer = await self._client.post(PATH, body=body, cast_to=httpx2.Response, options={"timeout": within})
        except self._errors as error:
            fault = fault_of(error, self._secrets, self._ref.spec)
        else:
            return self._read(answer)
        raise fault  # outside of the handler: the client's own error, which may quote a key, is not carried along

    async def close(self) -> None:
        await self._client.close()

    def _read(self, response: httpx2.Response) -> ProviderReply:
        limits, model = read_limits(response.headers), self._ref.spec
        body: _Message = decode_body(response.content, _Message, model, limits)
        usage = _usage(body.usage)
        finish = _FINISHES.get(body.stop_reason or "", Finish.STOP)
        text = self._secrets.hide_known("".join(block.text or "" for block in body.content if block.type == "text"))
        if not text and finish is Finish.STOP:
            raise malformed("the answer is empty", model, limits, usage)
        named = self._secrets.hide_known(body.model or "")
        return ProviderReply(reply=ChatReply(text=text, finish=finish, model=named), usage=usage, limits=limits)


def open_anthropic(ref: ModelRef, secrets: Secrets, connections: int) -> AsyncAnthropic:
    """A client of the model's endpoint. Raises `RemoteError` where the client library is not installed or the key is not set."""
    try:
        from anthropic import AsyncAnthropic
    except ImportError:
        raise RemoteError(f'{ref.spec} needs Anthropic\'s client: pip install "sparring[anthropic]"') from None
    assert ref.endpoint is not None
    variable = ref.endpoint.api_key_env
    key = secrets.read(variable, ref.spec) if variable else NO_KEY
    # Its own retries are off: they would pay without the ledger.
    return AsyncAnthropic(
        api_key=key,
        base_url=ref.endpoint.base_url,
        max_retries=0,
        http_client=new_http_client(connections),
    )


def _body(request: ChatRequest, ref: ModelRef) -> dict[str, Any]:
    """The system's messages are a field of their own; messages of one role in a row are joined, as the API would do itself."""
    turns: list[dict[str, str]] = []
    for message in request.messages:
        if message.role == "system":
            continue
        text = clean(message.text)
        if turns and turns[-1]["role"] == message.role:
            turns[-1]["content"] += f"\n{text}"
        else:
            turns.append({"role": message.role, "content": text})
    body: dict[str, Any] = {"model": ref.model, "messages": turns, "max_tokens": request.max_tokens}
    if system := "\n".join(clean(message.text) for message in request.messages if message.role == "system"):
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": request.schema.body}}
    return body


def _usage(reported: Any) -> Usage | None:
    """Anthropic counts the tokens that its cache held, or took in, beside the others of the prompt."""
    if not isinstance(reported, dict):
        return None
    parts = [reported.get("input_tokens")]
    parts += [reported.get(f"cache_{part}_input_tokens") or 0 for part in ("read", "creation")]
    if not all(isinstance(part, int) and not isinstance(part, bool) and part >= 0 for part in parts):
        return None
    return counted(sum(parts), parts[1], reported.get("output_tokens"))


class _Block(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    content: list[_Block]
    stop_reason: str | None = None
    model: str | None = None
    usage: Any = None
