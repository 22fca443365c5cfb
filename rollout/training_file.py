"""The training file: what `collect` writes and `learn` reads.

JSON lines: a header that says which model and tokenizer the ids belong to, one trajectory a line, a footer with their number.
Floats are written so that they read back bit for bit. The readable texts of the games are `transcript.py`'s.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Literal, Self, TypeVar

import msgspec

from sparring.rollout.errors import TrainingFileError
from sparring.rollout.player import Sampling
from sparring.rollout.trajectory import Trajectory

FORMAT: Final = "sparring-training"
VERSION = 1
FOOTER_START = b'{"trajectories":'


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose ids these are: fingerprints of the base model, of the tokenizer and its chat template, and of the policy."""

    base_model: str
    tokenizer: str
    policy: str
    sampling: Sampling
    format: Literal["sparring-training"] = FORMAT
    version: int = VERSION

    def check(self, *, base_model: str, tokenizer: str) -> None:
        """Raises `TrainingFileError` where the file was collected with another model or tokenizer."""
        for noun, here, there in (("base model", base_model, self.base_model), ("tokenizer", tokenizer, self.tokenizer)):
            if here != there:
                raise TrainingFileError(f"collected with {noun} {there}, but this is {noun} {here}: collect again with this one")


class Footer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stands at the end of a complete file."""

    trajectories: int
    games: int


class _Kind(msgspec.Struct):
    format: str = ""
    version: int = 0


Record = TypeVar("Record", bound=msgspec.Struct)


class TrainingWriter:
    """Writes a training file under a temporary name and renames it when complete; on an error nothing is left.

    Example:
        >>> with TrainingWriter(path, header) as file:
        ...     for trajectory in game.trajectories:
        ...         file.add(trajectory)
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self._part = path, path.with_name(f".{path.name}.{os.getpid()}.part")
        self._header = header
        self._count = 0
        self._games: set[str] = set()

    def __enter__(self) -> Self:
        self._file: BinaryIO = open(self._part, "wb")
        self._write(self._header)
        return self

    def add(self, trajectory: Trajectory) -> None:
        assert (fault := _fault(trajectory)) is None, fault
        self._write(trajectory)
        self._count += 1
        self._games.add(trajectory.game_id)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._write(Footer(trajectories=self._count, games=len(self._games)))
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._part, self.path)
        finally:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def _write(self, record: msgspec.Struct) -> None:
        self._file.write(msgspec.json.encode(record) + b"\n")


def read_header(path: Path) -> Header:
    """The first line of a training file. Raises `TrainingFileError` naming the file and the line."""
    with _open(path) as file:
        return _header(path, file.readline())


def read_trajectories(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a complete training file, in the order written.

    Raises `TrainingFileError` naming the file and the line, at the latest when the footer is missing or does not agree.
    """
    count, games = 0, set[str]()
    with _open(path) as file:
        _header(path, file.readline())
        for number, line in enumerate(file, 2):
            if line.startswith(FOOTER_START):
                if _decode(path, number, line, Footer) != Footer(trajectories=count, games=len(games)) or file.readline():
                    raise _damaged(path, number, "the footer does not agree with the lines")
                return
            trajectory = _decode(path, number, line, Trajectory)
            if fault := _fault(trajectory):
                raise _damaged(path, number, fault)
            count += 1
            games.add(trajectory.game_id)
            yield trajectory
    raise _damaged(path, count + 2, "the footer is missing: the file was cut off")


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise TrainingFileError(f"{path}: {error.strerror}") from error


def _header(path: Path, line: bytes) -> Header:
    kind = _decode(path, 1, line, _Kind)
    if kind.format != FORMAT:
        raise _damaged(path, 1, "this is not a training file")
    if kind.version != VERSION:
        raise TrainingFileError(f"{path} has format version {kind.version}, this program reads {VERSION}: collect again")
    return _decode(path, 1, line, Header)


def _decode(path: Path, number: int, line: bytes, kind: type[Record]) -> Record:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _damaged(path, number, " ".join(str(error).split())) from error


def _fault(trajectory: Trajectory) -> str | None:
    """What keeps a trajectory from being trained on."""
    lengths = {len(trajectory.token_ids), len(trajectory.logprobs), len(trajectory.loss_mask)}
    if len(lengths) != 1:
        return "token_ids, logprobs and loss_mask differ in length"
    if not any(trajectory.loss_mask):
        return "no token was sampled"
    if min(trajectory.token_ids) < 0:
        return "a token id is negative"
    if not all(math.isfinite(logprob) for logprob in trajectory.logprobs):
        return "a log-prob is not finite"
    return None


def _damaged(path: Path, number: int, what: str) -> TrainingFileError:
    return TrainingFileError(f"{path}, line {number}: {what}; collect again")
