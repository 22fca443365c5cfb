"""English as the embedded rubric reads it: sentences, words, stems, and the lists of words that mark a part of an argument.

Owns no judgement of any of it (`rubric.py`). Everything here is linear in the text's length and the same on every machine.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sparring.scenarios.contests.contest import support_points, topic_words

_SENTENCE = re.compile(r"[^.!?\n]+")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_SUFFIXES = ("ing", "ies", "ied", "ed", "es", "ly", "s", "e", "y")


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(phrase.split()) for phrase in text.split(","))


FUNCTION_WORDS = _listed(
    "a about above after again against all almost also although always am among an and another any anybody anyone are as at "
    "away be because been before being below between both but by can cannot could did do does doing done down during each "
    "either else enough ever every everybody everyone few for from further had has have having he hence her here hers him his "
    "how however i if in into is it its itself just least less let like many may me might mine more moreover most much must "
    "my myself neither never next no nobody none nor not nothing now of off often on once one only or other our ours out over "
    "own per perhaps quite rather same she should since so some somebody someone something still such than that the their "
    "theirs them then there therefore these they this those though through thus to too toward under until up upon us very was "
    "we were what whatever when where whether which while who whom whose why will with within without would yet you your "
    "yours don't isn't aren't doesn't can't won't it's that's i'm we're they're"
)
"""Words that prose cannot do without, and that a list of words lacks."""

TASK_WORDS = _listed(
    "answer answers argue argument arguments basket brief case con contest debate judge judged make motion name named premise "
    "pro round rounds side speak speaker speech style task text topic using word words write written"
)
"""Words of the task's wording, not of its topic."""

CONNECTIVES = _phrases(
    "because,therefore,however,although,thus,hence,moreover,furthermore,besides,consequently,otherwise,instead,whereas,while,since,"
    "unless,meanwhile,first,second,third,next,then,finally,so that,as a result,in addition,on the other hand,even if,even though,"
    "but,if"
)
"""Words that tie a reason to a claim, or one step to the next."""

SUPPORT = _phrases(
    "because,for example,for instance,such as,according to,evidence,study,studies,research,data,percent,shows,show,proves,"
    "imagine,compared,compare,in fact,this means,that means,which means,leads to,that is why,so that,as a result,due to,when,than"
)
"""Words that announce a ground: an example, a figure, a cause, a comparison."""

CONCLUSIONS = _phrases(
    "therefore,thus,hence,so,overall,finally,in conclusion,to conclude,in short,in sum,to sum up,in the end,in summary,"
    "for these reasons,for all these reasons,for this reason,that is why,this is why,all in all,serve,and that is"
)
"""How a last sentence begins that draws the sum."""

CLAIMS = _listed(
    "should must is are was were will would can cannot has have need needs ought deserve deserves i we my our never always"
)
"""Words of which a sentence that claims something has at least one."""


def sentences(text: str) -> list[list[str]]:
    """The lower-case words of each sentence or line that has any."""
    found = (_WORD.findall(part) for part in _SENTENCE.findall(text.casefold().replace("\u2019", "'")))
    return [words for words in found if words]


@lru_cache(maxsize=1 << 14)
def stem(word: str) -> str:
    """The word without its ending, so that "schools", "school" and "schooling" meet. Crude, and the same for both sides."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def content_stems(words: list[str]) -> set[str]:
    """The stems of the words that carry meaning."""
    return {stem(word) for word in words if word not in FUNCTION_WORDS and (len(word) > 2 or word.isdigit())}


def topic_stems(brief: str) -> frozenset[str]:
    """The stems of what a brief is about: its line of topic words where it has one."""
    words = [word for part in topic_words(brief) for sentence in sentences(part) for word in sentence]
    return frozenset(content_stems([word for word in words if word not in TASK_WORDS]) or content_stems(words))


def point_stems(brief: str) -> tuple[frozenset[str], ...]:
    """The stems of each point that, by the brief, supports the case."""
    points = [
        frozenset(content_stems([word for sentence in sentences(point) for word in sentence])) for point in support_points(brief)
    ]
    return tuple(point for point in points if point)


MARKERS = frozenset(phrase[0] for phrase in CONNECTIVES + SUPPORT if len(phrase) == 1)
"""Words that by themselves mark something: a row of them leads on to nothing."""


def marked(words: list[str], phrases: tuple[tuple[str, ...], ...], tail: int = 0) -> set[tuple[str, ...]]:
    """The phrases that occur among `words` with at least `tail` words after them, the first of which is no marker itself."""
    starts: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        starts.setdefault(word, []).append(place)
    found = set()
    for phrase in phrases:
        for place in starts.get(phrase[0], ()):
            end = place + len(phrase)
            leads_on = tail == 0 or (end + tail <= len(words) and words[end] not in MARKERS)
            if leads_on and tuple(words[place:end]) == phrase:
                found.add(phrase)
    return found
