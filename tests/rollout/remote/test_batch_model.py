"""Calls gathered into batches: who goes together, who is not sent, one submission wherever the process dies, every bad end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sparring.bench.fake_provider import BatchPlan, FakeProvider, Faults
from sparring.bench.fake_provider import Price as Listed
from sparring.rollout.errors import BudgetError, CassetteError, RemoteError
from sparring.rollout.remote import batch as batches
from sparring.rollout.remote.batch_job import Polling
from sparring.rollout.remote.batch_model import BatchModel
from sparring.rollout.remote.call import CallJournal, ChatMessage, ChatReply, ChatRequest
from sparring.rollout.remote.config import Endpoint, Price, RemoteConfig
from sparring.rollout.remote.remote import RemoteModels

pytestmark = pytest.mark.anyio

PRICES = {"small": Listed(input=1.0, output=4.0), "large": Listed(input=1.0, output=4.0)}
STEPS = ("job saved", "uploaded", "upload saved", "submitted", "submission saved", "polled", "fetched", "recorded one")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Killed(BaseException):
    """The process ends here."""


def request(text: str, model: str = "fake:small") -> ChatRequest:
    return ChatRequest(model=model, messages=(ChatMessage("user", text),), max_tokens=16, purpose="judge")


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


@asynccontextmanager
async def opened(
    provider: FakeProvider, folder: Path, journal: CallJournal, options: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[BatchModel]:
    endpoints = {"fake": Endpoint(base_url=provider.url), "claude": Endpoint(base_url=provider.anthropic_url, kind="anthropic")}
    prices = {name: Price(input=1.0, output=4.0, batch=0.5) for name in ("small", "large")}
    config = RemoteConfig(endpoints=endpoints, prices=prices, **(options or {}))
    async with RemoteModels(config, journal) as remote:
        given = {"polling": Polling(sleep=no_pause), "sleep": no_pause} | more
        model = BatchModel(remote, folder, journal=journal, **given)
        try:
            yield model
        finally:
            await model.close()


async def answers(model: BatchModel, *texts: str) -> list[str]:
    """What each is answered, or the error's name."""
    found = await asyncio.gather(*(model.chat(request(text)) for text in texts), return_exceptions=True)
    return [one.text if isinstance(one, ChatReply) else type(one).__name__ for one in found]


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_calls_made_together_are_one_batch_at_half_the_price(tmp_path: Path, journal: CallJournal) -> None:
    said: list[str] = []
    async with (
        FakeProvider(reply="echo", prices=PRICES) as provider,
        opened(provider, tmp_path, journal, say=said.append) as model,
    ):
        assert await answers(model, "a", "b", "c", "a") == ["a", "b", "c", "a"]
        assert await answers(model, "a", "c") == ["a", "c"]
        assert (provider.ledger.batches, provider.ledger.total.requests) == (1, 3)
        assert await answers(model, "d", "a") == ["d", "a"]
        assert (provider.ledger.batches, provider.ledger.total.requests) == (2, 4)
    total = provider.ledger.total
    assert journal.spent() == pytest.approx(total.dollars, rel=1e-12)
    assert total.dollars == pytest.approx(0.5 * (total.prompt_tokens + 4 * total.completion_tokens) / 1e6)
    assert left_in(tmp_path) == []
    assert said[:2] == ["a batch of 3 calls to fake:small", "batch in_progress: 0/3 calls"]
    assert "batch completed: 3/3 calls" in said


async def test_figures_are_those_of_ordinary_calls(tmp_path: Path, journal: CallJournal) -> None:
    async with FakeProvider(reply="echo", prices=PRICES) as provider, opened(provider, tmp_path, journal) as model:
        await answers(model, "a", "b")
        await answers(model, "b")
        stats = model._remote.stats
        assert (stats.calls, stats.attempts, stats.cached, stats.failed, stats.in_flight) == (2, 2, 1, 0, 0)
        assert stats.cost == pytest.approx(journal.spent()) == pytest.approx(model._remote.budget.spent)


async def test_a_gathering_ends_when_no_call_came_for_a_while(tmp_path: Path, journal: CallJournal) -> None:
    """Calls that come while the clock runs push the end away; those after it make the next batch."""
    pauses: list[float] = []
    late: list[asyncio.Task[list[str]]] = []

    async with FakeProvider(reply="echo") as provider:

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) in (1, 2):
                late.append(asyncio.create_task(answers(model, f"late {len(pauses)}")))
            await asyncio.sleep(0.01)

        async with opened(provider, tmp_path, journal, sleep=sleep, settle=7.0) as model:
            assert await answers(model, "first") == ["first"]
            assert [await task for task in late] == [["late 1"], ["late 2"]]
    assert pauses == [7.0, 7.0, 7.0]
    assert (provider.ledger.batches, provider.ledger.total.requests) == (1, 3)


async def test_each_model_has_its_own_batch(tmp_path: Path, journal: CallJournal) -> None:
    async with FakeProvider(reply="echo") as provider, opened(provider, tmp_path, journal) as model:
        found = await asyncio.gather(*(model.chat(request("a", f"fake:{name}")) for name in ("small", "large")))
    assert [reply.model for reply in found] == ["small", "large"]
    assert provider.ledger.batches == 2


async def test_more_than_a_batch_takes_is_several(tmp_path: Path, journal: CallJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_REQUESTS", 2)
    async with FakeProvider(reply="echo") as provider, opened(provider, tmp_path, journal) as model:
        assert await answers(model, *"abcde") == list("abcde")
    assert (provider.ledger.batches, provider.ledger.total.requests) == (3, 5)


@pytest.mark.parametrize("step", STEPS)
async def test_killed_anywhere_it_goes_on_and_submits_once(step: str, tmp_path: Path, journal: CallJournal) -> None:
    """The next process asks one call at a time, and other ones first: the batch under way is ended before anything is asked."""

    def kill(done: str) -> None:
        if done == step:
            raise Killed

    async with FakeProvider(reply="echo", prices=PRICES) as provider:
        async with opened(provider, tmp_path, journal, checkpoint=kill) as model:
            calls = [asyncio.create_task(model.chat(request(text))) for text in "abc"]
            await asyncio.wait(calls)
            assert all(call.cancelled() for call in calls)
        said: list[str] = []
        async with opened(provider, tmp_path, journal, say=said.append) as model:
            assert [await answers(model, text) for text in "bca"] == [["b"], ["c"], ["a"]]
        assert said[0] == "going on with the batch of 3 calls to fake:small that is under way"
    assert (provider.ledger.batches, provider.ledger.total.requests) == (1, 3)
    assert journal.spent() == pytest.approx(provider.ledger.total.dollars)
    assert left_in(tmp_path) == []


async def test_a_failed_call_is_not_asked_again(tmp_path: Path, journal: CallJournal) -> None:
    said: list[str] = []
    faults = Faults(rate=0.5, kinds={"server_error": 1})
    async with FakeProvider(faults, reply="echo") as provider, opened(provider, tmp_path, journal, say=said.append) as model:
        texts = [str(number) for number in range(20)]
        found = await answers(model, *texts)
        failed = found.count("CallError")
        assert 3 < failed < 17
        assert [one for one in found if one != "CallError"] == [
            t for t, one in zip(texts, found, strict=True) if one != "CallError"
        ]
        assert await answers(model, *texts) == found
    assert provider.ledger.batches == 1
    assert said[-1].startswith(f"{failed} of 20 calls failed, the first: fake:small in a batch: status 500")


async def test_a_batch_that_fails_as_a_whole_says_why(tmp_path: Path, journal: CallJournal) -> None:
    said: list[str] = []
    plan = BatchPlan(ending="failed")
    async with FakeProvider(batch=plan) as provider, opened(provider, tmp_path, journal, say=said.append) as model:
        assert await answers(model, "a", "b") == ["CallError", "CallError"]
    assert "2 of 2 calls failed" in said[-1]
    assert "Enqueued token limit reached" in said[-1]


async def test_a_provider_out_of_reach_ends_the_run_and_fails_no_call(tmp_path: Path, journal: CallJournal) -> None:
    async with FakeProvider(reply="echo") as provider:

        async def goes(seconds: float) -> None:
            await provider.stop()

        async with opened(provider, tmp_path, journal, polling=Polling(sleep=goes, failures=2)) as model:
            with pytest.raises(RemoteError, match="run again to go on"):
                await model.chat(request("a"))
        await provider.start()
        async with opened(provider, tmp_path, journal) as model:
            assert await answers(model, "a") == ["a"]
    assert provider.ledger.batches == 1


async def test_the_budget_holds_for_the_whole_batch(tmp_path: Path, journal: CallJournal) -> None:
    async with FakeProvider(reply="echo", prices=PRICES) as provider:
        async with opened(provider, tmp_path, journal, {"budget": 1e-4}) as model:
            with pytest.raises(BudgetError, match="budget"):
                await asyncio.gather(*(model.chat(request(text)) for text in "abc"))
        assert (provider.ledger.files, journal.spent()) == (0, 0.0)
        async with opened(provider, tmp_path, journal, {"budget": 1e-3}) as model:
            assert await answers(model, *"abc") == list("abc")


async def test_models_without_a_batch_api_are_refused(tmp_path: Path, journal: CallJournal) -> None:
    async with FakeProvider() as provider, opened(provider, tmp_path, journal) as model:
        model.check("fake:small")
        for spec in ("claude:small", "local:somewhere"):
            with pytest.raises(RemoteError, match="has no Batch API here"):
                model.check(spec)
            with pytest.raises(RemoteError, match="has no Batch API here"):
                await model.chat(request("a", spec))
    assert provider.ledger.files == 0


async def test_a_cassette_records_batches_and_replays_them_without_any(tmp_path: Path, journal: CallJournal) -> None:
    tape = {"cassette": str(tmp_path / "tape.jsonl")}
    texts = [str(number) for number in range(12)]
    async with FakeProvider(Faults(rate=0.4, kinds={"server_error": 1}), reply="echo") as provider:
        async with opened(provider, tmp_path / "one", journal, tape | {"cassette_mode": "record"}) as model:
            first = await answers(model, *texts)
        async with opened(provider, tmp_path / "two", type(journal)(), tape | {"cassette_mode": "replay"}) as model:
            assert await answers(model, *texts) == first
            with pytest.raises(CassetteError):
                await model.chat(request("another"))
    assert set(first) > {"CallError"}
    assert provider.ledger.batches == 1


async def test_requests_that_are_gone_or_another_batchs(tmp_path: Path, journal: CallJournal) -> None:
    def kill(done: str) -> None:
        if done == "submitted":
            raise Killed

    async with FakeProvider(reply="echo") as provider:
        async with opened(provider, tmp_path, journal, checkpoint=kill) as model:
            await asyncio.wait([asyncio.create_task(model.chat(request("a")))])
        asked = next(path for path in left_in(tmp_path) if path.name.endswith(".requests.json"))
        for content, message in (("[]", "another batch"), ("{", "does not hold the requests")):
            asked.write_text(content)
            async with opened(provider, tmp_path, journal) as model:
                with pytest.raises(RemoteError, match=message):
                    await model.chat(request("a"))
    assert provider.ledger.batches == 1
