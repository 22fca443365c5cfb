"""`sparring evaluate`: an adapter of a run with that run's settings, as many games as asked, the report of the contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def adapter(sparring: Run, short: list[str], tmp_path: Path) -> Path:
    done = sparring("train", "--output-dir", tmp_path / "run", *short, "--quiet")
    assert done.exit_code == 0, done.stderr
    return tmp_path / "run" / "adapter"


def test_an_adapter_of_a_run_is_measured_as_the_run_was(sparring: Run, adapter: Path) -> None:
    summary = json.loads((adapter.parent / "summary.json").read_bytes())
    done = sparring("evaluate", "--adapter", adapter, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["evaluation"] == summary["evaluation"]
    assert found["adapter"] == summary["adapter"]
    assert f"with the settings of {adapter.parent / 'config.toml'}" in done.stderr


def test_games_are_as_many_as_asked_and_written(sparring: Run, adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "report.json"
    options = ["--games", 11, "--no-shuffled", "--split", "range", "--partners", "unseen", "--quiet"]
    done = sparring("evaluate", "--adapter", adapter, *options, "--output", output)
    assert done.exit_code == 0, done.stderr
    evaluation = json.loads(output.read_bytes())["evaluation"]
    assert evaluation["scenarios"] == 6
    assert evaluation["baseline"]["games"] == evaluation["trained"]["games"] == 12
    assert list(evaluation["trained"]["partners"]) == ["dilemma/script:grim"]
    assert "shuffled" not in evaluation
    assert "6 held-out scenarios, every seat, 12 games each" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--games", 4, "--scenarios", 4], "--games and --scenarios both say how much to play"),
        (["--split", "train"], 'evaluation.split = "train" measures on training scenarios'),
        (["--partners", "script:nobody"], "evaluation.partners: dilemma has no script 'nobody'"),
    ],
)
def test_wrong_input_is_one_line(sparring: Run, short: list[str], tmp_path: Path, options: list[object], message: str) -> None:
    answer = sparring("evaluate", "--adapter", tmp_path / "none", *short, *options)
    assert answer.exit_code == 2
    (line,) = answer.stderr.splitlines()
    assert message in line


def test_an_adapter_that_is_not_there(sparring: Run, short: list[str], tmp_path: Path) -> None:
    answer = sparring("evaluate", "--adapter", tmp_path / "none", *short)
    assert answer.exit_code == 2
    assert f"no adapter in {tmp_path / 'none'}" in answer.stderr


# Contests


@pytest.fixture
def debater(sparring: Run, short: list[str], tmp_path: Path) -> Path:
    """An adapter of a run of debates, hardly trained."""
    options = ["--task", "debate", "--preset", "demo", "--set", "evaluation.scenarios=0", "--quiet"]
    done = sparring("train", "--output-dir", tmp_path / "run", *short, *options)
    assert done.exit_code == 0, done.stderr
    return tmp_path / "run" / "adapter"


def test_a_contest_is_measured_against_the_base_models_own_entries(sparring: Run, debater: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    options = ["--games", 12, "--quiet", "--output", output]
    done = sparring("evaluate", "--adapter", debater, *options)
    assert done.exit_code == 0, done.stderr
    found = json.loads(output.read_bytes())
    contest = found["contest"]
    assert (found["evaluation"], contest["comparison"], contest["judges"]) == (None, "base", ["embedded-rubric"])
    trained = contest["trained"]
    assert trained["win"] + trained["tie"] + trained["loss"] + trained["dropped"] == 12
    assert contest["headline"]["win_rate"] == pytest.approx(trained["win_rate"] - 0.5)
    assert "entries against the base model's own: 6 held-out topics, every side, 1 each" in done.stdout
    assert f"{trained['win']}/{trained['tie']}/{trained['loss']}" in done.stdout
    assert "Judged by embedded-rubric: 0.0% of pairs turn with the order" in done.stdout


def test_a_comparison_that_cannot_be_called_is_one_line(sparring: Run, debater: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    answer = sparring("evaluate", "--adapter", debater, "--compare", "gpt-4o-mini", "--quiet")
    assert answer.exit_code == 2
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("sparring: error")]
    assert "OPENAI_API_KEY" in line
