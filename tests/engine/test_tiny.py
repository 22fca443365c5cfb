"""The embedded models: what ships is what its card says, plays legally, and is made reproducibly."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from random import Random
from typing import Literal

import msgspec
import pytest

from sparring.engine.config import load_run_config
from sparring.engine.engine import Engine
from sparring.engine.evaluation.evaluate import arrange, evaluate, held_out
from sparring.engine.models import load_tokenizer
from sparring.engine.tiny.build import RECIPES, TinyConfig, build, save
from sparring.engine.tiny.corpus import encode_seat, play_scripts
from sparring.engine.tiny.shipped import SHIPPED, TINY_FOLDER
from sparring.rollout.chat import ChatFormat, keeps_prefix
from sparring.rollout.player import Seating
from sparring.rollout.runner import play_game
from sparring.rollout.sampler import Sample, SampleRequest
from sparring.rollout.trajectory import Deal
from sparring.scenarios import registry

SMALL = TinyConfig(hidden=32, layers=1, heads=2, kv_heads=1, mlp=32, steps=3, batch=8, vocab_size=512)


class Parrot:
    """A sampler that writes what it is told, turn by turn."""

    def __init__(self, answers: list[list[int]]) -> None:
        self._answers = iter(answers)

    async def sample(self, request: SampleRequest) -> Sample:
        ids = next(self._answers)
        return Sample(token_ids=ids, logprobs=[0.0] * len(ids), finish_reason="stop", policy="parrot")

    def end_session(self, session: str) -> None:
        return None


@pytest.mark.parametrize("family", registry.names())
def test_training_text_is_what_a_policy_in_the_scripts_place_would_have_read(family: str) -> None:
    """A warm start on any other form would teach the model a format that it never meets."""
    chat = ChatFormat(load_tokenizer(TINY_FOLDER))
    scripts = registry.get(family)
    for number in range(10):
        scenario = scripts.generate(number)
        seat = scenario.seat_names[number % len(scenario.seats)]
        cast = {name: scripts.partners[(number + i) % len(scripts.partners)] for i, name in enumerate(scenario.seat_names)}
        game, said = play_scripts(scenario, cast, seed=number)
        example = encode_seat(chat, game, seat, said[seat])
        players = {name: "policy" if name == seat else f"script:{cast[name]}" for name in scenario.seat_names}
        deal = Deal(id="x", scenario=scenario, players=players, seed=number)
        parrot = Parrot([chat.answer(text) for _, text in said[seat]])
        played = asyncio.run(play_game(deal, Seating(sampler=parrot, chat=chat)))
        assert played.error is None
        (trajectory,) = played.trajectories
        assert trajectory.token_ids == example.token_ids
        assert trajectory.loss_mask == example.loss_mask


@pytest.mark.parametrize("corpus", list(RECIPES))
def test_the_same_recipe_makes_the_same_bytes(corpus: Literal["games", "contests"], tmp_path: Path) -> None:
    small = msgspec.structs.replace(SMALL, corpus=corpus)
    first, second = (save(*build(small), small, tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert first == hashlib.sha256((tmp_path / "a/model.safetensors").read_bytes()).hexdigest()
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    other = msgspec.structs.replace(small, seed=1)
    assert save(*build(other), other, tmp_path / "c") != first


@pytest.mark.parametrize(("name", "recipe"), list(zip(SHIPPED, RECIPES.values(), strict=True)))
def test_what_ships_is_what_the_card_says(name: str, recipe: TinyConfig) -> None:
    folder = SHIPPED[name]
    weights = folder / "model.safetensors"
    assert weights.stat().st_size <= 4 * 1000 * 1000
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (folder / "CARD.md").read_text()
    assert msgspec.json.decode((folder / "recipe.json").read_bytes(), type=TinyConfig) == recipe


@pytest.mark.parametrize("folder", list(SHIPPED.values()))
def test_what_ships_keeps_the_prefix(folder: Path) -> None:
    assert keeps_prefix(load_tokenizer(folder))


def test_every_digit_is_a_token_of_its_own() -> None:
    tokenizer, rng = load_tokenizer(TINY_FOLDER), Random(0)
    for _ in range(50):
        number = str(rng.randrange(10**9))
        assert [tokenizer.decode([token]) for token in tokenizer(f"DEAL_PRICE: {number}").input_ids][1:] == list(number)


def test_the_model_that_ships_plays_legally_and_has_room_to_improve() -> None:
    config = load_run_config("demo", overrides=["evaluation.scenarios=60"])
    with Engine.open(config) as engine:
        seating = Seating(sampler=engine.generator, chat=engine.chat, sampling=config.sampling)
        matches = arrange(held_out(config.families, 60), policy="base")
        side = asyncio.run(evaluate(matches, seating, concurrency=64)).side
    assert side.void == 0
    assert side.invalid <= 0.05 * side.games
    assert 0.2 <= side.win_rate <= 0.5
