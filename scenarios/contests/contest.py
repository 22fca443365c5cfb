"""Contests: families whose outcome a judge decides.

Placeholder for the nouns that judges need; the base class of contests follows.
"""

from __future__ import annotations

import msgspec


class Criterion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question that a judge is asked of two entries, and its weight among a contest's criteria."""

    name: str
    question: str
    weight: float = 1.0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one seat hands in: `text` is all that is judged, `reasoning` what it thought before, `form` how well it kept the format.

    `empty` says that there is nothing to judge: the entry loses without a call.
    """

    brief: str
    """The task, as the judge reads it."""
    text: str
    reasoning: str
    form: float
    """Format reward in [0, 1]: 1 strict, 0.5 soft, 0 none."""
    empty: bool = False
