"""The whole loop with models elsewhere, against a provider on a real socket that faults.

Games are scored or void, the ledger is the provider's own, the budget holds, and nothing is paid twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sparring.bench.fake_provider import FakeProvider, Faults, Latency
from sparring.bench.fake_provider import Price as Billed
from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.errors import ConfigError
from sparring.engine.run.folder import RunFolder
from sparring.engine.run.summary import Summary
from sparring.engine.train import _Loop, resume, train
from sparring.learner.adapter import load_adapter
from sparring.rollout.errors import BudgetError, RemoteError
from sparring.rollout.remote.call import Result
from sparring.rollout.remote.config import Endpoint, Price, RemoteConfig
from sparring.rollout.remote.models import resolve
from sparring.scenarios.outcome import Reason, Verdict

KEY = "sk-very-secret-0123456789"
PRICES = {"partner": Billed(input=100.0, output=200.0)}
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", KEY)


@pytest.fixture
def faulty() -> Iterator[FakeProvider]:
    with FakeProvider(Faults(rate=0.3), Latency(p50=0.002, p99=0.02), prices=PRICES, reply="negotiator").running() as provider:
        yield provider


def settings(provider: FakeProvider, *more: str) -> list[str]:
    endpoint = f'{{base_url = "{provider.url}", api_key_env = "FAKE_KEY"}}'
    return [
        *('families=["haggle"]', "iterations=3", "scenarios_per_step=3", "games_per_scenario=4", "concurrency=16"),
        *("sampling.max_tokens=12", "sampling.context=512", "evaluation.scenarios=0", "checkpoint_every=1"),
        *(
            'partners=["mine:partner"]',
            f"remote.endpoints.mine={endpoint}",
            "remote.prices={partner={input=100.0, output=200.0}}",
        ),
        *("remote.max_tokens=24", "remote.timeout=1.5", "remote.deadline=10.0", "remote.backoff=0.002", "remote.max_retries=3"),
        *("remote.breaker_failures=1000", *more),
    ]


def config(provider: FakeProvider, *more: str) -> RunConfig:
    return load_run_config(overrides=settings(provider, *more))


def adapter_of(run: Path) -> str:
    return load_adapter(run / "adapter").fingerprint


def check_run(folder: Path, provider: FakeProvider) -> None:
    """No loss for an infrastructure fault, the ledger is the provider's own count, and no secret is anywhere."""
    with RunFolder.read(folder) as run:
        games = list(run.database.games())
        attempts = run.database.ledger.attempts()
    for game in games:
        for outcome in game.outcomes.values():
            failed = outcome.reason is Reason.PLAYER_FAILED
            assert failed == (game.error is not None)
            assert outcome.verdict is Verdict.VOID if failed else True
    total = provider.ledger.total
    assert len(attempts) == total.requests
    assert sum(attempt.result is Result.OK for attempt in attempts) >= total.requests // 2
    assert sum(attempt.cost for attempt in attempts) >= total.dollars - 1e-9
    for path in folder.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_with_faults_every_game_ends_and_the_ledger_adds_up(faulty: FakeProvider, tmp_path: Path) -> None:
    summary = train(config(faulty), tmp_path / "run", quiet=True)
    check_run(tmp_path / "run", faulty)
    assert summary.steps == 3
    assert summary.calls is not None
    assert summary.calls.attempts == faulty.ledger.total.requests
    assert summary.calls.failed_attempts > 0
    with RunFolder.read(tmp_path / "run") as run:
        assert [run.database.count(phase="train", step=step) for step in range(3)] == [12, 12, 12]
        metrics = run.database.metrics()
        assert metrics[3]["remote/attempts"] == summary.calls.attempts
        assert all(0 <= metrics[step]["play/idle"] <= 1 for step in metrics)


def test_a_budget_ends_the_run_below_it_with_a_checkpoint_and_more_of_it_goes_on(faulty: FakeProvider, tmp_path: Path) -> None:
    """Enough for some games, not for all three steps."""
    folder = tmp_path / "run"
    with pytest.raises(BudgetError, match=r"the budget of \$1.60 is spent: .* a run goes on with --resume --budget"):
        train(config(faulty, "remote.budget=1.6"), folder, quiet=True)
    with RunFolder.read(folder) as run:
        assert 0 < run.database.ledger.spent() <= 1.6
        checkpoint = run.latest_checkpoint()
        assert checkpoint is not None
        played = run.database.count()
    assert faulty.ledger.total.dollars <= 1.6
    check_run(folder, faulty)
    summary = resume(folder, quiet=True, budget=100.0)
    assert summary.steps == 3
    check_run(folder, faulty)
    with RunFolder.read(folder) as run:
        assert run.database.count() == 36 > played


def test_recorded_calls_replay_bit_for_bit_without_a_provider_or_a_key(
    faulty: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cassette = f'remote.cassette="{tmp_path / "calls.jsonl"}"'
    first = train(config(faulty, cassette, 'remote.cassette_mode="record"'), tmp_path / "first", quiet=True)
    asked = faulty.ledger.total.requests
    monkeypatch.delenv("FAKE_KEY")
    alone = config(faulty, cassette, 'remote.cassette_mode="replay"')
    alone = msgspec.structs.replace(alone, remote=msgspec.structs.replace(alone.remote, endpoints={}, prices={}))
    again = train(alone, tmp_path / "again", quiet=True)
    assert again.adapter == first.adapter
    assert faulty.ledger.total.requests == asked
    assert again.calls is None
    assert KEY not in (tmp_path / "calls.jsonl").read_text()
    with RunFolder.read(tmp_path / "first") as one, RunFolder.read(tmp_path / "again") as two:
        assert {g.id: (g.turns, g.outcomes) for g in one.database.games()} == {
            g.id: (g.turns, g.outcomes) for g in two.database.games()
        }


def test_games_whose_time_ran_out_are_void_in_the_replay_too(tmp_path: Path) -> None:
    """The replay answers at once, and went on with games for which the recording held no answer."""
    cassette = f'remote.cassette="{tmp_path / "calls.jsonl"}"'
    with FakeProvider(latency=Latency(p50=0.1, p99=0.4), prices=PRICES, reply="negotiator").running() as provider:
        recorded = config(provider, cassette, 'remote.cassette_mode="record"', "time_limit=0.3", "iterations=2")
        first = train(recorded, tmp_path / "first", quiet=True)
        replayed = config(provider, cassette, 'remote.cassette_mode="replay"', 'time_limit="none"', "iterations=2")
    again = train(replayed, tmp_path / "again", quiet=True)
    assert again.adapter == first.adapter
    with RunFolder.read(tmp_path / "first") as one, RunFolder.read(tmp_path / "again") as two:
        assert any(game.error is not None for game in one.database.games())
        assert {g.id: g.outcomes for g in one.database.games()} == {g.id: g.outcomes for g in two.database.games()}


def test_a_missing_key_ends_the_run_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RemoteError, match="OPENAI_API_KEY"):
        train(load_run_config("demo", overrides=['partners=["gpt-4o"]']), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_key_in_the_place_of_its_variable_is_refused_unquoted(faulty: FakeProvider, tmp_path: Path) -> None:
    endpoint = f'remote.endpoints.mine={{base_url="{faulty.url}", api_key_env="{KEY}"}}'
    with pytest.raises(RemoteError, match="is no variable's name") as caught:
        train(config(faulty, endpoint), tmp_path / "run", quiet=True)
    assert KEY not in str(caught.value)


def test_an_endpoint_cannot_take_a_players_name(faulty: FakeProvider) -> None:
    with pytest.raises(ConfigError, match="player specs that begin with 'script' mean something else"):
        config(faulty, f'remote.endpoints.script={{base_url="{faulty.url}"}}')


def test_games_ahead_of_the_learner_are_tagged_and_bounded(faulty: FakeProvider, tmp_path: Path) -> None:
    summary = train(config(faulty, "steps_ahead=1", "iterations=5", "concurrency=8"), tmp_path / "run", quiet=True)
    assert summary.steps == 5
    check_run(tmp_path / "run", faulty)
    with RunFolder.read(tmp_path / "run") as run:
        metrics = run.database.metrics()
        ages = [metrics[step].get("play/staleness_max", 0.0) for step in sorted(metrics)]
    assert max(ages) == 1.0
    assert all(metrics[step]["learn/tis_mean"] > 0 for step in metrics)


def test_a_killed_run_loses_no_game_and_pays_no_answer_twice(tmp_path: Path) -> None:
    """Killed by SIGKILL in the midst of a step. What was in flight at that instant is asked again; nothing else is."""
    folder = tmp_path / "run"
    with FakeProvider(latency=Latency(p50=0.01, p99=0.05), prices=PRICES, reply="negotiator").running() as provider:
        sets = [part for one in settings(provider, "checkpoint_every=100") for part in ("--set", one)]
        line = [sys.executable, "-m", "sparring.engine.cli.main", "train", "--output-dir", str(folder), "--quiet", *sets]
        process = subprocess.Popen(line, env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "FAKE_KEY": KEY})
        while provider.ledger.total.requests < 45 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        with RunFolder.read(folder) as run:
            before = {(step, g.id): g.turns for step in range(3) for g in run.database.games(phase="train", step=step)}
            answered = {a.digest for a in run.database.ledger.attempts() if a.reply is not None}
            attempts = run.database.ledger.attempts()
        asked = provider.ledger.total.requests
        assert 0 <= len(attempts) - asked <= 16  # those that were announced and had not reached the server
        assert sum(attempt.cost for attempt in attempts) >= provider.ledger.total.dollars - 1e-9
        assert 0 < len(before) < 36
        assert asked - 16 <= len(answered) <= asked
        assert resume(folder, quiet=True).steps == 3
        with RunFolder.read(folder) as run:
            after = {(step, g.id): g.turns for step in range(3) for g in run.database.games(phase="train", step=step)}
            digests = [a.digest for a in run.database.ledger.attempts() if a.reply is not None]
        assert len(after) == 36
        assert {key: after[key] for key in before} == before
        assert len(digests) == len(set(digests))
        assert provider.ledger.total.requests - asked == len(digests) - len(answered)


def test_a_debate_is_judged_by_a_model_and_compared_with_one(tmp_path: Path) -> None:
    with FakeProvider(Faults(rate=0.2), Latency(p50=0.001, p99=0.01), prices=PRICES).running() as provider:
        debate = config(
            provider,
            *('families=["debate"]', "sampling.max_tokens=60", "iterations=2", "evaluation.scenarios=6", "evaluation.games=1"),
            *('judging.judges=[{model="mine:partner"}]', 'judging.comparison="mine:partner"', "remote.max_tokens=64"),
            *("judging.pairing=regular", "judging.degree=2", "model=tiny-talk"),
        )
        summary: Summary = train(debate, tmp_path / "run", quiet=True)
        check_run(tmp_path / "run", provider)
    assert summary.contest is not None
    assert summary.contest.comparison == "mine:partner"
    with RunFolder.read(tmp_path / "run") as run:
        purposes = {attempt.purpose for attempt in run.database.ledger.attempts()}
        assert {"judge", "compare"} <= purposes
        judged = run.database.ledger.judgements(phase="train")
        assert {j.judge for j in judged} == {"mine:partner"}
        assert run.database.recheck().discrepancies == ()
        assert "judge/flips" in run.database.metrics()[2]
    assert msgspec.json.decode((tmp_path / "run/summary.json").read_bytes())["contest"]["comparison"] == "mine:partner"


def test_an_evaluation_that_fails_takes_nothing_from_a_trained_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge of evaluation that could not be called left no page, and no word of the adapter."""

    async def fails(self: _Loop, adapter: str) -> None:
        raise RemoteError("the judge answered 404")

    monkeypatch.setattr(_Loop, "appraise_contests", fails)
    debate = load_run_config(
        "demo-debate", overrides=["iterations=1", "scenarios_per_step=2", "games_per_scenario=2", "sampling.max_tokens=40"]
    )
    with pytest.raises(RemoteError, match=r"the judge answered 404. Training is done: the adapter is in .*adapter; --resume"):
        train(debate, tmp_path / "run", quiet=True)
    assert load_adapter(tmp_path / "run/adapter").step == 1
    assert (tmp_path / "run/report.html").is_file()
    monkeypatch.undo()
    assert resume(tmp_path / "run", quiet=True).steps == 1


def test_an_endpoint_that_has_a_providers_name_speaks_its_format() -> None:
    """A base_url alone turned Anthropic's endpoint into one of OpenAI's format, and the run ended in a 404 after its training."""
    remote = RemoteConfig(endpoints={"anthropic": Endpoint(base_url="http://127.0.0.1:1"), "mine": Endpoint(base_url="http://h")})
    prices = msgspec.structs.replace(remote, prices={"m": Price(input=1.0, output=1.0)})
    assert resolve("anthropic:m", prices).kind == "anthropic"
    assert resolve("mine:m", prices).kind == "openai"
