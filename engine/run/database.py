"""`RunDatabase`: what a run did, in one SQLite file: games with their transcripts and verdicts, and metrics.

Every recorded game survives the process being killed at any instant. Belongs to the thread that opened it. Calls of other models
and what judges said stand in the same file and are `ledger.py`'s business; where the file lies is `folder.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from sparring.engine.errors import RunError
from sparring.engine.run.ledger import Ledger
from sparring.rollout.errors import TranscriptError
from sparring.rollout.trajectory import Game, Trajectory
from sparring.rollout.transcript import Transcript, replay_transcript
from sparring.scenarios.database import connect, explained, transaction
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.game import Turn
from sparring.scenarios.outcome import Evidence, Outcome, Reason
from sparring.scenarios.scenario import Scenario, canonical, load_scenario

APPLICATION_ID = 0x53505255
"""Marks a file as a run's database ("SPRU")."""
SCHEMA_VERSION = 2
TRAIN = "train"


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """A stored game and where it was played; `label` is the side of an evaluation, such as "trained", and "" in training."""

    phase: str
    label: str
    step: int
    game: Game


class Discrepancy(msgspec.Struct, frozen=True, kw_only=True):
    """A stored game whose verdicts are not those of its transcript. `recomputed` is `None` where there are none."""

    phase: str
    step: int
    game: str
    stored: dict[str, Outcome]
    recomputed: dict[str, Outcome] | None
    problem: str


class Recheck(msgspec.Struct, frozen=True, kw_only=True):
    """How many games were refereed again, and those that came out differently."""

    games: int
    discrepancies: tuple[Discrepancy, ...]


class RunDatabase:
    """A run's database.

    Example:
        >>> with run.database as database:
        ...     database.record([game], phase="train", step=3)
        ...     database.log_metrics(3, {"win_rate": 0.41})
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens the file, making it where there is none. Raises `RunError` for one that is not a run's database."""
        self.path = path
        schema = Path(__file__).with_name("run.sql")
        with self._explained("open"):
            self._db = connect(path, schema, application=APPLICATION_ID, version=SCHEMA_VERSION, read_only=read_only)
        self.ledger = Ledger(self._db, path)
        """Calls and judgements."""

    def close(self) -> None:
        self._db.close()

    # Games

    def record(self, games: Iterable[Game], *, phase: str = TRAIN, step: int = 0) -> None:
        """Stores finished games in one transaction; on return they are safe. A game of the same phase, step and id is replaced:
        a resumed run plays its unfinished steps again.

        Raises `RunError` where the disk refuses; what was stored before stays, and the same call may be made again.
        """
        with self._explained("write to"), transaction(self._db):
            for game in games:
                self._insert(game, phase, step)

    def unlearned(self, step: int) -> dict[int, list[Game]]:
        """The training games from `step` on whose trajectories are still kept, with them, by step: what a killed process had
        played and no checkpoint holds."""
        with self._explained("read"):
            rows = self._db.execute(
                "SELECT step, number, body FROM games JOIN trajectories ON game = number "
                "WHERE phase = ? AND step >= ? ORDER BY number, trajectories.rowid",
                (TRAIN, step),
            ).fetchall()
        found: dict[tuple[int, int], list[Trajectory]] = {}
        for at, number, body in rows:
            found.setdefault((at, number), []).append(self._trajectory(number, body))
        games: dict[int, list[Game]] = {}
        for (at, number), trajectories in found.items():
            games.setdefault(at, []).append(msgspec.structs.replace(self._read(number), trajectories=tuple(trajectories)))
        return games

    def forget_trajectories(self, *, before: int | None = None) -> None:
        """Lets go of what was learned before that step, which a checkpoint holds, or of all. The games stay."""
        query = "DELETE FROM trajectories WHERE game IN (SELECT number FROM games WHERE phase = ?1 AND (?2 IS NULL OR step < ?2))"
        with self._explained("write to"), transaction(self._db):
            self._db.execute(query, (TRAIN, before))

    def games(self, *, phase: str | None = None, step: int | None = None) -> Iterator[Game]:
        """The stored games in the order they ended, without trajectories. Raises `RunError` at one that is damaged."""
        for number in self._numbers(phase, step):
            yield self._read(number)

    def sample(self, each: int) -> Iterator[Sampled]:
        """The latest `each` games of every phase, side, family and verdict of a policy's seat, newest first."""
        query = """
            WITH seen AS (
                SELECT DISTINCT number, phase, step, family, verdict,
                    CASE phase WHEN 'train' THEN '' ELSE substr(games.id, 1, instr(games.id, '/') - 1) END AS label
                FROM games JOIN scenarios ON scenario = scenarios.id JOIN outcomes ON game = number
                WHERE player = 'policy' OR player LIKE 'policy:%'
            ), placed AS (
                SELECT *, row_number() OVER (PARTITION BY phase, label, family, verdict ORDER BY number DESC) AS place FROM seen
            )
            SELECT number, phase, label, step FROM placed WHERE place <= ? ORDER BY number DESC
        """
        with self._explained("read"):
            rows = self._db.execute(query, (each,)).fetchall()
        for number, phase, label, step in rows:
            yield Sampled(phase=phase, label=label, step=step, game=self._read(number))

    def count(self, *, phase: str | None = None, step: int | None = None) -> int:
        return len(self._numbers(phase, step))

    def recheck(self) -> Recheck:
        """Referees every stored transcript again and compares verdict, reward, score, reason and evidence of every seat."""
        numbers = self._numbers(None, None)
        found = (self._recheck(number) for number in numbers)
        return Recheck(games=len(numbers), discrepancies=tuple(d for d in found if d is not None))

    # Metrics

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Stores a step's metrics, replacing those of the same name."""
        rows = [(step, key, None if math.isnan(value) else float(value)) for key, value in metrics.items()]
        with self._explained("write to"), transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?)", rows)

    def metrics(self) -> dict[int, dict[str, float]]:
        """All metrics by step, in order; what was not a number is `nan`."""
        found: dict[int, dict[str, float]] = {}
        with self._explained("read"):
            for step, key, value in self._db.execute("SELECT step, key, value FROM metrics ORDER BY step, key"):
                found.setdefault(step, {})[key] = math.nan if value is None else value
        return found

    def _insert(self, game: Game, phase: str, step: int) -> None:
        execute, scenario = self._db.execute, game.scenario
        execute("INSERT OR IGNORE INTO scenarios VALUES (?, ?, ?)", (scenario.id, scenario.family, canonical(scenario)))
        execute("DELETE FROM games WHERE phase = ? AND step = ? AND id = ?", (phase, step, game.id))
        number = execute(
            "INSERT INTO games (phase, step, id, scenario, seed, sampled_tokens, seconds, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (phase, step, game.id, scenario.id, str(scenario.seed), game.sampled_tokens, game.seconds, _text(game.error)),
        ).lastrowid
        turns = [(number, at, turn.seat, _text(turn.text), turn.complete) for at, turn in enumerate(game.turns)]
        self._db.executemany("INSERT INTO turns VALUES (?, ?, ?, ?, ?)", turns)
        rows = [
            (
                number,
                place,
                seat,
                game.players[seat],
                o.verdict,
                o.reward,
                o.score,
                o.reason,
                msgspec.json.encode(o.evidence).decode(),
            )
            for place, seat in enumerate(scenario.seat_names)
            for o in (game.outcomes[seat],)
        ]
        self._db.executemany("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        kept = [(number, msgspec.msgpack.encode(trajectory)) for trajectory in game.trajectories if phase == TRAIN]
        self._db.executemany("INSERT INTO trajectories VALUES (?, ?)", kept)

    def _numbers(self, phase: str | None, step: int | None) -> list[int]:
        query = "SELECT number FROM games WHERE (?1 IS NULL OR phase = ?1) AND (?2 IS NULL OR step = ?2) ORDER BY number"
        with self._explained("read"):
            return [number for (number,) in self._db.execute(query, (phase, step))]

    def _read(self, number: int) -> Game:
        with self._explained("read"):
            row = self._db.execute(
                "SELECT games.id, scenario, seed, seconds, error, body FROM games JOIN scenarios ON scenario = scenarios.id "
                "WHERE number = ?",
                (number,),
            ).fetchone()
            turns = self._db.execute("SELECT seat, text, complete FROM turns WHERE game = ? ORDER BY turn", (number,)).fetchall()
            results = self._db.execute(
                "SELECT seat, player, verdict, reward, score, reason, evidence FROM outcomes WHERE game = ? ORDER BY place",
                (number,),
            ).fetchall()
        if row is None:
            raise RunError(f"{self.path} is damaged: game number {number} or its scenario is gone")
        name, scenario_id, seed, seconds, error, body = row
        try:
            return Game(
                id=name,
                scenario=_scenario(body, scenario_id, int(seed)),
                players={result[0]: result[1] for result in results},
                turns=tuple(Turn(seat, text, bool(complete)) for seat, text, complete in turns),
                outcomes={result[0]: _outcome(*result[2:]) for result in results},
                trajectories=(),
                seconds=seconds,
                error=error,
            )
        except (ScenarioError, msgspec.MsgspecError) as problem:
            raise RunError(f"{self.path} is damaged: game {name} cannot be read ({problem})") from problem

    def _trajectory(self, number: int, body: bytes) -> Trajectory:
        try:
            return msgspec.msgpack.decode(body, type=Trajectory)
        except msgspec.MsgspecError as error:
            raise RunError(f"{self.path} is damaged: a trajectory of game number {number} cannot be read ({error})") from error

    def _recheck(self, number: int) -> Discrepancy | None:
        with self._explained("read"):
            phase, step, name = self._db.execute("SELECT phase, step, id FROM games WHERE number = ?", (number,)).fetchone()
        try:
            game = self._read(number)
        except RunError as error:
            return Discrepancy(phase=phase, step=step, game=name, stored={}, recomputed=None, problem=str(error))
        recomputed, problem = _referee(game)
        if problem is None:
            return None
        return Discrepancy(phase=phase, step=step, game=name, stored=game.outcomes, recomputed=recomputed, problem=problem)

    def _explained(self, verb: str) -> AbstractContextManager[None]:
        hint = "free space or mend permissions, then go on with --resume; what was stored before is safe"
        return explained(RunError, f"{verb} the run's database {self.path}", hint)


def _referee(game: Game) -> tuple[dict[str, Outcome] | None, str | None]:
    """The verdicts that the transcript gives, and what is wrong with the stored ones, if anything."""
    try:
        recomputed = replay_transcript(Transcript(scenario=game.scenario, turns=game.turns, cast=game.cast)).outcome()
    except TranscriptError as error:
        return None, f"the transcript cannot be played: {error}"
    if game.error is not None:
        held = recomputed is None and all(outcome.reason is Reason.PLAYER_FAILED for outcome in game.outcomes.values())
        return recomputed, None if held else "a game that failed must be void for every seat and not have ended"
    if recomputed is None:
        return None, "the transcript ends before the game does"
    differing = [seat for seat in game.scenario.seat_names if not _same(recomputed[seat], game.outcomes.get(seat))]
    return recomputed, f"another outcome for {' and '.join(differing)}" if differing else None


def _same(recomputed: Outcome, stored: Outcome | None) -> bool:
    """What a judge decided is not in the transcript: there it can only be seen that there was something to judge."""
    if stored is not None and stored.reason is Reason.JUDGED:
        return recomputed.reason is Reason.UNJUDGED
    return recomputed == stored


def _scenario(body: bytes, scenario_id: str, seed: int) -> Scenario:
    scenario = load_scenario(body)
    if scenario.id != scenario_id:
        raise ScenarioError(f"scenario {scenario_id} holds the content of {scenario.id}")
    return msgspec.structs.replace(scenario, seed=seed)


def _outcome(verdict: str, reward: int | None, score: float, reason: str, evidence: str) -> Outcome:
    found = {"verdict": verdict, "reward": reward, "score": score, "reason": reason}
    places: Any = msgspec.json.decode(evidence, type=tuple[Evidence, ...])
    return msgspec.structs.replace(msgspec.convert(found, Outcome), evidence=places)


def _text(text: str | None) -> str | None:
    """What SQLite can hold: lone surrogates have no UTF-8."""
    return None if text is None else text.encode("utf-8", "replace").decode()
