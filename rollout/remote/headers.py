"""What a provider's response headers tell of its rate limits: `Limits`. Reads leniently: what makes no sense is not told at all.

OpenAI: `x-ratelimit-limit-requests: 500`, `x-ratelimit-remaining-tokens: 29000`, `x-ratelimit-reset-tokens: 6m0s`.
Anthropic: `anthropic-ratelimit-requests-limit: 50`, `...-remaining: 49`, `...-reset: 2025-11-22T07:00:00Z`, and of tokens
`input-tokens` and `output-tokens` beside `tokens`. Both: `retry-after: 2` or an HTTP date, `retry-after-ms: 1500`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

MOST_PAUSE = 24 * 3600.0
"""Seconds; a longer pause than this is not believed."""
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PLAIN = re.compile(r"\d{1,12}(?:\.\d{1,9})?")


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One limit as the provider sees it after a request: None where it does not say."""

    limit: float | None = None
    """A minute."""
    remaining: float | None = None
    reset: float | None = None
    """Seconds until `remaining` is `limit` again."""

    @property
    def told(self) -> bool:
        return self.limit is not None or self.remaining is not None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """All that one response tells of limits."""

    requests: Window = Window()
    tokens: Window = Window()
    retry_after: float | None = None
    """Seconds to wait before asking again."""


UNTOLD = Limits()


def read_limits(headers: Mapping[str, str], *, now: datetime | None = None) -> Limits:
    """The limits in a response's headers, whose names may be in any case if the mapping looks them up so (httpx does).

    `now` stands for the present where a header names a time. Never raises.
    """
    if not any(name in headers for name in _TELLING):
        return UNTOLD
    requests = _window(headers, "requests", now)
    tokens = _tightest(
        _window(headers, "tokens", now), *(_window(headers, name, now) for name in ("input-tokens", "output-tokens"))
    )
    return Limits(requests=requests, tokens=tokens, retry_after=_retry_after(headers, now))


def seconds(text: str | None, *, now: datetime | None = None) -> float | None:
    """The seconds that "6m0s", "120ms", "1.5", an ISO time or an HTTP date stand for; None where it is none of them."""
    if text is None or len(text) > 64:
        return None
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return _believed(float(text))
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return _believed(sum(float(number) * _UNITS[unit] for number, unit in parts))
    return _until(text, now or datetime.now(UTC))


_TELLING = (
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-tokens-limit",
    "anthropic-ratelimit-tokens-remaining",
    "anthropic-ratelimit-input-tokens-limit",
    "anthropic-ratelimit-input-tokens-remaining",
    "anthropic-ratelimit-output-tokens-limit",
    "anthropic-ratelimit-output-tokens-remaining",
    "retry-after",
    "retry-after-ms",
)


def _window(headers: Mapping[str, str], what: str, now: datetime | None) -> Window:
    limit = _amount(headers.get(f"x-ratelimit-limit-{what}"), headers.get(f"anthropic-ratelimit-{what}-limit"))
    remaining = _amount(headers.get(f"x-ratelimit-remaining-{what}"), headers.get(f"anthropic-ratelimit-{what}-remaining"))
    reset = headers.get(f"x-ratelimit-reset-{what}") or headers.get(f"anthropic-ratelimit-{what}-reset")
    return Window(limit=limit or None, remaining=remaining, reset=seconds(reset, now=now))


def _tightest(*windows: Window) -> Window:
    """Input, output and all tokens are counted together here, so the one with least left speaks for them."""
    told = [window for window in windows if window.told]
    return min(told, key=lambda window: window.remaining or window.limit or 0.0, default=Window())


def _amount(*texts: str | None) -> float | None:
    """The first that is a plain number; "-1" and "unlimited" are no limit."""
    for text in texts:
        if text is not None and _PLAIN.fullmatch(text.strip()):
            return float(text)
    return None


def _retry_after(headers: Mapping[str, str], now: datetime | None) -> float | None:
    milliseconds = _amount(headers.get("retry-after-ms"))
    return seconds(headers.get("retry-after"), now=now) if milliseconds is None else _believed(milliseconds / 1000)


def _until(text: str, now: datetime) -> float | None:
    """Seconds until a time; one gone by is now."""
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        try:
            then = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    try:
        return _believed(max(0.0, (then - now).total_seconds()))
    except OverflowError:
        return None


def _believed(value: float) -> float | None:
    return value if math.isfinite(value) and 0 <= value <= MOST_PAUSE else None
