"""A run on disk: what was stored comes back, whatever kills the process; verdicts can be checked again; one process at a time."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sparring.engine.errors import RunError
from sparring.engine.evaluation.evaluate import arrange, held_out
from sparring.engine.run.folder import RunFolder
from sparring.learner import files as learner_files
from sparring.rollout.player import Player, PlayerError, Reply, Seating, Table
from sparring.rollout.runner import play
from sparring.rollout.trajectory import Deal, Game, Trajectory
from sparring.scenarios import registry
from sparring.scenarios.game import Turn
from sparring.scenarios.outcome import Outcome, Reason, Verdict
from sparring.scenarios.scenario import canonical, load_scenario

SOURCE = Path(__file__).resolve().parents[2] / "src"


class Failing(Player):
    async def act(self, table: Table) -> Reply:
        raise PlayerError("hung up \ud800")


def seat(deal: Deal, name: str) -> Player:
    return Failing() if deal.players[name] == "policy:failing" else Seating()(deal, name)


@pytest.fixture(scope="module")
def games() -> list[Game]:
    """Games of every family, and one that failed."""
    found: list[Game] = []
    for family in registry.names():
        script = next(iter(registry.get(family).strategies))
        deals = [m.deal for m in arrange(held_out([family], 3), policy=f"script:{script}", games=2)]
        found += asyncio.run(_play(deals))
    failing = arrange(held_out(["haggle"], 1), policy="policy:failing", label="failing")[0].deal
    return found + asyncio.run(_play([failing]))


async def _play(deals: list[Deal]) -> list[Game]:
    return [game async for game in play(deals, seat)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "mine", 'name = "mine"\n')


def bare(game: Game) -> Game:
    """As it can be stored: JSON knows no tuples, text no lone surrogates, and trajectories are not kept."""
    scenario = load_scenario(canonical(game.scenario))
    error = None if game.error is None else game.error.encode("utf-8", "replace").decode()
    return msgspec.structs.replace(game, scenario=scenario, trajectories=(), error=error)


def test_games_come_back_as_they_were_played(run: RunFolder, games: list[Game]) -> None:
    run.database.record(games[:3], phase="train", step=1)
    run.database.record(games[3:], phase="evaluation", step=2)
    assert list(run.database.games()) == [bare(game) for game in games]
    assert list(run.database.games(phase="train")) == [bare(game) for game in games[:3]]
    assert [g.id for g in run.database.games(phase="evaluation", step=2)] == [g.id for g in games[3:]]
    assert run.database.count(step=3) == 0
    assert games[-1].error is not None


def test_strange_texts_and_equal_scenarios_under_two_seeds_come_back(run: RunFolder, games: list[Game]) -> None:
    scenario = msgspec.structs.replace(games[0].scenario, seed=10**30)
    texts = ("", "nul \x00 inside", "emoji 🙂 and \u2028 breaks\r\n", "x" * 20_000)
    odd = msgspec.structs.replace(
        games[0], id="odd", scenario=scenario, turns=tuple(Turn("seller", text, bool(i % 2)) for i, text in enumerate(texts))
    )
    run.database.record([games[0], odd])
    assert list(run.database.games()) == [bare(games[0]), bare(odd)]


def test_a_game_played_again_replaces_the_first(run: RunFolder, games: list[Game]) -> None:
    again = msgspec.structs.replace(games[0], turns=games[0].turns[:1], seconds=9.0)
    run.database.record(games[:2], step=4)
    run.database.record([again], step=4)
    run.database.record([games[0]], step=5)
    assert list(run.database.games(step=4)) == [bare(games[1]), bare(again)]
    assert run.database.count() == 3


def test_sampled_tokens_are_kept(run: RunFolder, games: list[Game]) -> None:
    trajectory = Trajectory(
        game_id="g",
        scenario_id="s",
        family="haggle",
        seat="seller",
        partner="p",
        token_ids=[1, 2, 3],
        logprobs=[0.0, -1.0, -1.0],
        loss_mask=[False, True, True],
        temperature=1.0,
        policy="base",
        reward=None,
        verdict=Verdict.VOID,
        score=0.0,
    )
    run.database.record([msgspec.structs.replace(games[0], trajectories=(trajectory,))])
    with closing(sqlite3.connect(run.database.path)) as db:
        assert db.execute("SELECT sampled_tokens FROM games").fetchone() == (2,)


def test_recheck_agrees_with_honest_games(run: RunFolder, games: list[Game]) -> None:
    run.database.record(games)
    found = run.database.recheck()
    assert (found.games, found.discrepancies) == (len(games), ())


def test_recheck_names_every_forgery(run: RunFolder, games: list[Game]) -> None:
    winner = {seat: Outcome.of(Verdict.WIN, 1.0, Reason.TARGET_MET) for seat in games[0].scenario.seat_names}
    swapped = Turn("nobody", games[0].turns[0].text)
    forged = [
        msgspec.structs.replace(games[0], id="outcome", outcomes=winner),
        msgspec.structs.replace(games[0], id="short", turns=games[0].turns[:1]),
        msgspec.structs.replace(games[0], id="order", turns=(swapped, *games[0].turns[1:])),
        msgspec.structs.replace(games[0], id="failed", error="no"),
    ]
    run.database.record([*forged, games[0]])
    found = run.database.recheck()
    assert found.games == 5
    problems = {d.game: d.problem for d in found.discrepancies}
    assert set(problems) == {"outcome", "short", "order", "failed"}
    assert problems["outcome"].startswith("another outcome for")
    assert problems["short"] == "the transcript ends before the game does"
    assert "no seat is called 'nobody'" in problems["order"]
    assert "must be void for every seat" in problems["failed"]
    first = found.discrepancies[0]
    assert (first.phase, first.step, first.stored, first.recomputed) == ("train", 0, winner, games[0].outcomes)


def test_recheck_goes_on_past_damage(run: RunFolder, games: list[Game]) -> None:
    run.database.record(games[:4])
    with closing(sqlite3.connect(run.database.path)) as db, db:
        db.execute("UPDATE scenarios SET body = replace(body, 'seats', 'seets') WHERE id = ?", (games[0].scenario.id,))
        db.execute("UPDATE outcomes SET verdict = 'triumph' WHERE game = (SELECT number FROM games WHERE id = ?)", (games[3].id,))
    damaged = {g.id for g in games[:4] if g.scenario.id == games[0].scenario.id} | {games[3].id}
    found = run.database.recheck()
    assert found.games == 4
    assert {d.game for d in found.discrepancies} == damaged
    assert all("is damaged" in d.problem for d in found.discrepancies)
    with pytest.raises(RunError, match=r"is damaged: game .* cannot be read"):
        list(run.database.games())


def test_metrics(run: RunFolder) -> None:
    run.database.log_metrics(2, {"loss": 0.5, "kl": math.nan, "rate": math.inf})
    run.database.log_metrics(1, {"loss": 1.0})
    run.database.log_metrics(2, {"loss": 0.25})
    found = run.database.metrics()
    assert list(found) == [1, 2]
    assert (found[1], found[2]["loss"], found[2]["rate"]) == ({"loss": 1.0}, 0.25, math.inf)
    assert math.isnan(found[2]["kl"])


def test_a_full_disk_is_an_error_that_loses_nothing(run: RunFolder, games: list[Game]) -> None:
    run.database.record(games[:2])
    db = run.database._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    many = [msgspec.structs.replace(games[2], id=str(i)) for i in range(200)]
    with pytest.raises(RunError, match=r"cannot write to the run's database .* \(database or disk is full\): free space"):
        run.database.record(many)
    assert list(run.database.games()) == [bare(game) for game in games[:2]]
    db.execute("PRAGMA max_page_count = 1000000")
    run.database.record(many)
    assert run.database.count() == 202


WRITER = """
import sys, asyncio
from pathlib import Path
from sparring.engine.run.folder import RunFolder
from sparring.rollout.player import Seating
from sparring.rollout.runner import play
from sparring.rollout.trajectory import Deal
from sparring.scenarios import registry

async def main():
    run, haggle = RunFolder.create(Path(sys.argv[1]), ""), registry.get("haggle")
    scenarios = [haggle.generate(seed) for seed in range(10)]
    deals = (
        Deal(id=str(i), scenario=(s := scenarios[i % 10]), players=dict.fromkeys(s.seat_names, "script:naive"), seed=i)
        for i in range(100_000)
    )
    async for game in play(deals, Seating()):
        run.database.record([game])
        run.save_checkpoint(int(game.id), {"weights": bytes(200_000)})
        print(game.id, flush=True)

asyncio.run(main())
"""


def test_every_game_reported_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    command, env = [sys.executable, "-c", WRITER, str(tmp_path / "run")], {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        reported = [writer.stdout.readline().strip() for _ in range(20)]
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        reported += writer.stdout.read().split("\n")[:-1]
    assert writer.returncode == -signal.SIGKILL
    for reopened in (RunFolder.read(tmp_path / "run"), RunFolder.resume(tmp_path / "run")):
        with reopened as run:
            stored = [game.id for game in run.database.games()]
            assert set(reported) <= set(stored)
            assert len(stored) <= len(reported) + 1
            assert run.database.recheck().discrepancies == ()
            assert run.latest_checkpoint() is not None
    assert not [entry for entry in (tmp_path / "run" / "checkpoints").iterdir() if entry.name.startswith(".")]


SAVER = """
import sys
from pathlib import Path
from sparring.engine.run.folder import RunFolder
run = RunFolder.resume(Path(sys.argv[1]))
latest = run.latest_checkpoint()
step = latest.step if latest else 0
print(step, flush=True)
while True:
    step += 1
    files = {name: f"{name} {step}".encode() * 20_000 for name in ("weights", "optimizer")}
    run.save_checkpoint(step, files, keep=1)
    run.publish_adapter(files)
    print(step, flush=True)
"""


def test_the_latest_checkpoint_survives_kills_at_any_instant(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", "").close()
    env, done = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}, 0
    for pause in (0.0, 0.011, 0.023):
        with subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path / "run")], env=env, stdout=subprocess.PIPE, text=True
        ) as saver:
            assert saver.stdout is not None
            assert int(saver.stdout.readline()) in (done, done + 1)
            done = int(saver.stdout.readline())
            time.sleep(pause)
            saver.send_signal(signal.SIGKILL)
            done = max([done, *map(int, saver.stdout.read().split())])
        with RunFolder.resume(tmp_path / "run") as run:
            latest = run.latest_checkpoint()
            assert latest is not None
            assert latest.step in (done, done + 1)
            done = latest.step
            assert (latest.path / "weights").read_bytes() == f"weights {latest.step}".encode() * 20_000
            assert {entry.name for entry in run.adapter_path.iterdir()} == {"weights", "optimizer"}


def test_checkpoints_are_kept_by_number_and_broken_ones_passed_over(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    assert run.latest_checkpoint() is None
    for step in (2, 10, 9):
        run.save_checkpoint(step, {"weights": b"%d" % step}, keep=2)
    assert [p.name for p in sorted(run.path.joinpath("checkpoints").iterdir())] == ["step-2", "step-9"]
    for step in (11, 12):
        run.save_checkpoint(step, {"weights": b"%d" % step}, keep=3)
    folder = run.path / "checkpoints"
    (folder / "step-12" / "weights").write_bytes(b"13")
    (folder / "step-13").mkdir()
    (folder / "step-14").mkdir()
    (folder / "step-14" / "checkpoint.json").write_text('{"files": []}')
    with caplog.at_level(logging.WARNING, "sparring"):
        latest = run.latest_checkpoint()
    assert latest is not None
    assert (latest.step, (latest.path / "weights").read_bytes()) == (11, b"11")
    assert [record.getMessage().split(": ", 1)[1].split(" (")[0] for record in caplog.records] == [
        "its checkpoint.json cannot be read",
        "checkpoint.json is missing",
        "weights is not as it was saved",
    ]
    run.save_checkpoint(12, {"weights": b"again"}, keep=1)
    assert [p.name for p in folder.iterdir()] == ["step-12"]
    latest = run.latest_checkpoint()
    assert latest is not None
    assert (latest.path / "weights").read_bytes() == b"again"


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_earlier_one(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save_checkpoint(1, {"weights": b"one"}, keep=1)
    monkeypatch.setattr(learner_files.os, "fsync", _no_space)
    with pytest.raises(RunError, match=r"cannot save the checkpoint .*step-2 .*No space left.*: free space or mend permissions"):
        run.save_checkpoint(2, {"weights": b"two"}, keep=1)
    monkeypatch.undo()
    latest = run.latest_checkpoint()
    assert latest is not None
    assert latest.step == 1
    assert run.save_checkpoint(2, {"weights": b"two"}).name == "step-2"


def _no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_summary_and_adapter_are_replaced_whole(run: RunFolder) -> None:
    run.write_summary({"preset": "demo", "seed": 1})
    run.write_summary({"preset": "demo", "seed": 2})
    assert msgspec.json.decode((run.path / "summary.json").read_bytes()) == {"preset": "demo", "seed": 2}
    run.publish_adapter({"adapter_config.json": b"{}", "extra": b"1"})
    run.publish_adapter({"adapter_config.json": b"{}", "adapter_model.safetensors": b"2"})
    assert {p.name for p in run.adapter_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert sorted(p.name for p in run.path.iterdir() if p.suffix != ".db-wal" and p.suffix != ".db-shm") == [
        ".lock",
        "adapter",
        "checkpoints",
        "config.toml",
        "run.db",
        "summary.json",
    ]


def test_an_adapter_moved_aside_is_put_back(run: RunFolder) -> None:
    run.publish_adapter({"weights": b"1"})
    run.close()
    run.adapter_path.rename(run.path / ".adapter.old")
    (run.path / ".adapter.new").mkdir()
    with RunFolder.resume(run.path) as resumed:
        assert (resumed.adapter_path / "weights").read_bytes() == b"1"
    assert not (run.path / ".adapter.new").exists()


def test_a_folder_in_use_or_not_empty_is_refused_and_left_alone(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not empty: continue that run with --resume"):
        RunFolder.create(run.path, "")
    with pytest.raises(RunError, match="another process is at work in"):
        RunFolder.resume(run.path)
    with RunFolder.read(run.path) as reader:
        assert reader.database.count() == 0
        assert reader.config_path.read_text() == 'name = "mine"\n'
        with pytest.raises(RunError, match="readonly"):
            reader.database.log_metrics(0, {"x": 1.0})
    run.close()
    RunFolder.resume(run.path).close()
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").touch()
    with pytest.raises(RunError, match="photos is not empty"):
        RunFolder.create(photos, "")
    assert [p.name for p in photos.iterdir()] == ["cat.jpg"]


def test_an_empty_folder_and_one_that_died_at_birth_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", "").close()
    born = tmp_path / "born"
    (born / "checkpoints").mkdir(parents=True)
    (born / ".lock").touch()
    RunFolder.create(born, "").close()


def test_folders_that_cannot_serve(tmp_path: Path) -> None:
    for opener in (RunFolder.resume, RunFolder.read):
        with pytest.raises(RunError, match=r"holds no run \(it has no config.toml\)"):
            opener(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot make the run folder .*: free space or mend permissions"):
        RunFolder.create(tmp_path / "file" / "run", "")
    RunFolder.create(tmp_path / "run", "").close()
    (tmp_path / "run" / "run.db").write_text("no database at all, but longer than a header is " * 100)
    with pytest.raises(RunError, match="not a usable SQLite database"):
        RunFolder.resume(tmp_path / "run")
    with pytest.raises(RunError, match="not a usable SQLite database"):  # the lock was given back
        RunFolder.resume(tmp_path / "run")
