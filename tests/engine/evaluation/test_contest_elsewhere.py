"""A contest against a model elsewhere, judged by another one, over a provider that fails a third of the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from sparring.bench.fake_provider import FakeProvider, Faults
from sparring.bench.fake_provider import Price as Listed
from sparring.engine.evaluation.contest import Contenders, contend
from sparring.engine.evaluation.contest_report import ContestReport
from sparring.engine.evaluation.topics import held_out_topics
from sparring.engine.report.spending import account
from sparring.engine.run.database import RunDatabase
from sparring.rollout.judging.llm import LlmJudge
from sparring.rollout.judging.panel import Member, Panel
from sparring.rollout.player import Player, Reply, Seating, Table
from sparring.rollout.remote.call import Result
from sparring.rollout.remote.config import ChatSampling, Endpoint, Price, RemoteConfig
from sparring.rollout.remote.remote import RemoteModels
from sparring.rollout.trajectory import Deal

FAULTS = Faults(rate=0.35, kinds={"server_error": 1, "cut": 1, "malformed": 1, "refused": 1})


class Speaker(Player):
    def __init__(self, answer: str) -> None:
        self.answer = answer

    async def act(self, table: Table) -> Reply:
        return Reply(f"<reasoning>I thought about it.</reasoning><answer>{self.answer}</answer>")


def seats(remote: RemoteModels, answer: str) -> Callable[[Deal, str], Player]:
    elsewhere = Seating(remote=remote, partner=ChatSampling(max_tokens=128), purpose="compare")
    return lambda deal, seat: Speaker(answer) if deal.players[seat] == "policy" else elsewhere(deal, seat)


async def measure(provider: FakeProvider, database: RunDatabase) -> ContestReport:
    config = RemoteConfig(
        endpoints={"fake": Endpoint(base_url=provider.url)},
        prices={name: Price(input=1.0, output=4.0) for name in ("writer", "judge")},
        backoff=0.001,
        max_retries=2,
        breaker_failures=1000,
        concurrency=16,
    )
    async with RemoteModels(config, journal=database.ledger) as remote:
        short = "First, it works because people use it. Therefore it is right."
        long = "First, it works because people use it every day. For example, towns do. Moreover, it is cheap. Therefore yes."
        return await contend(
            held_out_topics(["debate"], 8),
            Contenders(policy=seats(remote, long), base=seats(remote, short), comparison="fake:writer"),
            Panel((Member(LlmJudge(remote, "fake:judge")),)),
            controls=2,
        )


def test_faults_drop_pairs_and_the_ledger_is_the_providers_own(tmp_path: Path) -> None:
    async def twice() -> tuple[ContestReport, ContestReport, int, int]:
        database = RunDatabase(tmp_path / "run.db")
        prices = {name: Listed(input=1.0, output=4.0) for name in ("writer", "judge")}
        async with FakeProvider(FAULTS, prices=prices, seed=3) as provider:
            first = await measure(provider, database)
            sent = provider.ledger.total.requests
            again = await measure(provider, database)
            found = account(database.ledger.attempts())
            assert found.total.attempts == provider.ledger.total.requests
            assert {(row.model, row.purpose) for row in found.rows} == {("fake:writer", "compare"), ("fake:judge", "judge")}
            billed = provider.ledger.total.dollars
            assert found.total.dollars >= billed - 1e-9  # what was cut or malformed is estimated from above
            assert found.total.failures.keys() <= {result.value for result in Result}
            assert found.total.failures
            database.close()
            return first, again, sent, provider.ledger.models["judge"].paid_again

    first, again, sent, paid_again = asyncio.run(twice())
    trained = first.trained
    assert sent > 60
    assert trained.pairs + trained.dropped == 8
    assert trained.pairs > 0
    assert first.baseline is not None
    assert first.judges == ("fake:judge",)
    assert first.headline.win_rate == pytest.approx(first.trained.win_rate - first.baseline.win_rate)
    assert first.other.entries + first.other.failed == 8
    # What was paid for is not asked again: the second measurement only retries what had failed.
    assert paid_again == 0
    assert again.trained.dropped <= trained.dropped
