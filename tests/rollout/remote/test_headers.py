"""Rate-limit headers: both providers' forms, durations and dates, and whatever makes no sense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.rollout.remote.headers import MOST_PAUSE, UNTOLD, Limits, Window, read_limits, seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_openai() -> None:
    headers = httpx2.Headers(
        {
            "X-RateLimit-Limit-Requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "6m0s",
        }
    )
    assert read_limits(headers) == Limits(
        requests=Window(limit=500, remaining=499, reset=0.12), tokens=Window(limit=30000, remaining=0, reset=360)
    )


def test_anthropic_tells_of_the_tightest_tokens() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-01-02T03:04:35Z",
        "anthropic-ratelimit-tokens-limit": "60000",
        "anthropic-ratelimit-tokens-remaining": "50000",
        "anthropic-ratelimit-input-tokens-limit": "50000",
        "anthropic-ratelimit-input-tokens-remaining": "49000",
        "anthropic-ratelimit-output-tokens-limit": "10000",
        "anthropic-ratelimit-output-tokens-remaining": "1000",
        "retry-after": "7",
    }
    assert read_limits(headers, now=NOW) == Limits(
        requests=Window(limit=50, remaining=0, reset=30), tokens=Window(limit=10000, remaining=1000), retry_after=7
    )


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "2", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=9), usegmt=True)}, 9.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=9), usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": str(int(MOST_PAUSE) + 1)}, None),
        ({"retry-after-ms": "x", "retry-after": "4"}, 4.0),
    ],
)
def test_retry_after(headers: dict[str, str], told: float | None) -> None:
    assert read_limits(headers, now=NOW).retry_after == told


@pytest.mark.parametrize("text", ["-1", "unlimited", "", "NaN", "inf", "1e400", "²", "9" * 40])
def test_an_amount_that_is_none_is_not_told(text: str) -> None:
    assert read_limits({"x-ratelimit-limit-requests": text, "x-ratelimit-remaining-tokens": text}) == UNTOLD


def test_a_limit_of_zero_is_none() -> None:
    """Some compatible servers send 0 for "no limit"."""
    assert read_limits({"x-ratelimit-limit-requests": "0"}).requests == Window()


@given(
    hours=st.integers(0, 5),
    minutes=st.integers(0, 59),
    whole=st.integers(0, 59),
    milli=st.integers(0, 999),
    kind=st.integers(0, 3),
)
def test_durations_are_read_as_they_were_written(hours: int, minutes: int, whole: int, milli: int, kind: int) -> None:
    forms = (
        (f"{hours}h{minutes}m{whole}s", hours * 3600 + minutes * 60 + whole),
        (f"{minutes}m{whole}.{milli:03}s", minutes * 60 + whole + milli / 1000),
        (f"{whole}s{milli}ms", whole + milli / 1000),
        (f" {whole}.{milli:03} ", whole + milli / 1000),
    )
    text, value = forms[kind]
    assert seconds(text) == pytest.approx(value)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "retry-after",
                "retry-after-ms",
                "x-ratelimit-reset-tokens",
                "x-ratelimit-limit-tokens",
                "anthropic-ratelimit-requests-reset",
                "anthropic-ratelimit-requests-remaining",
            ]
        ),
        st.text(max_size=70),
    )
)
def test_nothing_raises_and_nothing_odd_is_believed(headers: dict[str, str]) -> None:
    limits = read_limits(headers)
    pauses = (limits.retry_after, limits.requests.reset, limits.tokens.reset)
    assert all(pause is None or 0 <= pause <= MOST_PAUSE for pause in pauses)
    assert limits.tokens.limit is None or limits.tokens.limit > 0
