"""What the providers over HTTP share: which failure a client's error is, whether a usage can be believed, key and address.

The official clients use one transport library (`httpx2`) and equal names for their errors; this file reads both by those names,
so that it imports neither.
"""

from __future__ import annotations

from typing import Any
from urllib.request import getproxies

import httpx2
import msgspec

from sparring.rollout.remote.call import Result, Usage
from sparring.rollout.remote.headers import Limits, read_limits
from sparring.rollout.remote.providers.bounded import Bounded
from sparring.rollout.remote.providers.pools import SharedPools
from sparring.rollout.remote.providers.provider import ProviderFault
from sparring.rollout.remote.secrets import Secrets

MOST_TOKENS = 1 << 40
NO_KEY = "none"
"""What is sent to a server that asks for no key: the clients insist on one."""

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol, httpx2.ProxyError)
"""Errors before a request is out: the provider cannot have billed it."""
_OUT_OF_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "credit balance is too low")


def new_http_client(connections: int) -> httpx2.AsyncClient:
    """Holds every request in flight and keeps its connections. Redirects are not followed: a key would go along."""
    if getproxies():  # as the environment names them; only the client's own pool goes through one
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=60.0)
        return httpx2.AsyncClient(limits=limits, timeout=None, follow_redirects=False)
    return httpx2.AsyncClient(transport=Bounded(SharedPools(connections)), timeout=None, follow_redirects=False)


def fault_of(error: Exception, secrets: Secrets, model: str) -> ProviderFault:
    """The failure that an error of an official client stands for. Give it only `APIError`s and `httpx2` errors."""
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    if isinstance(status, int) and isinstance(response, httpx2.Response):
        return _refused(status, response, secrets, model)
    cause = error.__cause__ if isinstance(error.__cause__, httpx2.HTTPError) else error
    name = type(cause).__name__
    said = secrets.hide(f"{model}: {cause or name}" if str(cause) else f"{model}: {name}")
    if isinstance(cause, _UNSENT):
        return ProviderFault(Result.CONNECTION, said)
    if isinstance(cause, httpx2.TimeoutException) or "Timeout" in type(error).__name__:
        return ProviderFault(Result.TIMEOUT, said)
    return ProviderFault(Result.CUT, f"{said} (the connection broke after the request was sent)")


def malformed(what: str, model: str, limits: Limits, usage: Usage | None = None) -> ProviderFault:
    """An answer of status 200 that is none."""
    return ProviderFault(Result.MALFORMED, f"{model}: {what}", limits=limits, usage=usage)


def decode_body(body: bytes, shape: type[Any], model: str, limits: Limits) -> Any:
    """The answer's body as a `shape`. Raises `ProviderFault`; what the body says stays out of its text."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: bytes that are no UTF-8
        pass
    raise malformed(f"the answer is not the JSON of one ({len(body)} bytes)", model, limits)


def counted(prompt: Any, cached: Any, completion: Any) -> Usage | None:
    """A reported usage; None where it is missing or cannot be a count of tokens."""
    cached = 0 if cached is None else cached
    numbers = (prompt, cached, completion)
    if not all(isinstance(number, int) and not isinstance(number, bool) and 0 <= number < MOST_TOKENS for number in numbers):
        return None
    if prompt == 0 or cached > prompt:
        return None
    return Usage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)


def clean(text: str) -> str:
    """Text that JSON in UTF-8 can carry: lone surrogates are replaced."""
    return text.encode("utf-8", "replace").decode()


def _refused(status: int, response: httpx2.Response, secrets: Secrets, model: str) -> ProviderFault:
    limits = read_limits(response.headers)
    body = _text(response)
    said = secrets.hide(f"{model} answered {status}: {_message(body)}")
    if status in (401, 403):
        return ProviderFault(Result.AUTH, f"{said}: check the key and what it may use", limits=limits, fatal=True)
    if any(mark in body for mark in _OUT_OF_CREDIT):
        return ProviderFault(Result.AUTH, f"{said}: the account has no credit left", limits=limits, fatal=True)
    if status == 404:
        return ProviderFault(Result.BAD_REQUEST, f"{said}: check the model's name and base_url", limits=limits, fatal=True)
    if status == 429:
        return ProviderFault(Result.RATE_LIMITED, said, limits=limits)
    if status == 408:
        return ProviderFault(Result.TIMEOUT, said, limits=limits)
    if status >= 500 or status in (409, 425):
        return ProviderFault(Result.SERVER, said, limits=limits)
    if status < 400:
        hint = "the server sends callers elsewhere: set base_url to that address"
        return ProviderFault(Result.BAD_REQUEST, f"{said}: {hint}", limits=limits, fatal=True)
    return ProviderFault(Result.BAD_REQUEST, said, limits=limits)


def _text(response: httpx2.Response) -> str:
    try:
        return response.text[:20_000]
    except httpx2.StreamError:
        return ""


class _Error(msgspec.Struct):
    message: str = ""
    type: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error | str


def _message(body: str) -> str:
    """The message in an error's JSON, or the body as it is."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.MsgspecError, RecursionError):
        return body
    return error if isinstance(error, str) else error.message or error.type or body
