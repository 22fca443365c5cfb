"""What a report page says, as data: everything that can be read from a run's folder, whether the run has ended, died or goes on.

Owns what is gathered, and from where. How it looks is `page.html`'s, and what is drawn `curves.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from sparring.engine.config import RunConfig
from sparring.engine.errors import ConfigError
from sparring.engine.evaluation.compare import Report
from sparring.engine.evaluation.contest_report import ContestReport
from sparring.engine.report.spending import Account, account
from sparring.engine.report.transcripts import EACH, Pair, Shown, judged_pairs, shown_games
from sparring.engine.run.database import TRAIN, RunDatabase
from sparring.engine.run.folder import SUMMARY, RunFolder
from sparring.engine.settings import load_config
from sparring.rollout.judging.audit import Audit, audit
from sparring.rollout.judging.judge import Judgement
from sparring.rollout.judging.score import entry_of
from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Contest

AUDITED = 5000
"""Judgements, the latest ones, that the page's audit of training is made of."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One metric at the ends of a run. `None` where it was no number."""

    name: str
    first: float | None
    last: float | None


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """How the judges of training behaved in the latest steps."""

    audit: Audit
    findings: tuple[str, ...]
    judgements: int
    first_step: int
    last_step: int


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run as its page tells it.

    Example:
        >>> with RunFolder.read(Path("runs/demo")) as run:
        ...     gather(run).headline
        '43.0% of 400 games won on 100 held-out scenarios, 21.5% before: +21.5 points [+14.0, +29.0]'
    """

    name: str
    model: str
    preset: str
    steps: int
    """Steps that left metrics."""
    iterations: int
    """Steps that the settings ask for; 0 where they cannot be read."""
    ended: bool
    headline: str
    stopped: str = ""
    """Why it ended before its last step, where it did."""
    population: dict[str, float] = {}
    """Adapter to rating, where several were trained."""
    evaluation: Report | None = None
    contest: ContestReport | None = None
    judged: Judged | None = None
    calls: Account = Account()
    figures: tuple[Figure, ...] = ()


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What is on the page beside the facts: too long for other programs, made to be read."""

    metrics: dict[int, dict[str, float]]
    games: dict[str, list[Shown]]
    pairs: list[Pair]
    config: str


class _Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a page needs of `summary.json`; a run of an earlier version may lack any of it."""

    stopped: str = ""
    population: dict[str, float] = {}
    evaluation: Report | None = None
    contest: ContestReport | None = None


def gather(run: RunFolder) -> Facts:
    """The facts of a run. Raises `RunError` where its database is damaged."""
    database = run.database
    config, metrics, summary = _config(run), database.metrics(), _summary(run)
    steps = max(metrics, default=0)
    return Facts(
        name=config.name if config is not None else run.path.name,
        model=config.model if config is not None else "",
        preset=config.preset if config is not None else "",
        steps=steps,
        iterations=config.iterations if config is not None else 0,
        ended=(run.path / SUMMARY).is_file(),
        headline=_headline(summary, metrics),
        stopped=summary.stopped,
        population=summary.population,
        evaluation=summary.evaluation,
        contest=summary.contest,
        judged=_judged(database),
        calls=account(database.ledger.attempts()),
        figures=_figures(metrics),
    )


def read(run: RunFolder) -> Reading:
    """The texts and curves of a run. Raises `RunError` where its database is damaged."""
    database = run.database
    metrics = database.metrics()
    judged = [(phase, step) for phase, step, _ in database.ledger.judged()]
    training = [place for place in judged if place[0] == TRAIN]
    others = [place for place in judged if place[0] != TRAIN]
    wanted = list(dict.fromkeys([*training[:1], *training[-2:], *others[-1:]]))
    return Reading(
        metrics=metrics,
        games=shown_games(database.sample(EACH)),
        pairs=judged_pairs(database, wanted),
        config=run.config_path.read_text(encoding="utf-8"),
    )


def _headline(summary: _Summary, metrics: Mapping[int, Mapping[str, float]]) -> str:
    """The evaluation in a sentence, or where the run stands."""
    if summary.contest is not None:
        return ": ".join(line.strip() for line in summary.contest.text.splitlines()[:2])
    if summary.evaluation is not None:
        return summary.evaluation.text.splitlines()[0]
    rates = [own["play/win_rate"] for own in metrics.values() if not math.isnan(own.get("play/win_rate", math.nan))]
    if not rates:
        return "no step has ended yet"
    return f"{rates[-1]:.1%} of games won in the latest step of training, {rates[0]:.1%} in the first; no evaluation yet"


def _config(run: RunFolder) -> RunConfig | None:
    """The settings; `None` where another version wrote them and they cannot be read."""
    try:
        return load_config(RunConfig, run.config_path)
    except ConfigError:
        return None


def _summary(run: RunFolder) -> _Summary:
    """What the run came to; nothing where it has not come to its end, or another version wrote it."""
    path = run.path / SUMMARY
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Summary) if path.is_file() else _Summary()
    except msgspec.MsgspecError:
        return _Summary()


def _figures(metrics: Mapping[int, Mapping[str, float]]) -> tuple[Figure, ...]:
    names = sorted({name for own in metrics.values() for name in own})
    lines = {name: [own[name] for _, own in sorted(metrics.items()) if name in own] for name in names}
    return tuple(Figure(name=name, first=_number(line[0]), last=_number(line[-1])) for name, line in lines.items())


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _judged(database: RunDatabase) -> Judged | None:
    """The audit of the latest steps of training; `None` where nothing was judged."""
    said: list[Judgement] = []
    lengths: dict[tuple[str, str], int] = {}
    steps: list[int] = []
    for phase, step, count in reversed(database.ledger.judged()):
        if phase != TRAIN:
            continue
        if said and len(said) + count > AUDITED:
            break
        own = database.ledger.judgements(phase=phase, step=step)
        said += own
        steps.append(step)
        lengths |= _lengths(database, step, own)
    if not steps:
        return None
    found = audit(said, lengths)
    return Judged(audit=found, findings=found.findings, judgements=len(said), first_step=min(steps), last_step=max(steps))


def _lengths(database: RunDatabase, step: int, judgements: list[Judgement]) -> dict[tuple[str, str], int]:
    """Characters of each judged entry, by group and game."""
    groups: dict[str, set[str]] = {}
    for judgement in judgements:
        for name in (judgement.first, judgement.second):
            groups.setdefault(name, set()).add(judgement.group)
    return {
        (group, game.id): len(entry_of(game, seat).text)
        for game in database.games(phase=TRAIN, step=step)
        if game.id in groups and isinstance(registry.get(game.scenario.family), Contest)
        for group in groups[game.id]
        for seat in group.split("/")
        if seat in game.scenario.seat_names
    }
