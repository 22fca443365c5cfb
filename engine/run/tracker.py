"""Where a run's metrics go, step by step: its database, the terminal, Weights & Biases; `Trackers` feeds several.

Owns no metric. A tracker that cannot start says what to install or set.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from sparring.engine.errors import TrackerError
from sparring.engine.run.database import RunDatabase

HEADER_EVERY = 20
"""Lines between repeated headings on a terminal."""


class Tracker(Protocol):
    """Takes every step's metrics, once."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self) -> None:
        """Called once, at the end of the run, also of one that failed."""
        ...


class DatabaseTracker(Tracker):
    """Into the run's database, whose owner closes it."""

    def __init__(self, database: RunDatabase) -> None:
        self._database = database

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._database.log_metrics(step, metrics)

    def finish(self) -> None:
        return None


class TerminalTracker(Tracker):
    """One line a step, under a heading that comes back every so often; on stderr, so that results stay clean.

    Example:
        >>> tracker = TerminalTracker({"win_rate": "{:.1%}", "loss": "{:+.4f}"})
        >>> tracker.log(3, {"win_rate": 0.412, "loss": -0.0103})
          step  win_rate     loss
             3     41.2%  -0.0103
    """

    def __init__(self, columns: Mapping[str, str], console: Console | None = None) -> None:
        """`columns` maps the metrics to show to their formats; a metric that a step lacks leaves its place empty."""
        self._columns = dict(columns)
        self._console = console or Console(stderr=True)
        self._lines = 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        cells = {key: _cell(metrics.get(key), form) for key, form in self._columns.items()}
        if self._lines % HEADER_EVERY == 0:
            self._print("step", {key: key for key in cells}, style="bold")
        self._lines += 1
        self._print(str(step), cells)

    def finish(self) -> None:
        return None

    def _print(self, step: str, cells: Mapping[str, str], style: str | None = None) -> None:
        line = f"{step:>6}" + "".join(f"  {cell:>{max(len(key), 8)}}" for key, cell in cells.items())
        self._console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


class WandbTracker(Tracker):
    """To Weights & Biases. With `WANDB_MODE=offline`, into `folder/wandb` for a later `wandb sync`."""

    def __init__(self, *, project: str, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raises `TrackerError` where wandb is not installed or will not start."""
        try:
            import wandb
        except ImportError as error:
            raise TrackerError(
                'tracker "wandb" needs a package: pip install "sparring[wandb]", or set tracker = "none"'
            ) from error
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                id=_lasting_id(folder),
                dir=str(folder),
                config=dict(config),
                resume="allow",
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )
        except (wandb.errors.Error, OSError) as error:
            mode = "" if os.environ.get("WANDB_MODE") == "offline" else " (WANDB_MODE=offline needs no login)"
            raise TrackerError(f"Weights & Biases will not start: {error}: log in with `wandb login`{mode}") from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._run.finish()


class Trackers(Tracker):
    """Several as one, in order. Every one is finished, even where one of them fails."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def finish(self) -> None:
        _finish(self._trackers)


def _finish(trackers: Sequence[Tracker]) -> None:
    if trackers:
        try:
            trackers[0].finish()
        finally:
            _finish(trackers[1:])


def _lasting_id(folder: Path) -> str:
    """An id that stays in the run's folder, so that a resumed run goes on in the same curves."""
    path = folder / "wandb.id"
    if not path.is_file():
        path.write_text(secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _cell(value: float | None, form: str) -> str:
    if value is None:
        return ""
    return form.format(value) if math.isfinite(value) else str(value)
