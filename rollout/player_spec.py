"""The names of players: "policy", "base", "policy:NAME", "script:NAME", and models elsewhere: "openai:gpt-4o", "gpt-4o".

Owns their syntax; `player.py` seats them, and whether a model exists is `remote/models.py`'s word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparring.rollout.errors import RolloutError
from sparring.rollout.remote.models import listed_provider

PLAYER_KINDS = '"policy", "base", "policy:NAME", "script:NAME" or a model such as "openai:gpt-4o"'
_RESERVED = ("policy", "base", "script")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class PlayerSpec:
    """A parsed spec: `name` is the adapter's, the script's or the whole spec of a model; "" for the policy in training and for
    the base model."""

    kind: Literal["policy", "base", "script", "model"]
    name: str = ""


def parse_player(spec: str) -> PlayerSpec:
    """Raises `RolloutError` naming the choices.

    A bare name is a model's where the price table lists it. Any other prefix is taken for an endpoint's name, since settings may
    add some: `remote.models.resolve` refuses those that nobody configured.
    """
    kind, colon, name = spec.partition(":")
    if kind == "policy" and (name or not colon):
        return PlayerSpec("policy", name)
    if kind == "base" and not colon:
        return PlayerSpec("base")
    if kind == "script" and name:
        return PlayerSpec("script", name)
    if kind not in _RESERVED and (name and _PREFIX.fullmatch(kind) if colon else listed_provider(kind)):
        return PlayerSpec("model", spec)
    raise RolloutError(f"no player is called {spec!r}: choose {PLAYER_KINDS}")


def scripts_of(players: Mapping[str, str]) -> dict[str, str]:
    """The seats that scripts play, with their names: the cast, for families whose target depends on the partner."""
    specs = {seat: parse_player(spec) for seat, spec in players.items()}
    return {seat: spec.name for seat, spec in specs.items() if spec.kind == "script"}


def is_model(spec: str) -> bool:
    """Whether a spec names a model elsewhere. Never raises."""
    try:
        return parse_player(spec).kind == "model"
    except RolloutError:
        return False
