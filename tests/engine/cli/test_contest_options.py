"""Options about tasks, judges and models elsewhere: what they mean as settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.engine.cli.options import contest_settings, families_of, load_settings, preset_for
from sparring.engine.config import RunConfig
from sparring.engine.errors import ConfigError
from sparring.rollout.judging.config import JudgeSpec


def settings(**options: Any) -> RunConfig:
    task = options.get("task")
    return load_settings(None, None, None, contest_settings(**options), default=preset_for(task))


def test_the_command_of_the_documentation() -> None:
    config = settings(task="debate", judge=["gpt-4o-mini"], compare="gpt-4o-mini", budget=5.0)
    assert config.families == ("debate",)
    assert config.judging.judges == (JudgeSpec(model="gpt-4o-mini"),)
    assert (config.judging.comparison, config.judging.evaluation_judge) == ("gpt-4o-mini", "embedded")
    assert config.remote.budget == 5.0
    assert config.preset == "demo-debate"


def test_several_judges_are_a_panel_and_several_tasks_a_mixture() -> None:
    config = settings(task="debate,haggle", judge=["embedded", "anthropic:claude-haiku-4-5"], partner=["gpt-4o", "scripts"])
    assert config.families == ("debate", "haggle")
    assert [judge.model for judge in config.judging.judges] == ["embedded", "anthropic:claude-haiku-4-5"]
    assert config.partners == ("gpt-4o", "scripts")


def test_games_stand_for_all_four_and_leave_the_preset() -> None:
    assert families_of("games") == ["haggle", "split", "dilemma", "auction"]
    assert preset_for("games") == preset_for(None) == "demo"
    assert settings().families == ("haggle", "split", "dilemma", "auction")


@pytest.mark.parametrize("mode", ["record", "replay"])
def test_a_cassette_is_recorded_or_replayed(mode: str) -> None:
    config = settings(task="haggle", **{mode: Path("calls.jsonl")})
    assert (config.remote.cassette, config.remote.cassette_mode) == ("calls.jsonl", mode)


def test_a_cassette_is_not_both() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        settings(record=Path("a"), replay=Path("b"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"task": "debats"}, "there is no 'debats': choose from .*debate"),
        ({"task": "haggle", "partner": ["gpt5o"]}, "no player is called 'gpt5o'"),
        ({"task": "debate", "judge": ["embedded", "embedded"]}, "names 'embedded' twice"),
    ],
)
def test_what_nobody_knows_is_said_before_anything_begins(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        settings(**options)
