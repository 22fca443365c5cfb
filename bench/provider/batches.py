"""OpenAI's Files and Batch API, as far as batches of chat completions need it.

A batch goes one state on with every look at it (validating, in_progress, finalizing, completed), so that nothing waits for a
clock. Its requests meet the provider's faults one by one, but neither its rate limit nor its latency. Owns no answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from aiohttp import web

from sparring.bench.provider.ledger import Ledger
from sparring.bench.provider.wire import encode

BATCHED = "/v1/chat/completions"
MOST_REQUESTS = 50_000
Answering = Callable[[Any], tuple[int, Any]]
"""Status and body for the body of one request."""


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How batches go.

    "failed" ends a batch before it runs, "expired" after half of its requests, "cancelled" likewise.
    """

    looks: int = 2
    """So many times a batch is looked at while it is in progress."""
    ending: Literal["completed", "failed", "expired", "cancelled"] = "completed"
    lost: tuple[Literal["upload", "submit"], ...] = ()
    """The first request of each kind is carried out, but its answer never arrives."""


@dataclass
class File:
    ident: str
    name: str
    purpose: str
    content: bytes
    created: int = field(default_factory=lambda: int(time.time()))

    def described(self) -> dict[str, Any]:
        found = {
            "id": self.ident,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created,
            "filename": self.name,
        }
        return {**found, "purpose": self.purpose, "status": "processed", "expires_at": None}


@dataclass
class Batch:
    ident: str
    input_file: str
    metadata: dict[str, str] | None
    states: list[str]
    lines: list[dict[str, Any]]
    output_file: str | None = None
    error_file: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    counts: tuple[int, int] = (0, 0)
    """Answered and failed."""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def status(self) -> str:
        return self.states[0]

    def described(self) -> dict[str, Any]:
        done, failed = self.counts
        found: dict[str, Any] = {"id": self.ident, "object": "batch", "endpoint": BATCHED, "input_file_id": self.input_file}
        found |= {"completion_window": "24h", "status": self.status, "created_at": self.created, "metadata": self.metadata}
        found |= {"output_file_id": self.output_file, "error_file_id": self.error_file}
        found["errors"] = {"object": "list", "data": self.errors} if self.errors else None
        return {**found, "request_counts": {"total": len(self.lines), "completed": done, "failed": failed}}


class Batches:
    """The files and batches of a provider."""

    def __init__(self, plan: BatchPlan, answer: Answering, ledger: Ledger) -> None:
        self._plan, self._answer, self._ledger = plan, answer, ledger
        self._files: dict[str, File] = {}
        self._batches: dict[str, Batch] = {}
        self._lost = list(plan.lost)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self._upload),
            web.get("/v1/files", self._list_files),
            web.get("/v1/files/{id}", self._show_file),
            web.get("/v1/files/{id}/content", self._content),
            web.post("/v1/batches", self._submit),
            web.get("/v1/batches", self._list_batches),
            web.get("/v1/batches/{id}", self._look),
            web.post("/v1/batches/{id}/cancel", self._cancel),
        ]

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        given = form.get("file")
        if not isinstance(given, web.FileField) or form.get("purpose") != "batch":
            return _refuse(400, "give a file and the purpose batch")
        file = self._keep(given.filename, "batch", given.file.read())
        self._ledger.files += 1
        return self._reply(request, "upload", file.described())

    async def _list_files(self, request: web.Request) -> web.Response:
        wanted = request.query.get("purpose")
        return _page([file.described() for file in self._files.values() if wanted in (None, file.purpose)], request)

    async def _show_file(self, request: web.Request) -> web.Response:
        file = self._files.get(request.match_info["id"])
        return _json(file.described()) if file else _refuse(404, "No such File object.")

    async def _content(self, request: web.Request) -> web.Response:
        file = self._files.get(request.match_info["id"])
        return web.Response(body=file.content, content_type="application/jsonl") if file else _refuse(404, "No such File object.")

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        given = msgspec.json.decode(await request.read())
        file = self._files.get(given.get("input_file_id", ""))
        if file is None or given.get("endpoint") != BATCHED or given.get("completion_window") != "24h":
            return _refuse(400, f"give an uploaded input_file_id, the endpoint {BATCHED} and the completion_window 24h")
        ident = f"batch_{len(self._batches):04d}"
        lines = [msgspec.json.decode(line) for line in file.content.splitlines()]
        states = ["validating", *["in_progress"] * self._plan.looks, "finalizing", self._plan.ending]
        batch = Batch(ident, file.ident, given.get("metadata"), states, lines)
        batch.errors = _invalid(lines)
        if batch.errors or self._plan.ending == "failed":
            batch.errors = batch.errors or [
                {"code": "token_limit_exceeded", "message": "Enqueued token limit reached.", "line": None}
            ]
            batch.states = ["validating", "failed"]
        self._batches[ident] = batch
        self._ledger.batches += 1
        return self._reply(request, "submit", batch.described())

    async def _list_batches(self, request: web.Request) -> web.Response:
        return _page([batch.described() for batch in reversed(self._batches.values())], request)

    async def _look(self, request: web.Request) -> web.Response:
        batch = self._batches.get(request.match_info["id"])
        if batch is None:
            return _refuse(404, "No such batch.")
        if len(batch.states) > 1:
            del batch.states[0]
            if len(batch.states) == 1 and batch.status != "failed":
                self._finish(batch)
        return _json(batch.described())

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self._batches.get(request.match_info["id"])
        if batch is None:
            return _refuse(404, "No such batch.")
        if len(batch.states) > 1:
            batch.states = ["cancelling", "cancelled"]
        return _json(batch.described())

    def _finish(self, batch: Batch) -> None:
        """Answers the requests, all or half of them, and writes the two files."""
        run = len(batch.lines) if batch.status == "completed" else len(batch.lines) // 2
        answered: list[bytes] = []
        failed: list[bytes] = []
        for number, line in enumerate(batch.lines):
            entry = {"id": f"batch_req_{number:05d}", "custom_id": line["custom_id"], "response": None, "error": None}
            if number >= run:
                code = f"batch_{batch.status}"
                entry["error"] = {"code": code, "message": f"This request could not be executed before the batch {batch.status}."}
                failed.append(encode(entry))
                continue
            status, body = self._answer(line["body"])
            entry["response"] = {"status_code": status, "request_id": f"req_{number:05d}", "body": body}
            (answered if status == 200 else failed).append(encode(entry))
        batch.counts = (len(answered), len(failed))
        # A real batch's output is in no particular order.
        batch.output_file = self._keep("output.jsonl", "batch_output", b"\n".join(reversed(answered))).ident if answered else None
        batch.error_file = self._keep("error.jsonl", "batch_output", b"\n".join(failed)).ident if failed else None

    def _keep(self, name: str, purpose: str, content: bytes) -> File:
        file = File(f"file-{len(self._files):04d}", name, purpose, content)
        self._files[file.ident] = file
        return file

    def _reply(self, request: web.Request, step: Literal["upload", "submit"], body: Any) -> web.StreamResponse:
        if step in self._lost:
            self._lost.remove(step)
            assert request.transport is not None
            request.transport.close()
        return _json(body)


def _invalid(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What OpenAI finds wrong with a batch's input."""
    found: list[dict[str, Any]] = []
    if not 1 <= len(lines) <= MOST_REQUESTS:
        found.append({"code": "invalid_batch", "message": f"A batch has 1 to {MOST_REQUESTS} requests.", "line": None})
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if line.get("url") != BATCHED or line.get("method") != "POST":
            found.append({"code": "invalid_url", "message": "The URL does not match the batch's endpoint.", "line": number})
        if line.get("custom_id") in seen:
            found.append({"code": "duplicate_custom_id", "message": "The custom_id is used twice.", "line": number})
        seen.add(line.get("custom_id", ""))
    if len({line.get("body", {}).get("model") for line in lines}) > 1:
        found.append({"code": "mismatched_model", "message": "All requests must have the same model.", "line": None})
    return found


def _page(entries: list[dict[str, Any]], request: web.Request) -> web.Response:
    """A page of a list, after the entry that `after` names."""
    limit, after = int(request.query.get("limit", 20)), request.query.get("after")
    start = next((place + 1 for place, entry in enumerate(entries) if entry["id"] == after), 0)
    page = entries[start : start + limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    more = start + limit < len(entries)
    return _json({"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": more})


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json")


def _refuse(status: int, message: str) -> web.Response:
    return _json({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}, status)
