"""The embedded rubric: a text's structure, coverage of its brief, support and repetition, as figures in [0, 1].

It reads words, not meaning. A text that says nothing in the right form scores well, and a policy trained against it learns
that form. It is there so that contests run, learn and are tested without a key or a network, and so that a known judge checks
the machinery around judges; a claim about the quality of debates needs a judge that understands them.

Built so that a policy can climb it (every part rises by degrees) and not by length: each part saturates, repeated sentences
count once, and repetition, lists of words, copies of the brief and texts beyond `SANE_WORDS` lose.
"""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec

from sparring.rollout.judging.wording import (
    CLAIMS,
    CONCLUSIONS,
    CONNECTIVES,
    FUNCTION_WORDS,
    MARKERS,
    SUPPORT,
    content_stems,
    marked,
    point_stems,
    sentences,
    stem,
    topic_stems,
)

SANE_WORDS = 300
"""Beyond this many words a text loses: about what a few minutes of speech hold."""
FULL_MARKS = 3
"""Different connectives, and different grounds, that earn those parts in full."""
FULL_TOPIC = 6
"""Words of the brief that earn coverage in full; a short brief asks for 60% of its own."""
FULL_SUBSTANCE = 25
"""Different words with meaning that earn substance in full: about four sentences."""
LEAST_PROSE = 0.2
"""Share of function words below which a text is a list of words; English prose has 0.35 to 0.6."""
COPIED = 5
"""Words in a row that, standing in the brief too, count as copied."""


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """What each part weighs under one criterion. Only their proportions matter."""

    opening: float = 2.0
    reasons: float = 2.0
    conclusion: float = 2.0
    coverage: float = 3.0
    support: float = 2.0
    focus: float = 1.0
    substance: float = 2.0


PARTS = Weights.__struct_fields__


class Rubric(msgspec.Struct, frozen=True, kw_only=True):
    """A text's figures, each in [0, 1]. The first seven are merits; `variety`, `prose` and `restraint` scale their sum.

    Example:
        >>> rubric("Should cities ban cars?", "Cities should ban cars because air is for breathing.").coverage
        1.0
    """

    opening: float
    """The first sentence claims something about the brief."""
    reasons: float
    """Different connectives that lead on to something."""
    conclusion: float
    """The last sentence of several draws the sum, about the brief."""
    coverage: float
    """The brief's words that sentences take up."""
    support: float
    """Different grounds: examples, figures, causes, comparisons, and points that the brief knows to support the case."""
    focus: float
    """Share of sentences that are about the brief or tie reasons together."""
    substance: float
    """Different words with meaning, up to a few sentences' worth."""
    variety: float
    """Share of three words in a row that were not there before: 1 where nothing is repeated."""
    prose: float
    """1 for sentences, towards 0 for a list of words or for nothing but function words."""
    restraint: float
    """1 for a text of its own of sane length, less for one that copies the brief or goes on and on."""

    @property
    def structure(self) -> float:
        """Opening, reasons and conclusion together."""
        return (self.opening + self.reasons + self.conclusion) / 3

    @property
    def soundness(self) -> float:
        return self.variety * self.prose * self.restraint

    def score(self, weights: Weights | None = None) -> float:
        """In [0, 1]: the weighted mean of the merits, times soundness."""
        held = Weights() if weights is None else weights
        values: list[tuple[float, float]] = [(getattr(self, part), getattr(held, part)) for part in PARTS]
        return self.soundness * sum(value * weight for value, weight in values) / sum(weight for _, weight in values)


NOTHING = Rubric(**dict.fromkeys(Rubric.__struct_fields__, 0.0))


@lru_cache(maxsize=4096)
def rubric(brief: str, text: str) -> Rubric:
    """The figures of a text that answers `brief`; all 0 for a text without a word. Deterministic."""
    said = sentences(text)
    if not said:
        return NOTHING
    words = [word for sentence in said for word in sentence]
    distinct = [list(sentence) for sentence in dict.fromkeys(map(tuple, said))]
    topic, points, given = _read_brief(brief)
    stems = [content_stems(sentence) for sentence in distinct]
    connected = [marked(sentence, CONNECTIVES, tail=2) for sentence in distinct]
    grounds = [_grounds(sentence) for sentence in distinct]
    on_topic = [bool(held & topic) or not topic for held in stems]
    return Rubric(
        opening=_opening(distinct[0], topic),
        reasons=_up_to(len(set[tuple[str, ...]]().union(*connected)), FULL_MARKS),
        conclusion=_conclusion(said, topic) if len(distinct) > 1 else 0.0,
        coverage=_coverage(distinct, stems, topic),
        support=_up_to(len(set[tuple[str, ...]]().union(*grounds)) + _points(stems, points), FULL_MARKS),
        focus=sum(map(any, zip(on_topic, connected, grounds, strict=True))) / len(said),
        substance=_up_to(len(set[str]().union(*stems)), FULL_SUBSTANCE),
        variety=_variety(words),
        prose=_prose(words),
        restraint=_originality(words, given) * min(1.0, SANE_WORDS / len(words)),
    )


def _up_to(count: int, full: int) -> float:
    return min(1.0, count / full)


def _opening(first: list[str], topic: frozenset[str]) -> float:
    length = min(1.0, len(first) / 5, 40 / len(first))
    mention = _up_to(len(content_stems(first) & topic), min(2, len(topic))) if topic else 1.0
    claim = any(word in CLAIMS for word in first)
    return length * (0.25 + 0.5 * mention + 0.25 * claim)


def _conclusion(said: list[list[str]], topic: frozenset[str]) -> float:
    """A closing formula may return, as in each of several rounds; a last sentence without one must be new."""
    *before, last = said
    if len(last) < 3:
        return 0.0
    drawn = bool(marked(last[:5], CONCLUSIONS))
    about = last not in before and (not topic or any(stem(word) in topic for word in last))
    return 0.6 * drawn + 0.4 * about


def _coverage(distinct: list[list[str]], stems: list[set[str]], topic: frozenset[str]) -> float:
    """Only sentences take a word up; three or fewer words are none."""
    if not topic:
        return 1.0
    met = set[str]().union(*(held & topic for words, held in zip(distinct, stems, strict=True) if len(words) > 3))
    return _up_to(len(met), min(FULL_TOPIC, math.ceil(0.6 * len(topic))))


def _grounds(words: list[str]) -> set[tuple[str, ...]]:
    """The grounds of a sentence. Figures count as one ground, whatever they are."""
    found = marked(words, SUPPORT, tail=2)
    return found | {("0",)} if len(words) > 3 and any(word.isdigit() for word in words) else found


def _variety(words: list[str]) -> float:
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(runs)) / len(runs) if runs else len(set(words)) / len(words)


def _prose(words: list[str]) -> float:
    share = sum(word in FUNCTION_WORDS and word not in MARKERS for word in words) / len(words)
    return min(1.0, share / LEAST_PROSE, (1 - share) / LEAST_PROSE)


def _points(stems: list[set[str]], points: tuple[frozenset[str], ...]) -> int:
    """How many of the brief's points a sentence takes up, in half of their words or more."""
    return sum(any(2 * len(point & held) >= len(point) for held in stems) for point in points)


def _originality(words: list[str], given: frozenset[tuple[str, ...]]) -> float:
    """Quoting the brief is fair up to a third of the text."""
    runs = list(zip(*(words[start:] for start in range(COPIED)), strict=False))
    copied = sum(run in given for run in runs) / len(runs) if runs else 0.0
    return min(1.0, 1.5 * (1 - copied))


@lru_cache(maxsize=256)
def _read_brief(brief: str) -> tuple[frozenset[str], tuple[frozenset[str], ...], frozenset[tuple[str, ...]]]:
    """The stems of its topic, those of its points, and the runs of words that count as copied."""
    words = [word for sentence in sentences(brief) for word in sentence]
    runs = zip(*(words[start:] for start in range(COPIED)), strict=False)
    return topic_stems(brief), point_stems(brief), frozenset(runs)
