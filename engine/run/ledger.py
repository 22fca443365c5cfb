"""`Ledger`: the calls of other models that a run made, attempt by attempt, and what its judges said; tables of `run.db`.

As a `CallJournal` it answers a call that was paid before, in this process or an earlier one. The tables are `run.sql`'s, the
connection is `database.py`'s.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import msgspec

from sparring.engine.errors import RunError
from sparring.rollout.judging.judge import Judgement, Preference
from sparring.rollout.remote.call import Attempt, CallJournal, ChatReply, Result, Usage
from sparring.scenarios.database import explained, transaction

_CALLS = (
    "digest, attempt, model, purpose, game, seat, result, seconds, prompt_tokens, cached_tokens, completion_tokens, "
    "cost, estimated, hedge, reply, error"
)
Kind = TypeVar("Kind", Result, Preference)
_HOLES = ", ".join("?" * 16)
_JUDGEMENTS = "contest, judge, criterion, first, second, preference, control"


class CallTotals(msgspec.Struct, frozen=True, kw_only=True):
    """All calls of a run, added up. `calls` counts what was asked, `attempts` the requests that went out for it."""

    calls: int
    attempts: int
    failed_attempts: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    """US dollars."""


class Ledger(CallJournal):
    """Calls and judgements of one run.

    Example:
        >>> remote = RemoteModels(config.remote, journal=run.database.ledger)
        >>> run.database.ledger.spent()
        0.0123
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = connection, path

    def announce(self, attempt: Attempt) -> int | None:
        """Stores an attempt that is about to go out. Raises `RunError` where the disk refuses: it is then not sent."""
        with self._explained("write to"), transaction(self._db):
            return self._db.execute(f"INSERT INTO calls ({_CALLS}) VALUES ({_HOLES})", _row(attempt)).lastrowid

    def record(self, attempt: Attempt, number: int | None = None) -> None:
        """Stores an attempt, in place of its announcement; on return it is safe. Raises `RunError` where the disk refuses."""
        row = _row(attempt)
        with self._explained("write to"), transaction(self._db):
            if number is None:
                self._db.execute(f"INSERT INTO calls ({_CALLS}) VALUES ({_HOLES})", row)
            else:
                self._db.execute(f"UPDATE calls SET ({_CALLS}) = ({_HOLES}) WHERE number = ?", (*row, number))

    def find(self, digest: str) -> ChatReply | None:
        """The answer that was taken for this digest, the first where there are several."""
        query = "SELECT reply FROM calls WHERE digest = ? AND reply IS NOT NULL ORDER BY number LIMIT 1"
        with self._explained("read"):
            row = self._db.execute(query, (digest,)).fetchone()
        return None if row is None else self._reply(row[0])

    def spent(self) -> float:
        with self._explained("read"):
            return float(self._db.execute("SELECT total(cost) FROM calls").fetchone()[0])

    def totals(self) -> CallTotals | None:
        """`None` where nothing was called."""
        query = (
            "SELECT count(DISTINCT digest), count(*), sum(result != 'ok'), sum(prompt_tokens), sum(completion_tokens), sum(cost) "
            "FROM calls"
        )
        with self._explained("read"):
            calls, attempts, failed, prompt, completion, cost = self._db.execute(query).fetchone()
        if not attempts:
            return None
        return CallTotals(
            calls=calls,
            attempts=attempts,
            failed_attempts=failed,
            prompt_tokens=prompt,
            completion_tokens=completion,
            cost=round(cost, 9),
        )

    def attempts(self) -> list[Attempt]:
        """All of them, oldest first. Raises `RunError` at one that is damaged."""
        with self._explained("read"):
            rows = self._db.execute(f"SELECT {_CALLS} FROM calls ORDER BY number").fetchall()
        return [
            Attempt(
                digest=row[0],
                number=row[1],
                model=row[2],
                purpose=row[3],
                game=row[4],
                seat=row[5],
                result=self._known(Result, row[6]),
                seconds=row[7],
                usage=Usage(prompt_tokens=row[8], cached_tokens=row[9], completion_tokens=row[10]),
                cost=row[11],
                estimated=bool(row[12]),
                hedge=bool(row[13]),
                reply=None if row[14] is None else self._reply(row[14]),
                error=row[15],
            )
            for row in rows
        ]

    def record_judgements(self, judgements: Iterable[Judgement], *, phase: str, step: int) -> None:
        """Stores what was said in one step, in place of what an earlier attempt at the same step left."""
        rows = [(phase, step, j.group, j.judge, j.criterion, j.first, j.second, j.preference, j.control) for j in judgements]
        with self._explained("write to"), transaction(self._db):
            self._db.execute("DELETE FROM judgements WHERE phase = ? AND step = ?", (phase, step))
            self._db.executemany(f"INSERT INTO judgements (phase, step, {_JUDGEMENTS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def judgements(self, *, phase: str, step: int | None = None) -> list[Judgement]:
        """What was said in a phase, or in one step of it, in order."""
        query = f"SELECT {_JUDGEMENTS} FROM judgements WHERE phase = ?1 AND (?2 IS NULL OR step = ?2) ORDER BY number"
        with self._explained("read"):
            rows = self._db.execute(query, (phase, step)).fetchall()
        return [
            Judgement(
                group=row[0],
                judge=row[1],
                criterion=row[2],
                first=row[3],
                second=row[4],
                preference=None if row[5] is None else self._known(Preference, row[5]),
                control=row[6],
            )
            for row in rows
        ]

    def judged(self) -> list[tuple[str, int, int]]:
        """Where judges were asked, in the order in which they first were: phase, step, and the number of judgements."""
        query = "SELECT phase, step, count(*) FROM judgements GROUP BY phase, step ORDER BY min(number)"
        with self._explained("read"):
            return [(phase, step, count) for phase, step, count in self._db.execute(query)]

    def _known(self, kind: type[Kind], value: str) -> Kind:
        try:
            return kind(value)
        except ValueError as error:
            raise RunError(f"{self._path} is damaged: {error}") from error

    def _reply(self, body: str) -> ChatReply:
        try:
            return msgspec.json.decode(body, type=ChatReply)
        except msgspec.MsgspecError as error:
            raise RunError(f"{self._path} is damaged: a call's answer cannot be read ({error})") from error

    def _explained(self, verb: str) -> AbstractContextManager[None]:
        hint = "free space or mend permissions, then go on with --resume; what was stored before is safe"
        return explained(RunError, f"{verb} the run's database {self._path}", hint)


def _row(attempt: Attempt) -> tuple[object, ...]:
    usage, reply = attempt.usage, attempt.reply
    return (
        attempt.digest,
        attempt.number,
        attempt.model,
        attempt.purpose,
        attempt.game,
        attempt.seat,
        attempt.result,
        attempt.seconds,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        attempt.cost,
        attempt.estimated,
        attempt.hedge,
        None if reply is None else _written(reply),
        _text(attempt.error),
    )


def _written(reply: ChatReply) -> str:
    return msgspec.json.encode(msgspec.structs.replace(reply, text=_text(reply.text), model=_text(reply.model))).decode()


def _text(text: str) -> str:
    """What SQLite can hold: lone surrogates have no UTF-8."""
    return text.encode("utf-8", "replace").decode()
