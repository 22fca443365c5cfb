"""`SharedPools`: many small connection pools in place of a large one.

httpcore looks at every connection of a pool, with a system call for each idle one, whenever a request begins and whenever one
ends: with 256 connections that takes more time than all else that a call does. So requests go round a number of pools, each of
which has few connections.
"""

from __future__ import annotations

import asyncio
from itertools import cycle

import httpx2

CONNECTIONS = 8
"""Of one pool, about."""


class SharedPools(httpx2.AsyncBaseTransport):
    """A transport over as many pools as `connections` connections need. No pool has a limit: the governor sets it."""

    def __init__(self, connections: int) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60.0)
        context = httpx2.create_ssl_context()
        count = max(1, -(-connections // CONNECTIONS))
        self._pools = [httpx2.AsyncHTTPTransport(verify=context, limits=limits) for _ in range(count)]
        self._next = cycle(self._pools)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await next(self._next).handle_async_request(request)

    async def aclose(self) -> None:
        await asyncio.gather(*(pool.aclose() for pool in self._pools))
