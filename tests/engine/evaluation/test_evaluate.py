"""Evaluation with scripted players: common deals, every seat, every partner, figures that add up, pairs that are exact."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from random import Random

import msgspec
import pytest

from sparring.engine.errors import EvaluationError
from sparring.engine.evaluation.compare import Report, compare
from sparring.engine.evaluation.evaluate import Match, arrange, evaluate, held_out
from sparring.engine.evaluation.figures import Evaluation, Result, figures
from sparring.rollout.errors import PlayerError, RolloutError
from sparring.rollout.player import Player, Reply, Seating, Table
from sparring.rollout.sampler import Sample, SampleRequest
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry
from sparring.scenarios.family import Message
from sparring.scenarios.outcome import Outcome, Reason, Verdict
from sparring.scenarios.scenario import Scenario


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return held_out(registry.names(), 4 * len(registry.names()))


class Reader(Player):
    """Bids a fixed share of the worth that its instructions state; in auctions that is a fair policy."""

    def __init__(self, share: float) -> None:
        self.share = share

    async def act(self, table: Table) -> Reply:
        found = re.search(r"It is worth (\d+) to you; your budget is (\d+)", table.observation.instructions)
        assert found
        worth, budget = int(found[1]), int(found[2])
        return Reply(f"FINAL_BID: {min(budget, round(self.share * worth))}")


class Failing(Player):
    async def act(self, table: Table) -> Reply:
        raise PlayerError("the partner hung up")


def seat_reader(deal: Deal, seat: str) -> Player:
    return Reader(0.75) if deal.players[seat] == "policy" else Seating()(deal, seat)


def seat_failing(deal: Deal, seat: str) -> Player:
    return Failing() if deal.players[seat] == "policy" else Seating()(deal, seat)


def run(matches: Sequence[Match], concurrency: int = 8) -> Evaluation:
    return asyncio.run(evaluate(matches, Seating(), concurrency=concurrency))


def test_held_out_scenarios_are_distinct_even_and_stable() -> None:
    found = held_out(["haggle", "dilemma"], 41, seed=2)
    assert Counter(s.family for s in found) == {"haggle": 21, "dilemma": 20}
    assert len({s.id for s in found}) == 41
    assert found == held_out(["haggle", "dilemma"], 41, seed=2)
    assert not {s.id for s in found} & {s.id for s in held_out(["haggle", "dilemma"], 41, seed=3)}
    assert held_out(["haggle"], 5, seed=2) == found[:5]
    for split in ("seed", "range", "skin"):
        assert len(held_out(registry.names(), 4, split=split)) == 4
    skins = registry.get("haggle").held_out_skins
    assert {s.skin for s in held_out(["haggle"], 5, split="skin")} <= skins


def test_asking_for_more_than_a_family_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    haggle = registry.get("haggle")
    three = [haggle.generate(seed, "seed") for seed in range(3)]
    monkeypatch.setattr(type(haggle), "generate", lambda self, seed, split: three[seed % 3])
    with pytest.raises(EvaluationError, match="haggle has only 3 different scenarios in split 'seed': ask for fewer than 4"):
        held_out(["haggle"], 4)


def test_every_seat_meets_every_partner_equally_often(scenarios: list[Scenario]) -> None:
    matches = arrange(scenarios, games=5)
    assert len({match.deal.id for match in matches}) == len(matches)
    assert len({match.deal.seed for match in matches}) == len(matches)
    assert len(matches) == 5 * sum(len(s.seats) for s in scenarios)
    for scenario in scenarios:
        family = registry.get(scenario.family)
        wanted = sorted(f"script:{name}" for name in (*family.partners, family.unseen_partner))
        for seat in scenario.seat_names:
            mine = [m for m in matches if (m.scenario_id, m.seat) == (scenario.id, seat)]
            assert sorted(m.partner for m in mine) == wanted
            assert [m.partner for m in mine if m.unseen] == [f"script:{family.unseen_partner}"]
            for match in mine:
                others = {spec for name, spec in match.deal.players.items() if name != seat}
                assert (match.deal.players[seat], others) == ("policy", {match.partner})


@pytest.mark.parametrize("games", [1, 2, 4])
def test_partners_take_turns_in_each_seat(games: int) -> None:
    matches = arrange(held_out(["haggle"], 20), games=games)
    for seat in (0, 1):
        counts = Counter(m.partner for m in matches if m.deal.scenario.index(m.seat) == seat)
        assert set(counts.values()) == {4 * games}


def test_deals_differ_only_in_policy_label_and_instructions(scenarios: list[Scenario]) -> None:
    base = arrange(scenarios, games=2, policy="base", label="baseline")
    trained = arrange(scenarios, games=2, label="trained")
    shuffled = arrange(scenarios, games=2, label="shuffled", shuffled=True)
    assert [m.key for m in base] == [m.key for m in trained] == [m.key for m in shuffled]
    assert [m.deal.seed for m in base] == [m.deal.seed for m in trained]
    changed = 0
    for match, plain in zip(shuffled, trained, strict=True):
        for mine, true in zip(match.deal.scenario.seats, plain.deal.scenario.seats, strict=True):
            assert mine.private == true.private
            assert mine == true or mine.name == match.seat
            changed += mine != true
    assert changed > 0.9 * len(shuffled)
    assert arrange(scenarios, seed=1)[0].deal.seed != arrange(scenarios, seed=2)[0].deal.seed


def test_a_partner_that_a_family_lacks_is_refused(scenarios: list[Scenario]) -> None:
    with pytest.raises(RolloutError, match="no script 'nobody'"):
        arrange(scenarios, partners=["script:nobody"])


def test_an_evaluation_does_not_depend_on_concurrency(scenarios: list[Scenario]) -> None:
    matches = arrange([s for s in scenarios if s.family == "haggle"], policy="script:naive", games=5)
    assert run(matches, 1).results == run(matches, 16).results


def test_figures_add_up_and_break_down() -> None:
    bargains = held_out(["haggle", "split"], 8)
    side = run(arrange(bargains, policy="script:linear", games=5)).side
    assert side.games == 2 * 5 * 8 == side.win + side.draw + side.loss + side.void
    assert side.win_rate == side.win / (side.games - side.void)
    assert side.low <= side.win_rate <= side.high
    for parts in (side.families, side.partners):
        for key in ("win", "draw", "loss", "invalid", "void", "games"):
            assert sum(getattr(part, key) for part in parts.values()) == getattr(side, key)
    assert list(side.families) == ["haggle", "split"]
    assert len(side.partners) == 10
    assert side.unseen is not None
    assert side.unseen.games == side.partners["haggle/script:linear"].games + side.partners["split/script:linear"].games
    assert side.agreement_rate is not None
    assert 0 < side.agreement_rate < 1


def result(verdict: Verdict, reason: Reason = Reason.TARGET_MET, agreed: bool | None = None, scenario: str = "s") -> Result:
    outcome = Outcome.of(verdict, {"win": 1.0, "draw": 0.5}.get(verdict, 0.0), reason)
    return Result(key=scenario, scenario_id=scenario, family="haggle", partner="p", unseen=False, outcome=outcome, agreed=agreed)


def test_figures_of_known_results() -> None:
    found = figures(
        [
            result(Verdict.WIN, agreed=True),
            result(Verdict.DRAW, agreed=False),
            result(Verdict.LOSS, Reason.INVALID_COMMIT, agreed=False),
            result(Verdict.LOSS, agreed=True),
            result(Verdict.VOID, Reason.PLAYER_FAILED, agreed=False),
        ]
    )
    assert (found.win, found.draw, found.loss, found.invalid, found.void, found.games) == (1, 1, 2, 1, 1, 5)
    assert (found.win_rate, found.mean_score, found.agreement_rate) == (0.25, 0.375, 0.5)
    assert figures([result(Verdict.WIN)]).agreement_rate is None


def test_comparison_finds_a_stronger_policy_and_calls_noise_noise() -> None:
    scenarios = held_out(["haggle", "auction"], 40)
    weak = run(_mixed(scenarios, "weak"))
    strong = run(_mixed(scenarios, "strong"))
    report = compare(weak, strong)
    assert report.scenarios == 40
    difference = report.difference
    assert difference.win_rate == pytest.approx(report.trained.win_rate - report.baseline.win_rate)
    assert 0 < difference.low < difference.win_rate < difference.high
    assert not difference.within_noise
    assert set(difference.families) == {"haggle", "auction"}
    for effect in difference.families.values():
        assert effect.p_adjusted is not None
        assert effect.p_value <= effect.p_adjusted <= 1
    same = compare(weak, weak)
    assert same.difference.within_noise
    assert "+0.0 points [+0.0, +0.0], within noise" in same.text
    assert compare(weak, strong) == report
    assert "points" in report.text.splitlines()[0]
    assert "within noise" not in report.text.splitlines()[0]


def _mixed(scenarios: list[Scenario], strength: str) -> list[Match]:
    """Matches in which each family's policy is one of its scripts, weak or strong."""
    scripts = {
        ("haggle", "weak"): "naive",
        ("haggle", "strong"): "holder",
        ("auction", "weak"): "overbidder",
        ("auction", "strong"): "sniper",
    }
    found = []
    for family in ("haggle", "auction"):
        chosen = [s for s in scenarios if s.family == family]
        found += arrange(chosen, policy=f"script:{scripts[family, strength]}", games=2)
    return found


def test_the_report_has_the_documented_shape() -> None:
    scenarios = held_out(["haggle"], 6)
    side = run(arrange(scenarios, policy="script:holder"))
    report = compare(side, side)
    data = msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(report, shuffled=report)))
    assert data["scenarios"] == 6
    for name in ("baseline", "trained"):
        for part in (data[name], data[name]["families"]["haggle"]):
            assert {"win", "draw", "loss", "invalid", "void", "games", "win_rate", "mean_score"} <= part.keys()
        assert "families" in data[name]
    assert {"win_rate", "low", "high"} <= data["difference"].keys()
    assert data["shuffled"]["difference"]["win_rate"] == 0
    assert msgspec.convert(data, Report).difference == report.difference
    assert "shuffled" not in msgspec.to_builtins(report)


def test_shuffled_values_take_a_value_policys_gain_away() -> None:
    """A bidder that follows its stated worth beats a fixed bid, and no longer when it reads another bidder's worth."""
    scenarios = held_out(["auction"], 60)

    def measured(shuffled: bool) -> Evaluation:
        return asyncio.run(evaluate(arrange(scenarios, games=2, shuffled=shuffled), seat_reader))

    true, shuffled = measured(False), measured(True)
    assert (true.shuffled, shuffled.shuffled) == (False, True)
    assert true.side.win_rate > shuffled.side.win_rate + 0.1
    with pytest.raises(EvaluationError, match="not of the same games"):
        compare(true, shuffled)
    report = compare(true, true, shuffled=(shuffled, shuffled))
    assert report.shuffled is not None
    assert report.shuffled.trained == shuffled.side
    assert report.text.splitlines()[-1] == "  with shuffled private values: +0.0 points [+0.0, +0.0], within noise"


def test_unpaired_evaluations_are_refused() -> None:
    scenarios = held_out(["haggle"], 4)
    one, other = run(arrange(scenarios, policy="script:naive")), run(arrange(scenarios, policy="script:naive", seed=1))
    with pytest.raises(EvaluationError, match="not of the same games"):
        compare(one, other)


class Letters:
    """A chat format of one id a character."""

    turn_end = 0
    stop_ids = (0,)

    def opening(self, instructions: str, heard: Sequence[Message]) -> list[int]:
        return [ord(c) for c in "\n".join([instructions, *(m.text for m in heard)])]

    def reply(self, heard: Sequence[Message], finished: bool) -> list[int]:
        return [ord(c) for c in "\n".join(m.text for m in heard)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids)).rstrip("\0")


class Guesser:
    """Names prices at random, by the request's seed and prompt; the adapter "skilled" commits to what it heard last."""

    async def sample(self, request: SampleRequest) -> Sample:
        rng = Random(f"{request.seed}/{request.prompt_ids}")
        heard = re.findall(r"\d+", Letters().decode(request.prompt_ids))
        price = heard[-1] if request.adapter == "skilled" else rng.randint(0, 99)
        ids = [*map(ord, rng.choice([f"I say {price}.", f"DEAL_PRICE: {price}"])), 0]
        return Sample(token_ids=ids, logprobs=[-1.0] * len(ids), finish_reason="stop", policy=str(request.adapter))

    def end_session(self, session: str) -> None:
        return None


def test_equal_policies_play_equal_games_whatever_they_are_called() -> None:
    """Common seeds: an adapter that changes nothing has a difference of exactly nothing, in every single game."""
    scenarios, seating = held_out(["haggle"], 12), Seating(sampler=Guesser(), chat=Letters())
    base = asyncio.run(evaluate(arrange(scenarios, policy="base", label="baseline"), seating))
    played: list[Game] = []
    same = asyncio.run(evaluate(arrange(scenarios, games=1, label="trained"), seating, on_game=played.append))
    assert base.results == same.results
    assert len(played) == len(base.results)
    assert all(len(game.trajectories) == 1 for game in played)
    other = asyncio.run(evaluate(arrange(scenarios, policy="policy:skilled"), seating))
    assert other.results != base.results
    assert compare(base, other).difference.win_rate > 0


def test_failures_void_their_games_and_total_failure_is_an_error() -> None:
    scenarios = held_out(["haggle"], 4)
    with pytest.raises(EvaluationError, match=r"none of 8 games could be played; the first: .*the partner hung up"):
        asyncio.run(evaluate(arrange(scenarios), seat_failing))
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        asyncio.run(evaluate([], Seating()))
    good = run(arrange(scenarios, policy="script:holder"))
    void = Outcome.of(Verdict.VOID, 0.0, Reason.PLAYER_FAILED)
    gone = {r.scenario_id for r in good.results[:2]}
    holed = msgspec.structs.replace(
        good, results=tuple(msgspec.structs.replace(r, outcome=void) if r.scenario_id in gone else r for r in good.results)
    )
    report = compare(good, holed)
    assert (report.trained.void, report.baseline.void) == (2, 0)
    assert report.difference.win_rate == pytest.approx(report.trained.win_rate - report.baseline.win_rate)
