"""`Cassette`: recorded calls in a file of JSON lines, so that a run can be repeated without network, bit for bit.

A header line, then a line for each call: its digest and its reply, or the text of its final failure; and one for each game whose
time ran out. Each line is flushed as it is written; one that a kill cut short is dropped when the file is opened again. Who is
asked when is `remote.py`'s business.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from sparring.rollout.errors import CallError, CassetteError
from sparring.rollout.remote.call import ChatReply, ChatRequest
from sparring.rollout.remote.config import RemoteConfig

VERSION = 1


class Header(msgspec.Struct, frozen=True):
    """The first line."""

    cassette: int


class Take(msgspec.Struct, frozen=True, omit_defaults=True):
    """One recorded call, or a game that was called off. `model` is for the reader of the file."""

    digest: str = ""
    model: str = ""
    key: str = ""
    reply: ChatReply | None = None
    failed: str | None = None
    off: str = ""
    """Instead of a call: what the keys of a game's calls begin with. Calls of it that come later take it up again."""


class Cassette:
    """A cassette that replays, or one that records and answers what it already holds.

    A digest that was asked several times in the recording is answered in the same order, and by the last take from then on.
    """

    def __init__(self, path: Path, *, replays: bool) -> None:
        """Raises `CassetteError` for a file that cannot be read or written, or is no cassette."""
        self.path, self.replays = path, replays
        self._takes: dict[str, list[Take]] = {}
        self._off: set[str] = set()
        self._file: BinaryIO | None = None
        try:
            kept = self._load()
            if not replays:
                self._file = self._open(kept)
        except OSError as error:
            raise CassetteError(f"cannot use the cassette {path}: {error}") from error

    def find(self, request: ChatRequest, digest: str) -> ChatReply | None:
        """The recorded answer. While recording, None where there is none, and a recorded failure is tried again.

        Raises `CallError` with a recorded failure and in a game that was called off, and `CassetteError` where a replayed
        cassette does not hold the call.
        """
        takes = self._takes.get(digest)
        if not self.replays:
            return takes[-1].reply if takes else None
        if _game_of(request.key) in self._off:
            raise CallError("the game's time ran out when it was recorded")
        if not takes:
            raise CassetteError(
                f"the cassette {self.path} holds no answer to the call {_named(request)}: replay with the settings, model "
                'and seed that it was recorded with, or record the rest with remote.cassette_mode="record"'
            )
        take = takes.pop(0) if len(takes) > 1 else takes[0]
        if take.reply is None:
            raise CallError(take.failed or "")
        return take.reply

    def record(self, request: ChatRequest, digest: str, outcome: ChatReply | CallError) -> None:
        """Appends a call; on return it survives the process. Raises `CassetteError` where the disk refuses."""
        if self._file is None:
            return
        reply, failed = (outcome, None) if isinstance(outcome, ChatReply) else (None, str(outcome))
        self._append(Take(digest=digest, model=request.model, key=request.key, reply=reply, failed=failed))

    def call_off(self, game: str) -> None:
        """Appends that a game's time ran out, while it waited for a call or for anybody else. Raises as `record` does."""
        if self._file is not None and game not in self._off:
            self._append(Take(off=game))

    def _append(self, take: Take) -> None:
        assert self._file is not None
        try:
            self._file.write(_line(take))
            self._file.flush()
        except OSError as error:
            raise CassetteError(
                f"cannot write to the cassette {self.path}: {error}; free space and go on with --resume"
            ) from error
        self._keep(take)

    def _keep(self, take: Take) -> None:
        if take.off:
            self._off.add(take.off)
        else:
            self._off.discard(_game_of(take.key))
            self._takes.setdefault(take.digest, []).append(take)

    def close(self) -> None:
        """Lets go of the file. Never raises: a line that could not be written was told of by `record`, and is tried once more."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _load(self) -> int:
        """Reads the takes; returns how many bytes of whole lines there are."""
        if "\0" in str(self.path) or (self.path.exists() and not self.path.is_file()):  # a pipe or device may have no end
            raise CassetteError(f"cannot use the cassette {self.path}: it is no file")
        try:
            body = self.path.read_bytes()
        except FileNotFoundError:
            if self.replays:
                raise CassetteError(f"there is no cassette {self.path} to replay: record it first") from None
            return 0
        kept = body.rfind(b"\n") + 1
        if kept == 0 and not self.replays and _HEADER.startswith(body):
            return 0  # killed while it wrote the header
        lines = body[:kept].splitlines()
        self._check_header(lines[0] if lines else b"")
        for number, line in enumerate(lines[1:], 2):
            try:
                take = msgspec.json.decode(line, type=Take)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                raise CassetteError(f"line {number} of the cassette {self.path} is damaged ({error}): remove it") from error
            self._keep(take)
        return kept

    def _check_header(self, line: bytes) -> None:
        try:
            version = msgspec.json.decode(line, type=Header).cassette
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raise CassetteError(f"{self.path} is no cassette: name another file in remote.cassette") from None
        if version != VERSION:
            raise CassetteError(f"the cassette {self.path} has version {version}, this program reads {VERSION}: record it again")

    def _open(self, kept: int) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.truncate(kept)
        file = open(self.path, "ab")  # noqa: SIM115 - held until `close`
        if kept == 0:
            file.write(_HEADER)
            file.flush()
            os.fsync(file.fileno())
        return file


def open_cassette(config: RemoteConfig) -> Cassette | None:
    """The cassette that the settings ask for. Raises `CassetteError` where they name none, and as `Cassette` does."""
    if config.cassette_mode == "off":
        return None
    if not config.cassette:
        raise CassetteError(f'remote.cassette_mode = "{config.cassette_mode}" needs a file: set remote.cassette')
    return Cassette(Path(config.cassette), replays=config.cassette_mode == "replay")


def _line(record: Header | Take) -> bytes:
    return msgspec.json.encode(record) + b"\n"


_HEADER = _line(Header(VERSION))


def _game_of(key: str) -> str:
    """What comes before seat and turn in the key of a player's call."""
    return key.rsplit("/", 2)[0]


def _named(request: ChatRequest) -> str:
    place = request.key or "/".join(part for part in (request.game, request.seat) if part)
    return f"{place or request.purpose} of {request.model}"
