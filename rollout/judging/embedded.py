"""`EmbeddedJudge`: compares texts by the embedded rubric. No model, no call, the same verdict on every machine.

A rubric can be gamed, and what it rewards is form: see `rubric.py` for what it is there for. What each criterion weighs is here.
"""

from __future__ import annotations

from collections.abc import Mapping

from sparring.rollout.judging.judge import Comparison, Preference
from sparring.rollout.judging.rubric import Rubric as Rubric
from sparring.rollout.judging.rubric import Weights
from sparring.rollout.judging.rubric import rubric as rubric

NAME = "embedded-rubric"
MARGIN = 0.02
"""Scores closer than this tie: less than half of what one more connective is worth."""

_RELEVANCE = Weights(opening=2, reasons=1, conclusion=1, coverage=5, support=1, focus=3, substance=1)
CRITERIA: Mapping[str, Weights] = {
    "argument": Weights(opening=2, reasons=3, conclusion=2, coverage=2, support=3, focus=1, substance=1),
    "support": Weights(opening=1, reasons=1, conclusion=1, coverage=2, support=5, focus=1, substance=2),
    "premise": _RELEVANCE,
    "basket": _RELEVANCE,
    "clarity": Weights(opening=3, reasons=2, conclusion=3, coverage=1, support=1, focus=2, substance=1),
}
"""Criterion to weights; any other criterion takes the default."""
REASONING = Weights(opening=0, reasons=3, conclusion=1, coverage=2, support=2, focus=1, substance=3)


class EmbeddedJudge:
    """A `Judge` and a `ReasoningJudge` by rubric.

    Example:
        >>> await EmbeddedJudge().compare(comparison)
        <Preference.FIRST: 'first'>
    """

    name = NAME

    def __init__(self, margin: float = MARGIN) -> None:
        self._margin = margin

    async def compare(self, comparison: Comparison) -> Preference | None:
        """The text whose score is higher by more than the margin, whatever the order; never `None`."""
        weights = CRITERIA.get(comparison.criterion.name)
        first, second = (rubric(comparison.brief, text).score(weights) for text in (comparison.first, comparison.second))
        lead = first - second
        if abs(lead) <= self._margin:
            return Preference.TIE
        return Preference.FIRST if lead > 0 else Preference.SECOND

    async def rate(self, brief: str, reasoning: str) -> float | None:
        """How well the reasoning reasons, in [0, 1]."""
        return rubric(brief, reasoning).score(REASONING)
