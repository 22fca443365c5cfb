"""The names of players: "policy", "base", "policy:NAME", "script:NAME". Owns their syntax; `player.py` seats them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparring.rollout.errors import RolloutError

PLAYER_KINDS = '"policy", "base", "policy:NAME" or "script:NAME"'


@dataclass(frozen=True)
class PlayerSpec:
    """A parsed spec: `name` is the adapter's or the script's, "" for the policy in training and for the base model."""

    kind: Literal["policy", "base", "script"]
    name: str = ""


def parse_player(spec: str) -> PlayerSpec:
    """Raises `RolloutError` naming the choices."""
    kind, colon, name = spec.partition(":")
    if kind == "policy" and (name or not colon):
        return PlayerSpec("policy", name)
    if kind == "base" and not colon:
        return PlayerSpec("base")
    if kind == "script" and name:
        return PlayerSpec("script", name)
    raise RolloutError(f"no player is called {spec!r}: choose {PLAYER_KINDS}")


def scripts_of(players: Mapping[str, str]) -> dict[str, str]:
    """The seats that scripts play, with their names: the cast, for families whose target depends on the partner."""
    specs = {seat: parse_player(spec) for seat, spec in players.items()}
    return {seat: spec.name for seat, spec in specs.items() if spec.kind == "script"}
