"""Pools share the connections: reuse, no limit of their own, and an error where nobody listens."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from sparring.bench.fake_provider import FakeProvider, Latency
from sparring.rollout.remote.providers.pools import CONNECTIONS, SharedPools

pytestmark = pytest.mark.anyio
HEADERS = {"Authorization": "Bearer any"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def body(number: int) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": str(number)}]}


async def test_connections_are_used_again() -> None:
    """As many requests as before find their connections: nothing is opened."""
    async with FakeProvider(reply="echo") as provider, httpx2.AsyncClient(transport=SharedPools(4 * CONNECTIONS)) as client:
        for _ in range(5 * 4):
            await client.post(f"{provider.url}/chat/completions", json=body(0), headers=HEADERS)
    assert provider.ledger.total.requests == 20
    assert provider.ledger.connections == 4


async def test_more_requests_than_connections_were_asked_for_do_not_wait() -> None:
    latency = Latency(p50=0.2, p99=0.2)
    async with FakeProvider(latency=latency) as provider, httpx2.AsyncClient(transport=SharedPools(2)) as client:
        posts = (client.post(f"{provider.url}/chat/completions", json=body(i), headers=HEADERS) for i in range(40))
        answers = await asyncio.gather(*posts)
    assert [answer.status_code for answer in answers] == [200] * 40
    assert provider.ledger.peak_in_flight == 40


async def test_where_nobody_listens_the_error_is_the_usual_one() -> None:
    async with FakeProvider() as provider:
        url = provider.url
    async with httpx2.AsyncClient(transport=SharedPools(64)) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.post(f"{url}/chat/completions", json=body(0), headers=HEADERS)
