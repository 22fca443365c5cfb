"""The audit catches judges whose mistakes are planted, at a usual step's size, and leaves reasonable ones alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.rollout.judging.audit import IDENTICAL, PAD, PADDED, Audit, audit, padded
from sparring.rollout.judging.config import JudgingConfig
from sparring.rollout.judging.embedded import EmbeddedJudge
from sparring.rollout.judging.judge import Comparison, Judgement, Preference
from sparring.rollout.judging.judging import Judging
from sparring.rollout.judging.panel import Member, Panel
from sparring.rollout.judging.score import score_games
from sparring.rollout.trajectory import Game

FIRST, SECOND, TIE = Preference.FIRST, Preference.SECOND, Preference.TIE
Answer = Callable[[Comparison], Preference]


def audited(games: Sequence[Game], *judges: Any, **settings: Any) -> Audit:
    """The audit of a step that these judges judged, by the way that training takes."""
    panel = Panel(tuple(Member(judge, criteria=("argument",)) for judge in judges))
    config = JudgingConfig(reasoning_weight=0.0, **settings)
    judging = Judging(config=config, panel=panel, evaluation=panel, reasoning=EmbeddedJudge())
    return asyncio.run(score_games(games, judging, step=1)).audit


def kinds(found: Audit) -> set[str]:
    return {finding.split(": ")[1].split(",")[0] for finding in found.findings}


POSITION, INCONSISTENT, LENGTH, IDENTITY = "position bias", "inconsistent", "length bias", "identical-pair control failed"
PLANTED = {
    "first_always": {POSITION, INCONSISTENT, IDENTITY},
    "longest": {LENGTH},
    "coin": {INCONSISTENT, IDENTITY},
    "dice": {INCONSISTENT},
}


@pytest.mark.parametrize("pairing", ["full", "regular"])
@pytest.mark.parametrize("name", PLANTED)
def test_planted_judges_are_caught(name: str, pairing: str, a_step: list[Game], lab: Any) -> None:
    found = audited(a_step, lab.FakeJudge(getattr(lab, name), name), pairing=pairing)
    assert PLANTED[name] <= kinds(found), found.findings
    assert kinds(found) <= PLANTED[name] | {IDENTITY} and all(finding.startswith(f"{name}: ") for finding in found.findings)


@pytest.mark.parametrize("pairing", ["full", "regular"])
def test_reasonable_judges_are_not_accused(pairing: str, a_step: list[Game], lab: Any) -> None:
    for judge in (EmbeddedJudge(), lab.FakeJudge(lab.noisy, "noisy")):
        found = audited(a_step, judge, pairing=pairing)
        assert found.findings == (), found.metrics
        assert 0.4 < found.metrics["first_wins"] < 0.6


def test_a_noisy_judge_is_noisy_and_still_not_accused(a_step: list[Game], lab: Any) -> None:
    (noisy,) = audited(a_step, lab.FakeJudge(lab.noisy)).judges
    assert 0.005 < noisy.flips.value < 0.3 and 0.05 < noisy.ties.value < 0.6


@given(st.integers(0, 10**6))
def test_no_seed_accuses_a_fair_judge_or_acquits_a_planted_one(seed: int) -> None:
    """Judgements drawn by chance alone: 16 groups of 8, both orders."""
    rng = Random(seed)
    lengths = {(f"g{group}", str(number)): rng.randint(50, 700) for group in range(16) for number in range(8)}

    def fair(lead: float) -> Preference:
        seen = lead + rng.gauss(0.0, 0.5)
        return TIE if abs(seen) < 0.2 else FIRST if seen > 0 else SECOND

    worth = {key: rng.gauss(0.0, 1.0) for key in lengths}
    judges: dict[str, Callable[[tuple[str, str], tuple[str, str]], Preference]] = {
        "fair": lambda one, other: fair(worth[one] - worth[other]),
        "first": lambda one, other: FIRST,
        "coin": lambda one, other: rng.choice((FIRST, SECOND)),
        "mostly first": lambda one, other: FIRST if rng.random() < 0.7 else fair(worth[one] - worth[other]),
    }
    judgements = [
        said(name, one[0], one[1], other[1], answer(one, other))
        for name, answer in judges.items()
        for one in lengths
        for other in lengths
        if one[0] == other[0] and one != other
    ]
    found = {judge.judge: {finding.split(": ")[1] for finding in judge.findings} for judge in audit(judgements, lengths).judges}
    assert found["fair"] == set()
    assert {POSITION, INCONSISTENT} <= found["first"] and INCONSISTENT in found["coin"] and POSITION in found["mostly first"]


def said(
    judge: str, group: str, first: str, second: str, preference: Preference | None, control: str = "", criterion: str = "argument"
) -> Judgement:
    return Judgement(
        group=group, judge=judge, criterion=criterion, first=first, second=second, preference=preference, control=control
    )


def test_figures_by_hand() -> None:
    judgements = [
        said("j", "g", "a", "b", FIRST),
        said("j", "g", "b", "a", SECOND),  # a, twice
        said("j", "g", "a", "c", FIRST),
        said("j", "g", "c", "a", FIRST),  # a flip
        said("j", "g", "b", "c", TIE),
        said("j", "g", "c", "b", FIRST),
        said("j", "g", "a", "d", SECOND),
        said("j", "g", "d", "a", None),
        said("j", "h", "a", "b", SECOND),
        said("j", "h", "b", "a", FIRST),  # b, twice, in another group
        said("j", "g", "a", "a", TIE, IDENTICAL),
        said("j", "g", "b", "b", FIRST, IDENTICAL),
        said("j", "g", "a", "a" + PAD, SECOND, PADDED),
        said("j", "g", "a" + PAD, "a", FIRST, PADDED),
        said("j", "g", "b", "b" + PAD, FIRST, PADDED),
        said("j", "g", "b" + PAD, "b", FIRST, PADDED),
    ]
    (judge,) = audit(judgements, {("g", "a"): 9, ("g", "b"): 5, ("g", "c"): 5, ("h", "a"): 9, ("h", "b"): 5}).judges
    assert (judge.answered.hits, judge.answered.trials) == (15, 16)
    assert (judge.ties.hits, judge.ties.trials) == (1, 9)
    assert (judge.first.hits, judge.first.trials) == (5, 8)
    assert (judge.flips.hits, judge.flips.trials) == (1, 3)
    assert (judge.longer.hits, judge.longer.trials) == (1, 2)
    assert (judge.identical.hits, judge.identical.trials) == (1, 2)
    assert (judge.padded.hits, judge.padded.trials) == (1, 2)
    assert judge.findings == ()
    metrics = audit(judgements, {}).metrics
    assert metrics["failed"] == pytest.approx(1 / 16) and metrics["flips"] == pytest.approx(1 / 3)
    assert metrics["identical_ties"] == metrics["padded_wins"] == 0.5 and metrics["findings"] == 0.0
    assert metrics["first_wins"] == 5 / 8 and metrics["first_wins_low"] < 5 / 8 < metrics["first_wins_high"]
    assert "longer_wins" not in metrics and "agreement" not in metrics


def test_a_judge_that_never_ties_fails_the_identical_pairs() -> None:
    never = [said("j", "g", str(n), str(n), FIRST if n % 2 else SECOND, IDENTICAL) for n in range(4)]
    assert audit(never, {}).findings == ("j: identical-pair control failed: of 4 texts compared with themselves, 0 tied",)
    always = [said("j", "g", str(n), str(n), TIE, IDENTICAL) for n in range(4)]
    assert audit(always, {}).findings == () and audit(never[:1], {}).findings == ()
    some = [said("j", "g", str(n), str(n), FIRST if n % 5 else TIE, IDENTICAL) for n in range(50)]
    assert audit(some[:8], {}).findings == () and len(audit(some, {}).findings) == 1


def test_the_longer_text_winning_is_a_finding_only_without_padded_pairs() -> None:
    judgements = []
    for number in range(200):
        one, other = f"{number}a", f"{number}b"
        judgements += [said("j", "g", one, other, FIRST), said("j", "g", other, one, SECOND)]
    lengths = {("g", f"{number}{kind}"): length for number in range(200) for kind, length in (("a", 9), ("b", 5))}
    (finding,) = audit(judgements, lengths).findings
    assert finding.startswith("j: length bias, unless longer texts are better: they win 100% of its decisions; ")
    assert finding.endswith("set judging.controls to 2 or more to tell")
    fair = [said("j", "g", f"{n}", f"{n}{PAD}", FIRST, PADDED) for n in range(2)]
    fair += [said("j", "g", f"{n}{PAD}", f"{n}", SECOND, PADDED) for n in range(2)]
    assert audit(judgements + fair, lengths).findings == ()
    biased = [said("j", "g", j.first, j.second, j.preference and j.preference.swapped, PADDED) for j in fair]
    assert audit(judgements + biased, lengths).findings == (
        "j: length bias: 2 of 2 texts padded with repetitions beat their original; the longer text wins 100% of its decisions",
    )
    assert audit(biased, lengths).findings == (
        "j: length bias: 2 of 2 texts padded with repetitions beat their original",  # it decided nothing else
    )


def test_silence_and_idleness_are_findings() -> None:
    silent = [said("j", "g", "a", str(n), None if n % 2 else TIE) for n in range(40)]
    assert audit(silent, {}).findings[0] == "j: no verdict on 50% of what it was asked"
    idle = [said("j", "g", "a", str(n), TIE) for n in range(200)]
    assert audit(idle, {}).findings == ("j: ties 100% of texts that differ: its criteria tell them apart too little",)
    assert audit(idle[:3], {}).findings == () and audit([], {}).metrics == {"judgements": 0.0, "failed": 0.0, "findings": 0.0}


def test_agreement_in_a_panel_names_who_disagrees(a_step: list[Game], lab: Any) -> None:
    found = audited(a_step, EmbeddedJudge(), lab.FakeJudge(lab.coin, "coin"), lab.FakeJudge(lab.first_always, "place"))
    assert set(found.agreement) == {"coin & embedded-rubric", "coin & place", "embedded-rubric & place"}
    assert all(abs(value) < 0.1 for value in found.agreement.values())
    assert any(finding.startswith("coin & embedded-rubric agree hardly more than chance would") for finding in found.findings)
    assert {finding.split(":")[0] for finding in found.findings if ": " in finding} >= {"coin", "place"}
    assert not any(finding.startswith("embedded-rubric:") for finding in found.findings)
    assert found.metrics["coin/flips"] > 0.4 and found.metrics["embedded-rubric/flips"] == 0.0 and "agreement" in found.metrics

    two = audited(a_step, EmbeddedJudge(), lab.FakeJudge(rubric_twin, "twin"))
    assert two.agreement == {"embedded-rubric & twin": 1.0} and two.findings == ()


def rubric_twin(comparison: Comparison) -> Preference:
    coroutine = EmbeddedJudge().compare(comparison)
    try:
        coroutine.send(None)
    except StopIteration as done:
        answer: Preference = done.value
        return answer
    raise AssertionError("the embedded judge waits for nothing")


@given(st.text(min_size=1, max_size=400))
def test_padding_adds_length_and_keeps_the_text(text: str) -> None:
    longer = padded(text)
    assert longer.startswith(text.rstrip()) and len(longer) >= 2 * len(text.rstrip())
