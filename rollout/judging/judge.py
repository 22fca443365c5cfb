"""A judge's nouns: what two texts are compared on, what a judge says of them, and what is kept of it.

Owns no judge (`embedded.py`, `llm.py`) and no pairing (`tournament.py`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from sparring.scenarios.contests.contest import Criterion


class Preference(StrEnum):
    """Which of two texts is better, in the order in which the judge read them."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"

    @property
    def swapped(self) -> Preference:
        """The same preference had the judge read them in the other order."""
        return {Preference.FIRST: Preference.SECOND, Preference.SECOND: Preference.FIRST}.get(self, self)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two texts to compare, in this order. `brief` is the task that both answer."""

    brief: str
    criterion: Criterion
    first: str
    second: str


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a judge said of one ordered pair, as it is stored: `first` and `second` are game ids.

    `preference` is `None` where the judge could not be asked or gave no verdict: the pair then counts for neither.
    """

    group: str
    """Of the trajectories: same scenario, seat and partner."""
    judge: str
    criterion: str
    first: str
    second: str
    preference: Preference | None
    control: str = ""
    """"identical" or "padded" for a pair that tests the judge and scores nobody."""


class Judge(Protocol):
    """Compares two texts. Reads them in the order given, so that the caller can ask both ways."""

    @property
    def name(self) -> str:
        """As it stands in the record, such as "embedded-rubric" or "openai:gpt-4o-mini"."""
        ...

    async def compare(self, comparison: Comparison) -> Preference | None:
        """`None` where no verdict could be had: a failed call, or an answer that is not exactly one of the three."""
        ...
