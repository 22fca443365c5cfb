"""The run's settings: the presets are sound, a dump comes back, contradictions say what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.engine.config import RunConfig, load_run_config, partner_specs
from sparring.engine.errors import ConfigError
from sparring.engine.settings import dump_config, load_config, presets
from sparring.rollout.errors import RolloutError
from sparring.scenarios import registry


@pytest.mark.parametrize("name", presets())
def test_presets_are_sound_and_name_themselves(name: str, tmp_path: Path) -> None:
    config = load_run_config(name)
    assert config.preset == name
    (tmp_path / "config.toml").write_text(dump_config(config), encoding="utf-8")
    assert load_run_config(tmp_path / "config.toml") == config


def test_demo_is_there() -> None:
    assert "demo" in presets()
    assert load_run_config("demo", overrides=["iterations=3"]).iterations == 3


def test_the_dump_is_complete() -> None:
    text = dump_config(load_run_config(overrides=["time_limit=none"]))
    for line in ('model = "tiny"', 'time_limit = "none"', "[sampling]", "[learner]", "[evaluation]", "games_per_scenario = 8"):
        assert line in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["families=[]"], "families is empty: name some of haggle"),
        (['families=["chess"]'], "families: there is no 'chess': choose from haggle"),
        (['families=["haggle", "haggle"]'], "families names one twice"),
        (["partners=[]"], "partners: nobody sits across"),
        (['partners=["script:nobody"]'], "partners: haggle has no script 'nobody': choose from"),
        (['partners=["gpt"]'], "partners: no player is called 'gpt'"),
        (['partners=["unseen"]', 'families=["haggle"]'], "partners: haggle's script:linear is kept for evaluation"),
        (['partners=["script:linear"]', 'families=["haggle"]'], "partners: haggle's script:linear is kept for evaluation"),
        (['evaluation.partners=["x"]'], "evaluation.partners: no player is called 'x'"),
        (
            ['families=["debate"]', 'judging.judges=[{model = "gpt-4o-minni"}]'],
            "judging.judges: no judge is called 'gpt-4o-minni'",
        ),
        (['families=["debate"]', "judging.evaluation_judge=base"], "judging.evaluation_judge: no judge is called 'base'"),
        (['families=["debate"]', "judging.reasoning_judge=x"], "judging.reasoning_judge: no judge is called 'x'"),
        (['families=["debate"]', "judging.comparison=nobody"], "judging.comparison: no player is called 'nobody'"),
        (['families=["debate"]', "judging.comparison=script:nobody"], "judging.comparison: debate has no script 'nobody'"),
        (['families=["debate"]', 'judging.judges=[{criteria = ["x"]}]'], "have no criterion 'x': choose from"),
        (
            ['families=["debate", "comedy"]', 'judging.judges=[{criteria = ["funny"]}]'],
            "judging.judges: nobody judges debate: give a judge a criterion of",
        ),
        (["evaluation.split=train"], 'evaluation.split = "train" measures on training scenarios'),
        (["sampling.temperature=0"], "sampling.temperature must be above 0"),
        (["sampling.top_p=0"], "sampling.top_p = 0.* is no share"),
        (["sampling.max_tokens=4096"], "sampling.max_tokens = 4096 must be at least 1 and below sampling.context = 2048"),
        (
            ["learner.schedule=linear", "learner.total_steps=5", "iterations=9"],
            "learner.total_steps = 5 ends the linear.*the run's 9 ",
        ),
        (["learner.learning_rate=-1"], "settings: learner wants learning_rate above 0"),
        (["learner.grpo.clip_hi=1"], "there is no setting learner.grpo.clip_hi: did you mean learner.grpo.clip_high?"),
        (["games_per_scenario=1"], "games_per_scenario: expected int >= 2"),
        (["game_per_scenario=4"], "did you mean games_per_scenario?"),
        (["temperature=0.5"], "did you mean sampling.temperature?"),
    ],
)
def test_contradictions_say_what_to_change(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run_config(overrides=overrides)


def test_too_few_evaluation_scenarios_leave_families_out() -> None:
    config = load_config(RunConfig, overrides=["evaluation.scenarios=0"])
    config.check()
    if len(config.families) > 1:
        with pytest.raises(ConfigError, match="leaves families out: set it to"):
            load_run_config(overrides=["evaluation.scenarios=1"])


def test_partner_specs_expand_by_family() -> None:
    for name in registry.names():
        family = registry.get(name)
        seen = partner_specs(name, ("scripts",))
        assert seen == tuple(f"script:{partner}" for partner in family.partners)
        assert partner_specs(name, ("scripts", "unseen", "policy", "policy")) == (
            *seen,
            f"script:{family.unseen_partner}",
            "policy",
        )
    with pytest.raises(RolloutError, match="nobody sits across"):
        partner_specs("haggle", ())
