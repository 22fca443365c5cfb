"""`sparring scenarios author`, and training on what it wrote with --topics."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from typer.testing import Result

from sparring.bench.fake_provider import Ask, FakeProvider
from sparring.bench.fake_provider import Price as Listed
from sparring.engine.run.database import RunDatabase

Run = Callable[..., Result]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    numbers = count()

    def reply(ask: Ask) -> str:
        sides = {side: [f"{side} {word} counts" for word in ("one", "two", "three")] for side in ("pro", "con")}
        topics = [{"text": f"Robots{number} should rule planet{number} \x1b[31m"[: None if number % 5 == 0 else -6], **sides}
                  for number in (next(numbers) for _ in range(10))]  # fmt: skip
        return json.dumps({"topics": topics})

    with FakeProvider(reply=reply, prices={"author": Listed(input=1.0, output=4.0)}).running() as provider:
        yield provider


@pytest.fixture
def elsewhere(provider: FakeProvider) -> list[str]:
    settings = {
        "remote.endpoints.fake.base_url": provider.url,
        "remote.prices": "{author = {input = 1.0, output = 4.0, batch = 0.5}}",
    }
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def test_authored_topics_are_trained_on(
    sparring: Run, short: list[str], elsewhere: list[str], provider: FakeProvider, tmp_path: Path
) -> None:
    output, run = tmp_path / "my-debate.toml", tmp_path / "run"
    arguments = ["scenarios", "author", "debate", "--count", 30, "--model", "fake:author", "--output", output, *elsewhere]
    done = sparring(*arguments)
    assert done.exit_code == 0, done.stderr
    assert f"{output}: 30 of 30 topics (" in done.stdout
    dollars = f"{provider.ledger.total.requests} calls, ${provider.ledger.total.dollars:.4f}"
    assert dollars in done.stdout
    assert "as it cannot be played: text: " in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "round 1: " in done.stderr
    assert sparring(*arguments).stderr == f"sparring: error: {output} exists: give another --output, or move it away\n"

    options = [*short, "--task", "debate", "--preset", "demo", "--set", "evaluation.scenarios=0", "--set", "scenarios_per_step=8"]
    done = sparring("train", "--output-dir", run, *options, "--topics", output, "--quiet")
    assert done.exit_code == 0, done.stderr
    written = {topic["text"] for topic in tomllib.loads(output.read_text())["topics"]}
    database = RunDatabase(run / "run.db", read_only=True)
    played = {game.scenario.public["motion"] for game in database.games()}
    database.close()
    assert played & written
    assert played - written
    assert (run / "topics-debate.toml").read_bytes() == output.read_bytes()
    output.unlink()  # the run has its own
    done = sparring("train", "--output-dir", run, "--resume", "--quiet")
    assert done.exit_code == 0, done.stderr


def test_as_json(sparring: Run, elsewhere: list[str], tmp_path: Path) -> None:
    arguments = ["scenarios", "author", "debate", "--count", 5, "--model", "fake:author", "--output", tmp_path / "a.toml"]
    done = sparring(*arguments, *elsewhere, "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["kept"], found["wanted"], found["contest"], found["model"]) == (5, 5, "debate", "fake:author")
    assert found["dropped"] == {"it cannot be played": 2, "there were enough": 3}
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topics", "none.toml"], "--topics none.toml: for which contest? Name one with --task, or write CONTEST=FILE"),
        (["--topics", "none.toml", "--task", "debate,comedy"], "for which contest?"),
        (["--topics", "none.toml", "--task", "debate"], "contest_topics.debate: cannot read the topics in none.toml"),
        (["--topics", "comedy=none.toml", "--task", "debate"], "contest_topics.comedy: cannot read the topics in none.toml"),
    ],
)
def test_topics_that_cannot_be_used_are_one_line(
    sparring: Run, short: list[str], tmp_path: Path, options: list[str], message: str
) -> None:
    answer = sparring("train", "--output-dir", tmp_path / "run", *short, *options)
    assert answer.exit_code == 2
    (line,) = answer.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_an_unpriced_model_is_one_line(sparring: Run, tmp_path: Path) -> None:
    answer = sparring("scenarios", "author", "comedy", "--model", "openai:unheard-of", "--output", tmp_path / "a.toml")
    assert answer.exit_code == 2
    assert "no price is known for 'openai:unheard-of'" in answer.stderr
