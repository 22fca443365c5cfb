"""The referee without a model: what a game costs before anybody thinks.

`self_play` is whole games of scripts against scripts, the scripts' own thinking included; `replay` is the same transcripts judged
again, which is the referee alone, with finding and parsing commits, delivery and payoff; `generate` draws and certifies new
instances; `find_commit` reads single messages. A training step of the demo deals 16 instances and judges 128 games.
"""

from __future__ import annotations

from itertools import count

import pytest

from sparring.bench.rounds import Rounds
from sparring.bench.workload import play_scripts, scripted_deals
from sparring.scenarios import registry
from sparring.scenarios.commit import find_commit
from sparring.scenarios.game import replay

MESSAGES = {
    "commit": "I can go a little lower, since you came up.\nDEAL_PRICE: 57",
    "talk": "That is more than I have. " * 8,
    "accents": "¿Qué tal 55? Ça me va, größer geht's nicht. " * 8 + "\nDEAL_PRICE: 55",
    "thinking": "<think>" + "they asked 60, so 57 may do. " * 20 + "</think>\nDEAL_PRICE: 57",
    "longest": "<think></think> a\u0301b\n" * 1000,
}


@pytest.mark.benchmark(group="referee: self-play of scripts")
@pytest.mark.parametrize("family", registry.names())
def test_self_play(rounds: Rounds, family: str) -> None:
    deals = scripted_deals(family, rounds.size(64, 4))
    games = rounds.time(lambda: [play_scripts(deal) for deal in deals])
    rounds.rate(games=len(games), turns=sum(len(game.turns) for game in games))


@pytest.mark.benchmark(group="referee: replay of transcripts")
@pytest.mark.parametrize("family", registry.names())
def test_replay(rounds: Rounds, family: str) -> None:
    played = [play_scripts(deal) for deal in scripted_deals(family, rounds.size(64, 4))]
    again = rounds.time(lambda: [replay(game.scenario, game.turns, game.cast) for game in played])
    assert [game.outcome() for game in again] == [game.outcome() for game in played]
    rounds.rate(games=len(again), turns=sum(len(game.turns) for game in again))


@pytest.mark.benchmark(group="referee: new instances")
@pytest.mark.parametrize("family", registry.names())
def test_generate(rounds: Rounds, family: str) -> None:
    source, seeds, number = registry.get(family), count(), rounds.size(16, 2)
    rounds.time(lambda: [source.generate(next(seeds)) for _ in range(number)])
    rounds.rate(instances=number)


@pytest.mark.benchmark(group="referee: one message")
@pytest.mark.parametrize("kind", MESSAGES)
def test_find_commit(rounds: Rounds, kind: str) -> None:
    text, tags, number = MESSAGES[kind], registry.get("haggle").commit_tags, rounds.size(20 if kind == "longest" else 1000, 2)
    rounds.time(lambda: [find_commit(text, tags) for _ in range(number)])
    rounds.rate(messages=number)
    rounds.note(f"{len(text):,} characters")
