"""Judges by a simple rule, for rehearsals and for audits that must catch them.

They read the prompts of `rollout/judging/llm.py`: two texts, each under a heading and quoted line by line. A verdict is written
into whichever property of the answer's schema may be "first", "second" or "tie"; without a schema it is the bare word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from sparring.bench.provider.ask import Ask
from sparring.bench.provider.latency import RehearsalError
from sparring.bench.provider.schema import conforming

VERDICTS = ("first", "second", "tie")
HEADINGS = ("First text:", "Second text:")
QUOTE = "|"

Texts = tuple[str, str]
Rule = Callable[[Ask, Texts], int]
"""The place of the verdict in `VERDICTS`."""


def judge(rule: str) -> Callable[[Ask], str]:
    """The judge that goes by "first", "longest", "random", "tie" or "quality" (most different words).

    Raises `RehearsalError` for another rule.
    """
    if rule not in RULES:
        raise RehearsalError(f"no judge goes by {rule!r}: choose from {', '.join(RULES)}")
    decide = RULES[rule]

    def verdict(ask: Ask) -> str:
        word, place = VERDICTS[decide(ask, texts(ask))], verdict_property(ask.schema)
        if ask.schema is None:
            return word
        answer = conforming(ask.schema, ask.rng)
        return json.dumps({**answer, place: word} if place else answer)

    return verdict


def verdict_property(schema: dict[str, Any] | None) -> str:
    """The name of the property that holds a verdict, "" where none does."""
    for name, part in (schema or {}).get("properties", {}).items():
        if isinstance(part, dict) and set(map(str, part.get("enum", ()))) == set(VERDICTS):
            return str(name)
    return ""


def texts(ask: Ask) -> Texts:
    """The two texts to compare; empty where the question has none."""
    found: dict[str, list[str]] = {heading: [] for heading in HEADINGS}
    under = ""
    for line in ask.last().split("\n"):
        if not line.startswith(QUOTE):
            under = line
        elif under in found:
            found[under].append(line.removeprefix(QUOTE).removeprefix(" "))
    first, second = ("\n".join(lines) for lines in found.values())
    return first, second


def _prefer(left: int, right: int) -> int:
    return 2 if left == right else int(left < right)


def _different_words(text: str) -> int:
    return len(set(re.findall(r"\w+", text.lower())))


RULES: dict[str, Rule] = {
    "first": lambda ask, given: 0,
    "longest": lambda ask, given: _prefer(len(given[0]), len(given[1])),
    "random": lambda ask, given: ask.rng.randrange(3),
    "tie": lambda ask, given: 2,
    "quality": lambda ask, given: _prefer(_different_words(given[0]), _different_words(given[1])),
}
