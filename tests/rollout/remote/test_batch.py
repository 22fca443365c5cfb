"""Batches against a fake provider: answers and prices, one submission wherever the process dies, and every bad end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sparring.bench.fake_provider import BatchPlan, FakeProvider, Faults
from sparring.bench.fake_provider import Price as Listed
from sparring.rollout.errors import BudgetError, CallError, RemoteError
from sparring.rollout.remote.batch import Answer, BatchRunner
from sparring.rollout.remote.batch_job import BatchProgress, Polling
from sparring.rollout.remote.batch_state import load_state
from sparring.rollout.remote.budget import Budget
from sparring.rollout.remote.call import Attempt, ChatMessage, ChatReply, ChatRequest, Result
from sparring.rollout.remote.config import Endpoint, Price, RemoteConfig
from sparring.rollout.remote.remote import RemoteModels

pytestmark = pytest.mark.anyio

PRICES = {"small": Listed(input=1.0, output=4.0)}
STEPS = ("job saved", "uploaded", "upload saved", "submitted", "submission saved", "polled", "fetched", "recorded one")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Journal:
    """A journal in memory, which outlives the runners."""

    attempts: list[Attempt] = field(default_factory=list)

    def record(self, attempt: Attempt, number: int | None = None) -> None:
        self.attempts.append(attempt)

    def find(self, digest: str) -> ChatReply | None:
        return next((attempt.reply for attempt in self.attempts if attempt.digest == digest and attempt.reply), None)

    def spent(self) -> float:
        return sum(attempt.cost for attempt in self.attempts)


def requests(count: int, model: str = "fake:small") -> list[ChatRequest]:
    return [ChatRequest(model=model, messages=(ChatMessage("user", f"{number}?"),), max_tokens=16) for number in range(count)]


def config_for(provider: FakeProvider, **options: Any) -> RemoteConfig:
    endpoints = {"fake": Endpoint(base_url=provider.url), "claude": Endpoint(base_url=provider.anthropic_url, kind="anthropic")}
    prices = {name: Price(input=1.0, output=4.0, batch=0.5) for name in ("small", "large")}
    return RemoteConfig(endpoints=endpoints, prices=prices, **options)


def polling(paused: list[float] | None = None, **options: Any) -> Polling:
    async def sleep(seconds: float) -> None:
        if paused is not None:
            paused.append(seconds)

    return Polling(sleep=sleep, **options)


def runner(provider: FakeProvider, folder: Path, journal: Journal, **options: Any) -> BatchRunner:
    given = {"polling": polling()} | options
    return BatchRunner(config_for(provider), folder / "batch.json", journal=journal, **given)


def texts(answers: Sequence[Answer]) -> list[str]:
    return [answer.text if isinstance(answer, ChatReply) else f"{type(answer).__name__}: {answer}" for answer in answers]


async def test_answers_come_in_order_at_half_the_price(tmp_path: Path) -> None:
    journal, seen, paused = Journal(), list[BatchProgress](), list[float]()
    asked = requests(5)
    async with FakeProvider(reply="echo", prices=PRICES, batch=BatchPlan(looks=3)) as provider:
        made = runner(provider, tmp_path, journal, on_progress=seen.append, polling=polling(paused))
        answers = await made.run([*asked, asked[0]])
        assert await made.run(asked[:2]) == answers[:2]
    assert texts(answers) == ["0?", "1?", "2?", "3?", "4?", "0?"]
    assert [progress.status for progress in seen] == ["in_progress"] * 3 + ["finalizing", "completed"]
    assert seen[-1] == BatchProgress(status="completed", total=5, completed=5)
    assert paused == [5.0, 7.5, 11.25, 16.875]
    assert provider.ledger.batches == provider.ledger.files == 1
    total = provider.ledger.total
    assert (total.requests, total.batched) == (5, 5)
    assert journal.spent() == pytest.approx(total.dollars, rel=1e-12)
    assert total.dollars == pytest.approx(0.5 * (total.prompt_tokens + 4 * total.completion_tokens) / 1e6, rel=1e-12)
    assert {attempt.digest for attempt in journal.attempts} == {request.digest for request in asked}
    assert all(attempt.result is Result.OK and attempt.reply and not attempt.estimated for attempt in journal.attempts)
    assert not (tmp_path / "batch.json").exists()


async def test_what_a_batch_answered_is_free_for_ordinary_calls(tmp_path: Path) -> None:
    journal, (request,) = Journal(), requests(1)
    async with FakeProvider(reply="echo", prices=PRICES) as provider:
        await runner(provider, tmp_path, journal).run([request])
        async with RemoteModels(config_for(provider), journal) as remote:
            assert (await remote.chat(request)).text == "0?"
    assert provider.ledger.total.requests == 1


@pytest.mark.parametrize("step", STEPS)
async def test_a_job_is_submitted_once_wherever_the_process_dies(step: str, tmp_path: Path) -> None:
    """Killed at the step, and run anew: the same answers, one batch, each answer paid and recorded once."""
    journal = Journal()

    def kill(done: str) -> None:
        if done == step:
            raise Killed

    async with FakeProvider(reply="echo", prices=PRICES) as provider:
        with pytest.raises(Killed):
            await runner(provider, tmp_path, journal, checkpoint=kill).run(requests(3))
        assert load_state(tmp_path / "batch.json") is not None
        reached: list[str] = []
        answers = await runner(provider, tmp_path, journal, checkpoint=reached.append).run(requests(3))
        assert texts(answers) == ["0?", "1?", "2?"]
        assert provider.ledger.batches == provider.ledger.files == 1
        assert provider.ledger.total.requests == len(journal.attempts) == 3
        assert journal.spent() == pytest.approx(provider.ledger.total.dollars)
    assert ("submitted" in reached) == (STEPS.index(step) < STEPS.index("submitted"))
    assert load_state(tmp_path / "batch.json") is None


async def test_dying_at_every_step_in_turn(tmp_path: Path) -> None:
    journal, left = Journal(), list(STEPS)

    def kill(done: str) -> None:
        if done in left:
            left.remove(done)
            raise Killed

    async with FakeProvider(reply="echo", prices=PRICES) as provider:
        for _ in STEPS:
            with pytest.raises(Killed):
                await runner(provider, tmp_path, journal, checkpoint=kill).run(requests(3))
        assert texts(await runner(provider, tmp_path, journal, checkpoint=kill).run(requests(3))) == ["0?", "1?", "2?"]
    assert (provider.ledger.batches, provider.ledger.files, len(journal.attempts)) == (1, 1, 3)


async def test_an_answer_lost_on_the_way_is_not_asked_for_twice(tmp_path: Path) -> None:
    """The provider made the file and the batch, and the connection broke before it said so."""
    async with FakeProvider(reply="echo", batch=BatchPlan(lost=("upload", "submit"))) as provider:
        assert texts(await runner(provider, tmp_path, Journal()).run(requests(2))) == ["0?", "1?"]
    assert (provider.ledger.batches, provider.ledger.files) == (1, 1)


async def test_some_requests_fail_and_the_others_are_kept(tmp_path: Path) -> None:
    journal = Journal()
    async with FakeProvider(Faults(rate=0.5, kinds={"server_error": 1, "cut": 1}), reply="echo", prices=PRICES) as provider:
        answers = await runner(provider, tmp_path, journal).run(requests(30))
        good = [answer for answer in answers if isinstance(answer, ChatReply)]
        assert 5 < len(good) == provider.ledger.total.outcomes["answered"] < 25
        assert all("status 500" in str(answer) for answer in answers if isinstance(answer, CallError))
        assert journal.spent() == pytest.approx(provider.ledger.total.dollars)
        assert len(journal.attempts) == 30
        again = await runner(provider, tmp_path, journal).run(requests(30))
    assert [answer for answer in again if answer in good] == good
    assert provider.ledger.total.requests == 30 + 30 - len(good)
    assert provider.ledger.total.paid_again == 0


async def test_answers_that_cannot_be_used_are_paid_and_no_answers(tmp_path: Path) -> None:
    """An empty answer is malformed; without a usage the most possible is counted, also where a wrong one was reported."""
    kinds = {"empty": 1, "usage_missing": 1, "usage_absurd": 1, "usage_negative": 1, "usage_zero": 1, "refused": 1}
    journal = Journal()
    async with FakeProvider(Faults(rate=1.0, kinds=kinds), reply="echo", prices=PRICES) as provider:
        answers = await runner(provider, tmp_path, journal).run(requests(40))
    outcomes = provider.ledger.total.outcomes
    assert set(outcomes) == set(kinds)
    assert sum(isinstance(answer, CallError) for answer in answers) == outcomes["empty"]
    assert sum(attempt.estimated for attempt in journal.attempts) == 40 - outcomes["empty"] - outcomes["refused"]
    assert journal.spent() > provider.ledger.total.dollars


@pytest.mark.parametrize(
    ("ending", "good", "said"),
    [
        ("failed", 0, "failed: token_limit_exceeded: Enqueued token limit reached."),
        ("expired", 2, "could not be executed before the batch expired"),
        ("cancelled", 2, "could not be executed before the batch cancelled"),
    ],
)
async def test_a_batch_that_does_not_end_well(ending: Any, good: int, said: str, tmp_path: Path) -> None:
    journal = Journal()
    async with FakeProvider(reply="echo", prices=PRICES, batch=BatchPlan(ending=ending)) as provider:
        answers = await runner(provider, tmp_path, journal).run(requests(4))
        assert texts(answers[:good]) == ["0?", "1?"][:good]
        assert all(isinstance(answer, CallError) and said in str(answer) for answer in answers[good:])
        assert journal.spent() == pytest.approx(provider.ledger.total.dollars)
        assert provider.ledger.batches == 1
        await runner(provider, tmp_path, journal).run(requests(4))
    assert provider.ledger.batches == 2


async def test_the_budget_is_asked_before_anything_is_sent(tmp_path: Path) -> None:
    journal = Journal()
    async with FakeProvider(reply="echo", prices=PRICES) as provider:
        with pytest.raises(BudgetError, match="budget"):
            await runner(provider, tmp_path, journal, budget=Budget(1e-5)).run(requests(10))
        assert (provider.ledger.files, load_state(tmp_path / "batch.json")) == (0, None)
        budget = Budget(0.01)
        await runner(provider, tmp_path, journal, budget=budget).run(requests(10))
    assert budget.spent == pytest.approx(provider.ledger.total.dollars)
    assert budget.reserved == 0


async def test_a_job_under_way_is_paid_for_whatever_the_budget_says(tmp_path: Path) -> None:
    journal, budget = Journal(), Budget(0.01)

    def kill(done: str) -> None:
        if done == "submitted":
            raise Killed

    async with FakeProvider(reply="echo", prices=PRICES) as provider:
        with pytest.raises(Killed):
            await runner(provider, tmp_path, journal, budget=budget, checkpoint=kill).run(requests(10))
        assert budget.spent > 10 * provider.ledger.dollars("small", 5, 1)  # as much as it may become
        budget = Budget(1e-9)
        assert len(await runner(provider, tmp_path, journal, budget=budget).run(requests(10))) == 10
    assert budget.spent == pytest.approx(provider.ledger.total.dollars)
    assert provider.ledger.batches == 1


async def test_a_provider_out_of_reach_leaves_the_job(tmp_path: Path) -> None:
    paused: list[float] = []
    async with FakeProvider(reply="echo") as provider:

        async def waits(seconds: float) -> None:
            paused.append(seconds)
            await provider.stop()

        given = Polling(sleep=waits, failures=3)
        with pytest.raises(CallError, match="run again to go on"):
            await runner(provider, tmp_path, Journal(), polling=given).run(requests(2))
        assert load_state(tmp_path / "batch.json") is not None
        assert len(paused) == 4
        await provider.start()
        assert texts(await runner(provider, tmp_path, Journal()).run(requests(2))) == ["0?", "1?"]
    assert provider.ledger.batches == 1


async def test_what_no_batch_can_be_made_of(tmp_path: Path) -> None:
    async with FakeProvider(reply="echo") as provider:
        made = runner(provider, tmp_path, Journal())
        with pytest.raises(RemoteError, match="one model"):
            await made.run([*requests(1), *requests(1, "fake:large")])
        for spec in ("claude:small", "local:somewhere"):
            with pytest.raises(RemoteError, match="Batch API"):
                await made.run(requests(1, spec))
        with pytest.raises(RemoteError, match="price"):
            await made.run(requests(1, "fake:unpriced"))

        def kill(done: str) -> None:
            if done == "submission saved":
                raise Killed

        with pytest.raises(Killed):
            await runner(provider, tmp_path, Journal(), checkpoint=kill).run(requests(2))
        with pytest.raises(RemoteError, match="other requests"):
            await made.run(requests(1))
        (tmp_path / "batch.json").write_text("{")
        with pytest.raises(RemoteError, match="not the state of a batch"):
            await made.run(requests(2))
    assert provider.ledger.batches == 1
