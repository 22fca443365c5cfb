"""A run's outcome as tables for a reader: baseline against trained policy, rates, and where things lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from sparring.engine.cli.output import results

if TYPE_CHECKING:
    from sparring.engine.evaluation.compare import Effect, Report
    from sparring.engine.evaluation.figures import Figures
    from sparring.engine.run.summary import Summary


def show_summary(summary: Summary, folder: Path) -> None:
    """What a run came to: the comparison, throughput and time, and the folder's contents."""
    if summary.evaluation is not None:
        show_report(summary.evaluation)
    rates, spent = summary.throughput, summary.seconds
    print(
        f"Played {rates.generate_tokens_per_second:,.0f} tokens/s, learned {rates.learn_tokens_per_second:,.0f} tokens/s, "
        f"{rates.games_per_hour:,.0f} games/hour in the whole loop."
    )
    print(
        f"{summary.steps} steps in {spent.play + spent.learn + spent.publish:.0f} s "
        f"(play {spent.play:.0f}, learn {spent.learn:.0f}, publish {spent.publish:.1f}), evaluation {spent.evaluate:.0f} s."
    )
    print(f"The adapter is in {folder / 'adapter'} (PEFT format), every game and metric in {folder / 'run.db'},")
    print(f"these figures in {folder / 'summary.json'}, the settings in {folder / 'config.toml'}.")


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
