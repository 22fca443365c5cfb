"""The topics that ship: enough of them, no two alike, split for good by their own text."""

from __future__ import annotations

from itertools import combinations
from typing import Any, cast

import pytest

from sparring.scenarios import registry
from sparring.scenarios.contests.answer import fold
from sparring.scenarios.contests.comedy import Comedy, Premise
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.contests.debate import Motion
from sparring.scenarios.contests.recipes import Basket
from sparring.scenarios.contests.topics import SAME, alike, content_words, digest, is_held_out
from sparring.scenarios.family import SPLITS

CONTESTS = ("debate", "comedy", "recipes")
every_contest = pytest.mark.parametrize("name", CONTESTS)


def contest(name: str) -> Contest[Any, Any]:
    return cast("Contest[Any, Any]", registry.get(name))


@every_contest
def test_there_are_a_hundred_topics_and_more(name: str) -> None:
    assert len(contest(name).all_topics) >= 100
    assert len({fold(topic.text) for topic in contest(name).all_topics}) == len(contest(name).all_topics)


@every_contest
def test_no_topic_is_another_in_other_words(name: str) -> None:
    close = [(a.text, b.text) for a, b in combinations(contest(name).all_topics, 2) if alike(a, b) > SAME]
    assert close == []


def test_likeness_is_that_of_word_sets() -> None:
    one, two = Motion("Cities should ban cars", (), ()), Motion("Ban cars! Should cities?", (), ())
    assert alike(one, two) == 1 and alike(one, Motion("Cities should ban loud cars", (), ())) == 0.8
    assert alike(Basket(("a", "b"), "x"), Basket(("b", "c"), "y")) == pytest.approx(1 / 3)


@every_contest
def test_no_topic_is_in_two_splits(name: str) -> None:
    family = contest(name)
    texts = {split: {fold(topic.text) for topic in family.topics(split)} for split in SPLITS}
    held_out = texts["seed"] | texts["range"] | texts["skin"]
    assert not texts["train"] & held_out and not texts["seed"] & texts["range"] and not texts["range"] & texts["skin"]
    assert texts["train"] | held_out == {fold(topic.text) for topic in family.all_topics}
    for topic in family.topics("train"):
        assert all(alike(topic, other) <= SAME for split in ("seed", "range", "skin") for other in family.topics(split))


@every_contest
def test_most_topics_are_for_training(name: str) -> None:
    family = contest(name)
    assert 0.65 <= len(family.topics("train")) / len(family.all_topics) <= 0.85
    assert len(family.topics("seed")) >= 12 and len(family.topics("range")) >= 5 and len(family.topics("skin")) >= 12


@every_contest
def test_a_held_out_skin_shows_held_out_topics(name: str) -> None:
    family = contest(name)
    for topic in family.topics("skin"):
        assert topic.skin in family.held_out_skins or (topic.skin == "" and family.part(topic) == "seed")


def test_a_topics_split_follows_from_its_normalised_text() -> None:
    for text, same in (
        ("Cities should ban cars", "cities SHOULD  ban, cars!"),
        ("Zoos should be closed", "Zoos should be closed?"),
    ):
        one, two = Motion(text, ("a",), ()), Motion(same, (), ("b",))
        assert digest(one) == digest(two) and is_held_out(one) == is_held_out(two)
    assert digest(Motion("Zoos should be closed", (), ())) == digest(Premise("zoos should be closed", "absurd", ()))
    assert sum(is_held_out(Motion(f"Motion number {i}", (), ())) for i in range(6000)) == pytest.approx(1000, abs=100)


def test_a_basket_is_the_same_in_any_order() -> None:
    assert digest(Basket(("rice", "eggs"), "in one pan")) == digest(Basket(("eggs", "rice"), "without meat"))


@every_contest
def test_topics_are_plain_text_that_fits_a_sentence(name: str) -> None:
    for topic in contest(name).all_topics:
        lists = [value for key in topic.__struct_fields__ if isinstance(value := getattr(topic, key), tuple)]
        assert topic.text.isascii() and len(content_words(topic.text)) >= 2
        for text in (topic.text, *(item for items in lists for item in items)):
            assert text == text.strip() and text.isascii() and not set(text) & set(";.<>{}") and "  " not in text
        assert all(len(items) == len(set(items)) >= 3 for items in lists)


def test_premises_come_in_several_styles() -> None:
    by_style = {style: [topic for topic in Comedy().all_topics if topic.style == style] for style in Comedy.skins}
    assert len(by_style) == 6 and sum(map(len, by_style.values())) == len(Comedy().all_topics)
    assert min(map(len, by_style.values())) >= 15
    assert {topic.style for topic in Comedy().topics("train")} == set(Comedy.skins) - Comedy.held_out_skins


def test_baskets_have_constraints() -> None:
    baskets = contest("recipes").all_topics
    assert len({basket.limit for basket in baskets}) >= 20
    assert {len(basket.ingredients) for basket in baskets} == {4, 5, 6}
    assert not any(set(a.ingredients) <= set(b.ingredients) for a in baskets for b in baskets if a is not b)


def test_content_words() -> None:
    assert content_words("It is better to rent a home than to buy one") == ("better", "rent", "home", "buy")
    assert content_words("Cities, CITIES and towns") == ("cities", "towns")
