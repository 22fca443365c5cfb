"""A run's outcome as tables for a reader: baseline against trained policy, rates, and where things lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from sparring.engine.cli.output import printable, results

if TYPE_CHECKING:
    from sparring.engine.evaluation.compare import Effect, Report
    from sparring.engine.evaluation.contest_points import Form, Points
    from sparring.engine.evaluation.contest_report import ContestReport
    from sparring.engine.evaluation.figures import Figures
    from sparring.engine.run.summary import Summary
    from sparring.rollout.judging.agreement import Rate


def show_summary(summary: Summary, folder: Path) -> None:
    """What a run came to: the comparison, throughput and time, and the folder's contents."""
    if summary.evaluation is not None:
        show_report(summary.evaluation)
    if summary.contest is not None:
        show_contest_report(summary.contest)
    rates, spent = summary.throughput, summary.seconds
    print(
        f"Played {rates.generate_tokens_per_second:,.0f} tokens/s, learned {rates.learn_tokens_per_second:,.0f} tokens/s, "
        f"{rates.games_per_hour:,.0f} games/hour in the whole loop."
    )
    print(
        f"{summary.steps} steps in {spent.play + spent.learn + spent.publish:.0f} s "
        f"(play {spent.play:.0f}, learn {spent.learn:.0f}, publish {spent.publish:.1f}), evaluation {spent.evaluate:.0f} s."
    )
    if summary.stopped:
        print(f"Stopped early: {summary.stopped}. The adapter is that step's.")
    if summary.population:
        ratings = ", ".join(f"{name} {rating:.2f}" for name, rating in summary.population.items())
        print(f"Ratings (moving mean score): {ratings}. The leader's adapter is the run's; all are in {folder / 'adapters'}.")
    if (calls := summary.calls) is not None:
        tokens = f"{calls.prompt_tokens:,} tokens in, {calls.completion_tokens:,} out"
        print(f"{calls.calls:,} calls of models elsewhere in {calls.attempts:,} attempts: {tokens}, ${calls.cost:,.4f}.")
    print(f"The adapter is in {folder / 'adapter'} (PEFT format), every game and metric in {folder / 'run.db'},")
    print(f"these figures in {folder / 'summary.json'}, the settings in {folder / 'config.toml'}.")
    if (page := folder / "report.html").is_file():
        print(f"Curves, games and calls to look at: {page}")


def show_report(report: Report) -> None:
    """Both policies on the same held-out games."""
    table = Table(
        title=f"{report.scenarios} held-out scenarios, every seat, {report.trained.games} games each", title_justify="left"
    )
    table.add_column("games won")
    for name in ("base", "trained", "difference", "95% interval"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in _rows(report):
        table.add_row(*row)
    console = results()
    console.print(table)
    print(_conclusion(report))
    before, after = report.baseline, report.trained
    void = f", void {before.void} and {after.void}" if before.void or after.void else ""
    print(f"Invalid games: {_share(before)} before, {_share(after)} after{void}. Intervals: paired bootstrap over scenarios.")


def show_contest_report(report: ContestReport) -> None:
    """A policy's entries against somebody's: win rates, how entries look, and what the judges are worth."""
    whose = "the base model's own" if report.comparison == "base" else f"those of {report.comparison}"
    where = f"{report.topics} held-out topics, every side, {report.games} each"
    table = Table(title=f"entries against {whose}: {where}", title_justify="left")
    table.add_column("entries of")
    for name in ("won/tied/lost", "win rate", "95% interval", "strict", "words"):
        table.add_column(name, justify="right")
    baseline = report.baseline
    if baseline is not None:
        table.add_row(*_standing("base", baseline, baseline.form))
    table.add_row(*_standing("trained", report.trained, report.trained.form))
    if len(report.trained.families) > 1:
        for family, points in report.trained.families.items():
            table.add_row(*_standing(f"  {family}", points))
    table.add_row("comparison", "", "", "", f"{report.other.strict:.0%}", f"{report.other.words:.0f}")
    results().print(table)
    effect = report.headline
    over = "an even 50%" if baseline is None else "the base model"
    span = f"{100 * effect.low:+.1f} to {100 * effect.high:+.1f} with 95% confidence"
    noise = ", within noise" if effect.within_noise else ""
    print(f"Trained: {100 * effect.win_rate:+.1f} points against {over} ({span}){noise}. Ties and flips are half a win.")
    for judge in report.audit.judges:
        flips, longer = f"{judge.flips.value:.1%} of pairs turn with the order", f"the longer text wins {judge.longer.value:.1%}"
        print(f"Judged by {printable(judge.judge)}: {flips}, {longer}, the same text ties {_of(judge.identical)}.")
    for line in (*report.findings, *report.remarks):
        print(f"Warning: {printable(line)}.")


def _standing(name: str, points: Points, form: Form | None = None) -> tuple[str, ...]:
    looks = ("", "") if form is None else (f"{form.strict:.0%}", f"{form.words:.0f}")
    rate, span = f"{points.win_rate:.1%}", f"{points.low:.1%} to {points.high:.1%}"
    return name, f"{points.win}/{points.tie}/{points.loss}", rate, span, *looks


def _of(rate: Rate) -> str:
    return f"{rate.hits:.0f} of {rate.trials} times"


def _rows(report: Report) -> Iterator[tuple[str, ...]]:
    before, after, difference = report.baseline, report.trained, report.difference
    yield _row("all", before, after, difference)
    for family, effect in difference.families.items():
        yield _row(f"  {family}", before.families[family], after.families[family], effect)
    if before.unseen is not None and after.unseen is not None and difference.unseen is not None:
        yield _row("partners never met", before.unseen, after.unseen, difference.unseen)
    if report.shuffled is not None:
        shuffled = report.shuffled
        yield _row("values shuffled (control)", shuffled.baseline, shuffled.trained, shuffled.difference)


def _row(name: str, before: Figures, after: Figures, effect: Effect) -> tuple[str, ...]:
    interval = f"{100 * effect.low:+.1f} to {100 * effect.high:+.1f}"
    noise = "within noise" if effect.within_noise else ""
    return name, f"{before.win_rate:.1%}", f"{after.win_rate:.1%}", f"{100 * effect.win_rate:+.1f}", interval, noise


def _conclusion(report: Report) -> str:
    """One sentence on whether the policy changed."""
    effect = report.difference
    if effect.within_noise:
        return f"The difference of {100 * effect.win_rate:+.1f} points is within noise: nothing says that the policy changed."
    verb = "better" if effect.win_rate > 0 else "worse"
    span = f"between {100 * effect.low:+.1f} and {100 * effect.high:+.1f} with 95% confidence"
    return f"The trained policy is {verb} by {100 * abs(effect.win_rate):.1f} points of win rate, {span}."


def _share(side: Figures) -> str:
    return f"{side.invalid / side.games:.1%}"
