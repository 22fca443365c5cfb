"""`RemoteModels`: who answers, what is paid once, what is shared, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparring.rollout.errors import BudgetError, CallError, CassetteError, RemoteError
from sparring.rollout.remote.call import ChatReply, ChatRequest, Result
from sparring.rollout.remote.config import RemoteConfig
from sparring.rollout.remote.providers.provider import ProviderFault
from sparring.rollout.remote.remote import RemoteModels
from sparring.rollout.remote.stats import RemoteStats

Run = Callable[[Any], Any]
Ask = Callable[..., ChatRequest]
Settings = Callable[..., RemoteConfig]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in ("OPENAI", "ANTHROPIC"):
        monkeypatch.delenv(f"{provider}_API_KEY", raising=False)


def open_models(config: RemoteConfig, provider: Any, journal: Any = None) -> RemoteModels:
    return RemoteModels(config, journal, {"test:m": provider})


def test_equal_calls_at_once_are_one(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, journal: Any, good: Any
) -> None:
    async def main() -> None:
        provider = scripted((2.0, good))
        async with open_models(settings(), provider, journal) as remote:
            replies = await asyncio.gather(*(remote.chat(ask()) for _ in range(5)), remote.chat(ask("other")))
            assert replies == [good] * 6 and len(provider.sent) == len(journal.rows) == 2
            assert (remote.stats.calls, remote.stats.cached) == (2, 4)
            assert await remote.chat(ask()) == good and len(provider.sent) == 2  # from the journal
            assert remote.stats.cached == 5

    virtually(main())


def test_equal_calls_share_a_failure_too(virtually: Run, scripted: Any, settings: Settings, ask: Ask) -> None:
    async def main() -> None:
        provider = scripted((1.0, ProviderFault(Result.BAD_REQUEST, "no")))
        async with open_models(settings(), provider) as remote:
            ends = await asyncio.gather(*(remote.chat(ask()) for _ in range(3)), return_exceptions=True)
            assert [type(end) for end in ends] == [CallError] * 3 and len(provider.sent) == 1
            assert remote.stats.failed == 1

    virtually(main())


def test_one_that_gives_up_takes_the_call_from_nobody_else(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: Any
) -> None:
    async def main() -> None:
        provider = scripted((4.0, good))
        async with open_models(settings(), provider) as remote:
            first, second = (asyncio.create_task(remote.chat(ask())) for _ in range(2))
            await asyncio.sleep(1)
            first.cancel()
            assert await second == good and provider.cancelled == 0
            alone = asyncio.create_task(remote.chat(ask()))
            await asyncio.sleep(1)
            alone.cancel()
            await asyncio.gather(alone, return_exceptions=True)
            assert provider.cancelled == 1 and remote.stats.in_flight == 0

    virtually(main())


def test_what_the_journal_holds_is_never_paid_again(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, make_journal: Any, good: Any
) -> None:
    async def main() -> None:
        journal = make_journal()
        async with open_models(settings(budget=1.0), scripted((1.0, good)), journal) as remote:
            await remote.chat(ask())
        provider = scripted((1.0, good))
        async with open_models(settings(budget=1.0), provider, make_journal(journal.rows)) as remote:
            assert remote.budget.spent == 25e-6
            assert await remote.chat(ask()) == good and provider.sent == []

    virtually(main())


def test_a_recorded_run_is_repeated_without_provider_price_or_budget(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: Any, tmp_path: Path
) -> None:
    path = str(tmp_path / "cassette.jsonl")

    async def record() -> None:
        provider = scripted((1.0, good), (1.0, ProviderFault(Result.BAD_REQUEST, "no")))
        async with open_models(settings(cassette=path, cassette_mode="record"), provider) as remote:
            await remote.chat(ask("a"))
            with pytest.raises(CallError):
                await remote.chat(ask("b"))

    async def replay() -> None:
        config = RemoteConfig(cassette=path, cassette_mode="replay", budget=0.0)
        async with RemoteModels(config) as remote:
            remote.check("test:m")
            async with remote.admit("g", 5.0):
                assert await remote.chat(ask("a")) == good
            with pytest.raises(CallError, match=r"^test:m gave no answer in 1 attempt: no$"):
                await remote.chat(ask("b"))
            with pytest.raises(CassetteError, match="holds no answer to the call c of test:m"):
                await remote.chat(ask("c"))
            assert (remote.stats.calls, remote.budget.spent) == (0, 0.0)

    virtually(record())
    virtually(replay())


def test_a_cassette_in_recording_repeats_nothing_it_holds(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: Any, tmp_path: Path, make_journal: Any
) -> None:
    config = settings(cassette=str(tmp_path / "cassette.jsonl"), cassette_mode="record")

    async def main(journal: Any) -> int:
        provider = scripted((1.0, good))
        async with open_models(config, provider, journal) as remote:
            assert await remote.chat(ask()) == good
        return len(provider.sent)

    assert [virtually(main(None)) for _ in range(2)] == [1, 0]


def test_an_answer_that_only_the_journal_holds_goes_on_the_cassette(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: Any, tmp_path: Path, journal: Any
) -> None:
    """A process that dies between the two writes must not leave a cassette with a hole."""
    path = str(tmp_path / "cassette.jsonl")

    async def main() -> None:
        async with open_models(settings(), scripted((1.0, good)), journal) as remote:
            await remote.chat(ask())
        async with open_models(settings(cassette=path, cassette_mode="record"), scripted((1.0, good)), journal) as remote:
            await remote.chat(ask())
        async with RemoteModels(RemoteConfig(cassette=path, cassette_mode="replay")) as remote:
            assert await remote.chat(ask()) == good

    virtually(main())


def test_games_stop_before_the_budget_and_those_in_play_end(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: Any, journal: Any
) -> None:
    async def main() -> None:
        provider = scripted((1.0, good))
        async with open_models(settings(budget=0.002), provider, journal) as remote:

            async def game(number: int) -> int:
                async with remote.admit(f"g{number}", 0.0004):
                    for turn in range(3):
                        await remote.chat(ask(f"{number}/{turn}", game=f"g{number}"))
                return 3

            ends = await asyncio.gather(*(game(number) for number in range(60)), return_exceptions=True)
            played = [end for end in ends if isinstance(end, int)]
            assert all(isinstance(end, int | BudgetError) for end in ends)
            assert sum(played) == len(provider.sent) == len(journal.rows)
            assert 0.0016 < remote.budget.spent <= 0.002 and remote.budget.reserved == 0
            assert remote.budget.spent == pytest.approx(journal.spent())

    virtually(main())


def test_specs_of_one_model_share_its_limits(virtually: Run, scripted: Any, ask: Ask, good: Any) -> None:
    config = RemoteConfig(concurrency=2)

    async def main() -> None:
        provider = scripted((1.0, good))
        async with RemoteModels(config, None, {"openai:gpt-4o": provider, "gpt-4o": provider}) as remote:
            specs = ("gpt-4o", "openai:gpt-4o") * 3
            await asyncio.gather(*(remote.chat(ask(str(n), model=spec)) for n, spec in enumerate(specs)))
        assert provider.most_in_flight == 2 and provider.closed

    virtually(main())


def test_what_cannot_be_called_is_told_before_a_run(settings: Settings, scripted: Any) -> None:
    async def main() -> None:
        async with RemoteModels(settings()) as remote:
            for spec, said in (
                ("openai:gpt-4o", "openai:gpt-4o needs a key: set the environment variable OPENAI_API_KEY"),
                ("openia:gpt-4o", "no endpoint is called 'openia' .did you mean 'openai'.."),
                ("test:unknown", "no price is known for 'test:unknown'"),
                ("local:/nowhere/at/all", "cannot load local:/nowhere/at/all"),
            ):
                with pytest.raises(RemoteError, match=said):
                    remote.check(spec)
            remote.check("test:m")

    asyncio.run(main())


def test_closing_ends_what_is_in_flight(
    virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: Any, journal: Any
) -> None:
    async def main() -> None:
        provider = scripted((50.0, good))
        remote = open_models(settings(budget=1.0), provider, journal)
        tasks = [asyncio.create_task(remote.chat(ask(str(number)))) for number in range(4)]
        await asyncio.sleep(1)
        await remote.close()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        assert [row.result for row in journal.rows] == [Result.CANCELLED] * 4
        assert remote.budget.reserved == 0 and provider.closed

    virtually(main())


def test_stats_tell_what_happened(virtually: Run, scripted: Any, settings: Settings, ask: Ask, good: ChatReply) -> None:
    async def main() -> RemoteStats:
        script = [(1.0, ProviderFault(Result.SERVER, "500"))] + [(2.0, good)] * 98 + [(20.0, good)]
        async with open_models(settings(backoff=0.001), scripted(*script)) as remote:
            await remote.chat(ask("first"))
            await asyncio.gather(*(remote.chat(ask(str(number))) for number in range(98)))
            return remote.stats

    stats = virtually(main())
    assert (stats.calls, stats.attempts, stats.retries, stats.failed, stats.in_flight) == (99, 100, 1, 0, 0)
    assert stats.results[Result.OK] == 99 and stats.results[Result.SERVER] == 1
    assert (stats.prompt_tokens, stats.completion_tokens) == (20 * 99, 5 * 99)
    assert stats.cost == pytest.approx(99 * 25e-6)
    assert stats.p50 == pytest.approx(2.0, rel=0.05)
    assert stats.latency(1.0) == pytest.approx(20.0, rel=0.05)


def test_no_stats_before_the_first_answer() -> None:
    stats = RemoteStats()
    assert stats.p50 != stats.p50 and stats.attempts == 0
