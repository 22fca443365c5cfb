"""A batch's files, line by line: requests as OpenAI's Batch API reads them, answers and errors as it writes them.

A request's `custom_id` is its digest. Owns no transport.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from sparring.rollout.remote.call import Attempt, ChatRequest, Result, Usage
from sparring.rollout.remote.headers import UNTOLD
from sparring.rollout.remote.models import ModelRef, charge, most_usage
from sparring.rollout.remote.providers.openai import completion_body, read_completion
from sparring.rollout.remote.providers.provider import UNBILLED, ProviderFault
from sparring.rollout.remote.secrets import Secrets

URL: Final = "/v1/chat/completions"
_RESULTS = {401: Result.AUTH, 403: Result.AUTH, 408: Result.TIMEOUT, 429: Result.RATE_LIMITED}


class _Response(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


def input_file(requests: Mapping[str, ChatRequest], ref: ModelRef) -> bytes:
    """The JSON lines of requests by digest."""
    encode = msgspec.json.encode
    lines = (
        encode({"custom_id": digest, "method": "POST", "url": URL, "body": completion_body(request, ref)})
        for digest, request in requests.items()
    )
    return b"\n".join(lines) + b"\n"


def read_attempts(
    files: Iterable[bytes], requests: Mapping[str, ChatRequest], ref: ModelRef, secrets: Secrets, seconds: float, ended: str
) -> dict[str, Attempt]:
    """What came of each request, from the output and the error file. `ended` says of those in neither how the batch ended."""
    found: dict[str, Attempt] = {}
    for line in (line for file in files for line in file.splitlines() if line.strip()):
        try:
            entry = msgspec.json.decode(line, type=_Line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue  # a line that is damaged belongs to some request, which then has no answer
        request = requests.get(entry.custom_id)
        if request is not None and entry.custom_id not in found:
            found[entry.custom_id] = _attempt(entry, request, ref, secrets, seconds)
    for digest, request in requests.items():
        if digest not in found:
            fault = ProviderFault(Result.SERVER, f"{ref.spec}: {ended}")
            found[digest] = _noted(digest, request, ref, seconds, fault=fault)
    return found


def _attempt(line: _Line, request: ChatRequest, ref: ModelRef, secrets: Secrets, seconds: float) -> Attempt:
    response, digest = line.response, line.custom_id
    if response is None or response.status_code != 200:
        status = response.status_code if response else 0
        result = _RESULTS.get(status, Result.BAD_REQUEST if 400 <= status < 500 else Result.SERVER)
        said = _message(line)
        fault = ProviderFault(result, secrets.hide(f"{ref.spec} in a batch: {said}"))
        return _noted(digest, request, ref, seconds, fault=fault)
    try:
        answer = read_completion(bytes(response.body), UNTOLD, ref, secrets)
    except ProviderFault as fault:
        return _noted(digest, request, ref, seconds, fault=fault)
    noted = _noted(digest, request, ref, seconds, reported=answer.usage)
    return msgspec.structs.replace(noted, reply=msgspec.structs.replace(answer.reply, usage=noted.usage))


def _noted(
    digest: str,
    request: ChatRequest,
    ref: ModelRef,
    seconds: float,
    *,
    fault: ProviderFault | None = None,
    reported: Usage | None = None,
) -> Attempt:
    """The ledger's row, at the batch's share of the price."""
    result = fault.result if fault else Result.OK
    usage, dollars, remark = Usage(), 0.0, ""
    if result not in UNBILLED:
        usage, dollars, remark = charge(ref.price, most_usage(request), fault.usage if fault else reported)
    return Attempt(
        digest=digest,
        number=0,
        model=request.model,
        purpose=request.purpose,
        game=request.game,
        seat=request.seat,
        result=result,
        seconds=seconds,
        usage=usage,
        cost=dollars * ref.price.batch,
        estimated=bool(remark),
        error="; ".join(part for part in (fault.message if fault else "", remark) if part),
    )


def _message(line: _Line) -> str:
    """What the line says went wrong."""
    if line.error is not None:
        return line.error.message or line.error.code or "it failed"
    assert line.response is not None
    try:
        body: Any = msgspec.json.decode(line.response.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return f"status {line.response.status_code}: {message or 'no message'}"
