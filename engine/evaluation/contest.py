"""Measuring a policy in contests: its entries against somebody else's on held-out topics, from every side, in both orders.

Owns topics, entries and pairs. What the figures are and say is `contest_report.py`'s, judging a pair `rollout/judging`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any

from sparring.engine.engine import Engine
from sparring.engine.errors import EvaluationError
from sparring.engine.evaluation.contest_points import MIN_TOPICS, Form, Pairing, difference_of, standing_of
from sparring.engine.evaluation.contest_report import BASE, ContestReport, Example
from sparring.engine.evaluation.evaluate import Match, arrange
from sparring.engine.evaluation.topics import find_contest, held_out_topics, topics_of
from sparring.rollout.judging import evaluation as judging
from sparring.rollout.judging.audit import audit
from sparring.rollout.judging.clerk import Clerk, gather
from sparring.rollout.judging.controls import Subject
from sparring.rollout.judging.controls import controls as control_pairs
from sparring.rollout.judging.judge import Judgement, Preference
from sparring.rollout.judging.panel import Panel
from sparring.rollout.judging.score import entry_of
from sparring.rollout.judging.tournament import Contestant
from sparring.rollout.player import PlayerFactory
from sparring.rollout.progress import Count, Progress
from sparring.rollout.runner import Admit, admit_all, play
from sparring.rollout.trajectory import Game
from sparring.scenarios.contests.contest import Criterion, Entry
from sparring.scenarios.family import Split
from sparring.scenarios.scenario import Scenario

EXAMPLES = 6
CONTROLS = 8
"""Texts compared with themselves, and as many with a padded copy, that test each judge."""
Ask = Callable[[Sequence[judging.Match]], Awaitable[list[judging.MatchResult]]]
TRAINED, BASELINE, COMPARISON = "trained", "baseline", "comparison"


@dataclass(frozen=True)
class Sheet:
    """One entry, and where it was written. `entry` is `None` where the game failed."""

    match: Match
    topic: str
    entry: Entry | None

    @property
    def scenario(self) -> Scenario:
        return self.match.deal.scenario

    @property
    def group(self) -> str:
        """What its judgements are filed under."""
        return f"{self.scenario.id}/{self.match.seat}"

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        return find_contest(self.scenario.family).criteria

    def subject(self, judge: Panel) -> Subject:
        """The entry as one that a judge may be tested on."""
        return Subject(self.group, Contestant(self.match.deal.id, self.handed), judge.votes(self.criteria))

    @property
    def handed(self) -> Entry:
        assert self.entry is not None
        return self.entry


@dataclass(frozen=True)
class Contenders:
    """Who writes: `policy` as it was trained, `base` the base model in its place, and `comparison`, a player spec.

    `policy` and `base` are factories for deals whose seat is "policy"; `other` seats the comparison, `base` where it is left out.
    """

    policy: PlayerFactory
    base: PlayerFactory
    comparison: str = BASE
    other: PlayerFactory | None = None


async def appraise_contests(
    engine: Engine,
    *,
    adapter: str,
    judge: Panel,
    comparison: str = BASE,
    quiet: bool = False,
    judge_concurrency: int | None = None,
    kept: Mapping[str, Game] | None = None,
    on_game: Callable[[Game], None] | None = None,
    on_judgement: Callable[[Judgement], None] | None = None,
) -> ContestReport:
    """The report on the published `adapter` in the contests of `config.families`, as `config.evaluation` asks.

    `comparison` is "base", the base model's own sample under another seed, or a player spec. `judge_concurrency` stands in for
    the settings' own. `kept` are games of an earlier process by id, which are not played again. `on_game` and `on_judgement` are
    told each new game and each verdict as they come.

    Raises `EvaluationError` where there is nothing to evaluate, or nothing could be played or judged.
    """
    config, wanted = engine.config, engine.config.evaluation
    report = contend(
        held_out_topics(config.contests, wanted.scenarios, split=wanted.split, seed=wanted.seed, topics=config.contest_topics),
        Contenders(
            policy=engine.seating(adapter),
            base=engine.seating(),
            comparison=comparison,
            other=replace(engine.seating(), purpose="compare"),
        ),
        judge,
        split=wanted.split,
        games=wanted.games,
        partners=wanted.partners,
        seed=wanted.seed,
        concurrency=config.concurrency,
        judge_concurrency=judge_concurrency or config.judging.concurrency,
        time_limit=engine.time_limit,
        admit=engine.admit,
        controls=config.judging.controls,
        quiet=quiet,
        kept=kept,
        note=lambda: engine.spending,
        on_game=on_game,
        on_judgement=on_judgement,
    )
    try:
        return await report
    except EvaluationError as error:
        if engine.remote is None or not engine.remote.stats.last_error:
            raise
        raise EvaluationError(f"{error}; the latest failure: {engine.remote.stats.last_error}") from error


async def contend(
    scenarios: Sequence[Scenario],
    contenders: Contenders,
    judge: Panel,
    *,
    split: Split = "seed",
    games: int = 1,
    partners: Sequence[str] = ("scripts",),
    seed: int = 0,
    concurrency: int = 64,
    judge_concurrency: int = 64,
    time_limit: float | None = None,
    admit: Admit = admit_all,
    controls: int = CONTROLS,
    quiet: bool = True,
    kept: Mapping[str, Game] | None = None,
    note: Callable[[], str] | None = None,
    on_game: Callable[[Game], None] | None = None,
    on_judgement: Callable[[Judgement], None] | None = None,
) -> ContestReport:
    """As `appraise_contests`, for given scenarios and players. Where a contest seats others too, `partners` take those seats."""
    if not scenarios:
        raise EvaluationError("nothing to evaluate: ask for at least one scenario of a contest")

    topics = topics_of(scenarios)

    async def write(label: str, policy: str, players: PlayerFactory, own_seed: int) -> list[Sheet]:
        matches = arrange(scenarios, policy=policy, partners=partners, games=games, seed=own_seed, label=label)
        with Progress(f"evaluate {label}", total=len(matches), quiet=quiet, note=note) as progress:

            def show(game: Game) -> None:
                progress.add(game)
                if on_game is not None:
                    on_game(game)

            known = {match.deal.id: game for match in matches if (game := (kept or {}).get(match.deal.id)) is not None}
            for game in known.values():
                progress.add(game)
            deals = (match.deal for match in matches if match.deal.id not in known)
            played = play(deals, players, concurrency=concurrency, time_limit=time_limit, on_game=show, admit=admit)
            return await _sheets(matches, known, played, topics)

    # The base model's independent sample: the same deals under another seed.
    other_seed = seed + 1
    other = await write(COMPARISON, contenders.comparison, contenders.other or contenders.base, other_seed)
    trained = await write(TRAINED, "policy", contenders.policy, seed)
    baseline = None if contenders.comparison == BASE else await write(BASELINE, "policy", contenders.base, seed)
    count = Count("evaluate, judging", "verdicts", quiet=quiet, note=note)

    def hear(judgement: Judgement) -> None:
        count.add()
        if on_judgement is not None:
            on_judgement(judgement)

    (after, said), (before, said_before), tests = await _ask_all(
        trained, other, baseline, judge, controls, seed, asyncio.Semaphore(judge_concurrency), hear
    )
    lengths = {
        (s.group, s.match.deal.id): len(s.entry.text) for s in (*trained, *other, *(baseline or ())) if s.entry is not None
    }
    found = audit([*said, *said_before, *tests], lengths)
    headline, families = difference_of(after, before, seed)
    return ContestReport(
        split=split,
        topics=len({(sheet.scenario.family, sheet.topic) for sheet in trained}),
        games=games,
        comparison=contenders.comparison,
        judges=tuple(dict.fromkeys(member.judge.name for member in judge.members)),
        trained=standing_of(after, _entries(trained), seed),
        headline=headline,
        families=families,
        other=Form.of(_entries(other)),
        baseline=None if before is None or baseline is None else standing_of(before, _entries(baseline), seed),
        audit=found,
        findings=found.findings,
        examples=_examples(trained, other, after, said),
        remarks=_remarks(after),
    )


async def _ask_all(
    trained: Sequence[Sheet],
    other: Sequence[Sheet],
    baseline: Sequence[Sheet] | None,
    judge: Panel,
    controls: int,
    seed: int,
    gate: asyncio.Semaphore,
    hear: Callable[[Judgement], None],
) -> tuple[tuple[list[Pairing], tuple[Judgement, ...]], tuple[list[Pairing] | None, tuple[Judgement, ...]], Sequence[Judgement]]:
    """What the judges say of the trained policy's pairs, of the baseline's, and of the pairs that test them.

    All is asked at once: nothing that a judge is asked waits for anything that it said.
    """
    ask = partial(judging.compare_entries, panel=judge, gate=gate, on_judgement=hear)
    tests = Clerk(gate, hear)
    subjects = [sheet.subject(judge) for sheet in (*trained, *other, *(baseline or ())) if sheet.entry is not None]
    work: list[Coroutine[Any, Any, Any]] = [
        _judged(trained, other, ask),
        gather(control_pairs(subjects, tests, controls, str(seed))),
    ]
    work += [] if baseline is None else [_judged(baseline, other, ask)]
    after, _, *rest = await gather(work)
    return after, rest[0] if rest else (None, ()), tests.judgements


async def _sheets(
    matches: Sequence[Match], kept: Mapping[str, Game], played: AsyncIterator[Game], topics: Mapping[str, str]
) -> list[Sheet]:
    games = dict(kept)
    async with aclosing(played):  # type: ignore[type-var]
        async for game in played:
            games[game.id] = game
    failed = [game.error for game in games.values() if game.error is not None]
    if len(failed) == len(matches):
        raise EvaluationError(f"none of {len(matches)} games could be played; the first: {failed[0]}")
    return [_sheet(match, games[match.deal.id], topics[match.scenario_id]) for match in matches]


def _sheet(match: Match, game: Game, topic: str) -> Sheet:
    return Sheet(match, topic, None if game.error is not None else entry_of(game, match.seat))


async def _judged(mine: Sequence[Sheet], others: Sequence[Sheet], ask: Ask) -> tuple[list[Pairing], tuple[Judgement, ...]]:
    """Every pair's points and what was said; a pair in which a game failed is dropped.

    Raises `EvaluationError` where not one pair counts.
    """
    pairs = list(zip(mine, others, strict=True))
    results = iter(await ask([_contest_match(*pair) for pair in pairs if _whole(*pair)]))
    found, said = list[Pairing](), list[Judgement]()
    for sheet, other in pairs:
        result = next(results) if _whole(sheet, other) else None
        points = None if result is None else result.points
        found.append(Pairing(family=sheet.scenario.family, topic=sheet.topic, seat=sheet.match.seat, points=points))
        said += () if result is None else result.judgements
    if all(pair.points is None for pair in found):
        raise EvaluationError(f"none of {len(found)} pairs could be judged: a failed call drops its pair; see the run's calls")
    return found, tuple(said)


def _whole(sheet: Sheet, other: Sheet) -> bool:
    return sheet.entry is not None and other.entry is not None


def _contest_match(sheet: Sheet, other: Sheet) -> judging.Match:
    return judging.Match(
        group=sheet.group,
        policy=sheet.handed,
        comparison=other.handed,
        criteria=sheet.criteria,
        policy_id=sheet.match.deal.id,
        comparison_id=other.match.deal.id,
    )


def _entries(sheets: Sequence[Sheet]) -> list[Entry | None]:
    return [sheet.entry for sheet in sheets]


def _examples(
    mine: Sequence[Sheet], others: Sequence[Sheet], pairs: Sequence[Pairing], judgements: Sequence[Judgement]
) -> tuple[Example, ...]:
    """A few pairs, won, tied and lost in turn, each with all that was said of it."""
    said: dict[frozenset[str], list[Judgement]] = {}
    for judgement in judgements:
        said.setdefault(frozenset((judgement.first, judgement.second)), []).append(judgement)
    kinds: dict[float, list[Example]] = {1.0: [], 0.5: [], 0.0: []}
    for sheet, other, pair in zip(mine, others, pairs, strict=True):
        if pair.points is not None and sheet.entry is not None and other.entry is not None:
            own = kinds[1.0 if pair.points > 0.5 else 0.5 if pair.points == 0.5 else 0.0]
            if len(own) < EXAMPLES:
                ids = sheet.match.deal.id, other.match.deal.id
                own.append(_example(sheet.entry, other.entry, pair, ids, said.get(frozenset(ids), [])))
    turns = zip_longest(*kinds.values())
    return tuple(example for turn in turns for example in turn if example is not None)[:EXAMPLES]


def _example(mine: Entry, other: Entry, pair: Pairing, ids: tuple[str, str], said: Sequence[Judgement]) -> Example:
    return Example(
        family=pair.family,
        topic=pair.topic,
        seat=pair.seat,
        brief=mine.brief,
        policy=mine.text,
        comparison=other.text,
        points=pair.points,
        verdicts=tuple(_verdict(judgement, mine=ids[0]) for judgement in said),
    )


def _verdict(judgement: Judgement, *, mine: str) -> str:
    """What a judge said in one order, in words."""
    policy_first = judgement.first == mine
    order = "policy first" if policy_first else "comparison first"
    match judgement.preference:
        case None:
            said = "no verdict"
        case Preference.TIE:
            said = "tie"
        case preference:
            said = "policy" if (preference is Preference.FIRST) == policy_first else "comparison"
    return f"{judgement.judge}, {judgement.criterion}, {order}: {said}"


def _remarks(pairs: Sequence[Pairing]) -> tuple[str, ...]:
    """What a reader should know before trusting the figures."""
    topics = len({(pair.family, pair.topic) for pair in pairs})
    dropped = sum(pair.points is None for pair in pairs)
    found = []
    if topics < MIN_TOPICS:
        found.append(f"{topics} topics are too few to tell anything from noise: ask for {MIN_TOPICS} or more")
    if dropped:
        found.append(f"{dropped} of {len(pairs)} pairs were dropped, as a call failed: they count for neither side")
    return tuple(found)
