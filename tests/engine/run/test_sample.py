"""A few stored games of every kind, for a reader."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import msgspec

from sparring.engine.evaluation.evaluate import arrange, held_out
from sparring.engine.run.database import RunDatabase
from sparring.rollout.player import Player, Seating
from sparring.rollout.runner import play
from sparring.rollout.trajectory import Deal, Game


def seat(deal: Deal, name: str) -> Player:
    """The policy plays as a script of its family does."""
    own = {"haggle": "script:holder", "dilemma": "script:tit_for_tat"}[deal.scenario.family]
    players = {at: own if spec == "policy" else spec for at, spec in deal.players.items()}
    return Seating()(msgspec.structs.replace(deal, players=players), name)


async def _play(label: str) -> list[Game]:
    matches = arrange(held_out(["haggle", "dilemma"], 12), games=3, label=label)
    return [game async for game in play((match.deal for match in matches), seat)]


def test_the_latest_games_of_every_phase_side_family_and_verdict(tmp_path: Path) -> None:
    database = RunDatabase(tmp_path / "run.db")
    training, baseline, trained = (asyncio.run(_play(label)) for label in ("7", "baseline", "trained"))
    database.record(training, step=7)
    database.record([*baseline, *trained], phase="evaluate", step=8)
    found = list(database.sample(2))

    def kinds(games: list[Game], phase: str, label: str) -> Counter[tuple[str, str, str, str]]:
        return Counter((phase, label, game.scenario.family, game.outcomes[_own(game)].verdict.value) for game in games)

    everything = kinds(training, "train", "") + kinds(baseline, "evaluate", "baseline") + kinds(trained, "evaluate", "trained")
    assert Counter(
        (one.phase, one.label, one.game.scenario.family, one.game.outcomes[_own(one.game)].verdict.value) for one in found
    ) == {kind: min(2, count) for kind, count in everything.items()}
    assert {(one.phase, one.step) for one in found} == {("train", 7), ("evaluate", 8)}
    last = next(one for one in found if one.label == "trained")
    assert last.game.id == trained[-1].id
    database.close()


def _own(game: Game) -> str:
    return next(seat for seat, spec in game.players.items() if spec == "policy")
