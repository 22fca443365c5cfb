"""Finding a seat's commit in its message: one tag on the last non-empty line, or nothing.

The text comes from a language model or from an opponent, so every rule here is strict: plain ASCII, whole tokens, one commit
a message. What cannot be read in exactly one way is not a commit. What a tag's value means is the family's business.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MAX_NUMBER_DIGITS = 9
MAX_HEARD = 2000
"""Characters of a message's prose that its readers get."""
NEAR_MISS = 200
"""Characters of a line that are searched for a misspelt tag: normalising a long run of combining marks takes quadratic time."""
CONTINUES = "\n| "
"""What starts every line of a message but its first, as its readers see it."""
_MARK = re.compile(r"<(/?)(think|thinking|reasoning)\s*>", re.IGNORECASE)
_INVISIBLE = frozenset(("Cc", "Cf", "Cs"))
"""Unicode categories that a reader does not see: control and format characters, surrogates."""
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

    An unclosed block hides everything after it. A closing mark that nothing opened hides everything before it: some chat
    templates open the block in the prompt.
    """
    if "<" not in text:
        return text
    for start, end in hidden_spans(text):
        text = text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]
    return text


def find_commit(text: str, tags: tuple[str, ...]) -> Line | Fault | None:
    """The commit of a message: its last non-empty line where that is a tag line, `None` where it is prose.

    Two different tag lines in one message are hedging, and a fault. A tag quoted inside prose is inert. Lines are compared as a
    reader sees them, so invisible characters hide nothing; in the commit itself they are a fault.
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
    if _readable(shown[commit.start : commit.end]) != shown[commit.start : commit.end]:
        return Fault(f"the last line holds invisible characters: write a plain `{commit.tag}` line", commit.start, commit.end)
    return commit


def whole_number(value: str, low: int, high: int) -> int | None:
    """The plain ASCII integer in [low, high] that `value` is, or `None`: no sign, point, exponent, unit or leading zero."""
    if len(value) > MAX_NUMBER_DIGITS or not _NUMBER.fullmatch(value):
        return None
    number = int(value)
    return number if low <= number <= high else None


def escape(text: str, limit: int = MAX_HEARD) -> str:
    """A message as its reader may see it: visible text, no control characters, no chat markup, no line that can pose as
    another speaker.

    Continuation lines start with `| `, so no line of a message can begin with a channel's name, however it is nested.
    """
    lines = [" ".join(_readable(line).split()) for line in visible(text).split("\n")]
    shown = "\n".join(line for line in lines if line).replace("<|", "‹|").replace("|>", "|›")
    return shown[:limit].rstrip().replace("\n", CONTINUES)


def hidden_spans(text: str) -> list[tuple[int, int]]:
    """Where hidden reasoning stands, in order and apart. Blocks of one name nest; marks of another name inside a block are its
    text. What is never closed hides the rest; a closing mark that nothing opened hides everything before it."""
    spans: list[tuple[int, int]] = []
    name, depth, start = "", 0, 0
    for mark in _MARK.finditer(text):
        closes, kind = mark[1] == "/", mark[2].lower()
        if depth == 0 and closes:
            spans = [(0, mark.end())]
        elif depth == 0:
            name, depth, start = kind, 1, mark.start()
        elif kind == name:
            depth += -1 if closes else 1
            if depth == 0:
                spans.append((start, mark.end()))
    return [*spans, (start, len(text))] if depth else spans


def _readable(text: str) -> str:
    """The text without the characters that nobody sees; blanks of every kind stay."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c.isspace() or unicodedata.category(c) not in _INVISIBLE)


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
    tag, colon, value = _readable(bare).partition(":")
    if tag not in tags:
        return None
    offset = start + line.index(bare)
    return Line(tag, value.strip(" \t") if colon else "", offset, offset + len(bare))


def _near_miss(start: int, line: str, tags: tuple[str, ...]) -> Fault | None:
    """A last line that starts like a tag but is not one: a commit that was meant and cannot be read."""
    bare = unicodedata.normalize("NFKC", _readable(line).strip()[:NEAR_MISS])
    bare = "".join(c for c in bare if unicodedata.category(c) != "Mn").strip().strip("*`_>#- ").upper()
    for tag in tags:
        if re.match(re.escape(tag) + r"[\s*`_]*([:=]|$)", bare):
            return Fault(f"the last line looks like {tag} but is not a plain `{tag}` line", start, start + len(line))
    return None
