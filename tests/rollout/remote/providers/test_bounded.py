"""Answers that would fill the memory are given up while they are read."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx2
import pytest

from sparring.rollout.remote.providers.bounded import Bounded


class Server(httpx2.AsyncBaseTransport):
    """Sends these parts, and counts how many were read."""

    def __init__(self, parts: list[bytes], **headers: str) -> None:
        self.parts, self.headers, self.sent = parts, headers, 0
        self.asked: httpx2.Request | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked = request

        async def body() -> AsyncIterator[bytes]:
            for part in self.parts:
                self.sent += 1
                yield part

        return httpx2.Response(
            200, headers={"Content-Encoding" if k == "encoding" else k: v for k, v in self.headers.items()}, content=body()
        )


def fetch(server: Server) -> bytes:
    async def main() -> bytes:
        async with httpx2.AsyncClient(transport=Bounded(server, most_bytes=100)) as client:
            return (await client.post("http://localhost/", content=b"{}")).content

    return asyncio.run(main())


def test_an_ordinary_answer_passes_and_no_compression_is_asked_for() -> None:
    server = Server([b"x" * 60, b"y" * 40])
    assert fetch(server) == b"x" * 60 + b"y" * 40
    assert server.asked is not None
    assert server.asked.headers["accept-encoding"] == "identity"


def test_an_endless_answer_is_given_up_at_the_bound() -> None:
    """A server that never stopped took the process to two gigabytes within three seconds."""
    server = Server([b"x" * 30] * 1000)
    with pytest.raises(httpx2.ReadError, match="longer than 100 bytes"):
        fetch(server)
    assert server.sent == 4


def test_a_compressed_answer_is_not_unpacked() -> None:
    """300 kB of gzip unpacked to 300 MB."""
    with pytest.raises(httpx2.ReadError, match=r"compressed \(gzip\)"):
        fetch(Server([gzip.compress(b"x" * 10_000)], encoding="gzip"))
