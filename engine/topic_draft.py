"""`Draft`: topics of a contest as they come in from a model: which are kept, and why others are not.

An answer is a stranger's text. Each topic is cleaned, held to the checks of those that ship (`scenarios/contests/topics.py`), and
dropped with a reason where it does not pass, or says what another one says. Asking is `authoring.py`'s.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from sparring.rollout.errors import BudgetError, CallError
from sparring.rollout.remote.call import ChatReply, Finish
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.contests.topics import Seen, fault

_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u00a0": " "})


class Draft:
    """The topics that were kept so far, and why others were not."""

    def __init__(self, contest: Contest[Any, Any], count: int) -> None:
        self.contest, self.count = contest, count
        self.kept: list[Any] = []
        self.dropped: Counter[str] = Counter()
        self.examples: list[str] = []
        self.stopped = ""
        """Why nothing more is asked for, where that is not because there are enough."""
        self.out_of_budget = False
        self._shipped, self._own = Seen(contest.all_topics), Seen[Any](())

    @property
    def missing(self) -> int:
        return self.count - len(self.kept)

    def read(self, reply: ChatReply | BaseException) -> None:
        """Takes what can be taken of an answer. Raises what ends the authoring."""
        if isinstance(reply, BudgetError):
            self.stopped, self.out_of_budget = str(reply), True
        elif isinstance(reply, CallError):
            self._drop("a call failed", str(reply))
        elif isinstance(reply, BaseException):
            raise reply
        elif reply.finish is Finish.REFUSED:
            self._drop("the model refused", reply.text)
        else:
            entries = _entries(reply.text)
            if entries is None:
                self._drop(
                    "an answer was cut" if reply.finish is Finish.LENGTH else "an answer was no list of topics", reply.text
                )
            for entry in entries or ():
                self._take(entry)

    def _take(self, entry: Any) -> None:
        try:
            topic = msgspec.convert(_plain(entry), self.contest.topic_type)
        except (msgspec.ValidationError, RecursionError) as error:
            self._drop("it has other fields", f"{error} in {str(entry)[:200]}")
            return
        if (problem := fault(topic, self.contest.skins)) is not None:
            self._drop("it cannot be played", problem)
        elif (twin := self._shipped.twin(topic)) is not None:
            self._drop("it ships already", f"{topic.text!r} is {twin.text!r}")
        elif (twin := self._own.twin(topic)) is not None:
            self._drop("it came before", f"{topic.text!r} is {twin.text!r}")
        elif self.missing <= 0:
            self._drop("there were enough", repr(topic.text))
        else:
            self.kept.append(topic)
            self._own.add(topic)

    def _drop(self, reason: str, what: str) -> None:
        self.dropped[reason] += 1
        if self.dropped[reason] == 1:
            self.examples.append(f"{reason}: {' '.join(what.split())[:300]}")


def _entries(text: str) -> list[Any] | None:
    """The topics of an answer, whatever they are; `None` where it is no list of them."""
    try:
        answer = msgspec.json.decode(text.strip().encode("utf-8", "replace"))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    entries = answer.get("topics") if isinstance(answer, dict) else None
    return entries if isinstance(entries, list) else None


def _plain(entry: Any) -> Any:
    """The entry with texts as the shipped ones are written: plain quotes and dashes, single blanks, no full stop at the end."""
    if not isinstance(entry, dict):
        return entry
    return {name: [_text(item) for item in value] if isinstance(value, list) else _text(value) for name, value in entry.items()}


def _text(value: Any) -> Any:
    return " ".join(value.translate(_PLAIN).split()).rstrip(".").rstrip() if isinstance(value, str) else value
