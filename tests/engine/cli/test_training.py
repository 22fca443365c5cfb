"""`demo`, `train`, `collect` and `learn` on a very small model: what they leave, how they stop, and that by hand is the same."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import Result

from sparring.engine.config import load_run_config
from sparring.engine.run.folder import RunFolder, move_aside
from sparring.learner.adapter import load_adapter
from sparring.rollout.training_file import read_trajectories

Run = Callable[..., Result]
SIDE = {"win", "draw", "loss", "invalid", "void", "games", "win_rate", "mean_score", "families"}


def fingerprint(folder: Path) -> str:
    return load_adapter(folder).fingerprint


@pytest.fixture
def trained(sparring: Run, short: list[str], tmp_path: Path) -> tuple[Path, Result]:
    done = sparring("train", "--output-dir", tmp_path / "run", *short, "--json")
    assert done.exit_code == 0, done.stderr
    return tmp_path / "run", done


def test_train_leaves_a_run_and_prints_its_summary(trained: tuple[Path, Result], sparring: Run, model: Path) -> None:
    folder, done = trained
    assert done.stdout_bytes == (folder / "summary.json").read_bytes()
    summary = json.loads(done.stdout)
    assert (summary["preset"], summary["seed"], summary["model"], summary["steps"]) == ("demo", 0, str(model), 2)
    evaluation = summary["evaluation"]
    assert evaluation["scenarios"] == 4
    assert evaluation["baseline"].keys() >= SIDE
    assert evaluation["trained"].keys() >= SIDE
    assert evaluation["difference"].keys() >= {"win_rate", "low", "high"}
    assert summary["throughput"].keys() == {"generate_tokens_per_second", "learn_tokens_per_second", "games_per_hour"}
    assert summary["seconds"].keys() == {"total", "play", "learn", "publish", "evaluate"}
    rechecked = json.loads(sparring("scenarios", "recheck", folder, "--json").stdout)
    played = 2 * 16 + 4 * evaluation["trained"]["games"]  # two steps, and both sides with true and with shuffled values
    assert rechecked == {"games": played, "discrepancies": []}


def test_the_adapter_loads_with_plain_peft_and_was_trained(trained: tuple[Path, Result], model: Path) -> None:
    folder, _ = trained
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder / "adapter")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        changed = wrapped(ids).logits
        with wrapped.disable_adapter():
            assert not torch.equal(wrapped(ids).logits, changed)


def test_iterations_set_the_length_of_the_schedule(sparring: Run, short: list[str], tmp_path: Path) -> None:
    arguments = ["--set", "learner.schedule=linear", "--set", "learner.final_rate=0", "--iterations", 3]
    arguments += ["--set", "evaluation.scenarios=0", "--quiet"]
    done = sparring("train", "--output-dir", tmp_path / "run", *short, *arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "3 steps in " in done.stdout
    with RunFolder.read(tmp_path / "run") as run:
        rates = [figures["learn/learning_rate"] for figures in run.database.metrics().values()]
        peak = load_run_config(run.config_path).learner.learning_rate
    assert rates == pytest.approx([peak, peak * 2 / 3, peak / 3])


def test_options_win_over_settings_and_a_config_file_over_the_preset(sparring: Run, short: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("seed = 5\nname = 'mine'\n")
    arguments = [
        "--config",
        tmp_path / "mine.toml",
        *short,
        "--set",
        "iterations=7",
        "--iterations",
        1,
        "--games-per-scenario",
        3,
    ]
    done = sparring("train", "--output-dir", tmp_path / "run", *arguments, "--set", "evaluation.scenarios=0", "--quiet")
    assert done.exit_code == 0, done.stderr
    config = load_run_config(tmp_path / "run" / "config.toml")
    assert (config.seed, config.name, config.iterations, config.games_per_scenario, config.preset) == (5, "mine", 1, 3, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "iteration=3"], "--set iteration=3: there is no setting iteration: did you mean iterations?"),
        (["--preset", "demp"], "no preset is called 'demp'"),
        (["--config", "none.toml"], "cannot read the settings file none.toml"),
        (["--tracker", "mlflow"], "--set tracker=mlflow: tracker: "),
        (["--set", "model=/nowhere"], "cannot load model '/nowhere'"),
        (["--adapter", "nowhere"], "no adapter in nowhere"),
        (["--set", "sampling.context=9999"], "sampling.context = 9999 exceeds the 512 positions"),
        (["--resume"], "holds no run"),
        (["--resume", "--iterations", "3"], "--resume goes on with the run's own settings: leave out --iterations and --set"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_no_folder(
    sparring: Run, short: list[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    settings = [] if arguments == ["--resume"] else short
    answer = sparring("train", "--output-dir", tmp_path / "run", *settings, *arguments)
    assert (answer.exit_code, answer.stdout) == (2, "")
    (line,) = answer.stderr.splitlines()
    assert line.startswith("sparring: error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_trained_into(trained: tuple[Path, Result], sparring: Run, short: list[str]) -> None:
    folder, _ = trained
    before = (folder / "summary.json").read_bytes()
    answer = sparring("train", "--output-dir", folder, *short)
    assert answer.exit_code == 2
    assert f"{folder} is not empty: continue that run with --resume, or choose another --output-dir" in answer.stderr
    assert (folder / "summary.json").read_bytes() == before


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_scheduler_leaves_a_checkpoint_and_resume_finishes(
    command: Callable[..., subprocess.Popen[str]], sparring: Run, short: list[str], tmp_path: Path, told: signal.Signals
) -> None:
    folder = tmp_path / "run"
    settings = [*short, "--set", "learner.schedule=constant", "--set", "evaluation.scenarios=0"]
    endless = ["--iterations", 1_000_000, "--set", "checkpoint_every=1000000"]
    with command("train", "--output-dir", folder, *settings, *endless) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step 2"):
            assert process.poll() is None
        process.send_signal(told)
        last = process.stderr.read().splitlines()[-1]
    assert process.returncode == 130
    assert last.startswith("sparring: stopped after step ")
    assert last.endswith(f" of 1000000: go on with --resume --output-dir {folder}")
    done = int(last.split()[4])
    assert (folder / "checkpoints" / f"step-{done}").is_dir()

    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace("iterations = 1000000", f"iterations = {done + 1}"))
    finished = sparring("train", "--resume", "--output-dir", folder, "--quiet", "--json")
    assert finished.exit_code == 0, finished.stderr
    assert json.loads(finished.stdout)["steps"] == done + 1
    straight = sparring("train", "--output-dir", tmp_path / "straight", *settings, "--iterations", done + 1, "--quiet")
    assert straight.exit_code == 0
    assert fingerprint(folder / "adapter") == fingerprint(tmp_path / "straight" / "adapter")


# demo


def test_a_second_demo_moves_the_first_aside(sparring: Run, short: list[str], tmp_path: Path) -> None:
    arguments = ["demo", "--output-dir", tmp_path / "demo", *short, "--iterations", 1]
    first = sparring(*arguments)
    assert first.exit_code == 0, first.stderr
    assert all(words in first.stdout for words in ("games won", "dilemma", "values shuffled (control)", "games/hour", "run.db"))
    adapter = fingerprint(tmp_path / "demo" / "adapter")
    second = sparring(*arguments, "--seed", 1)
    assert second.exit_code == 0
    assert f"the run that was in {tmp_path / 'demo'} is now in {tmp_path / 'demo.1'}" in second.stderr
    assert fingerprint(tmp_path / "demo.1" / "adapter") == adapter != fingerprint(tmp_path / "demo" / "adapter")
    resumed = sparring("demo", "--output-dir", tmp_path / "demo", "--resume", "--quiet")
    assert resumed.exit_code == 0
    assert "1 steps in " in resumed.stdout


def test_moving_aside_takes_the_next_free_name_and_leaves_alone_what_is_in_use(tmp_path: Path) -> None:
    assert move_aside(tmp_path / "run") is None
    (tmp_path / "other").mkdir()
    assert move_aside(tmp_path / "other") is None
    for number in (1, 2):
        RunFolder.create(tmp_path / "run", "").close()
        assert move_aside(tmp_path / "run") == tmp_path / f"run.{number}"
    with RunFolder.create(tmp_path / "run", ""), pytest.raises(ValueError, match="another process is at work"):
        move_aside(tmp_path / "run")
    assert (tmp_path / "run").is_dir()


# collect and learn


def test_by_hand_is_the_same_update_as_train(sparring: Run, short: list[str], tmp_path: Path) -> None:
    games, texts = tmp_path / "new" / "0.train", tmp_path / "texts" / "0.jsonl"
    collected = json.loads(sparring("collect", "--output", games, "--texts", texts, *short, "--quiet", "--json").stdout)
    assert collected["games"] == collected["trajectories"] == len(list(read_trajectories(games))) == 16
    assert len(texts.read_bytes().splitlines()) == 16
    learned = sparring("learn", games, "--output", tmp_path / "first", *short)
    assert fingerprint(tmp_path / "first") in learned.stdout
    done = sparring("train", "--output-dir", tmp_path / "one", *short, "--iterations", 1, "--quiet")
    assert done.exit_code == 0
    assert fingerprint(tmp_path / "one" / "adapter") == fingerprint(tmp_path / "first")

    again = ["--adapter", tmp_path / "first", "--step", 1, "--quiet"]
    assert "16 games, " in sparring("collect", "--output", tmp_path / "1.train", *again, *short).stdout
    second = sparring(
        "learn", tmp_path / "1.train", "--start", tmp_path / "first", "--output", tmp_path / "second", *short, "--json"
    )
    assert json.loads(second.stdout)["adapter"] == fingerprint(tmp_path / "second")
    assert sparring("train", "--output-dir", tmp_path / "two", *short, "--quiet").exit_code == 0
    assert fingerprint(tmp_path / "two" / "adapter") == fingerprint(tmp_path / "second")


def test_files_that_do_not_fit_are_refused(sparring: Run, short: list[str], tmp_path: Path) -> None:
    games = tmp_path / "0.train"
    assert sparring("collect", "--output", games, *short, "--quiet").exit_code == 0
    header, rest = games.read_bytes().split(b"\n", 1)
    other = json.loads(header) | {"base_model": "0123"}
    foreign = tmp_path / "foreign.train"
    foreign.write_bytes(json.dumps(other).encode() + b"\n" + rest)
    answer = sparring("learn", foreign, "--output", tmp_path / "out", *short)
    assert answer.exit_code == 2
    assert answer.stderr.startswith(f"sparring: error: {foreign}: collected with base model 0123, but this is base model ")
    games.write_bytes(games.read_bytes()[:-10])
    assert sparring("learn", games, "--output", tmp_path / "out", *short).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_said_before_anything_is_played(sparring: Run, short: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    started = time.perf_counter()
    answer = sparring("collect", "--output", tmp_path / "file" / "0.train", *short, "--set", "scenarios_per_step=5000")
    assert answer.exit_code == 2
    assert answer.stderr.startswith(f"sparring: error: {tmp_path / 'file'}: ")
    assert time.perf_counter() - started < 30
