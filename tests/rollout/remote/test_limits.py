"""Buckets in virtual time: never above a limit in any minute, nearly all of it used, and after the headers wherever they lead."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.rollout.remote.headers import Window
from sparring.rollout.remote.limits import MINUTE, Bucket, Concurrency, Paced

PER_MINUTE = st.one_of(st.integers(1, 20), st.integers(21, 600))


def stream(paced: Paced, amounts: list[float], until: float) -> list[tuple[float, float]]:
    """Takes as fast as may be; returns when and how much."""
    now, taken = 0.0, []
    while True:
        amount = amounts[len(taken) % len(amounts)]
        while (pause := paced.wait(amount, now)) > 0:
            now += pause + 1e-9
            if now >= until:
                return taken
        paced.take(amount, now)
        taken.append((now, amount))


def most_in_a_minute(taken: list[tuple[float, float]]) -> float:
    times, sums = [at for at, _ in taken], [0.0, *accumulate(amount for _, amount in taken)]
    return max(sums[i + 1] - sums[bisect_left(times, at - MINUTE + 1e-6)] for i, at in enumerate(times))


@settings(max_examples=15)
@given(PER_MINUTE)
def test_requests_never_exceed_the_limit_and_use_it(limit: int) -> None:
    taken = stream(Paced(limit), [1.0], 4 * MINUTE + 1e-3)
    assert most_in_a_minute(taken) <= limit
    assert len(taken) >= 0.95 * 4 * limit


@settings(max_examples=15)
@given(st.integers(1000, 100_000), st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_tokens_never_exceed_the_limit_and_use_it(limit: int, amounts: list[int]) -> None:
    taken = stream(Paced(limit), [float(limit * amount) / 20_000 for amount in amounts], 4 * MINUTE)
    assert most_in_a_minute(taken) <= limit * (1 + 1e-9)
    assert sum(amount for _, amount in taken) >= 0.95 * 4 * limit


def test_a_stream_is_even() -> None:
    """One second's worth at once, then one by one: a provider that enforces shares of a minute refuses none."""
    times = [at for at, _ in stream(Paced(120), [1.0], 30.0)]
    assert times[:2] == [0.0, 0.0]
    assert {round(after - before, 6) for before, after in pairwise(times[1:])} == {0.5}


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60))
def test_pauses_between_calls_never_lead_beyond_the_limit(pauses: list[float]) -> None:
    paced, now, taken = Paced(30), 0.0, []
    for pause in pauses:
        now += pause / 10
        for _ in range(10):
            if paced.wait(1, now) == 0:
                paced.take(1, now)
                taken.append((now, 1.0))
    assert most_in_a_minute(taken) <= 30


def test_what_an_answer_did_not_take_is_given_back() -> None:
    paced = Paced(600)
    paced.take(400, 0.0)
    assert round(paced.wait(300, 0.0), 6) == 60  # both together are more than a minute's
    paced.correct(350)
    assert paced.wait(300, 0.0) == 5.0  # 50 are gone and a burst is 10: at 10 a second
    paced.take(10, 0.0)
    paced.correct(-500)
    assert round(paced.wait(100, 0.0), 6) == 60


def test_more_than_a_minutes_limit_waits_for_an_empty_minute() -> None:
    paced = Paced(100)
    paced.take(1, 0.0)
    assert round(paced.wait(1000, 0.0), 6) == 60
    assert paced.wait(1000, 60.0) == 0


def test_an_unknown_limit_lets_everything_out_until_one_is_told() -> None:
    bucket = Bucket(0)
    assert bucket.limit is None and bucket.wait(1e9, 0.0) == 0
    mark = bucket.take(1, 0.0)
    bucket.take(1, 0.0)
    bucket.hear(Window(limit=60, remaining=5), mark, sent=0.0, now=0.0)
    assert bucket.limit == 60
    for _ in range(4):  # of the five that remain, one may be the request that went out after it
        assert bucket.wait(1, 0.0) == 0
        bucket.take(1, 0.0)
    assert bucket.wait(1, 0.0) == 1.0


def test_a_limit_without_what_remains_is_paced() -> None:
    bucket = Bucket(0)
    mark = bucket.take(1, 0.0)
    bucket.hear(Window(limit=60), mark, sent=0.0, now=1.0)
    assert bucket.wait(1, 1.0) == 0
    bucket.take(1, 1.0)
    assert bucket.wait(1, 1.0) == 1.0
    bucket.hear(Window(limit=120), mark, sent=0.0, now=1.0)
    assert round(bucket.wait(1, 1.0), 6) == 0.5


def test_the_headers_lead_down_and_up() -> None:
    bucket = Bucket(0)
    for remaining, limit, pause in ((3, 60, 0.0), (0, 60, 1.0), (50, 600, 0.0), (0, 600, 0.1), (0, 6, 10.0)):
        mark = bucket.take(1, 0.0)
        bucket.end(1)
        bucket.hear(Window(limit=limit, remaining=remaining), mark, sent=0.0, now=0.0)
        assert round(bucket.wait(1, 0.0), 6) == pause


def test_a_ceiling_of_the_users_own_stays() -> None:
    bucket = Bucket(60)
    mark = bucket.take(1, 0.0)
    bucket.hear(Window(limit=6000, remaining=5999), mark, sent=0.0, now=0.0)
    assert bucket.limit == 60 and bucket.wait(1, 0.0) == 1.0


def test_a_block_holds_everything() -> None:
    bucket = Bucket(0)
    bucket.block(3.0, 1.0)
    bucket.block(1.0, 1.0)
    assert (bucket.wait(1, 1.0), bucket.wait(1, 4.0)) == (3.0, 0.0)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 100), st.booleans()), max_size=50),
)
def test_our_count_stays_between_what_the_provider_may_mean(steps: list[tuple[float, int, bool]]) -> None:
    """After any header: at least what remains less what went out since, at most what remains or came in since."""
    bucket, now, marks = Bucket(0), 0.0, [(0.0, 0.0)]
    for pause, remaining, heard in steps:
        now += pause
        if not heard:
            marks.append((bucket.take(1, now), now))
            continue
        mark, sent = marks[len(marks) // 2]
        bucket.hear(Window(limit=100, remaining=remaining), mark, sent=sent, now=now)
        low, high = remaining - (len(marks) - 1 - mark), remaining + (now - sent) * 100 / 60
        if low > 0:
            assert bucket.wait(low - 1e-6, now) == 0
        if 0 <= high < 99:
            assert bucket.wait(high + 1e-3, now) > 0


def feed(concurrency: Concurrency, capacity: int, answers: int) -> int:
    """A server that answers `capacity` of the requests in flight and refuses the others; returns how many it refused."""
    refused = 0
    while answers > 0:
        width = concurrency.limit
        for place in range(width):
            concurrency.answered(refused=place >= capacity)
            refused += place >= capacity
        answers -= width
    return refused


def test_concurrency_waits_for_the_first_answer_and_then_opens() -> None:
    concurrency = Concurrency(256)
    assert concurrency.limit == 16
    concurrency.answered(refused=True)
    assert concurrency.limit == 16
    concurrency.answered(refused=False)
    assert concurrency.limit == 256
    assert Concurrency(4).limit == 4


def test_concurrency_settles_a_little_above_what_the_server_takes() -> None:
    concurrency = Concurrency(256)
    concurrency.answered(refused=False)
    feed(concurrency, 50, 5000)
    assert 50 <= concurrency.limit <= 75
    feed(concurrency, 256, 20_000)
    assert concurrency.limit == 256


def test_a_few_stray_refusals_cost_little() -> None:
    """Refusals at random say nothing of how many are in flight: halving at each would end at a handful."""
    concurrency = Concurrency(256)
    concurrency.answered(refused=False)
    for number in range(20_000):
        concurrency.answered(refused=number % 15 == 0)
    assert concurrency.limit == 256


def test_a_wall_of_refusals_leads_down_to_few() -> None:
    concurrency = Concurrency(256)
    concurrency.answered(refused=False)
    for _ in range(5000):
        concurrency.answered(refused=True)
    assert 1 <= concurrency.limit <= 12


def test_an_empty_bucket_without_a_limit_is_forgotten_after_a_minute() -> None:
    """Some servers tell what remains and no limit: once 0 remained, nothing went out ever again."""
    bucket = Bucket(0)
    mark = bucket.take(1, now=0.0)
    bucket.end(1)
    bucket.hear(Window(remaining=0), mark, sent=0.0, now=1.0)
    assert bucket.wait(1, now=2.0) == 1.0
    assert bucket.wait(1, now=60.9) == 1.0
    assert bucket.wait(1, now=61.0) == 0.0
    bucket.take(1, now=61.0)
