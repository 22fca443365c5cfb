"""The embedded rubric: it climbs by degrees, length alone wins nothing, and its judge is the same in both orders."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.rollout.judging.audit import padded
from sparring.rollout.judging.embedded import CRITERIA, EmbeddedJudge
from sparring.rollout.judging.judge import Comparison, Preference
from sparring.rollout.judging.rubric import NOTHING, PARTS, Rubric, Weights, rubric
from sparring.rollout.judging.wording import marked, point_stems, sentences, stem, topic_stems
from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Contest, Criterion
from sparring.scenarios.game import GameState

LADDER = (
    "Cars are bad.",
    "Cities should ban cars.",
    "Cities should ban private cars because they burn fuel.",
    "Cities should ban private cars because they burn fuel. For example, Oslo took away parking places.",
    "Cities should ban private cars because they burn fuel. For example, Oslo took away parking places and its streets filled "
    "with walkers. However, shops fear for their trade.",
    "Cities should ban private cars because they burn fuel. For example, Oslo took away parking places and its streets filled "
    "with walkers. However, shops fear for their trade. Therefore a city should help its shops and close its roads to cars.",
)


def compare(first: str, second: str, brief: str, criterion: str = "argument") -> Preference | None:
    asked = Comparison(brief=brief, criterion=Criterion(name=criterion, question="?"), first=first, second=second)
    return asyncio.run(EmbeddedJudge().compare(asked))


def test_the_figures_of_a_good_and_of_a_bad_text(lab: Any) -> None:
    best = rubric(lab.BRIEF, lab.GOOD)
    assert best == Rubric(**dict.fromkeys(Rubric.__struct_fields__, 1.0)) and best.score() == best.structure == 1.0
    poor = rubric(lab.BRIEF, "I like cats. They are soft. They are soft.")
    assert poor == Rubric(
        opening=pytest.approx(0.6 * 0.5),
        reasons=0.0,
        conclusion=0.0,
        coverage=0.0,
        support=0.0,
        focus=0.0,
        substance=pytest.approx(2 / 25),
        variety=pytest.approx(6 / 7),
        prose=pytest.approx(1.0),
        restraint=1.0,
    )
    # (2 * 0.3 + 2 * 0.08) / 14, times 6/7.
    assert poor.score() == pytest.approx(0.76 / 14 * 6 / 7)
    assert rubric(lab.BRIEF, " ... ") == NOTHING and NOTHING.score() == 0.0


def test_every_step_towards_a_speech_is_worth_more_than_the_margin(lab: Any) -> None:
    scores = [rubric(lab.BRIEF, text).score() for text in LADDER]
    assert all(after > before + 0.02 for before, after in pairwise(scores)), scores
    assert scores[0] < 0.25 and scores[-1] > 0.9


@pytest.mark.parametrize("name", registry.contests())
def test_scripted_speakers_score_by_what_they_do(name: str) -> None:
    contest, scores = registry.get(name), dict[str, list[float]]()
    assert isinstance(contest, Contest)
    for seed in range(20):
        scenario = contest.generate(seed=seed)
        for speaker, strategy in contest.strategies.items():
            state = GameState(scenario)
            while state.to_move:
                for seat in state.to_move:
                    state.submit(seat, strategy(state.view(seat), Random(seed)))
            entry = contest.entry(state, scenario.seat_names[0])
            scores.setdefault(speaker, []).append(rubric(entry.brief, entry.text).score())
    means = {speaker: sum(own) / len(own) for speaker, own in scores.items()}
    assert min(means, key=means.__getitem__) == "rambler" and means["sourced"] > means["rambler"] + 0.4, means
    assert means["sourced"] > means["plain"] + 0.02, means


LOSERS = {
    "the text twice": lambda good: f"{good} {good}",
    "its sentences again and again": lambda good: good + " For example, Oslo took away 700 parking places." * 6,
    "idle sentences": lambda good: good + " It is what it is. We all know how it is. There it is, as it has always been." * 2,
    "a list of the topic's words": lambda good: (
        "cities ban private cars because therefore however for example evidence finally thus"
    ),
    "topic words as sentences": lambda good: "Cities. Ban. Private. Cars. Because. Therefore. However. For example. Thus.",
    "one word": lambda good: "because " * 100,
    "the brief": lambda good: "Speak for the motion: Cities should ban private cars. Give one speech.",
    "far too long": lambda good: (
        good + " " + " ".join(f"Then number{i} of the others went to place{i} as well." for i in range(150))
    ),
    "nothing but small words": lambda good: (
        "it is so and so it is and it was and it will be as it has been for us and for them " * 2
    ),
}


@pytest.mark.parametrize("name", LOSERS)
@pytest.mark.parametrize("criterion", [*CRITERIA, "any other"])
def test_padding_lists_and_copies_lose(name: str, criterion: str, lab: Any) -> None:
    assert compare(lab.GOOD, LOSERS[name](lab.GOOD), lab.BRIEF, criterion) is Preference.FIRST


def test_length_beyond_saturation_gains_nothing(lab: Any) -> None:
    rng = Random(1)
    nouns = ("school", "market", "bridge", "garden", "river", "factory", "station", "harbour", "museum", "forest")
    more = [f"The {rng.choice(nouns)} number{i} is near the {rng.choice(nouns)} of street{i}." for i in range(40)]
    scores = [rubric(lab.BRIEF, " ".join([lab.GOOD, *more[:count]])).score() for count in range(0, 41, 4)]
    assert all(after <= before for before, after in pairwise(scores))


@given(
    st.lists(
        st.sampled_from([*LADDER[2:], "I like cats and dogs.", "Cars, and only cars!", "It may rain on Sunday."]),
        min_size=1,
        max_size=4,
    )
)
def test_a_padded_text_never_beats_its_original(parts: list[str]) -> None:
    text, brief = " ".join(parts), "Speak for the motion: Cities should ban private cars."
    if len(text.split()) >= 8:
        assert compare(padded(text), text, brief) is not Preference.FIRST
        assert len(padded(text)) >= 2 * len(text)


WORDS = st.sampled_from(
    ["cars", "because", "the", "city", ".", "!", "\n", "is", "for example", "7", "therefore", "İ", "ﬁ", "\u2028", "'", "`"]
)
TEXTS = st.one_of(st.text(max_size=300), st.lists(WORDS, max_size=60).map(" ".join))


@given(TEXTS, TEXTS, TEXTS, st.sampled_from([*CRITERIA, "any other"]))
def test_bounds_order_and_identity(brief: str, first: str, second: str, criterion: str) -> None:
    for text in (first, second):
        found = rubric(brief, text)
        assert all(0.0 <= getattr(found, name) <= 1.0 for name in (*Rubric.__struct_fields__, "structure", "soundness"))
        assert 0.0 <= found.score() <= 1.0
        assert compare(text, text, brief, criterion) is Preference.TIE
    there, back = compare(first, second, brief, criterion), compare(second, first, brief, criterion)
    assert there is not None and back is there.swapped


def test_criteria_weigh_differently(lab: Any) -> None:
    grounds = "Oslo took away 700 parking places, because its air was bad. For example, walkers came back, as a study says."
    form = "Cities should ban private cars. Cities should be quiet places to live in. So cities should ban private cars today."
    assert compare(grounds, form, lab.BRIEF, "support") is Preference.FIRST
    assert compare(grounds, form, lab.BRIEF, "clarity") is Preference.SECOND
    only = Weights(**(dict.fromkeys(PARTS, 0.0) | {"support": 1.0}))
    assert rubric(lab.BRIEF, grounds).score(only) == 1.0 and rubric(lab.BRIEF, form).score(only) == 0.0


def test_the_points_of_a_brief_support_a_case() -> None:
    brief = "Speak for it: Trams.\nTopic words: trams\nPoints that support it: rails save energy; drivers can read"
    assert topic_stems(brief) == {"tram"} and point_stems(brief) == (
        {"rail", "sav", "energ"},
        {"driv", "read"} - {"driv"} | {"driver"},
    )
    with_point = rubric(brief, "Trams are good. Rails save a lot of energy.")
    assert with_point.support == pytest.approx(1 / 3) and rubric(brief, "Trams are good. They are fine.").support == 0.0


def test_reasoning_is_rated_on_its_reasons(lab: Any) -> None:
    async def rate(text: str) -> float | None:
        return await EmbeddedJudge().rate(lab.BRIEF, text)

    ratings = [asyncio.run(rate(text)) for text in ("", "My notes.", LADDER[2], LADDER[4], lab.GOOD)]
    assert ratings[0] == 0.0 and ratings[-1] == 1.0
    assert all(a is not None and b is not None and a < b for a, b in pairwise(ratings))


def test_words() -> None:
    assert sentences("It's so. 3 cars!\n\n“Stop”") == [["it's", "so"], ["3", "cars"], ["stop"]]
    assert {stem(word) for word in ("school", "schools", "schooling")} == {"school"} and stem("banned") == stem("ban") == "ban"
    because, example = ("because",), ("for", "example")
    assert marked(["because", "it", "is", "so", "for", "example"], (because, example), tail=2) == {because}
    assert marked(["because", "however", "it", "is", "so"], (because,), tail=2) == set()
