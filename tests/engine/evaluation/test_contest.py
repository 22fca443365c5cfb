"""Contests measured: every side of held-out topics, both orders, ties and failures, intervals over topics, and planted judges."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from sparring.engine.errors import EvaluationError
from sparring.engine.evaluation.contest import Contenders, contend
from sparring.engine.evaluation.contest_points import Form, Pairing, difference_of, points_of, wins_by_topic
from sparring.engine.evaluation.contest_report import ContestReport
from sparring.engine.evaluation.statistics import Wins, against_even
from sparring.engine.evaluation.topics import held_out_topics
from sparring.rollout.errors import CallError, PlayerError
from sparring.rollout.judging.judge import Comparison, Judgement, Preference
from sparring.rollout.judging.panel import Member, Panel
from sparring.rollout.player import Player, Reply, Seating, Table
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Contest, Entry
from sparring.scenarios.family import Split
from sparring.scenarios.scenario import Scenario

PLACES = 12
"""Both sides of six motions."""
WEAK, STRONG = "weak words", "strong words with reasons"


class Speaker(Player):
    """Says one thing, in the strict form; fails where there is nothing to say."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    async def act(self, table: Table) -> Reply:
        if self.text is None:
            raise PlayerError("hung up")
        return Reply(f"<reasoning>thinking it over</reasoning><answer>{self.text}</answer>")


def speaks(text: Callable[[Deal], str | None], comparison: Callable[[Deal], str | None] | None = None) -> Any:
    """A factory in which "policy" says `text`, and "base" says `comparison`; scripts play themselves."""

    def seat(deal: Deal, name: str) -> Player:
        spec = deal.players[name]
        if spec.startswith("script:"):
            return Seating()(deal, name)
        say = comparison if spec == "base" and comparison is not None else text
        return Speaker(say(deal))

    return seat


def always(text: str) -> Callable[[Deal], str]:
    """The text with the deal's number, so that no two entries are equal."""
    return lambda deal: f"{text} number {deal.seed % 997}"


class Planted:
    """A judge that follows one rule."""

    def __init__(self, rule: Callable[[Comparison], Preference | None], name: str = "planted") -> None:
        self.rule, self.name = rule, name
        self.asked = 0

    async def compare(self, comparison: Comparison) -> Preference | None:
        self.asked += 1
        return self.rule(comparison)


def by_strength(comparison: Comparison) -> Preference:
    first, second = (text.startswith("strong") for text in (comparison.first, comparison.second))
    return Preference.TIE if first == second else Preference.FIRST if first else Preference.SECOND


def panel(rule: Callable[[Comparison], Preference | None] = by_strength) -> Panel:
    return Panel((Member(Planted(rule)),))


@pytest.fixture(scope="module")
def topics() -> list[Scenario]:
    return held_out_topics(["debate"], PLACES)


def run(scenarios: list[Scenario], contenders: Contenders, judge: Panel, **more: Any) -> ContestReport:
    return asyncio.run(contend(scenarios, contenders, judge, **more))


def base_says(policy: str, base: str, **more: Any) -> Contenders:
    return Contenders(policy=speaks(always(policy)), base=speaks(always(base)), **more)


def test_topics_are_held_out_and_come_with_every_side(topics: list[Scenario]) -> None:
    contest = registry.get("debate")
    assert isinstance(contest, Contest)
    training = {topic.text for topic in contest.topics("train")}
    motions = Counter(scenario.public["motion"] for scenario in topics)
    assert len(topics) == PLACES
    assert set(motions.values()) == {2}
    assert not set(motions) & training
    assert Counter(s.seat_names for s in topics) == {("pro",): 6, ("con",): 6}
    assert topics == held_out_topics(["debate"], PLACES)
    everything = held_out_topics(["debate"], 10_000)
    assert len(everything) == 2 * len(contest.topics("seed"))
    assert {s.skin for s in held_out_topics(["debate"], 4, split="skin")} <= contest.held_out_skins
    assert len(held_out_topics(["debate", "debate_rounds"], 9)) == 9
    with pytest.raises(EvaluationError, match="haggle is no contest"):
        held_out_topics(["haggle"], 3)


@pytest.mark.parametrize("name", registry.contests())
@pytest.mark.parametrize("split", ["seed", "range", "skin"])
def test_every_contest_has_each_of_its_topics_once_a_side(name: str, split: Split) -> None:
    """Baskets list their parts in any order: one basket is one topic, not as many as there are orders."""
    contest = registry.get(name)
    assert isinstance(contest, Contest)
    found = held_out_topics([name], 10_000, split=split)
    parts = Counter(" ".join(sorted(contest.subject(contest.setup(s).public).lower().split())) for s in found)
    assert len(parts) <= len(contest.topics(split))
    assert len(parts) >= 0.8 * len(contest.topics(split))
    assert set(parts.values()) <= {1, 2}


def test_a_stronger_policy_wins_every_pair_against_the_base(topics: list[Scenario]) -> None:
    games: list[Game] = []
    said: list[Judgement] = []
    report = run(topics, base_says(STRONG, WEAK), panel(), games=2, controls=3, on_game=games.append, on_judgement=said.append)
    assert (report.topics, report.games, report.comparison, report.judges) == (6, 2, "base", ("planted",))
    assert (report.trained.win, report.trained.tie, report.trained.loss, report.trained.dropped) == (24, 0, 0, 0)
    assert (report.trained.win_rate, report.trained.high) == (1.0, 1.0)
    assert 0.5 < report.trained.low < 1.0  # six topics that all went one way are not certainty
    assert report.headline.win_rate == 0.5
    assert not report.headline.within_noise
    assert report.baseline is None
    assert report.trained.topics == {f"debate/{m}": Wins(4.0, 4) for m in {s.public["motion"] for s in topics}}
    assert len(games) == 48
    criteria = len(registry.get("debate").criteria)  # type: ignore[attr-defined]
    assert len(said) == 24 * 2 * criteria + 3 * 3
    (judge,) = report.audit.judges
    assert (judge.flips.value, judge.identical.value, judge.identical.trials, report.findings) == (0.0, 1.0, 3, ())
    assert report.text.splitlines()[0].startswith("100.0% [")
    assert "(24/0/0) against the base model's entries on 6 held-out topics, judged by planted" in report.text


def test_equal_policies_are_within_noise_and_swapped_ones_mirror(topics: list[Scenario]) -> None:
    equal = run(topics, base_says(STRONG, STRONG), panel())
    assert (equal.trained.win, equal.trained.tie, equal.trained.loss) == (0, 12, 0)
    assert equal.headline.win_rate == 0.0
    assert equal.headline.within_noise
    assert "within noise" in equal.text
    worse = run(topics, base_says(WEAK, STRONG), panel())
    assert (worse.trained.win_rate, worse.headline.win_rate, worse.headline.within_noise) == (0.0, -0.5, False)


def test_a_judge_that_prefers_a_place_gives_half_a_point_each_and_is_named(topics: list[Scenario]) -> None:
    report = run(topics, base_says(STRONG, WEAK), panel(lambda comparison: Preference.FIRST), games=2)
    assert (report.trained.win, report.trained.tie, report.trained.loss, report.trained.win_rate) == (0, 24, 0, 0.5)
    (judge,) = report.audit.judges
    assert (judge.flips.value, judge.first.value) == (1.0, 1.0)
    assert any("position bias" in finding for finding in report.findings)
    assert any("identical-pair control failed" in finding for finding in report.findings)
    assert "warning: planted: position bias" in report.text


def test_another_models_entries_are_met_by_base_and_trained_alike(topics: list[Scenario]) -> None:
    """Half of the topics are beyond the base model: the trained policy gains there, and nowhere else."""
    hard = {scenario.id for scenario in topics if hash_parity(scenario)}

    def base(deal: Deal) -> str:
        if deal.players[deal.scenario.seat_names[0]] == "script:elsewhere":
            return always(STRONG)(deal)
        return always(WEAK if deal.scenario.id in hard else STRONG)(deal)

    def seat(deal: Deal, name: str) -> Player:
        return Speaker(base(deal))

    contenders = Contenders(policy=speaks(always(STRONG)), base=seat, comparison="script:elsewhere")
    report = run(topics, contenders, panel())
    assert report.baseline is not None
    assert report.trained.win_rate == 0.5
    assert report.baseline.win_rate == pytest.approx(0.5 - 0.5 * len(hard) / PLACES)
    assert report.headline.win_rate == pytest.approx(report.trained.win_rate - report.baseline.win_rate)
    assert report.headline.low <= report.headline.win_rate <= report.headline.high
    assert "trained minus base" in report.text
    assert "script:elsewhere's entries" in report.text


def hash_parity(scenario: Scenario) -> bool:
    return int(scenario.id, 16) % 2 == 0


def test_a_failed_game_or_call_drops_its_pair_and_never_loses(topics: list[Scenario]) -> None:
    gone = {scenario.id for scenario in topics[:3]}
    contenders = Contenders(
        policy=speaks(always(STRONG)), base=speaks(lambda deal: None if deal.scenario.id in gone else always(WEAK)(deal))
    )

    def refuses(comparison: Comparison) -> Preference | None:
        if topics[4].public["motion"] in comparison.brief:
            raise CallError("no answer")
        return by_strength(comparison)

    report = run(topics, contenders, panel(refuses), controls=0)
    lost = 3 + sum(s.public["motion"] == topics[4].public["motion"] for s in topics)
    assert (report.trained.win, report.trained.loss, report.trained.dropped) == (PLACES - lost, 0, lost)
    assert report.other.failed == 3
    assert report.remarks == (f"{lost} of {PLACES} pairs were dropped, as a call failed: they count for neither side",)
    with pytest.raises(EvaluationError, match="none of 12 pairs could be judged"):
        run(topics, base_says(STRONG, WEAK), panel(lambda comparison: None))
    with pytest.raises(EvaluationError, match=r"none of 12 games could be played; the first: .*hung up"):
        run(topics, Contenders(policy=speaks(lambda deal: None), base=speaks(always(WEAK))), panel())
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        run([], base_says(STRONG, WEAK), panel())


def test_an_empty_entry_loses_without_a_call(topics: list[Scenario]) -> None:
    judge = Planted(by_strength)
    contenders = Contenders(policy=speaks(lambda deal: ""), base=speaks(always(WEAK)))
    report = run(topics, contenders, Panel((Member(judge),)), controls=0)
    assert (report.trained.loss, judge.asked) == (PLACES, 0)
    assert (report.trained.form.empty, report.other.empty, report.other.strict) == (1.0, 0.0, 1.0)


def test_sides_with_partners_meet_the_same_partner_on_every_side() -> None:
    rounds = held_out_topics(["debate_rounds"], 4)
    games: list[Game] = []
    report = run(rounds, base_says(STRONG, WEAK), panel(), on_game=games.append)
    assert report.trained.win == sum(len(s.seats) for s in rounds)
    partners: dict[tuple[str, str], set[str]] = {}
    for game in games:
        (own,) = (seat for seat, spec in game.players.items() if spec in ("policy", "base"))
        others = {spec for seat, spec in game.players.items() if seat != own}
        partners.setdefault((game.scenario.id, own), set()).update(others)
    assert all(len(specs) == 1 for specs in partners.values())


def test_too_few_topics_prove_nothing(topics: list[Scenario]) -> None:
    report = run(topics[:6], base_says(STRONG, WEAK), panel())
    assert report.topics == 3
    assert report.headline.within_noise
    assert report.remarks == ("3 topics are too few to tell anything from noise: ask for 6 or more",)


def test_examples_show_both_texts_and_every_verdict(topics: list[Scenario]) -> None:
    rng = Random(3)
    report = run(topics, base_says(STRONG, WEAK), panel(lambda comparison: rng.choice(list(Preference))))
    assert 3 <= len(report.examples) <= 6
    criteria = len(registry.get("debate").criteria)  # type: ignore[attr-defined]
    for example in report.examples:
        assert example.policy.startswith("strong words with reasons number")
        assert example.comparison.startswith("weak words number")
        assert example.topic in example.brief
        assert len(example.verdicts) == 2 * criteria
        assert all(verdict.startswith("planted, ") for verdict in example.verdicts)
    assert {example.points for example in report.examples} == {0.0, 0.5, 1.0}


def test_the_report_survives_json(topics: list[Scenario]) -> None:
    report = run(topics, base_says(STRONG, WEAK), panel(), games=1)
    data = msgspec.json.encode(report)
    assert msgspec.json.decode(data, type=ContestReport) == report
    assert msgspec.json.decode(data)["trained"]["win_rate"] == 1.0


def entry(text: str, form: float, empty: bool = False) -> Entry:
    return Entry(brief="", text=text, reasoning="", form=form, empty=empty)


def test_forms_are_counted() -> None:
    form = Form.of([entry("one two three", 1.0), entry("four", 0.5), entry("", 0.0, empty=True), None])
    assert (form.entries, form.failed, form.empty) == (3, 1, pytest.approx(1 / 3))
    assert (form.strict, form.soft, form.none) == (pytest.approx(1 / 3),) * 3
    assert (form.words, form.characters) == (pytest.approx(4 / 3), pytest.approx(17 / 3))


def pairs(family: str, points: list[float | None], per_topic: int = 2) -> list[Pairing]:
    return [Pairing(family=family, topic=f"t{n // per_topic}", seat="pro", points=p) for n, p in enumerate(points)]


def test_points_of_known_pairs() -> None:
    found = points_of(pairs("debate", [1.0, 0.5, 0.0, 1.0, None, 1.0]))
    assert (found.win, found.tie, found.loss, found.dropped, found.pairs, found.win_rate) == (3, 1, 1, 1, 5, 0.7)
    assert found.low <= 0.7 <= found.high
    nothing = points_of(pairs("debate", [None, None]))
    assert (nothing.win_rate, nothing.low, nothing.high, nothing.dropped) == (0.0, 0.0, 1.0, 2)
    assert wins_by_topic(pairs("debate", [1.0, None, None, None])) == {"debate/t0": Wins(1.0, 1), "debate/t1": Wins(0.0, 0)}


def test_families_are_corrected_for_their_number_and_one_without_pairs_is_left_out() -> None:
    rng = Random(0)
    strong = [float(rng.random() < 0.9) for _ in range(60)]
    even = [float(n % 4 < 2) for n in range(60)]
    trained = [*pairs("debate", strong), *pairs("comedy", even), *pairs("recipes", [None] * 4)]
    overall, families = difference_of(trained, None)
    assert set(families) == {"debate", "comedy"}
    assert not families["debate"].within_noise
    assert families["comedy"].within_noise
    assert families["debate"].p_adjusted == pytest.approx(2 * families["debate"].p_value)
    assert overall.p_adjusted is None
    same, _ = difference_of(trained, trained)
    assert (same.win_rate, same.within_noise) == (0.0, True)


def test_against_even_covers_half_where_the_truth_is_half() -> None:
    covered = 0
    for seed in range(200):
        rng = Random(seed)
        wins = {str(n): Wins(float(sum(rng.random() < 0.5 for _ in range(4))), 4) for n in range(40)}
        found = against_even(wins, seed=seed, resamples=400)
        covered += found.low <= 0 <= found.high
    assert 180 <= covered <= 200
    with pytest.raises(EvaluationError, match="no difference without games"):
        against_even({"a": Wins(0.0, 0)})
