"""Games as text: reading a transcript and refereeing it, and the readable record of a game that was played.

What a model is trained on is `training_file.py`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from sparring.rollout.errors import TranscriptError
from sparring.rollout.player import find_strategy
from sparring.rollout.trajectory import Game
from sparring.scenarios.errors import ScenarioError, SparringError
from sparring.scenarios.game import GameState, Turn
from sparring.scenarios.outcome import Outcome, Reason
from sparring.scenarios.scenario import Scenario


class Transcript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A game as it was spoken. `cast` maps the seats that a script played to its name.

    Example:
        >>> load_transcript('{"scenario": {...}, "turns": [{"seat": "seller", "text": "I say 60."}, ...]}')
    """

    scenario: Scenario
    turns: tuple[Turn, ...]
    cast: dict[str, str] = {}


def load_transcript(data: bytes | str) -> Transcript:
    """A transcript from JSON. Raises `TranscriptError` with the place at fault, such as `$.turns[3].seat`."""
    try:
        return msgspec.json.decode(data, type=Transcript)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise TranscriptError(f"not a transcript: {_one_line(error)}") from error
    except RecursionError as error:
        raise TranscriptError("not a transcript: it is nested too deeply") from error


def read_transcript(path: Path) -> Transcript:
    """The transcript in a file. Raises `TranscriptError` naming the file."""
    try:
        return load_transcript(path.read_bytes())
    except OSError as error:
        raise TranscriptError(f"{path}: {error.strerror}") from error
    except TranscriptError as error:
        raise TranscriptError(f"{path}: {error}") from error


def replay_transcript(transcript: Transcript) -> GameState:
    """The game after every turn. Raises `TranscriptError` with the place where the referee would not go on."""
    scenario, cast = transcript.scenario, transcript.cast
    try:
        GameState(scenario)
    except ScenarioError as error:
        raise TranscriptError(f"{_one_line(error)} - at `$.scenario`") from error
    try:
        for seat, script in cast.items():
            scenario.index(seat)
            find_strategy(scenario.family, script)
        game = GameState(scenario, cast)
    except SparringError as error:
        raise TranscriptError(f"{_one_line(error)} - at `$.cast`") from error
    for number, turn in enumerate(transcript.turns):
        try:
            game.submit(turn.seat, turn.text, complete=turn.complete)
        except ScenarioError as error:
            raise TranscriptError(f"{_one_line(error)} - at `$.turns[{number}]`") from error
    return game


def referee(transcript: Transcript) -> dict[str, Any]:
    """The verdict as `{"ended": true, "outcomes": {seat: {"verdict", "reward", "score", "reason", "evidence"}}}`.

    `outcomes` is empty while the game goes on. Raises `TranscriptError` with the place at fault.
    """
    outcomes = replay_transcript(transcript).outcome()
    return {"ended": outcomes is not None, "outcomes": msgspec.to_builtins(outcomes or {})}


class GameRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A finished game to read, one JSON object a line; its `transcript` can be refereed again."""

    id: str
    players: dict[str, str]
    outcomes: dict[str, Outcome]
    transcript: Transcript
    seconds: float
    error: str | None = None

    @classmethod
    def of(cls, game: Game) -> GameRecord:
        transcript = Transcript(scenario=game.scenario, turns=game.turns, cast=game.cast)
        return cls(
            id=game.id,
            players=game.players,
            outcomes=game.outcomes,
            transcript=transcript,
            seconds=game.seconds,
            error=game.error,
        )

    @property
    def line(self) -> bytes:
        """The record as one line of JSON, with its newline."""
        return msgspec.json.encode(self) + b"\n"

    def recheck(self) -> bool:
        """Whether refereeing the transcript again gives the stored outcomes; a failed game stays void for every seat."""
        again = replay_transcript(self.transcript).outcome()
        if self.error is not None:
            return again is None and all(outcome.reason is Reason.PLAYER_FAILED for outcome in self.outcomes.values())
        return again == self.outcomes


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
