"""What an evaluation adds up to: `Result` per game, `Figures` per group of games, `Side` per policy.

Owns counting. Playing is `evaluate.py`'s, setting two sides against each other `compare.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sparring.engine.evaluation.statistics import wilson
from sparring.rollout.stats import Tally
from sparring.scenarios import registry
from sparring.scenarios.outcome import Outcome, Verdict


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one match for the seat in question. `agreed` is `None` where the family knows no agreement."""

    key: str
    scenario_id: str
    family: str
    partner: str
    unseen: bool
    outcome: Outcome
    agreed: bool | None

    @property
    def counts(self) -> bool:
        """Whether it says anything about the policy: a void game does not."""
        return self.outcome.verdict is not Verdict.VOID


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Results added up. An invalid game is also a loss; rates and the score are over games that are not void.

    `low` and `high` are the 95% Wilson interval of the win rate, as if games were independent; `agreement_rate` is over
    bargaining games, `None` where there are none.
    """

    win: int
    draw: int
    loss: int
    invalid: int
    void: int
    games: int
    win_rate: float
    low: float
    high: float
    mean_score: float
    agreement_rate: float | None


class Side(Figures, frozen=True, kw_only=True):
    """One policy's figures: overall, by family, by partner, and against the partners never met in training."""

    families: dict[str, Figures]
    partners: dict[str, Figures]
    """By family and player spec, such as "haggle/script:linear"."""
    unseen: Figures | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One policy's results, in the order of the matches."""

    results: tuple[Result, ...]
    seconds: float
    shuffled: bool

    @property
    def scenarios(self) -> int:
        return len({result.scenario_id for result in self.results})

    @property
    def side(self) -> Side:
        """The figures that go into a report."""
        results = self.results
        partners = sorted({(r.family, r.partner) for r in results}, key=lambda pair: (_rank(pair[0]), pair[1]))
        unseen = [r for r in results if r.unseen]
        return Side(
            **msgspec.structs.asdict(figures(results)),
            families={family: figures([r for r in results if r.family == family]) for family in families_of(results)},
            partners={f"{f}/{p}": figures([r for r in results if (r.family, r.partner) == (f, p)]) for f, p in partners},
            unseen=figures(unseen) if unseen else None,
        )


def figures(results: Sequence[Result]) -> Figures:
    """Results added up, each with equal weight."""
    tally = Tally()
    for result in results:
        tally.add(result.outcome)
    agreed = [result.agreed for result in results if result.agreed is not None and result.counts]
    interval = wilson(tally.win, tally.counted)
    return Figures(
        win=tally.win,
        draw=tally.draw,
        loss=tally.loss,
        invalid=tally.invalid,
        void=tally.void,
        games=tally.games,
        win_rate=tally.win_rate,
        low=interval.low,
        high=interval.high,
        mean_score=tally.mean_score,
        agreement_rate=sum(agreed) / len(agreed) if agreed else None,
    )


def families_of(results: Sequence[Result]) -> list[str]:
    """The families that occur, in the order of the documentation."""
    return sorted({result.family for result in results}, key=_rank)


def _rank(family: str) -> int:
    return registry.names().index(family)
