"""Text of strangers, made fit to be looked at: characters that no reader sees are shown, and pieces of a text are marked.

Escaping for HTML is the template's, which escapes all that it is given.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import msgspec

MAX_SHOWN = 6000
"""Characters of one text that a page shows."""
_PLAIN = "\n\t"


class Piece(msgspec.Struct, frozen=True):
    """A stretch of a text; `marked` where it decided the verdict."""

    text: str
    marked: bool = False


def pieces(text: str, spans: Iterable[tuple[int, int]] = ()) -> tuple[Piece, ...]:
    """The text cut where marks begin and end. Spans are [start, end) and may overlap, be empty or reach beyond the text.

    Example:
        >>> pieces("I agree.\\nDEAL_PRICE: 40", [(9, 23)])
        (Piece(text='I agree.\\n', marked=False), Piece(text='DEAL_PRICE: 40', marked=True))
    """
    marked = bytearray(min(len(text), MAX_SHOWN))
    for start, end in spans:
        for at in range(max(0, start), min(end, len(marked))):
            marked[at] = 1
    found: list[Piece] = []
    start = 0
    for at in range(1, len(marked) + 1):
        if at == len(marked) or marked[at] != marked[start]:
            found.append(Piece(seen(text[start:at]), bool(marked[start])))
            start = at
    if len(text) > MAX_SHOWN:
        found.append(Piece(f" … ({len(text) - MAX_SHOWN:,} more characters)"))
    return tuple(found)


def seen(text: str) -> str:
    """The text with what steers a page or hides in it (control, format and private characters) spelled out."""
    return "".join(c if c in _PLAIN or not _hidden(c) else f"\\u{ord(c):04x}" for c in text)


def cut(text: str, length: int) -> str:
    """At most `length` characters, with a mark where some are missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
