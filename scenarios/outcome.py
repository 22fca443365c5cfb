"""What a seat got: `Outcome`, with the reason and the characters that decided it."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

import msgspec


class Verdict(StrEnum):
    WIN = "win"
    DRAW = "draw"
    LOSS = "loss"
    VOID = "void"


REWARDS = {Verdict.WIN: 1, Verdict.DRAW: 0, Verdict.LOSS: -1, Verdict.VOID: None}
"""A void carries no reward and yields no gradient."""


class Reason(StrEnum):
    """How a seat's game ended."""

    TARGET_MET = "target_met"
    NEAR_TARGET = "near_target"
    BELOW_TARGET = "below_target"
    DEAL_BEYOND_LIMIT = "deal_beyond_limit"
    MISMATCH = "mismatched_commits"
    MISSED_AGREEMENT = "missed_agreement"
    RIGHTLY_LEFT = "rightly_left"
    NO_AGREEMENT = "no_agreement"
    PROFIT = "profitable_purchase"
    RIGHTLY_OUTBID = "rightly_outbid"
    OVERPAID = "overpaid"
    MISSED_PROFIT = "missed_profit"
    INVALID_COMMIT = "invalid_commit"
    PARTNER_INVALID = "partner_invalid"
    PLAYER_FAILED = "player_failed"
    UNJUDGED = "unjudged"
    """A contest's entry that awaits its judge; the game itself gives no verdict."""
    NO_ANSWER = "no_answer"
    """A contest's seat that handed in nothing to judge."""
    JUDGED = "judged"


class Evidence(msgspec.Struct, frozen=True):
    """Characters [start, end) of the text of turn `turn` (0-based, in the order of the transcript)."""

    turn: int
    start: int
    end: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One seat's result. `score` lies in [0, 1] and grades what the verdict cannot."""

    verdict: Verdict
    reward: int | None
    score: float
    reason: Reason
    evidence: tuple[Evidence, ...] = ()

    @classmethod
    def of(cls, verdict: Verdict, score: float, reason: Reason, evidence: tuple[Evidence, ...] = ()) -> Self:
        """The outcome with the verdict's reward and a score clipped to [0, 1]."""
        return cls(
            verdict=verdict, reward=REWARDS[verdict], score=round(min(1.0, max(0.0, score)), 6), reason=reason, evidence=evidence
        )
