"""What every registered contest promises: the same instances everywhere, split apart, described, with speakers of all grades."""

from __future__ import annotations

import hashlib
import re
from random import Random
from typing import Any, cast

import msgspec
import pytest

from sparring.scenarios import registry
from sparring.scenarios.contests.answer import fold
from sparring.scenarios.contests.contest import NOTHING, Contest, support_points, topic_words
from sparring.scenarios.control import with_shuffled_values
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import SPLITS, Split
from sparring.scenarios.game import GameState, replay
from sparring.scenarios.outcome import Reason
from sparring.scenarios.scenario import Scenario, canonical
from sparring.scenarios.series import series

every_contest = pytest.mark.parametrize("name", registry.contests())

GOLDEN = {
    "debate": "9fcc20727e008a341d7be676aac18166560e5e7cda1b3b4947eee1c487619959",
    "debate_rounds": "76dbf03ce500095cb2395b21bcb44224405317616a6d71c7449ee8ee675c04a4",
    "comedy": "978eb45af0d4810ad2015613545b21b1918979874f657c284e4e67aba6a336a7",
    "recipes": "222ac5285a4eeeeb7c3d95a6ad5de9122edbb1cb252020e7de6d89c72e9c8ceb",
}
"""SHA-256 of the canonical lines of seeds 0..19 of each split. A change means other scenarios, and a new topic changes them too:
stored runs and comparisons with an earlier version are then about something else."""


def contest(name: str) -> Contest[Any, Any]:
    return cast("Contest[Any, Any]", registry.get(name))


def spoken(scenario: Scenario, script: str, seed: int = 0) -> GameState:
    """The game with every seat played by one script."""
    game = GameState(scenario)
    while game.outcome() is None:
        for seat in game.to_move:
            game.submit(seat, game.family.strategies[script](game.view(seat), Random(f"{seed}/{seat}")))
    return game


def test_contests_are_found_and_are_no_games() -> None:
    assert registry.contests() == ("debate", "debate_rounds", "comedy", "recipes")
    assert registry.names() == ("haggle", "split", "dilemma", "auction")
    assert all(isinstance(registry.get(name), Contest) and registry.get(name).name == name for name in registry.contests())
    with pytest.raises(ScenarioError, match=r"no family is called 'poker': choose from haggle, .*, debate, .*, recipes"):
        registry.get("poker")


@every_contest
def test_the_same_bytes_on_every_machine_and_version(name: str) -> None:
    lines = [canonical(contest(name).generate(seed, split)) for split in SPLITS for seed in range(20)]
    another = type(contest(name))()
    assert lines == [canonical(another.generate(seed, split)) for split in SPLITS for seed in range(20)]
    assert hashlib.sha256(b"\n".join(lines)).hexdigest() == GOLDEN[name]


@every_contest
def test_consecutive_seeds_go_through_all_topics_of_a_split(name: str) -> None:
    family = contest(name)
    for split in SPLITS:
        topics = {fold(topic.text) for topic in family.topics(split)}
        dealt = [subject(family, family.generate(10**6 + i, split)) for i in range(len(topics))]
        assert {fold(text) for text in dealt} == topics


def subject(family: Contest[Any, Any], scenario: Scenario) -> str:
    """The topic's text; a basket in the order of the alphabet."""
    ingredients = scenario.public.get("ingredients")
    return ", ".join(sorted(ingredients)) if ingredients else family.subject(family.setup(scenario).public)


@every_contest
def test_held_out_skins_appear_in_their_split_only(name: str) -> None:
    family = contest(name)
    assert family.held_out_skins < set(family.skins) and len(family.skins) >= 4
    for split in SPLITS:
        skins = {family.generate(seed, split).skin for seed in range(80)}
        assert skins <= (family.held_out_skins if split == "skin" else set(family.skins) - family.held_out_skins)
    (held_out, *_), (skin, *_) = sorted(family.held_out_skins), sorted(set(family.skins) - family.held_out_skins)
    assert family.generate(1, skin=skin).skin == skin and family.generate(1, "skin", held_out).skin == held_out
    refused: tuple[tuple[Split, str], ...] = (("train", held_out), ("seed", "no such"), ("skin", skin))
    for split, wrong in refused:
        with pytest.raises(ScenarioError, match=f"{name} has no skin '{wrong}' in split '{split}': choose from "):
            family.generate(1, split, wrong)


@every_contest
def test_a_contest_is_described(name: str) -> None:
    family = contest(name)
    assert family.title and family.commit_tags == ()
    for skin in family.skins:
        tags = msgspec.convert(msgspec.to_builtins(family.tags(skin)), type(family.tags(skin)))  # the axes' values are checked
        assert all(msgspec.to_builtins(tags).values()) and re.search(r"\d{4}", tags.theory)
    assert len({family.tags(skin).context for skin in family.skins}) >= 3
    assert len({criterion.name for criterion in family.criteria}) == len(family.criteria) >= 2
    assert all(criterion.weight > 0 and criterion.question.endswith("?") for criterion in family.criteria)
    assert {*family.partners, family.unseen_partner} == set(family.strategies) and family.unseen_partner not in family.partners


@every_contest
def test_prompts_hold_the_topic_and_the_format_and_none_of_the_judges_points(name: str) -> None:
    family = contest(name)
    for split in SPLITS:
        for seed in range(10):
            scenario = family.generate(seed, split)
            setup = family.setup(scenario)
            for index, seat in enumerate(scenario.seats):
                assert seat.instructions.isascii() and "\n" not in seat.instructions and seat.name in seat.instructions
                assert 35 <= len(seat.instructions.split()) <= 100
                assert "<reasoning>" in seat.instructions and "<answer>" in seat.instructions
                brief = family.brief(setup.public, setup.private[index], index)
                assert all(word in fold(seat.instructions) for word in topic_words(brief))
                assert not any(point in seat.instructions for point in support_points(brief))
                assert tuple(support_points(brief)) == tuple(family.support(setup.public, index))


@every_contest
def test_a_contest_proves_nothing(name: str) -> None:
    family = contest(name)
    setup = family.setup(family.generate(3))
    assert family.certificate(setup).winners == family.should_win(setup) == frozenset()
    assert family.certificate(setup).method == NOTHING
    assert [scenario.seed for scenario in series(name, 2, seed=7)] == [7_000_000, 7_000_001]


@every_contest
def test_speakers_hand_something_in_and_say_it_again_when_replayed(name: str) -> None:
    family = contest(name)
    for number in range(48):
        scenario, script = family.generate(number, SPLITS[number % 4]), tuple(family.strategies)[number % 5]
        game = spoken(scenario, script, number)
        assert {outcome.reason for outcome in (game.outcome() or {}).values()} == {Reason.UNJUDGED}
        for seat in scenario.seat_names:
            entry = family.entry(game, seat)
            assert entry.form == (0.0 if script == "formless" else 1.0) and not entry.empty
            assert entry == family.entry(replay(scenario, game.turns), seat)
        for turn in game.turns:
            answer = turn.text.partition("<answer>")[2].removesuffix("</answer>") or turn.text
            assert 12 <= len(answer.split()) <= 75 and turn.text.isascii(), turn.text


@every_contest
def test_speakers_vary_and_all_but_the_rambler_keep_to_the_topic(name: str) -> None:
    family = contest(name)
    said = {script: [spoken(family.generate(seed), script, seed) for seed in range(30)] for script in family.strategies}
    for script, games in said.items():
        assert len({game.turns[0].text for game in games}) > 15
        on_topic = [covered(family, game) for game in games]
        assert max(on_topic) == 0 if script == "rambler" else min(on_topic) > 0
    lengths = {script: sum(len(game.turns[0].text.split()) for game in games) for script, games in said.items()}
    assert lengths["formless"] < lengths["plain"] < lengths["sourced"]


def covered(family: Contest[Any, Any], game: GameState) -> int:
    """How many of the topic's words the first seat's entry takes up."""
    entry = family.entry(game, game.scenario.seat_names[0])
    return len(set(topic_words(entry.brief)) & set(fold(entry.text).split()))


def test_in_rounds_a_speaker_does_not_repeat_itself() -> None:
    for seed in range(20):
        game = spoken(contest("debate_rounds").generate(seed), "sourced", seed)
        own = [turn.text for turn in game.turns if turn.seat == "pro"]
        assert len(set(own)) == len(own) == game.scenario.public["rounds"]


@every_contest
def test_the_control_of_shuffled_values_finds_nothing_to_shuffle(name: str) -> None:
    scenarios = [contest(name).generate(seed) for seed in range(4)]
    assert with_shuffled_values(scenarios, seed=0) == [tuple(s for _ in s.seats) for s in scenarios]


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("recipes", {"ingredients": ["rice"]}, "recipes: a basket holds 2 ingredients or more"),
        ("comedy", {"premise": "the"}, "comedy: the topic has no words"),
        ("comedy", {"words": 5000}, r"comedy: words must lie in 1..2000, not 5000"),
        ("recipes", {"limit": 3}, "scenario of family 'recipes'"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(name: str, change: dict[str, Any], says: str) -> None:
    scenario = contest(name).generate(0)
    with pytest.raises(ScenarioError, match=says):
        GameState(msgspec.structs.replace(scenario, public={**scenario.public, **change}))


@pytest.mark.parametrize("name", ["comedy", "recipes"])
def test_one_seat_is_enough(name: str) -> None:
    scenario = contest(name).generate(0)
    twice = (scenario.seats[0], msgspec.structs.replace(scenario.seats[0], name="guest"))
    with pytest.raises(ScenarioError, match=f"{name} has 1 seat, this scenario has 2"):
        GameState(msgspec.structs.replace(scenario, seats=twice))
