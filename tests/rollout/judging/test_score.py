"""Scoring a step: outcomes and rewards by hand, void where nothing counted, and groups that never mix."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
import pytest

from sparring.rollout.errors import BudgetError, CallError, RolloutError
from sparring.rollout.judging.clerk import ReasoningJudge
from sparring.rollout.judging.config import JudgingConfig
from sparring.rollout.judging.embedded import EmbeddedJudge
from sparring.rollout.judging.judge import Comparison, Judgement, Preference
from sparring.rollout.judging.judging import Judging, open_judging
from sparring.rollout.judging.panel import Member, Panel
from sparring.rollout.judging.score import Judged, entry_of, score_games
from sparring.rollout.trajectory import Game
from sparring.scenarios.outcome import Reason, Verdict

ANSWERS = ("Trams are quiet.", "Trams are quiet and clean.", "Trams are quiet and clean and they run late.")


class Rater:
    """Rates reasoning by its number of words; fails on one that says so."""

    async def rate(self, brief: str, reasoning: str) -> float | None:
        if "fail" in reasoning:
            raise CallError("gone")
        return len(reasoning.split()) / 10


def judging_by(judge: Any, reasoning: ReasoningJudge | None = None, **settings: Any) -> Judging:
    panel = Panel((Member(judge, criteria=("argument",)),))
    config = JudgingConfig(**({"controls": 0} | settings))
    return Judging(config=config, panel=panel, evaluation=panel, reasoning=reasoning or Rater())


def score(games: Sequence[Game], judging: Judging, **options: Any) -> Judged:
    return asyncio.run(score_games(games, judging, step=3, **options))


def rewards(judged: Judged) -> list[float | None]:
    return [trajectory.reward for game in judged.games for trajectory in game.trajectories]


def test_outcomes_and_rewards_by_hand(lab: Any) -> None:
    messages = [lab.answered(ANSWERS[0], "one two"), ANSWERS[1], lab.answered(ANSWERS[2], "one two three")]
    games = [lab.contest_game(number, 0, message) for number, message in enumerate(messages)]
    judged = score(games, judging_by(lab.FakeJudge(lab.longest), format_weight=0.2, reasoning_weight=0.5))
    # Tournament score, 0.2 for the strict format, 0.5 of a tenth for each word of reasoning.
    assert rewards(judged) == [pytest.approx(-1 + 0.2 + 0.1), 0.0, pytest.approx(1 + 0.2 + 0.15)]
    (seat,) = games[0].outcomes
    assert judged.scores == {"0/0": {seat: -1.0}, "0/1": {seat: 0.0}, "0/2": {seat: 1.0}}
    outcomes = [game.outcomes[seat] for game in judged.games]
    assert [(o.verdict, o.reward, o.score, o.reason) for o in outcomes] == [
        (Verdict.LOSS, -1, 0.0, Reason.JUDGED),
        (Verdict.DRAW, 0, 0.5, Reason.JUDGED),
        (Verdict.WIN, 1, 1.0, Reason.JUDGED),
    ]
    assert [o.evidence for o in outcomes] == [game.outcomes[seat].evidence for game in games]
    trajectories = [game.trajectories[0] for game in judged.games]
    assert [(t.verdict, t.score) for t in trajectories] == [(o.verdict, o.score) for o in outcomes]
    assert [msgspec.structs.replace(t, reward=None, verdict=Verdict.VOID, score=0.0) for t in trajectories] == [
        game.trajectories[0] for game in games
    ]
    assert judged.metrics["form"] == pytest.approx(2 / 3) and judged.metrics["reasoning"] == pytest.approx(0.5 / 3)
    assert judged.metrics["empty"] == judged.metrics["dropped"] == judged.metrics["flips"] == 0.0
    assert len(judged.judgements) == 6 and judged.metrics["judgements"] == 6.0


def test_groups_never_mix_and_policies_of_one_group_meet(lab: Any) -> None:
    games = [
        lab.contest_game(number, seed, lab.answered(ANSWERS[number] * (1 + 2 * (seed > 0))), policy=f"member{number}@1")
        for seed in (0, 1)
        for number in range(3)
    ]
    judged = score(Random(2).sample(games, 6), judging_by(lab.FakeJudge(lab.longest)))
    by_id = {game.id: game.trajectories[0] for game in judged.games}
    assert [by_id[f"{seed}/{n}"].verdict for seed in (0, 1) for n in range(3)] == [Verdict.LOSS, Verdict.DRAW, Verdict.WIN] * 2
    assert {(j.first[0], j.second[0]) for j in judged.judgements} == {("0", "0"), ("1", "1")}
    assert {j.group for j in judged.judgements} == {game.trajectories[0].group for game in games}
    assert by_id["1/2"].policy == "member2@1"


def test_what_failed_and_what_is_no_contest_stays_as_it_was(lab: Any, make_deals: Any) -> None:
    (deal,) = make_deals(1)
    haggle = Game(id="h", scenario=deal.scenario, players=deal.players, turns=(), outcomes={}, trajectories=(), seconds=0.0)
    failed = lab.contest_game(9, 0, lab.answered(ANSWERS[2]), error="gone")
    games = [failed, haggle, *(lab.contest_game(n, 0, lab.answered(ANSWERS[n])) for n in range(2))]
    judged = score(games, judging_by(lab.FakeJudge(lab.longest)))
    assert judged.games[:2] == (failed, haggle) and [game.id for game in judged.games] == [game.id for game in games]
    assert set(judged.scores) == {"0/0", "0/1"} and rewards(judged)[0] is None
    nothing = score([], judging_by(lab.FakeJudge(lab.longest)))
    assert (nothing.games, nothing.judgements, nothing.scores) == ((), (), {}) and nothing.audit.findings == ()


def test_an_empty_entry_keeps_its_loss_and_has_no_form(lab: Any) -> None:
    messages = ["", "<reasoning>a plan of many words</reasoning><answer></answer>", lab.answered(ANSWERS[0], "")]
    games = [lab.contest_game(number, 0, message) for number, message in enumerate(messages)]
    judge = lab.FakeJudge(lab.longest)
    judged = score(games, judging_by(judge))
    assert rewards(judged)[:2] == [-0.5, -0.5] and judge.asked == []
    third = judged.games[2].trajectories[0]
    assert third.verdict is Verdict.WIN and third.reward == pytest.approx(1.0 + 0.1 * entry_of(games[2], third.seat).form)
    for before, after in zip(games[:2], judged.games[:2], strict=True):
        assert before.outcomes == after.outcomes
        assert [outcome.reason for outcome in after.outcomes.values()] == [Reason.NO_ANSWER]
    assert judged.metrics["empty"] == pytest.approx(2 / 3)


def test_a_group_of_empty_entries_carries_no_gradient(lab: Any) -> None:
    judged = score([lab.contest_game(n, 0, "") for n in range(3)], judging_by(lab.FakeJudge(lab.longest)))
    assert rewards(judged) == [0.0, 0.0, 0.0]
    assert {game.trajectories[0].verdict for game in judged.games} == {Verdict.LOSS}


def test_where_no_pair_counted_the_group_is_void(lab: Any) -> None:
    games = [lab.contest_game(n, 0, lab.answered(ANSWERS[n])) for n in range(3)]
    judged = score(games, judging_by(lab.FakeJudge(lab.failing)))
    assert rewards(judged) == [None] * 3 and judged.metrics["dropped"] == judged.metrics["failed"] == 1.0
    for game in judged.games:
        (outcome,) = game.outcomes.values()
        assert (outcome.verdict, outcome.reward, outcome.reason) == (Verdict.VOID, None, Reason.UNJUDGED)
        assert (game.trajectories[0].verdict, game.trajectories[0].score) == (Verdict.VOID, 0.0)
    alone = score(games[:1], judging_by(lab.FakeJudge(lab.longest)))
    assert rewards(alone) == [None]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_failed_calls_never_lose_a_game(share: float, a_step: list[Game], lab: Any) -> None:
    """Calls that fail leave every score what the pairs that counted make it."""

    def answer(comparison: Comparison) -> Preference:
        if Random(comparison.first + "\0" + comparison.second).random() < share:
            raise CallError("gone")
        return Preference(lab.longest(comparison))

    judged = score(a_step, judging_by(lab.FakeJudge(answer), reasoning_weight=0.0))
    counted = 0
    for game in judged.games:
        (seat,) = game.outcomes
        own = entry_of(game, seat).text
        verdicts: dict[str, list[Preference]] = {}
        for j in judged.judgements:
            if j.group == game.trajectories[0].group and game.id in (j.first, j.second) and j.preference is not None:
                verdicts.setdefault(j.second if j.first == game.id else j.first, []).append(j.preference)
        others = {other.id: entry_of(other, seat).text for other in judged.games if other.scenario == game.scenario}
        both = [others[name] for name, said in verdicts.items() if len(said) == 2]
        both += [text for name, text in others.items() if text == own and name != game.id]
        wins = sum((len(own) > len(text)) - (len(own) < len(text)) for text in both)
        wanted = wins / len(both) if both else None
        assert judged.scores[game.id][seat] == (None if wanted is None else pytest.approx(wanted))
        counted += len(both)
    assert 0 < counted < 16 * 8 * 7 and share - 0.05 < judged.metrics["failed"] < share + 0.05


def test_reasoning_that_could_not_be_rated_takes_the_groups_mean(lab: Any) -> None:
    thoughts = ("one two", "this call will fail", "one two three four")
    games = [lab.contest_game(n, 0, lab.answered("Trams are quiet.", thought)) for n, thought in enumerate(thoughts)]
    judged = score(games, judging_by(lab.FakeJudge(lab.longest), format_weight=0.0, reasoning_weight=1.0))
    assert rewards(judged) == [pytest.approx(0.2), pytest.approx(0.3), pytest.approx(0.4)]
    fails = [lab.contest_game(n, 0, lab.answered("Trams are quiet.", f"fail {n}")) for n in range(2)]
    assert rewards(score(fails, judging_by(lab.FakeJudge(lab.longest), format_weight=0.0, reasoning_weight=1.0))) == [0.0, 0.0]


def test_controls_score_nobody(a_step: list[Game], lab: Any) -> None:
    without = score(a_step, judging_by(EmbeddedJudge()))
    tested = score(a_step, judging_by(EmbeddedJudge(), controls=5))
    assert tested.games == without.games and tested.scores == without.scores
    controls = [j for j in tested.judgements if j.control]
    assert [j.control for j in controls].count("identical") == 5 and [j.control for j in controls].count("padded") == 10
    assert all(j.first == j.second for j in controls if j.control == "identical")
    assert [j for j in tested.judgements if not j.control] == list(without.judgements)
    assert tested.metrics["identical_ties"] == 1.0 and tested.metrics["padded_wins"] == 0.0


@pytest.mark.parametrize("pairing", ["full", "regular"])
def test_the_embedded_path_is_the_same_every_time_and_in_every_order(pairing: str, a_step: list[Game]) -> None:
    judging = open_judging(JudgingConfig(pairing=pairing))  # type: ignore[arg-type]
    one, again = score(a_step, judging), score(a_step, judging)
    assert one == again
    assert all(-1.0 <= value <= 1.0 for seats in one.scores.values() for value in seats.values() if value is not None)
    if pairing == "full":
        shuffled = score(Random(5).sample(a_step, len(a_step)), judging)
        assert shuffled.scores == one.scores
        for group in {game.trajectories[0].group for game in one.games}:
            values = [
                value
                for game in one.games
                if game.trajectories[0].group == group
                for value in one.scores[game.id].values()
                if value is not None
            ]
            assert len(values) == 8 and sum(values) == pytest.approx(0.0, abs=1e-6)


def test_what_ends_a_run_is_raised_and_what_was_said_before_is_kept(lab: Any) -> None:
    kept: list[Judgement] = []

    def answer(comparison: Comparison) -> Preference:
        if len(kept) >= 4:
            raise BudgetError("spent")
        return Preference.TIE

    games = [lab.contest_game(n, 0, lab.answered(ANSWERS[n])) for n in range(3)]
    with pytest.raises(BudgetError, match="spent"):
        score(games, judging_by(lab.FakeJudge(answer)), on_judgement=kept.append)
    assert len(kept) == 4 and {j.preference for j in kept} == {Preference.TIE}


def test_a_contest_without_a_judge_for_its_criteria(lab: Any) -> None:
    games = [lab.contest_game(n, 0, lab.answered(ANSWERS[n])) for n in range(2)]
    panel = Panel((Member(lab.FakeJudge(lab.longest), criteria=("funny",)),))
    judging = Judging(config=JudgingConfig(), panel=panel, evaluation=panel, reasoning=Rater())
    with pytest.raises(RolloutError, match="no judge takes any of this contest's criteria"):
        score(games, judging)


def test_judges_are_asked_no_more_at_once_than_allowed(lab: Any) -> None:
    running = most = 0

    class Slow:
        name = "slow"

        async def compare(self, comparison: Comparison) -> Preference:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return Preference.TIE

    games = [lab.contest_game(n, seed, lab.answered(f"{ANSWERS[0]} {n}")) for seed in range(3) for n in range(5)]
    judged = score(games, judging_by(Slow(), concurrency=7, controls=2))
    assert most == 7 and len(judged.judgements) == 3 * 5 * 4 + 2 * 3


def test_an_entry_is_read_from_the_transcript(lab: Any) -> None:
    game = lab.contest_game(0, 4, lab.answered("Trams </answer> are quiet."))
    (seat,) = game.scenario.seat_names
    assert entry_of(game, seat).empty
    plain = entry_of(lab.contest_game(0, 4, lab.answered("Trams are quiet.")), seat)
    assert (plain.text, plain.reasoning, plain.form, plain.empty) == ("Trams are quiet.", "notes", 1.0, False)
    assert "motion" in plain.brief
