"""`Bounded`: a transport that reads no more of an answer than any answer can be, so that a server cannot fill the memory.

It asks for answers as they are and takes no compressed ones: a few kilobytes of them may unpack to gigabytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import httpx2

MOST_BYTES = 16 * 2**20
"""Of one answer: the longest that models write, escaped as JSON, takes about a tenth."""


class Bounded(httpx2.AsyncBaseTransport):
    """Raises `httpx2.ReadError` while an answer is read that is too long, or compressed."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, most_bytes: int = MOST_BYTES) -> None:
        self._inner, self._most_bytes = inner, most_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["Accept-Encoding"] = "identity"
        response = await self._inner.handle_async_request(request)
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            await response.aclose()
            raise httpx2.ReadError(f"the answer is compressed ({encoding[:20]}), which was not asked for", request=request)
        response.stream = _Counted(cast(httpx2.AsyncByteStream, response.stream), self._most_bytes, request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, most_bytes: int, request: httpx2.Request) -> None:
        self._inner, self._most_bytes, self._request = inner, most_bytes, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for part in self._inner:
            read += len(part)
            if read > self._most_bytes:
                raise httpx2.ReadError(f"the answer is longer than {self._most_bytes:,} bytes", request=self._request)
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()
