"""Reading a contest's message, `<reasoning>...</reasoning><answer>...</answer>`, and making its text safe for a judge.

Every rule here has one reading and takes time linear in the text; nothing a model writes raises. What a topic is, and who
wins, is not this file's business.

How a message is read:

1. Hidden blocks (`reasoning`, `think`, `thinking`; any case) are set aside by the referee's own rule: blocks of one name nest,
   one that is never closed hides everything after it, a closing mark that nothing opened hides everything before it.
2. In what is left, exactly one `<answer>` and then one `</answer>`, with nothing hidden between them, make the answer. Answer
   marks inside a hidden block are its text.
3. Without any answer mark, all that is left is the answer, and the format earns nothing; a message that was cut has then none.
4. Everything else (two answers, nested or unclosed ones, a closing mark too many) can be read in more than one way: no answer.

So a mark too many can only lose an answer, never choose among several.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from sparring.scenarios.commit import hidden_spans
from sparring.scenarios.game import MAX_TEXT

Form = Literal["strict", "soft", "none"]
"""`strict`: one block of each in order and only white space around them; `soft`: one answer block; `none`: no such block."""

MAX_ENTRY = 6000
"""Characters of a text that a judge reads."""
MIN_WORDS = 3
"""Different words below which there is nothing to judge."""
REWARDS: dict[Form, float] = {"strict": 1.0, "soft": 0.5, "none": 0.0}

_STRICT = re.compile(r"\s*<reasoning>(.*?)</reasoning>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_MARKS = re.compile(r"</?(?:reasoning|answer|think|thinking)\s*>", re.IGNORECASE)
_ANSWER = re.compile(r"<(/?)answer\s*>", re.IGNORECASE)
_EDGES = re.compile(r"</?\w+\s*>")
_MARKUP = re.compile("‹[^‹›]*›")
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn"))
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800"
"""Letters and signs that are drawn as nothing."""
_NEUTRAL = str.maketrans({
    **dict.fromkeys("<\uff1c\ufe64", "‹"),
    **dict.fromkeys(">\uff1e\ufe65", "›"),
    **dict.fromkeys("`\uff40", "'"),
    **dict.fromkeys(_BLANK_LETTERS, " "),
})  # fmt: skip
"""What could close a judge's delimiters, and the wide and small forms of the same, made harmless."""
_SINGLE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts that put no blanks between words: each character counts as one."""
_WORD = re.compile(rf"[{_SINGLE}]|[^\W_{_SINGLE}]+")
_HOLLOW = re.compile(
    r"\b(?:as an? (?:ai|artificial intelligence)(?: language)?(?: model| assistant)?"
    r"|(?:i am|i m|im) (?:sorry|afraid)|i apologi[sz]e|sorry"
    r"|(?:but )?i (?:can ?not|can t|cant|am unable to|am not able to|won t|will not|do not|don t) "
    r"(?:answer|help|assist|comply|know|do|provide|write|take)"
    r"(?: (?:you|with|to|that|this|a|an|the|request|question|answer|sides?))*"
    r"|(?:here is |this is )?(?:my|your|the|an?) (?:final )?(?:answer|reasoning|notes|speech|text|recipe|joke|bit)"
    r"(?: (?:goes )?here)?|lorem ipsum|placeholder|n a|none|no answer|insert|tbd|todo|answer|reasoning)\b"
)


@dataclass(frozen=True)
class Answer:
    """A message as read: `text` is the answer, "" where there is none, and `reasoning` what was hidden. Neither is escaped.

    Example:
        >>> read_answer("<reasoning>short</reasoning><answer>Trams are quiet.</answer>")
        Answer(reasoning='short', text='Trams are quiet.', form='strict', start=36, end=52)
    """

    reasoning: str
    text: str
    form: Form
    start: int = 0
    """Characters [start, end) of the message hold the answer."""
    end: int = 0


def read_answer(text: str, complete: bool = True) -> Answer:
    """The answer of a message, by the rules at the top of this file. `complete` is false where a limit cut the message.

    A cut message can be `soft` at most.
    """
    if "<" not in text:
        return _bare(text, "", text) if complete else Answer("", "", "none")
    marks = [mark for _, mark in zip(range(5), _MARKS.finditer(text), strict=False)]
    if complete and len(marks) == 4 and (strict := _STRICT.fullmatch(text)) and words(strict[1]) and words(strict[2]):
        return Answer(strict[1].strip(), strict[2].strip(), "strict", *strict.span(2))
    hidden = hidden_spans(text)
    reasoning = "\n".join(_inside(text[start:end]) for start, end in hidden).strip()
    left = _left(hidden, len(text))
    found = [(mark, block) for block, (start, end) in enumerate(left) for mark in _ANSWER.finditer(text, start, end)]
    if not found:
        return _bare(text, reasoning, " ".join(text[start:end] for start, end in left)) if complete else _none(reasoning)
    if len(found) != 2:
        return _none(reasoning)
    (opens, block), (closes, last) = found
    if opens[1] or not closes[1] or block != last:
        return _none(reasoning)
    start, end = opens.end(), closes.start()
    return Answer(reasoning, text[start:end].strip(), "soft", start, end)


def format_reward(answer: Answer) -> float:
    """1 for the strict form, 0.5 for the soft one, 0 for none."""
    return REWARDS[answer.form]


def escape_entry(text: str, limit: int = MAX_ENTRY) -> str:
    """A text as a judge may read it between delimiters made of `<`, `>` or backticks: it holds none of them.

    No control, format, private or unassigned characters; blanks are folded and empty lines dropped; at most `limit` characters.
    Escaping twice changes nothing.
    """
    lines = (" ".join(_seen(line).split()) for line in text[:MAX_TEXT].split("\n"))
    return "\n".join(line for line in lines if line)[:limit].rstrip()


def words(text: str) -> list[str]:
    """The words of a text, case and look-alike forms folded; in scripts without blanks, its characters."""
    bare = "".join(c for c in text[:MAX_TEXT] if unicodedata.category(c) != "Mn") if not text.isascii() else text[:MAX_TEXT]
    return _WORD.findall(unicodedata.normalize("NFKC", bare).casefold())


def fold(text: str) -> str:
    """The normalised text: two texts with one fold differ in case, width, punctuation and blanks only."""
    return " ".join(words(text))


def is_hollow(text: str) -> bool:
    """Whether there is nothing to judge: no words, markup only, or nothing but what is said where nothing is."""
    folded = fold(_MARKUP.sub(" ", escape_entry(text)))
    return len(set(words(_HOLLOW.sub(" ", folded)))) < MIN_WORDS


def _bare(text: str, reasoning: str, shown: str) -> Answer:
    return Answer(reasoning, shown.strip(), "none", 0, len(text))


def _none(reasoning: str) -> Answer:
    return Answer(reasoning, "", "none")


def _left(hidden: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """What stands between the hidden spans."""
    edges = [0, *(edge for span in hidden for edge in span), length]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]


def _inside(block: str) -> str:
    """A hidden block without the marks at its ends."""
    opening = _EDGES.match(block)
    start = opening.end() if opening and opening[0][1] != "/" else 0
    closing = block.rfind("</")
    end = closing if closing >= start and _EDGES.fullmatch(block, closing) else len(block)
    return block[start:end].strip()


def _seen(line: str) -> str:
    """The line without the characters that nobody sees, and with harmless brackets."""
    if not line.isprintable():
        line = "".join(c for c in line if c.isspace() or unicodedata.category(c) not in _UNSEEN)
    return line.translate(_NEUTRAL)
