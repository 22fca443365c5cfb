"""What a policy is worth in contests, as other programs read it and in words: `ContestReport`.

Owns the record and its words. Playing and judging is `contest.py`'s, the sums `contest_points.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sparring.engine.evaluation.compare import Effect
from sparring.engine.evaluation.contest_points import Form, Points, Standing
from sparring.rollout.judging.audit import Audit

BASE = "base"
"""The comparison that is the base model's own sample."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One judged pair to look at: the policy's text, the comparison's, and what each judge said of them in each order."""

    family: str
    topic: str
    seat: str
    brief: str
    policy: str
    comparison: str
    points: float | None
    verdicts: tuple[str, ...]


class ContestReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A policy against somebody's entries on held-out topics.

    `headline` is the trained policy's win rate minus 50% where the comparison is the base model, and otherwise minus the
    baseline's: the base model's own win rate against the same entries, topic by topic.
    """

    split: str
    topics: int
    games: int
    """Entries of each policy for each side of a topic."""
    comparison: str
    judges: tuple[str, ...]
    trained: Standing
    headline: Effect
    families: dict[str, Effect]
    """The headline in each family, p-values corrected for their number (Holm)."""
    other: Form
    """The comparison's entries."""
    baseline: Standing | None = None
    """`None` where the comparison is the base model: against itself it stands at 50%."""
    audit: Audit
    """How the judges behaved on these pairs, and on the pairs that test them."""
    findings: tuple[str, ...] = ()
    """The audit's, in sentences."""
    examples: tuple[Example, ...] = ()
    remarks: tuple[str, ...] = ()
    """What a reader should know before trusting the figures."""

    @property
    def text(self) -> str:
        """The report in a few lines of words."""
        return "\n".join(_lines(self))


def _lines(report: ContestReport) -> Iterator[str]:
    trained, baseline = report.trained, report.baseline
    who = "the base model's entries" if report.comparison == BASE else f"{report.comparison}'s entries"
    yield f"{_rate(trained)} against {who} on {report.topics} held-out topics, judged by {', '.join(report.judges)}"
    if baseline is None:
        yield f"  {_points(report.headline)} against an even 50%"
    else:
        yield f"  the base model: {_rate(baseline)}; trained minus base {_points(report.headline)}"
    if len(report.families) > 1:
        for name, effect in report.families.items():
            yield f"  {name}: {_rate(trained.families[name])}, {_points(effect)}"
    forms = {"trained": trained.form, "comparison": report.other} | ({} if baseline is None else {"base": baseline.form})
    yield "  words an entry: " + ", ".join(f"{name} {form.words:.0f}" for name, form in forms.items())
    yield "  strict format: " + ", ".join(f"{name} {form.strict:.0%}" for name, form in forms.items())
    for judge in report.audit.judges:
        yield f"  {judge.judge}: {judge.flips.value:.1%} flips, longer text preferred {judge.longer.value:.1%}"
    yield from (f"  warning: {finding}" for finding in report.findings)
    yield from (f"  {remark}" for remark in report.remarks)


def _rate(points: Points) -> str:
    dropped = f", {points.dropped} dropped" if points.dropped else ""
    return f"{points.win_rate:.1%} [{points.low:.1%}, {points.high:.1%}] ({points.win}/{points.tie}/{points.loss}{dropped})"


def _points(effect: Effect) -> str:
    span = f"{100 * effect.win_rate:+.1f} points [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"
    return f"{span}, within noise" if effect.within_noise else span
