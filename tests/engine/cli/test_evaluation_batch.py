"""`sparring evaluate --batch`: one batch at half the price with the report of ordinary calls, and going on after a kill."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import Result

from sparring.bench.fake_provider import BatchPlan, FakeProvider
from sparring.bench.fake_provider import Price as Listed
from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.engine import Engine
from sparring.engine.errors import RunError
from sparring.engine.evaluation.appraise import Appraisal, appraise_adapter
from sparring.engine.run.database import RunDatabase
from sparring.engine.run.folder import take_lock
from sparring.learner.files import write_folder
from sparring.rollout.errors import BudgetError
from sparring.rollout.remote.batch_job import Polling

Run = Callable[..., Result]
MODEL = "fake:judge"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices={"judge": Listed(input=1.0, output=4.0)}, batch=BatchPlan(looks=1)).running() as provider:
        yield provider


def options_for(short: list[str], provider: FakeProvider) -> list[str]:
    settings = {
        "families": '["debate"]',
        "evaluation.scenarios": 6,
        "judging.evaluation_judge": MODEL,
        "judging.concurrency": 1,
        "judging.controls": 2,
        "remote.endpoints.fake.base_url": provider.url,
        "remote.endpoints.claude": f'{{base_url = "{provider.anthropic_url}", kind = "anthropic"}}',
        "remote.prices": "{judge = {input = 1.0, output = 4.0, batch = 0.5}}",
    }
    return [*short, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]


@pytest.fixture
def config(short: list[str], provider: FakeProvider) -> RunConfig:
    return load_run_config("demo", overrides=[part for part in options_for(short, provider) if part != "--set"])


@pytest.fixture
def adapter(config: RunConfig, tmp_path: Path) -> Path:
    with Engine.open(config) as engine:
        write_folder(tmp_path / "adapter", engine.learner().adapter().files())
    return tmp_path / "adapter"


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


def measure(config: RunConfig, adapter: Path, folder: Path | None, sleep: Any = no_pause) -> Appraisal:
    return appraise_adapter(config, adapter, quiet=True, batches=folder, polling=Polling(sleep=sleep))


def test_the_report_is_that_of_ordinary_calls_at_half_the_price(
    config: RunConfig, adapter: Path, provider: FakeProvider, tmp_path: Path
) -> None:
    plain = measure(config, adapter, None)
    asked, paid = provider.ledger.total.requests, provider.ledger.total.dollars
    assert asked > 10
    batched = measure(config, adapter, tmp_path / "batch")
    total = provider.ledger.total
    assert (provider.ledger.batches, total.batched, total.requests) == (1, asked, 2 * asked)
    assert total.dollars - paid == pytest.approx(paid / 2)
    assert batched == plain
    assert batched.contest is not None
    assert batched.contest.judges == (MODEL,)
    assert measure(config, adapter, tmp_path / "batch") == batched
    assert provider.ledger.total.requests == 2 * asked
    (folder,) = (tmp_path / "batch").iterdir()
    database = RunDatabase(folder / "run.db", read_only=True)
    assert database.ledger.spent() == pytest.approx(paid / 2)
    assert len(database.ledger.judgements(phase="evaluate")) >= asked
    database.close()


def test_killed_while_the_batch_is_under_way_it_writes_and_submits_nothing_again(
    config: RunConfig, adapter: Path, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def kill(seconds: float) -> None:
        raise Killed

    with pytest.raises((Killed, asyncio.CancelledError)):
        measure(config, adapter, tmp_path / "batch", sleep=kill)
    assert (provider.ledger.batches, provider.ledger.total.requests) == (1, 0)

    async def no_sample(*_: object) -> None:
        raise AssertionError("every entry was written before")

    with monkeypatch.context() as patch:
        patch.setattr("sparring.engine.embedded.generator.TorchGenerator.sample", no_sample)
        found = measure(config, adapter, tmp_path / "batch")
    assert (provider.ledger.batches, provider.ledger.files) == (1, 1)
    assert found == measure(config, adapter, tmp_path / "another")


def test_a_larger_budget_goes_on_in_the_same_folder(
    config: RunConfig, adapter: Path, provider: FakeProvider, tmp_path: Path
) -> None:
    poor, rich = (
        msgspec.structs.replace(config, remote=msgspec.structs.replace(config.remote, budget=budget)) for budget in (1e-6, 1.0)
    )
    with pytest.raises(BudgetError):
        measure(poor, adapter, tmp_path / "batch")
    assert provider.ledger.files == 0
    measure(rich, adapter, tmp_path / "batch")
    (folder,) = (tmp_path / "batch").iterdir()
    lock = take_lock(folder)
    with pytest.raises(RunError, match="another process is at work"):
        measure(rich, adapter, tmp_path / "batch")
    os.close(lock)
    measure(msgspec.structs.replace(rich, seed=5), adapter, tmp_path / "batch")
    assert len(list((tmp_path / "batch").iterdir())) == 2


def test_the_command_shows_how_far_the_batch_is(
    sparring: Run, short: list[str], adapter: Path, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Polling, "pause", lambda self, number: 0.0)
    output = tmp_path / "report.json"
    done = sparring("evaluate", "--adapter", adapter, *options_for(short, provider), "--batch", "--output", output)
    assert done.exit_code == 0, done.stderr
    (folder,) = (tmp_path / "report.batch").iterdir()
    assert f"batches are kept in {folder}: if this is interrupted, the same command goes on from there" in done.stderr
    count = provider.ledger.total.requests
    assert f"a batch of {count} calls to {MODEL}" in done.stderr
    assert f"batch completed: {count}/{count} calls" in done.stderr
    assert f"judged by {MODEL}" in done.stdout.lower()
    assert output.is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "claude:judge", "--batch-dir", "x"], "'claude:judge' has no Batch API here"),
        (["--judge", "embedded", "--batch-dir", "x"], "the embedded one is here"),
        (["--task", "dilemma", "--batch-dir", "x"], "--batch is for the judge of contests, and there are none"),
        (["--batch"], "say where, with --output or --batch-dir"),
    ],
)
def test_what_cannot_be_batched_is_one_line(
    sparring: Run, short: list[str], adapter: Path, provider: FakeProvider, options: list[str], message: str
) -> None:
    answer = sparring("evaluate", "--adapter", adapter, *options_for(short, provider), *options)
    assert answer.exit_code == 2
    (line,) = answer.stderr.splitlines()
    assert message in line
    assert provider.ledger.files == 0
