"""Judges by a simple rule, for rehearsals and for audits that must catch them.

A verdict is written into whichever property of the schema names the two sides and a tie ("first", "second", "tie", or "A", "B",
"tie"); where the schema has none, or there is none, the verdict is the bare word. Owns no judge that anybody should train with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from sparring.bench.provider.ask import Ask
from sparring.bench.provider.latency import RehearsalError
from sparring.bench.provider.schema import conforming

Sides = tuple[str, str]
Rule = Callable[[Ask, Sides], int]
"""0 prefers the first side, 1 the second, 2 neither."""

VERDICTS = ({"first", "second", "tie"}, {"a", "b", "tie"}, {"1", "2", "tie"})
BLOCK = re.compile(
    r"<(?P<tag>first|second|a|b|answer_a|answer_b|text_1|text_2)\b[^>]*>(?P<text>.*?)</(?P=tag)>", re.DOTALL | re.IGNORECASE
)
HEADED = re.compile(
    r"^[#*\s]*(?:(?:answer|text|entry|response)\s+)?(?:first|second|A|B|1|2)\b[^\n]*:?\s*$", re.MULTILINE | re.IGNORECASE
)


def judge(rule: str) -> Callable[[Ask], str]:
    """The judge that goes by "first", "longest", "random", "tie" or "quality" (most different words).

    Raises `RehearsalError` for another rule.
    """
    if rule not in RULES:
        raise RehearsalError(f"no judge goes by {rule!r}: choose from {', '.join(RULES)}")
    decide = RULES[rule]

    def verdict(ask: Ask) -> str:
        place = verdict_of(ask.schema)
        choice = decide(ask, sides(ask))
        if ask.schema is None or place is None:
            return ("first", "second", "tie")[choice]
        name, words = place
        answer = conforming(ask.schema, ask.rng)
        answer[name] = words[choice]
        return json.dumps(answer)

    return verdict


def verdict_of(schema: dict[str, Any] | None) -> tuple[str, tuple[str, str, str]] | None:
    """The property that holds the verdict, and its words for the first side, the second side and a tie."""
    for name, part in (schema or {}).get("properties", {}).items():
        words = part.get("enum") if isinstance(part, dict) else None
        if isinstance(words, list) and {str(word).lower() for word in words} in VERDICTS:
            first, second = sorted((word for word in words if str(word).lower() != "tie"), key=str)
            tie = next(word for word in words if str(word).lower() == "tie")
            return name, (first, second, tie)
    return None


def sides(ask: Ask) -> Sides:
    """The two texts to compare: the last two tagged blocks of the user's message, or the two parts under its last two headings,
    or its two halves."""
    text = ask.last()
    blocks = [found.group("text").strip() for found in BLOCK.finditer(text)]
    if len(blocks) >= 2:
        return blocks[-2], blocks[-1]
    heads = list(HEADED.finditer(text))
    if len(heads) >= 2:
        first, second = heads[-2:]
        return text[first.end() : second.start()].strip(), text[second.end() :].strip()
    return text[: len(text) // 2], text[len(text) // 2 :]


def _prefer(left: int, right: int) -> int:
    return 2 if left == right else int(left < right)


def _random(ask: Ask, texts: Sides) -> int:
    return ask.rng.randrange(3)


RULES: dict[str, Rule] = {
    "first": lambda ask, texts: 0,
    "longest": lambda ask, texts: _prefer(*map(len, texts)),
    "random": _random,
    "tie": lambda ask, texts: 2,
    "quality": lambda ask, texts: _prefer(*(len(set(re.findall(r"\w+", text.lower()))) for text in texts)),
}
