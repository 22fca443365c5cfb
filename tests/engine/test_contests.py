"""Settings with files of topics: read, checked, dealt, held out, and kept by a run that outlives them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparring.engine.config import load_run_config
from sparring.engine.contests import find_contest, find_family, keep_topics
from sparring.engine.deal import deal
from sparring.engine.errors import ConfigError
from sparring.engine.evaluation.topics import held_out_topics
from sparring.engine.settings import dump_config
from sparring.scenarios import registry
from sparring.scenarios.errors import ScenarioError

SIDES = 'pro = ["it is safe", "it is cheap", "it is fair"]\ncon = ["it is slow", "it is dull", "it is odd"]\n'
OWN = [f"Robots of kind{number} should vote in town{number * 7}" for number in range(200)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my debate.toml"
    path.write_text("".join(f'[[topics]]\ntext = "{text}"\n{SIDES}' for text in OWN))
    return path


def test_a_run_deals_and_holds_out_own_topics(file: Path) -> None:
    overrides = ['families=["debate"]', "scenarios_per_step=64", "games_per_scenario=2"]
    plain = load_run_config("demo", overrides=overrides)
    config = load_run_config("demo", overrides=[*overrides, f'contest_topics.debate="{file}"'])
    dealt = {one.scenario.public["motion"] for one in deal(config, 0)}
    assert len(dealt & set(OWN)) > 10
    assert len(dealt - set(OWN)) > 10
    assert not {one.scenario.public["motion"] for one in deal(plain, 0)} & set(OWN)
    held_out = {s.public["motion"] for s in held_out_topics(["debate"], 1000, topics=config.contest_topics)}
    assert len(held_out & set(OWN)) > 10
    assert not held_out & dealt
    assert held_out >= {s.public["motion"] for s in held_out_topics(["debate"], 1000)}


def test_settings_with_topics_are_written_and_read(file: Path, tmp_path: Path) -> None:
    config = load_run_config("demo", overrides=[f'contest_topics.debate="{file}"'])
    (tmp_path / "config.toml").write_text(dump_config(config))
    assert load_run_config(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("haggle", "", "contest_topics.haggle: haggle is no contest, and has no topics: choose from debate, "),
        ("chess", "", "contest_topics.chess: no family is called 'chess'"),
        ("debate", '[[topics]]\ntext = "a"\n', "my.toml: topic 1: missing required field pro"),
        ("comedy", f'[[topics]]\ntext = "{OWN[0]}"\n{SIDES}', "my.toml: topic 1: contains unknown field pro"),
    ],
)
def test_what_does_not_fit_is_an_error_of_the_settings(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_run_config("demo", overrides=[f'contest_topics.{name}="{path}"'])
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match=r"cannot read the topics in .*none.toml: No such file"):
        load_run_config("demo", overrides=[f'contest_topics.debate="{tmp_path / "none.toml"}"'])


def test_a_file_is_read_again_when_it_has_changed(file: Path) -> None:
    topics = {"debate": str(file)}
    first = find_contest("debate", topics)
    assert find_contest("debate", topics) is first
    file.write_text(f'[[topics]]\ntext = "{OWN[0]}"\n{SIDES}')
    os.utime(file, (1, 1))
    assert len(find_contest("debate", topics).all_topics) == len(find_contest("debate").all_topics) + 1
    assert find_family("haggle", topics) is registry.get("haggle")
    with pytest.raises(ScenarioError, match="haggle is no contest"):
        find_contest("haggle")


def test_a_run_keeps_a_copy(file: Path, tmp_path: Path) -> None:
    paths, files = keep_topics({"debate": str(file)}, tmp_path / "run")
    assert paths == {"debate": str(tmp_path / "run" / "topics-debate.toml")}
    assert files == {"topics-debate.toml": file.read_bytes()}
    assert keep_topics({}, tmp_path) == ({}, {})
