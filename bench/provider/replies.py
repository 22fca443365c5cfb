"""What a fake provider says: short texts, an echo, a negotiator, a debater, a judge.

Each is a function of the request alone (its generator is seeded by the body), so equal requests get equal answers. Nobody here is
clever: a rehearsal needs answers that a game or a verdict parser can use, of a plausible length. Owns no wire format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from sparring.bench.provider.ask import Ask, Reply
from sparring.bench.provider.judges import judge, verdict_property
from sparring.bench.provider.latency import RehearsalError
from sparring.bench.provider.schema import WORDS, conforming

COMMIT = re.compile(r"\b(DEAL_PRICE|ALLOCATION|MOVE|FINAL_BID):")
TIME_IS_UP = re.compile(r"commit|time is up", re.IGNORECASE)
WORTH = re.compile(r"to you it (costs|is worth) (\d+)|it is worth (\d+) to you", re.IGNORECASE)
NUMBER = re.compile(r"\d+")


def short(ask: Ask) -> str:
    """A sentence of 5 to 25 words; JSON where a schema asks for it."""
    if ask.schema is not None:
        return json.dumps(conforming(ask.schema, ask.rng))
    return f"I would say {' '.join(ask.rng.choices(WORDS, k=ask.rng.randint(5, 25)))}."


def echo(ask: Ask) -> str:
    """The user's last message, as it came."""
    return ask.last()


def negotiator(ask: Ask) -> str:
    """Plays the verifiable games by what their instructions say: talks a little, then commits to something legal."""
    found = COMMIT.search(ask.text)
    if found is None:
        return short(ask)
    play: Callable[[Ask], str] = {"DEAL_PRICE": _haggle, "ALLOCATION": _split, "MOVE": _dilemma, "FINAL_BID": _bid}[
        found.group(1)
    ]
    return play(ask)


def debater(ask: Ask) -> str:
    """A case of three to five sentences on the words of the question, with its reasoning before it."""
    words = re.findall(r"[A-Za-z]{5,}", ask.last()) or WORDS
    openings = ("First,", "Second,", "Moreover,", "For example,", "Therefore")
    claims = (
        f"{opening} {ask.rng.choice(words)} matters because {ask.rng.choice(words)} brings more {ask.rng.choice(WORDS)}."
        for opening in openings[: ask.rng.randint(3, 5)]
    )
    case = " ".join(claims)
    reasoning = f"The question turns on {ask.rng.choice(words)} and on who pays for it."
    return f"<reasoning>{reasoning}</reasoning>\n<answer>{case}</answer>"


def auto(ask: Ask) -> str:
    """Whatever the request seems to want: a verdict, a move in a game, a contest's answer, JSON, or a short text."""
    if verdict_property(ask.schema):
        return judge("quality")(ask)
    if ask.schema is None and COMMIT.search(ask.text):
        return negotiator(ask)
    if ask.schema is None and "<answer>" in ask.text:
        return debater(ask)
    return short(ask)


NAMED: Mapping[str, Reply] = {
    "auto": auto,
    "short": short,
    "echo": echo,
    "negotiator": negotiator,
    "debater": debater,
    "judge": judge("quality"),
    "judge:quality": judge("quality"),
    "judge:first": judge("first"),
    "judge:longest": judge("longest"),
    "judge:random": judge("random"),
    "judge:tie": judge("tie"),
}


def find_reply(name: str | Reply) -> Reply:
    """Raises `RehearsalError` listing the names."""
    if not isinstance(name, str):
        return name
    if name not in NAMED:
        raise RehearsalError(f"no reply is named {name!r}: choose from {', '.join(NAMED)}")
    return NAMED[name]


def _haggle(ask: Ask) -> str:
    """Asks for 24 more than its limit, gives way by 6 a message, takes any offer within 4 of what it asks."""
    worth = WORTH.search(ask.text)
    if worth is None:
        return "NO_DEAL"
    sign, limit = (1 if worth.group(1) == "costs" else -1), int(worth.group(2) or worth.group(3))
    said = sum(role == "assistant" for role, _ in ask.messages)
    wanted = max(0, limit + sign * max(2, 24 - 6 * said))
    offers = [int(number) for number in NUMBER.findall(_heard(ask))]
    if offers and sign * (offers[-1] - wanted) >= -4 and sign * (offers[-1] - limit) > 0:
        return f"Fine.\nDEAL_PRICE: {offers[-1]}"
    if TIME_IS_UP.search(ask.last()):
        own = [int(number) for number in NUMBER.findall(ask.last("assistant"))]
        close = [price for price in (*offers[-1:], *own[-1:]) if sign * (price - limit) > 0]
        return f"DEAL_PRICE: {close[0]}" if close else "NO_DEAL"
    return f"How about {wanted}?"


def _split(ask: Ask) -> str:
    """Takes half of each kind, rounded down, and commits at once: what the other leaves is not read."""
    counts = re.search(r"There are ([^.]*)\.", ask.text)
    named = re.findall(r"(\d+) ([a-z]+)|([a-z]+)=(\d+)", counts.group(1)) if counts else []
    takes = ",".join(f"{kind or other}={int(number or count) // 2}" for number, kind, other, count in named)
    return f"ALLOCATION: {takes}" if takes else "Half each?"


def _dilemma(ask: Ask) -> str:
    """One of the two moves, by the seed; a sentence first where the rules ask for one."""
    if "each says one" in ask.text and not ask.last("assistant"):
        return "Let us both do well."
    moves = re.findall(r"MOVE: (\w+)", ask.text)[:2]
    return f"MOVE: {ask.rng.choice(moves)}" if moves else "Let us see."


def _bid(ask: Ask) -> str:
    """Four fifths of its worth, within the budget."""
    worth, budget = WORTH.search(ask.text), re.search(r"budget is (\d+)", ask.text)
    value = int(worth.group(2) or worth.group(3)) if worth else 1
    return f"FINAL_BID: {min(value * 4 // 5, int(budget.group(1)) if budget else value)}"


def _heard(ask: Ask) -> str:
    """What the other side said last: the user's last message; the first one holds the instructions, which no one said."""
    users = [text for role, text in ask.messages if role == "user"]
    return users[-1] if len(users) > 1 or ask.instructions else ""
