"""Statistics of a rollout against figures counted by hand, and the progress display."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from sparring.rollout.progress import Count, Progress
from sparring.rollout.stats import RolloutStats, Tally
from sparring.rollout.trajectory import Game, Trajectory
from sparring.scenarios.outcome import Outcome, Reason, Verdict
from sparring.scenarios.scenario import Scenario

WIN = Outcome.of(Verdict.WIN, 0.8, Reason.TARGET_MET)
DRAW = Outcome.of(Verdict.DRAW, 0.5, Reason.NEAR_TARGET)
LOSS = Outcome.of(Verdict.LOSS, 0.1, Reason.BELOW_TARGET)
INVALID = Outcome.of(Verdict.LOSS, 0.0, Reason.INVALID_COMMIT)
VOID = Outcome.of(Verdict.VOID, 0.0, Reason.PLAYER_FAILED)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def make_game(scenario: Scenario) -> Any:
    def make(
        own: Outcome, other: Outcome = LOSS, *, spec: str = "script:linear", sampled: int = 0, error: str | None = None
    ) -> Game:
        first, second = scenario.seat_names
        trajectory = Trajectory(
            game_id="g",
            scenario_id=scenario.id,
            family="haggle",
            seat=first,
            partner=spec,
            token_ids=[1] * (sampled + 2),
            logprobs=[0.0] * (sampled + 2),
            loss_mask=[False, False] + [True] * sampled,
            temperature=1.0,
            policy="p",
            reward=own.reward,
            verdict=own.verdict,
            score=own.score,
            truncated=sampled // 10,
        )
        return Game(
            id="g",
            scenario=scenario,
            players={first: "policy", second: spec},
            turns=(),
            outcomes={first: own, second: other},
            trajectories=(trajectory,) if sampled else (),
            seconds=0.5,
            error=error,
        )

    return make


def test_stats_by_hand(make_game: Any) -> None:
    clock = Clock()
    stats = RolloutStats(clock=clock)
    clock.now += 4
    for outcome in (WIN, WIN, DRAW, LOSS, INVALID):
        stats.add(make_game(outcome, sampled=20))
    stats.add(make_game(VOID, error="buyer failed"))
    clock.now += 50
    tally = stats.tally
    assert (tally.win, tally.draw, tally.loss, tally.invalid, tally.void, tally.games) == (2, 1, 2, 1, 1, 6)
    assert tally.win_rate == 2 / 5 and tally.mean_score == pytest.approx((0.8 + 0.8 + 0.5 + 0.1 + 0.0) / 5)
    assert (stats.games, stats.failed, stats.sampled_tokens, stats.truncated) == (6, 1, 100, 10)
    assert (stats.seconds, stats.tokens_per_second, stats.games_per_hour) == (4.0, 25.0, 5400.0)
    assert stats.families == {"haggle": tally}


def test_self_play_tallies_both_seats_and_a_subject_can_be_chosen(make_game: Any) -> None:
    stats, scripts = RolloutStats(), RolloutStats(subject="script:linear")
    stats.add(make_game(WIN, LOSS, spec="policy"))
    scripts.add(make_game(WIN, DRAW))
    assert (stats.tally.win, stats.tally.loss, stats.tally.games, stats.games) == (1, 1, 2, 1)
    assert (scripts.tally.draw, scripts.tally.games) == (1, 1)


def test_a_contest_counts_once_it_is_judged(make_game: Any) -> None:
    """Its empty entries were shown as a win rate of 0% while the others waited for their judges."""
    unjudged = Outcome.of(Verdict.VOID, 0.0, Reason.UNJUDGED)
    empty = Outcome.of(Verdict.LOSS, 0.0, Reason.NO_ANSWER)
    stats = RolloutStats()
    stats.add(make_game(unjudged, unjudged))
    stats.add(make_game(empty, unjudged))
    assert (stats.games, stats.tally) == (2, Tally())
    won = Outcome.of(Verdict.WIN, 0.9, Reason.JUDGED)
    stats.recount([make_game(won, won), make_game(empty, won)])
    assert (stats.games, stats.tally.win, stats.tally.loss) == (2, 1, 1)


def test_a_note_stands_after_the_figures_where_there_is_one(make_game: Any) -> None:
    notes = iter(["3 calls, $0.01", "", ""])
    progress = Progress("play", quiet=True, note=lambda: next(notes))
    assert progress.figures.endswith("games/h, 3 calls, $0.01")
    assert progress.figures.endswith("games/h")


def test_nothing_yet() -> None:
    stats = RolloutStats(clock=Clock())
    assert (stats.tally.win_rate, stats.tally.mean_score, stats.tokens_per_second, stats.games_per_hour) == (0.0, 0.0, 0.0, 0.0)
    assert stats.tally == Tally()


def test_plain_lines_where_there_is_no_terminal(make_game: Any) -> None:
    out, clock = StringIO(), Clock()
    with Progress("play", total=30, console=Console(file=out, width=40), line_seconds=10, clock=clock) as progress:
        for number in range(30):
            clock.now += 1
            progress.add(make_game(WIN if number % 2 else LOSS, sampled=10))
    assert out.getvalue().splitlines() == [
        "play: 10/30 games, win 50.0%, 10 tokens/s, 3,600 games/h",
        "play: 20/30 games, win 50.0%, 10 tokens/s, 3,600 games/h",
        "play: 30/30 games, win 50.0%, 10 tokens/s, 3,600 games/h",
    ]


def test_the_last_line_comes_even_from_a_short_run_and_failures_show(make_game: Any) -> None:
    out, clock = StringIO(), Clock()
    with Progress("collect", console=Console(file=out), clock=clock) as progress:
        clock.now += 2
        progress.add(make_game(VOID, error="gone"))
    assert out.getvalue() == "collect: 1 games, 1,800 games/h, 1 failed\n"


def test_quiet_is_quiet(make_game: Any) -> None:
    out = StringIO()
    for terminal in (True, False):
        with Progress("play", quiet=True, console=Console(file=out, force_terminal=terminal), line_seconds=0) as progress:
            progress.add(make_game(WIN))
        assert progress.stats.games == 1
    assert out.getvalue() == ""


def test_a_live_line_on_a_terminal(make_game: Any) -> None:
    out, clock = StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=120)
    with Progress("play", total=3, console=console, clock=clock) as progress:
        for _ in range(3):
            clock.now += 1
            progress.add(make_game(WIN, sampled=10))
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "1/3 win 100.0%, 10 tokens/s" in drawn and "3/3 win 100.0%, 10 tokens/s, 3,600 games/h" in drawn


def test_a_count_speaks_every_few_seconds() -> None:
    out, clock = StringIO(), Clock()
    count = Count("judging", "verdicts", console=Console(file=out), line_seconds=10, clock=clock, note=lambda: "$0.01")
    for seconds in (1, 1, 9, 1, 1):
        clock.now += seconds
        count.add()
    assert out.getvalue() == "judging: 3 verdicts, $0.01\n"
    Count("judging", "verdicts", quiet=True, console=Console(file=out), line_seconds=0, clock=clock).add()
    assert out.getvalue().count("\n") == 1
