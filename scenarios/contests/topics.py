"""A contest's topics: read from `data/` or a user's file, told apart by their normalised text, split for training and evaluation.

A topic's split follows from its own text, so a new topic moves no other one. What a topic holds is its contest's business; how it
must be written, so that it fits every sentence around it, is told here. Asking a model for topics is `engine/authoring.py`'s.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from sparring.scenarios.contests.answer import escape_entry, fold, words
from sparring.scenarios.errors import ScenarioError

DATA = Path(__file__).with_name("data")
HELD_OUT_ONE_IN = 6
"""About this share of the topics is kept from training."""
SAME = 0.8
"""Word-set Jaccard above which two topics are the same topic in other words."""
MAX_TEXT = 200
"""Characters of any of a topic's texts."""
MIN_ITEMS, MAX_ITEMS = 3, 12
"""Of each of a topic's lists."""
FORBIDDEN = frozenset(";.<>{}[]|`")
"""What would end a sentence, a list or a quotation around a topic."""
_SMALL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about after again all an and any anyone are as at be because been before being but by can could do does every
        everyone for from had has have he her his how if in into is it its just keep like may more most must my never no
        not nobody of off on one only or other our out over own she should so some than that the their them then there
        they this to too under until up very was we were what when where which while who whose why will with without
        would you your""",
    )
)
"""Words that carry no subject."""


class Topic(Protocol):
    """What every contest's topics have: `text` is their identity, `skin` the only skin they suit, "" for any."""

    @property
    def text(self) -> str: ...

    @property
    def skin(self) -> str: ...


T = TypeVar("T", bound=Topic)


def load_topics(file: str, kind: type[T]) -> tuple[T, ...]:
    """The `[[topics]]` of a file in `data/`, in an order that has nothing to do with the file's."""
    return in_order(parse_topics((DATA / file).read_bytes(), kind, file))


def read_topics(path: Path, kind: type[T], known: Iterable[T], skins: Sequence[str]) -> tuple[T, ...]:
    """The `[[topics]]` of a user's file, beside the topics `known` and for a contest with such skins.

    Raises `ScenarioError` with the file, the entry and the field for what does not fit, and for a topic that another one is in
    other words: the two might come to lie in different splits.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScenarioError(f"cannot read the topics in {path}: {error.strerror}") from error
    found, seen = parse_topics(data, kind, str(path)), Seen(known)
    for number, topic in enumerate(found, 1):
        problem = fault(topic, skins)
        if problem is None and (twin := seen.twin(topic)) is not None:
            problem = f"it is {twin.text!r} in other words, which is there already: remove one"
        if problem is not None:
            raise ScenarioError(f"{path}: topic {number}: {problem}")
        seen.add(topic)
    return found


def parse_topics(data: bytes, kind: type[T], where: str) -> tuple[T, ...]:
    """The `[[topics]]` of a TOML file, typed. Raises `ScenarioError` with the file, the entry and the field at fault."""
    try:
        tree = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError and a UnicodeDecodeError are ValueErrors
        raise ScenarioError(f"{where}: not TOML: {error}") from error
    entries = tree.get("topics")
    if tree.keys() != {"topics"} or not isinstance(entries, list) or not entries:
        raise ScenarioError(f"{where}: a file of topics holds [[topics]] and nothing else")
    return tuple(_typed(entry, kind, f"{where}: topic {number}") for number, entry in enumerate(entries, 1))


def format_topics(topics: Sequence[Topic], comment: str) -> bytes:
    """A file that `read_topics` reads back, with the comment on top."""
    blocks = ["\n".join(f"# {line}".rstrip() for line in comment.splitlines())]
    for topic in topics:
        fields = msgspec.to_builtins(topic)
        blocks.append("\n".join(["[[topics]]", *(f"{name} = {_toml(value)}" for name, value in fields.items())]))
    return ("\n\n".join(blocks) + "\n").encode()


def in_order(topics: Iterable[T]) -> tuple[T, ...]:
    """An order that has nothing to do with who wrote them, or when."""
    return tuple(sorted(topics, key=digest))


def fault(topic: Topic, skins: Sequence[str]) -> str | None:
    """What is wrong with a topic, beginning with the field; `None` for one that can be played.

    Texts are of one line and plain, so that they fit into sentences, lists and quotations; lists have a few different items; and
    the subject has at least two words that carry it.
    """
    for name, value in msgspec.to_builtins(topic).items():
        texts = value if isinstance(value, (list, tuple)) else (value,)
        if (problem := next((found for text in texts if (found := _text_fault(text)) is not None), None)) is not None:
            return f"{name}: {problem}"
        if texts is value and not MIN_ITEMS <= len(texts) <= MAX_ITEMS:
            return f"{name}: has {len(texts)} items, not {MIN_ITEMS} to {MAX_ITEMS}"
        if len({fold(text) for text in texts}) < len(texts):
            return f"{name}: says one thing twice"
    if topic.skin and topic.skin not in skins:
        return f"its skin {topic.skin!r} is none of {', '.join(skins)}"
    if len(content_words(topic.text)) < 2:
        return f"{topic.text!r} has fewer than two words that carry a subject"
    return None


class Seen(Generic[T]):
    """Topics that are there already.

    Example:
        >>> Seen(contest.all_topics).twin(Motion("Private cars should be banned, cities!", pro, con))
    """

    def __init__(self, topics: Iterable[T]) -> None:
        self._topics: list[tuple[frozenset[str], T]] = []
        for topic in topics:
            self.add(topic)

    def add(self, topic: T) -> None:
        self._topics.append((frozenset(words(topic.text)), topic))

    def twin(self, topic: T) -> T | None:
        """One that says the same: equal when normalised, or above `SAME` in its words."""
        own = frozenset(words(topic.text))
        return next((other for theirs, other in self._topics if _jaccard(own, theirs) > SAME), None)


def digest(topic: Topic) -> str:
    """The hash of the normalised text."""
    return hashlib.sha256(fold(topic.text).encode()).hexdigest()


def is_held_out(topic: Topic) -> bool:
    """Whether training never meets the topic: decided by its normalised text alone."""
    return int(digest(topic)[:8], 16) % HELD_OUT_ONE_IN == 0


def alike(first: Topic, second: Topic) -> float:
    """The Jaccard index of the two topics' sets of words, in [0, 1]."""
    return _jaccard(frozenset(words(first.text)), frozenset(words(second.text)))


def content_words(text: str) -> tuple[str, ...]:
    """The words that carry a text's subject, each once, in order.

    Example:
        >>> content_words("Cities should ban private cars")
        ('cities', 'ban', 'private', 'cars')
    """
    return tuple(dict.fromkeys(word for word in words(text) if word not in _SMALL_WORDS))


def one_line(items: Sequence[str]) -> str:
    """A list as one line of a brief; read back by splitting at "; "."""
    return "; ".join(items)


def _jaccard(one: frozenset[str], two: frozenset[str]) -> float:
    return len(one & two) / len(one | two) if one or two else 1.0


def _typed(entry: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "").replace("Object contains", "contains").replace("Object missing", "missing")
        raise ScenarioError(f"{where}: {said.replace(' - at $.', ' - at ')}") from error


def _text_fault(text: str) -> str | None:
    if not text or text != " ".join(text.split()):
        return f"{text!r} is empty, or has blanks or line breaks that it does not need"
    if len(text) > MAX_TEXT:
        return f"has {len(text)} characters, not up to {MAX_TEXT}"
    if odd := sorted(set(text) & FORBIDDEN):
        return f"{text!r} holds {' '.join(odd)}, which would end the sentence or list around it"
    if escape_entry(text) != text:
        return f"{text!r} holds characters that nobody sees, or that look like others"
    return None if words(text) else f"{text!r} holds no word"


def _toml(value: Any) -> str:
    """Strings and lists of them: what JSON writes of printable text is TOML."""
    return json.dumps(value, ensure_ascii=False)
