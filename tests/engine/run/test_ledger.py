"""Calls and judgements in a run's database: what was paid is found again, whatever the answer holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sparring.engine.errors import RunError
from sparring.engine.run.database import RunDatabase
from sparring.rollout.judging.judge import Judgement, Preference
from sparring.rollout.remote.call import Attempt, ChatReply, Finish, Result, Usage

USAGE = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=5)


def attempt(digest: str, number: int = 0, *, result: Result = Result.OK, text: str | None = None, cost: float = 0.0) -> Attempt:
    reply = None if text is None else ChatReply(text=text, finish=Finish.STOP, usage=USAGE, model="m-1")
    return Attempt(
        digest=digest,
        number=number,
        model="openai:m",
        purpose="partner",
        game="0/0/1",
        seat="buyer",
        result=result,
        seconds=0.5,
        usage=USAGE if text is not None else Usage(),
        cost=cost,
        estimated=text is None,
        hedge=number == 1,
        reply=reply,
        error="" if text is not None else "too slow",
    )


@pytest.fixture
def database(tmp_path: Path) -> RunDatabase:
    return RunDatabase(tmp_path / "run.db")


def test_a_paid_answer_is_found_again_in_another_process(database: RunDatabase) -> None:
    rows = [
        attempt("a", result=Result.TIMEOUT, cost=0.25),
        attempt("a", 1, text="I offer 40.", cost=0.5),
        attempt("a", 2, text="another", cost=0.125),
        attempt("b", result=Result.SERVER),
    ]
    for row in rows:
        database.ledger.record(row)
    database.close()
    again = RunDatabase(database.path)
    assert again.ledger.attempts() == rows
    assert again.ledger.find("a") == rows[1].reply
    assert again.ledger.find("b") is None
    assert again.ledger.find("c") is None
    assert again.ledger.spent() == 0.875
    again.close()


def test_an_announced_attempt_counts_at_its_most_until_its_end_is_known(database: RunDatabase) -> None:
    """A process that died with calls in flight had spent more than its ledger said."""
    sent = attempt("a", result=Result.SENT, cost=0.5)
    first, second = database.ledger.announce(sent), database.ledger.announce(attempt("b", result=Result.SENT, cost=0.25))
    assert database.ledger.spent() == 0.75
    ended = attempt("b", text="40", cost=0.0625)
    database.ledger.record(ended, second)
    assert first != second
    assert database.ledger.attempts() == [sent, ended]
    assert database.ledger.spent() == 0.5625
    assert database.ledger.find("a") is None
    assert database.ledger.find("b") == ended.reply
    database.close()


def test_any_text_is_kept(database: RunDatabase) -> None:
    database.ledger.record(attempt("a", text="\ud800 \x00 '; DROP TABLE calls; -- 你好"))
    found = database.ledger.find("a")
    assert found is not None
    assert found.text == "? \x00 '; DROP TABLE calls; -- 你好"
    database.close()


def test_a_damaged_answer_is_named(database: RunDatabase) -> None:
    database.ledger.record(attempt("a", text="40"))
    with closing(sqlite3.connect(database.path)) as other, other:
        other.execute("UPDATE calls SET reply = '{'")
    with pytest.raises(RunError, match="is damaged: a call's answer cannot be read"):
        database.ledger.find("a")
    database.close()


def test_judgements_of_a_step_replace_what_an_earlier_attempt_left(database: RunDatabase) -> None:
    def said(first: str, preference: Preference | None, control: str = "") -> Judgement:
        return Judgement(
            group="g", judge="embedded-rubric", criterion="case", first=first, second="z", preference=preference, control=control
        )

    ledger = database.ledger
    ledger.record_judgements([said("a", Preference.FIRST), said("b", Preference.TIE)], phase="train", step=3)
    ledger.record_judgements([said("c", None, "identical")], phase="train", step=4)
    ledger.record_judgements([said("a", Preference.SECOND)], phase="train", step=3)
    assert ledger.judgements(phase="train", step=3) == [said("a", Preference.SECOND)]
    assert ledger.judgements(phase="train") == [said("c", None, "identical"), said("a", Preference.SECOND)]
    assert ledger.judgements(phase="evaluate") == []
    database.close()


def test_a_word_that_nobody_writes_is_damage(database: RunDatabase) -> None:
    """`sparring report` ended with a ValueError's traceback."""
    database.ledger.record(attempt("a", text="40"))
    said = Judgement(group="g", judge="j", criterion="c", first="1", second="2", preference=Preference.TIE, control="")
    database.ledger.record_judgements([said], phase="train", step=0)
    with closing(sqlite3.connect(database.path)) as other, other:
        other.execute("UPDATE calls SET result = 'odd'")
        other.execute("UPDATE judgements SET preference = 'odd'")
    with pytest.raises(RunError, match="is damaged: 'odd' is not a valid Result"):
        database.ledger.attempts()
    with pytest.raises(RunError, match="is damaged: 'odd' is not a valid Preference"):
        database.ledger.judgements(phase="train")
    database.close()
