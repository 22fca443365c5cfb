"""Finding a seat's commit in its message: one tag on the last non-empty line, or nothing.

The text comes from a language model or from an opponent, so every rule here is strict: plain ASCII, whole tokens, one commit
a message. What cannot be read in exactly one way is not a commit. What a tag's value means is the family's business.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MAX_NUMBER_DIGITS = 9
_HIDDEN = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"(0|[1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True)
class Line:
    """A tag line as found: `tag` and `value` (stripped), at characters [start, end) of the raw text."""

    tag: str
    value: str
    start: int
    end: int


@dataclass(frozen=True)
class Fault:
    """Why a message's commit does not count, told to the seat that wrote it, and the characters at fault."""

    message: str
    start: int
    end: int


def visible(text: str) -> str:
    """The text with hidden reasoning blanked out by spaces, so that character positions stay those of the raw text.

    An unclosed block hides everything after it.
    """
    return _HIDDEN.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def find_commit(text: str, tags: tuple[str, ...]) -> Line | Fault | None:
    """The commit of a message: its last non-empty line where that is a tag line, `None` where it is prose.

    Two different tag lines in one message are hedging, and a fault. A tag quoted inside prose is inert.
    """
    shown = visible(text)
    lines = [line for line in _lines(shown) if line[2].strip(" \t\r")]
    if not lines:
        return None
    found = [tag_line for line in lines if (tag_line := _tag_line(*line, tags))]
    start, _, last = lines[-1]
    if not found or found[-1].start < start:
        return _near_miss(start, last, tags)
    commit = found[-1]
    if any((other.tag, other.value) != (commit.tag, commit.value) for other in found):
        return Fault("two different commits in one message: write exactly one", found[0].start, commit.end)
    return commit


def whole_number(value: str, low: int, high: int) -> int | None:
    """The plain ASCII integer in [low, high] that `value` is, or `None`: no sign, point, exponent, unit or leading zero."""
    if len(value) > MAX_NUMBER_DIGITS or not _NUMBER.fullmatch(value):
        return None
    number = int(value)
    return number if low <= number <= high else None


def escape(text: str, limit: int = 2000) -> str:
    """A message as its reader may see it: visible text, no control characters, no chat markup, no line that can pose as
    another speaker.

    Continuation lines start with `| `, so no line of a message can begin with a channel's name, however it is nested.
    """
    shown = visible(text).replace("\r\n", "\n")
    shown = "".join(c for c in shown if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    shown = shown.replace("<|", "‹|").replace("|>", "|›")
    lines = [" ".join(line.split()) for line in shown[:limit].split("\n")]
    return "\n| ".join(line for line in lines if line)


def _lines(text: str) -> list[tuple[int, int, str]]:
    """(start, end, line) of each line; only a newline ends one, whatever else Unicode calls a line break."""
    found, start = [], 0
    for line in text.split("\n"):
        found.append((start, start + len(line), line))
        start += len(line) + 1
    return found


def _tag_line(start: int, end: int, line: str, tags: tuple[str, ...]) -> Line | None:
    """`TAG: value` (or a bare `TAG`) filling the whole line but for blanks around it."""
    bare = line.strip(" \t\r")
    tag, colon, value = bare.partition(":")
    if tag not in tags:
        return None
    offset = start + line.index(bare)
    return Line(tag, value.strip(" \t") if colon else "", offset, offset + len(bare))


def _near_miss(start: int, line: str, tags: tuple[str, ...]) -> Fault | None:
    """A last line that starts like a tag but is not one: a commit that was meant and cannot be read."""
    bare = unicodedata.normalize("NFKC", line).strip().strip("*`_>#- ").upper()
    for tag in tags:
        if re.match(re.escape(tag) + r"\s*([:=]|$)", bare):
            return Fault(f"the last line looks like {tag} but is not a plain `{tag}` line", start, start + len(line))
    return None
