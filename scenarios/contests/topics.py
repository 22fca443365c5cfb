"""A contest's topics: read from `data/`, told apart by their normalised text, and split for training and evaluation.

A topic's split follows from its own text, so a new topic moves no other one. What a topic holds is its contest's business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from sparring.scenarios.contests.answer import fold, words

DATA = Path(__file__).with_name("data")
HELD_OUT_ONE_IN = 6
"""About this share of the topics is kept from training."""
SAME = 0.8
"""Word-set Jaccard above which two topics are the same topic in other words."""
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
    found = msgspec.toml.decode((DATA / file).read_bytes(), type=dict[str, tuple[kind, ...]])  # type: ignore[valid-type]
    return tuple(sorted(found["topics"], key=digest))


def digest(topic: Topic) -> str:
    """The hash of the normalised text."""
    return hashlib.sha256(fold(topic.text).encode()).hexdigest()


def is_held_out(topic: Topic) -> bool:
    """Whether training never meets the topic: decided by its normalised text alone."""
    return int(digest(topic)[:8], 16) % HELD_OUT_ONE_IN == 0


def alike(first: Topic, second: Topic) -> float:
    """The Jaccard index of the two topics' sets of words, in [0, 1]."""
    one, two = set(words(first.text)), set(words(second.text))
    return len(one & two) / len(one | two)


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
