"""Trackers: every metric reaches the database, the terminal line and an offline Weights & Biases run."""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from sparring.engine.errors import TrackerError
from sparring.engine.run.folder import RunFolder
from sparring.engine.run.tracker import HEADER_EVERY, DatabaseTracker, TerminalTracker, Tracker, Trackers, WandbTracker


class Recording(Tracker):
    def __init__(self, calls: list[str], name: str, *, fails: bool = False) -> None:
        self.calls, self.name, self.fails = calls, name, fails

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(f"{self.name} {step} {dict(metrics)}")

    def finish(self) -> None:
        self.calls.append(f"{self.name} done")
        if self.fails:
            raise TrackerError(f"{self.name} lost the network")


def test_database_tracker_writes_metrics(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", "") as run:
        tracker = DatabaseTracker(run.database)
        tracker.log(1, {"win_rate": 0.25})
        tracker.log(2, {"win_rate": 0.5, "loss": -0.125})
        tracker.finish()
        assert run.database.metrics() == {1: {"win_rate": 0.25}, 2: {"win_rate": 0.5, "loss": -0.125}}


def test_terminal_tracker_prints_one_aligned_line_a_step() -> None:
    out = io.StringIO()
    tracker = TerminalTracker({"win_rate": "{:.1%}", "loss": "{:+.4f}", "[bold]": "{:.0f}"}, Console(file=out, width=20))
    tracker.log(1, {"win_rate": 0.4125, "loss": -0.01034, "hidden": 5.0, "[bold]": 3.0})
    tracker.log(2, {"win_rate": math.nan, "loss": math.inf})
    assert out.getvalue().splitlines() == [
        "  step  win_rate      loss    [bold]",
        "     1     41.2%   -0.0103         3",
        "     2       nan       inf          ",
    ]
    for step in range(3, HEADER_EVERY + 2):
        tracker.log(step, {})
    tracker.finish()
    assert [i for i, line in enumerate(out.getvalue().splitlines()) if "step" in line] == [0, HEADER_EVERY + 1]


def test_trackers_feed_all_and_finish_all_even_when_one_fails() -> None:
    calls: list[str] = []
    trackers = Trackers([Recording(calls, "a"), Recording(calls, "b", fails=True), Recording(calls, "c")])
    trackers.log(1, {"x": 1.0})
    with pytest.raises(TrackerError, match="b lost the network"):
        trackers.finish()
    assert calls == ["a 1 {'x': 1.0}", "b 1 {'x': 1.0}", "c 1 {'x': 1.0}", "a done", "b done", "c done"]


def test_wandb_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrackerError, match=r'pip install "sparring\[wandb\]", or set tracker = "none"'):
        WandbTracker(project="p", name="n", folder=tmp_path, config={})


def test_wandb_offline_run_holds_our_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    import wandb

    for steps in ((1, 2), (3,)):  # the second time as a resumed run; wandb names folders by the second
        time.sleep(steps[0] // 3 * 1.1)
        tracker = WandbTracker(project="sparring", name="demo", folder=tmp_path, config={"seed": 17})
        for step in steps:
            tracker.log(step, {"win_rate": step / 8, "loss": -0.5})
        tracker.finish()
    wandb.teardown()
    runs = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.name for path in runs}) == 1
    data = b"".join(path.read_bytes() for path in runs)
    for value in (b"0.125", b"0.25", b"0.375"):  # key, then protobuf field 16 with the value as JSON
        assert b"win_rate\x82\x01" + bytes([len(value)]) + value in data
    assert b"seed" in data
