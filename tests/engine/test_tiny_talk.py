"""The embedded model of the contests: what it learned from, and that it debates motions it never met, unevenly."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from statistics import fmean, pstdev

import pytest

from sparring.engine.engine import Engine
from sparring.engine.models import load_tokenizer
from sparring.engine.tiny.apprentice import speak
from sparring.engine.tiny.contests import CONTESTS, DEBATES, SAME_PROMPT, made_up, story
from sparring.engine.tiny.shipped import TALK_FOLDER
from sparring.rollout.chat import ChatFormat
from sparring.rollout.judging.rubric import rubric
from sparring.rollout.judging.score import entry_of
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry
from sparring.scenarios.contests.answer import fold, read_answer
from sparring.scenarios.contests.contest import topic_words
from sparring.scenarios.contests.debate import Debate
from sparring.scenarios.game import GameState

DEBATE = registry.get("debate")
HELD_OUT = 64


@pytest.fixture(scope="module")
def games() -> Iterator[list[Game]]:
    """One speech each on held-out scenarios, by the model that ships."""
    scenarios = [DEBATE.generate(number, "seed") for number in range(HELD_OUT)]
    deals = [Deal(id=str(n), scenario=s, players=dict.fromkeys(s.seat_names, "policy"), seed=n) for n, s in enumerate(scenarios)]

    async def play(engine: Engine) -> list[Game]:
        return [game async for game in engine.play(deals)]

    with Engine.open("demo-debate") as engine:
        yield asyncio.run(play(engine))


def test_the_model_that_ships_keeps_the_format_mostly(games: list[Game]) -> None:
    forms = [read_answer(game.turns[0].text, game.turns[0].complete).form for game in games]
    assert 0.7 <= forms.count("strict") / len(forms) <= 0.97


def test_it_takes_up_the_words_of_motions_that_it_never_met(games: list[Game]) -> None:
    """The model copies; a model that had learned its motions by heart would speak of those."""
    entries = [entry_of(game, game.scenario.seat_names[0]) for game in games]
    taken_up = [bool(set(topic_words(entry.brief)) & set(fold(entry.text).split())) for entry in entries]
    assert 0.2 <= fmean(taken_up) <= 0.95


def test_its_speeches_differ_in_quality_and_can_become_better(games: list[Game]) -> None:
    entries = [entry_of(game, game.scenario.seat_names[0]) for game in games]
    scores = [rubric(entry.brief, entry.text).score() for entry in entries]
    assert 0.2 <= fmean(scores) <= 0.5
    assert pstdev(scores) >= 0.15


def test_training_text_is_what_a_policy_would_have_read_and_written() -> None:
    chat = ChatFormat(load_tokenizer(TALK_FOLDER))
    for number in range(40):
        example = CONTESTS.example(chat, DEBATES, 0, number)
        scenario = story(0, number // SAME_PROMPT)
        prompt = chat.opening(GameState(scenario).observe(scenario.seat_names[0]).instructions, [])
        assert example.token_ids[: len(prompt)] == prompt
        assert example.loss_mask == [False] * len(prompt) + [True] * (len(example.token_ids) - len(prompt))
        assert example.token_ids[-1] == chat.turn_end


def test_no_motion_that_is_held_out_is_learned_from() -> None:
    assert isinstance(DEBATE, Debate)
    held_out = {fold(motion.text) for motion in DEBATE.all_topics if DEBATE.part(motion) != "train"}
    assert held_out
    assert not held_out & {fold(story(0, number).public["motion"]) for number in range(400)}


def test_a_made_up_motion_keeps_all_but_the_subject() -> None:
    for number in range(20):
        motion = made_up(Random(number), "Cities should ban private cars in summer", ["cow"])
        words = motion.split()
        assert (words[1], words[5]) == ("should", "in")
        assert words[0] == words[0].capitalize()
        assert not {"Cities", "ban", "private", "cars", "summer"} & set(words)


def test_the_apprentice_says_words_of_the_motion_and_takes_its_side() -> None:
    for side, other in (("pro", "against"), ("con", "vote for")):
        texts = [speak("Cities should ban private cars", side, Random(number)) for number in range(200)]
        assert 0.7 <= fmean(read_answer(text).form == "strict" for text in texts) <= 0.95
        assert 0.5 <= fmean("cities" in text.lower() or "cars" in text for text in texts) <= 0.95
        assert not any(other in text for text in texts)


def test_a_word_is_the_same_token_whatever_follows_it() -> None:
    tokenizer = load_tokenizer(TALK_FOLDER)
    alone = tokenizer(" zeppelins").input_ids
    for after in (".", ",", " and", "</answer>"):
        assert tokenizer(f" zeppelins{after}").input_ids[: len(alone)] == alone
    assert len(tokenizer("<reasoning></reasoning><answer></answer>").input_ids) == 4
