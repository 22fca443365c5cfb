"""The loop on the tiny model: what it writes, and that a resumed run makes the same updates."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import msgspec
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sparring.engine.collect import collect, learn
from sparring.engine.config import RunConfig, load_run_config
from sparring.engine.errors import ConfigError, Interrupted, RunError
from sparring.engine.run.folder import RunFolder
from sparring.engine.tiny.build import TinyConfig, build, save
from sparring.engine.tiny.shipped import TINY_FOLDER
from sparring.engine.train import _Loop, resume, train
from sparring.learner.adapter import load_adapter
from sparring.rollout.errors import TrainingFileError


@pytest.fixture
def config() -> RunConfig:
    settings = ["iterations=3", "scenarios_per_step=4", "games_per_scenario=4", "concurrency=16", "checkpoint_every=2"]
    settings += ["sampling.max_tokens=16", "sampling.context=512", "evaluation.scenarios=4", "evaluation.games=1"]
    return load_run_config(overrides=[*settings, "families=['auction', 'haggle']"])


def adapter_of(run: Path) -> str:
    return load_adapter(run / "adapter").fingerprint


def test_a_run_leaves_what_other_programs_read(config: RunConfig, tmp_path: Path) -> None:
    summary = train(config, tmp_path / "run", quiet=True)
    assert msgspec.json.decode((tmp_path / "run/summary.json").read_bytes()) == msgspec.to_builtins(summary)
    assert load_run_config(tmp_path / "run/config.toml") == config
    with RunFolder.read(tmp_path / "run") as run:
        assert [run.database.count(phase="train", step=step) for step in range(3)] == [16, 16, 16]
        metrics = run.database.metrics()
        assert sorted(metrics) == [1, 2, 3]
        assert all(metrics[step]["play/games"] == 16 for step in metrics)
        assert run.database.recheck().discrepancies == ()
    assert summary.steps == 3
    assert summary.adapter == adapter_of(tmp_path / "run")
    assert summary.evaluation is not None
    assert summary.evaluation.scenarios == 4
    assert summary.evaluation.baseline.games == summary.evaluation.trained.games
    assert summary.throughput.games_per_hour > 0


def test_a_summary_has_the_shape_that_others_rely_on(config: RunConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run", quiet=True)
    summary = json.loads((tmp_path / "run/summary.json").read_bytes())
    assert {"preset", "seed", "model", "evaluation", "throughput", "seconds"} <= summary.keys()
    for side in ("baseline", "trained"):
        figures = summary["evaluation"][side]
        names = {"win", "draw", "loss", "invalid", "void", "games", "win_rate", "mean_score"}
        assert names | {"families"} <= figures.keys()
        assert set(figures["families"]) == {"auction", "haggle"}
        assert all(names <= own.keys() for own in figures["families"].values())
        assert figures["win"] + figures["draw"] + figures["loss"] + figures["void"] == figures["games"]
    evaluation = summary["evaluation"]
    assert evaluation["baseline"]["void"] == evaluation["trained"]["void"] == 0
    gain = evaluation["trained"]["win_rate"] - evaluation["baseline"]["win_rate"]
    assert evaluation["difference"]["win_rate"] == pytest.approx(gain)
    assert evaluation["difference"]["low"] <= gain <= evaluation["difference"]["high"]
    assert {"total", "play", "learn", "publish", "evaluate"} == summary["seconds"].keys()
    assert {"generate_tokens_per_second", "learn_tokens_per_second", "games_per_hour"} == summary["throughput"].keys()


def test_the_adapter_loads_with_plain_peft(config: RunConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run", quiet=True)
    base = AutoModelForCausalLM.from_pretrained(TINY_FOLDER)
    wrapped = PeftModel.from_pretrained(base, tmp_path / "run/adapter")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad(), wrapped.disable_adapter():
        without = wrapped(ids).logits
    with torch.no_grad():
        assert not torch.equal(wrapped(ids).logits, without)


@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_resumed_run_makes_the_same_updates_bit_for_bit(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    train(config, tmp_path / "straight", quiet=True)
    played = _Loop.play

    async def interrupted_play(self: _Loop, *arguments: object) -> object:
        if self.steps == stop_at:
            raise KeyboardInterrupt
        return await played(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "play", interrupted_play)
        with pytest.raises(Interrupted, match=f"stopped after step {stop_at} of 3: go on with --resume"):
            train(config, tmp_path / "broken", quiet=True)
    summary = resume(tmp_path / "broken", quiet=True)
    assert summary.steps == 3
    assert adapter_of(tmp_path / "broken") == adapter_of(tmp_path / "straight")
    with RunFolder.read(tmp_path / "broken") as broken, RunFolder.read(tmp_path / "straight") as straight:
        for step in range(3):
            assert {g.id: g.turns for g in broken.database.games(step=step)} == {
                g.id: g.turns for g in straight.database.games(step=step)
            }


def test_resuming_a_finished_run_changes_nothing_but_repeats_the_evaluation(config: RunConfig, tmp_path: Path) -> None:
    first = train(config, tmp_path / "run", quiet=True)
    again = resume(tmp_path / "run", quiet=True)
    assert again.adapter == first.adapter
    assert again.evaluation == first.evaluation


def test_a_run_that_died_between_its_last_checkpoint_and_the_adapter_still_ends_with_the_right_adapter(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter was left as it had been two checkpoints before, under a summary that named the new one."""
    published = RunFolder.publish_adapter
    calls = count()

    def dies(self: RunFolder, files: dict[str, bytes]) -> Path:
        if next(calls) > 0:
            raise RunError("the disk is gone")
        return published(self, files)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "publish_adapter", dies)
        with pytest.raises(RunError, match="the disk is gone"):
            train(config, tmp_path / "run", quiet=True)
    assert resume(tmp_path / "run", quiet=True).adapter == adapter_of(tmp_path / "run")


def test_collect_then_learn_is_one_step_of_train(config: RunConfig, tmp_path: Path) -> None:
    one = msgspec.structs.replace(config, iterations=1)
    train(one, tmp_path / "run", quiet=True)
    collected = collect(one, tmp_path / "games.train", texts=tmp_path / "games.jsonl", quiet=True)
    learned = learn(one, [tmp_path / "games.train"], tmp_path / "learned")
    assert collected.games == 16
    assert len((tmp_path / "games.jsonl").read_bytes().splitlines()) == 16
    assert learned.adapter == adapter_of(tmp_path / "run") == load_adapter(tmp_path / "learned").fingerprint


def test_two_steps_by_hand_are_two_steps_of_train(config: RunConfig, tmp_path: Path) -> None:
    two = msgspec.structs.replace(config, iterations=2)
    train(two, tmp_path / "run", quiet=True)
    collect(two, tmp_path / "0.train", quiet=True)
    learn(two, [tmp_path / "0.train"], tmp_path / "first")
    collect(two, tmp_path / "1.train", adapter=tmp_path / "first", step=1, quiet=True)
    learned = learn(two, [tmp_path / "1.train"], tmp_path / "second", start=tmp_path / "first")
    assert learned.adapter == adapter_of(tmp_path / "run")


def test_a_training_file_of_another_base_model_is_refused(config: RunConfig, tmp_path: Path) -> None:
    collect(config, tmp_path / "games.train", quiet=True)
    other = TinyConfig(hidden=32, layers=1, heads=2, kv_heads=1, mlp=48, steps=1, batch=8, vocab_size=512)
    save(*build(other), other, tmp_path / "other")
    with pytest.raises(TrainingFileError, match="base model"):
        learn(msgspec.structs.replace(config, model=str(tmp_path / "other")), [tmp_path / "games.train"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_is_one_line(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot load model 'nowhere/nothing'") as caught:
        train(msgspec.structs.replace(config, model="nowhere/nothing"), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
