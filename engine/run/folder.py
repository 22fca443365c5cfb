"""`RunFolder`: a run on disk: settings, database, checkpoints, the latest adapter, the summary; and the lock that keeps it to one
process.

Everything appears whole or not at all, whenever the process dies. What goes into a checkpoint is the learner's and the loop's
business; this file owns where it lies and which one is the latest that can be trusted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from sparring.engine.contests import TOPICS
from sparring.engine.errors import RunError
from sparring.engine.run.database import RunDatabase
from sparring.learner.files import write_folder
from sparring.rollout.files import sync_folder, write_durably
from sparring.scenarios.database import explained

CONFIG, DATABASE, CHECKPOINTS, ADAPTER, SUMMARY = "config.toml", "run.db", "checkpoints", "adapter", "summary.json"
ADAPTERS, BEST = "adapters", "best"
"""A population's adapters, each in a folder of its own, and the best one of the evaluations on the way."""
LOCK = ".lock"
MANIFEST = "checkpoint.json"

log = logging.getLogger("sparring")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. Its folder holds exactly the files that were saved, and their manifest."""

    step: int
    path: Path


class RunFolder:
    """One run's folder.

    Example:
        >>> with RunFolder.create(Path("runs/mine"), dump_config(config)) as run:
        ...     run.database.record(games, step=1)
        ...     run.save_checkpoint(1, learner.files())
        >>> with RunFolder.resume(Path("runs/mine")) as run:
        ...     learner.load(run.latest_checkpoint().path)
    """

    def __init__(self, path: Path, lock: int | None, *, read_only: bool) -> None:
        """For `create`, `resume` and `read`, which see to the lock."""
        self.path = path
        self._lock = lock
        try:
            self.database = RunDatabase(path / DATABASE, read_only=read_only)
        except RunError:
            self._unlock()
            raise

    @classmethod
    def create(cls, path: Path, config: str, topics: Mapping[str, bytes] | None = None) -> Self:
        """A new run, with its settings as TOML and its own files of topics by name (`keep_topics`).

        Raises `RunError` where the folder holds something already.
        """
        with _explained(f"make the run folder {path}"):
            path.mkdir(parents=True, exist_ok=True)
            _expect_empty(path)
            lock = take_lock(path)
            try:
                _expect_empty(path)  # another process may have been at it since
                (path / CHECKPOINTS).mkdir(exist_ok=True)
                for name, data in (topics or {}).items():
                    write_durably(path / name, data)
                write_durably(path / CONFIG, config.encode())
            except BaseException:
                os.close(lock)
                raise
        return cls(path, lock, read_only=False)

    @classmethod
    def resume(cls, path: Path) -> Self:
        """A run to go on with. Raises `RunError` where there is none, or another process is at it."""
        _expect_run(path)
        with _explained(f"open the run folder {path}"):
            lock = take_lock(path)
            (path / CHECKPOINTS).mkdir(exist_ok=True)
            _tidy(path / CHECKPOINTS, ".")
            for name in (ADAPTER, ADAPTERS, BEST):
                _tidy(path, f".{name}.")
        return cls(path, lock, read_only=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A run to look at, also while another process goes on with it."""
        _expect_run(path)
        return cls(path, None, read_only=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the lock back; a second time is fine."""
        self.database.close()
        self._unlock()

    def discard(self) -> None:
        """Takes back a run in which nothing was played, so that the same command may be given again."""
        self.database.close()
        for path in (self.database.path, *(self.database.path.with_name(DATABASE + end) for end in ("-wal", "-shm"))):
            path.unlink(missing_ok=True)
        self.config_path.unlink(missing_ok=True)
        for path in self.path.glob(f"{TOPICS}*"):
            path.unlink()
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)
        (self.path / LOCK).unlink(missing_ok=True)
        self._unlock()
        with contextlib.suppress(OSError):  # it was there before, and holds something else
            self.path.rmdir()

    @property
    def config_path(self) -> Path:
        """The complete settings, as run."""
        return self.path / CONFIG

    @property
    def adapter_path(self) -> Path:
        """The latest adapter, for PEFT and vLLM to load."""
        return self.path / ADAPTER

    def save_checkpoint(self, step: int, files: Mapping[str, bytes], *, keep: int = 2) -> Path:
        """Saves the files as the checkpoint of `step`, and removes later ones (of a course that was given up) and all but the
        `keep` latest. On return it is on the disk.

        Raises `RunError` where the disk refuses; earlier checkpoints stay.
        """
        sums = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
        manifest = json.dumps({"step": step, "files": sums}, indent=2).encode()
        target = self.path / CHECKPOINTS / f"step-{step}"
        with _explained(f"save the checkpoint {target}"):
            _put_folder(target, {**files, MANIFEST: manifest})
            kept = sorted(other for other in _steps(target.parent) if other <= step)[-keep:]
            for other in set(_steps(target.parent)) - set(kept):
                _remove(target.parent / f"step-{other}")
        return target

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint whose every file is as it was saved; a broken one is passed over with a warning."""
        folder = self.path / CHECKPOINTS
        with _explained(f"read the checkpoints in {folder}"):
            for step in sorted(_steps(folder), reverse=True):
                path = folder / f"step-{step}"
                if problem := _problem(path):
                    log.warning("checkpoint %s is passed over: %s", path, problem)
                else:
                    return Checkpoint(step, path)
        return None

    def publish_adapter(self, files: Mapping[str, bytes]) -> Path:
        """Replaces the latest adapter."""
        return self.publish(ADAPTER, files)

    def publish(self, name: str, files: Mapping[str, bytes]) -> Path:
        """Replaces a folder of files beside the others: another adapter than the latest, say."""
        target = self.path / name
        with _explained(f"save {target}"):
            _put_folder(target, files)
        return target

    def write(self, name: str, data: bytes) -> Path:
        """Replaces a file."""
        path = self.path / name
        with _explained(f"write {path}"):
            write_durably(path, data)
        return path

    def write_summary(self, summary: Mapping[str, Any] | msgspec.Struct) -> Path:
        """Replaces the summary, as indented JSON."""
        return self.write(SUMMARY, msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def move_aside(path: Path) -> Path | None:
    """Renames the run in `path`, to the first free of `path`.1, `path`.2, ...; `None` where there is none.

    Raises `RunError` while another process is at it.
    """
    if not (path / CONFIG).is_file():
        return None
    with _explained(f"move the run {path} aside"):
        lock = take_lock(path)
        try:
            number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.{n}").exists())
            return path.rename(path.with_name(f"{path.name}.{number}"))
        finally:
            os.close(lock)


def _explained(doing: str) -> AbstractContextManager[None]:
    hint = "free space or mend permissions, then go on with --resume; finished games and earlier checkpoints are safe"
    return explained(RunError, doing, hint)


def _expect_run(path: Path) -> None:
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} holds no run (it has no {CONFIG}): give the folder of one, or begin one with sparring train")


def _expect_empty(path: Path) -> None:
    begun = (LOCK, CHECKPOINTS, f".{CONFIG}.new")
    if any(entry.name not in begun and not entry.name.lstrip(".").startswith(TOPICS) for entry in path.iterdir()):
        raise RunError(f"{path} is not empty: continue that run with --resume, or choose another --output-dir")


def take_lock(path: Path) -> int:
    """The folder's lock, as a descriptor; the system lets go of it when the process ends, however it ends.

    Raises `RunError` where another process holds it.
    """
    descriptor = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RunError(f"another process is at work in {path}: wait for it to end, or choose another folder") from error
    return descriptor


def _steps(folder: Path) -> list[int]:
    return [int(found[1]) for entry in folder.iterdir() if (found := re.fullmatch(r"step-(\d+)", entry.name))]


def _problem(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be trusted."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((checkpoint / MANIFEST).read_bytes())["files"]
        for name, expected in files.items():
            data = (checkpoint / name).read_bytes()
            if len(data) != expected["bytes"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
                return f"{name} is not as it was saved"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {MANIFEST} cannot be read ({error!r})"
    return None


def _put_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder beside `target` and puts it in its place; `_tidy` mends a death between the two renames."""
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for left_over in (fresh, old):
        if left_over.exists():
            shutil.rmtree(left_over)
    write_folder(fresh, files)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    sync_folder(target.parent)
    if old.exists():
        shutil.rmtree(old)


def _remove(folder: Path) -> None:
    """Out of sight first, so that nobody meets half a folder."""
    gone = folder.with_name(f".{folder.name}.gone")
    folder.rename(gone)
    shutil.rmtree(gone)


def _tidy(folder: Path, prefix: str) -> None:
    """Puts back what was moved aside and never replaced, and removes what a killed process left half-done."""
    for entry in sorted(folder.iterdir()):
        if not (entry.name.startswith(prefix) and entry.is_dir()):
            continue
        home = folder / entry.name.removeprefix(".").removesuffix(".old")
        if entry.name.endswith(".old") and not home.exists():
            entry.rename(home)
        else:
            shutil.rmtree(entry)
