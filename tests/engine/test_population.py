"""Several policies side by side on one base model: each learns on its own, they meet in tournaments, and a run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.deal import deal
from sparring.engine.engine import Engine
from sparring.engine.errors import ConfigError, Interrupted
from sparring.engine.evaluation.decline import HeldOut
from sparring.engine.evaluation.statistics import Wins
from sparring.engine.held_out import HeldOutLog
from sparring.engine.members import open_members, rate
from sparring.engine.run.folder import RunFolder
from sparring.engine.train import _Loop, resume, train
from sparring.learner.adapter import load_adapter
from sparring.rollout.errors import BudgetError
from sparring.rollout.player_spec import parse_player

SIZES = ["iterations=2", "scenarios_per_step=2", "games_per_scenario=3", "concurrency=16", "checkpoint_every=1"]
SIZES += ["sampling.max_tokens=16", "sampling.context=512", "evaluation.scenarios=0", "population=2"]


def config(*more: str) -> RunConfig:
    return load_run_config(overrides=[*SIZES, *more])


def fingerprints(run: Path) -> dict[str, str]:
    return {path.name: load_adapter(path).fingerprint for path in sorted((run / "adapters").iterdir())}


def test_members_play_the_same_scenarios_under_seeds_of_their_own() -> None:
    deals = deal(config("families=['haggle']"), 3)
    one, two = (
        [d for d in deals if d.member == "policy-1"],
        [d for d in deals if d.member == "policy-2"],
    )
    assert len(one) == len(two) == 6
    assert [d.scenario for d in one] == [d.scenario for d in two]
    assert [d.players for d in one] == [d.players for d in two]
    assert not {d.seed for d in one} & {d.seed for d in two}
    assert {d.id for d in two} == {f"{d.id.partition('@')[0]}@policy-2" for d in one}
    alone = deal(config("families=['haggle']", "population=1"), 3)
    assert [d.id for d in alone] == [d.id.partition("@")[0] for d in one]


def test_members_sit_across_each_other() -> None:
    deals = deal(config("families=['haggle']", "partners=['members']", "population=3"), 0)
    for one in deals:
        (partner,) = (spec for spec in one.players.values() if spec != "policy")
        assert parse_player(partner).kind == "policy"
        assert parse_player(partner).name in {"policy-1", "policy-2", "policy-3"} - {one.member}


def test_members_need_others() -> None:
    with pytest.raises(ConfigError, match='"members" needs a population of at least 2'):
        config("population=1", "partners=['members']")


@pytest.mark.parametrize("families", ["['haggle']", "['debate']"])
def test_each_member_learns_and_a_resumed_run_is_the_same(families: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(f"families={families}", *(["partners=['members']"] if "haggle" in families else []))
    summary = train(settings, tmp_path / "straight", quiet=True)
    straight = fingerprints(tmp_path / "straight")
    assert list(straight) == ["policy-1", "policy-2"]
    assert len(set(straight.values())) == 2
    assert summary.population.keys() == straight.keys()
    leader = max(summary.population, key=summary.population.__getitem__)
    assert summary.adapter == straight[leader] == load_adapter(tmp_path / "straight/adapter").fingerprint
    with RunFolder.read(tmp_path / "straight") as run:
        assert [run.database.count(phase="train", step=step) for step in range(2)] == [12, 12]
        metrics = run.database.metrics()[2]
        assert {"learn/loss/policy-1", "learn/loss/policy-2", "population/rating/policy-1"} <= metrics.keys()
        if "debate" in families:
            met = {(j.first.partition("@")[2], j.second.partition("@")[2]) for j in run.database.ledger.judgements(phase="train")}
            assert met >= {("policy-1", "policy-2"), ("policy-2", "policy-1")}
    monkeypatch.setattr(_Loop, "step", _stops_at_1(_Loop.step))
    with pytest.raises(Interrupted):
        train(settings, tmp_path / "broken", quiet=True)
    monkeypatch.undo()
    assert resume(tmp_path / "broken", quiet=True).population == summary.population
    assert fingerprints(tmp_path / "broken") == straight


def _stops_at_1(step: Callable[..., object]) -> Callable[..., object]:
    async def stopping(self: _Loop, *given: object) -> None:
        if self.steps == 1:
            raise KeyboardInterrupt
        await step(self, *given)  # type: ignore[misc]

    return stopping


def test_ratings_follow_scores() -> None:
    with Engine.open(config("families=['haggle']")) as engine:
        one, two = open_members(engine)
        assert one.learner.adapter().fingerprint != two.learner.adapter().fingerprint
        rate([one, two], {"policy-1": [], "policy-2": []})
        assert (one.rating, two.rating) == (0.5, 0.5)


def test_a_run_that_declines_on_held_out_topics_stops_and_ends_with_its_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measured history is put in place of evaluations: it falls after the first."""
    rates = iter([0.9, 0.2, 0.2, 0.2])

    async def look(self: HeldOutLog, engine: Engine, member: object, step: int, *, quiet: bool) -> dict[str, float]:
        share = next(rates)
        self.history.append(HeldOut(step=step, topics={str(topic): Wins(10 * share, 10) for topic in range(20)}))
        if self.verdict.best_step == step:
            self._run.publish("best", member.learner.adapter().files())  # type: ignore[attr-defined]
        self._run.write("held_out.json", json.dumps([]).encode())
        return {"evaluate/win_rate": share}

    monkeypatch.setattr(HeldOutLog, "look", look)
    settings = config(
        *("families=['debate']", "population=1", "iterations=9", "evaluation.every=1"),
        *("evaluation.scenarios=2", "evaluation.games=1", "judging.controls=0"),
    )
    summary = train(settings, tmp_path / "run", quiet=True)
    assert summary.steps == 3
    assert "from the 90.0% of step 1" in summary.stopped
    assert summary.adapter == load_adapter(tmp_path / "run/best").fingerprint
    assert summary.adapter == load_adapter(tmp_path / "run/adapter").fingerprint
    assert load_adapter(tmp_path / "run/best").step == 1


def test_a_budget_that_ends_in_the_last_evaluation_leaves_the_best_adapter_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint that was written on the way out put the last policy in the place of the best one."""

    def declined(self: HeldOutLog) -> bool:
        return self.best_path.is_dir()

    async def look(self: HeldOutLog, engine: Engine, member: object, step: int, *, quiet: bool) -> dict[str, float]:
        if step == 2:
            self._run.publish("best", first)
        return {}

    async def spent(self: _Loop, adapter: str) -> None:
        raise BudgetError("spent")

    settings = config("families=['debate']", "population=1", "iterations=9", "evaluation.every=1", "evaluation.scenarios=2")
    with Engine.open(settings) as engine:
        first = engine.learner().adapter().files()
    monkeypatch.setattr(HeldOutLog, "look", look)
    monkeypatch.setattr(HeldOutLog, "declined", property(declined))
    monkeypatch.setattr(_Loop, "appraise_contests", spent)
    with pytest.raises(BudgetError, match=r"spent\. Training is done"):
        train(settings, tmp_path / "run", quiet=True)
    assert load_adapter(tmp_path / "run/adapter").fingerprint == load_adapter(tmp_path / "run/best").fingerprint
    assert load_adapter(tmp_path / "run/adapter").step == 0
