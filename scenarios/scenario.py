"""A `Scenario`: one instance of a social game, as data.

Owns the record, its canonical bytes and its content hash. How a family fills it in is `family.py`'s business, how it is
played is `game.py`'s, and where it is kept is `store.py`'s.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from sparring.scenarios.errors import ScenarioError

Interdependence = Literal["independent", "partly", "full"]
"""Kelley & Thibaut (1978): how far one seat's result rests on what the others do."""

Relation = Literal["communal sharing", "authority ranking", "equality matching", "market pricing"]
"""Fiske (1992): the relational model that the story puts the seats in."""

Resource = Literal["love", "status", "information", "money", "goods", "services"]
"""Foa & Foa (1974): what is exchanged."""


class Tags(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an instance stands on the four axes of social situations, and the theory it tests."""

    theory: str
    interdependence: Interdependence
    relation: Relation
    resource: Resource
    context: str


class Seat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place at the table. `instructions` is the opening text that its player reads, and the only one that does."""

    name: str
    private: dict[str, Any]
    instructions: str


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One instance of a family: everything the referee needs, nothing that a clock or a network would change.

    Example:
        >>> scenario = registry.get("haggle").generate(seed=7)
        >>> scenario.seats[0].name, scenario.seats[0].private
        ('tenant', {'limit': 79})
    """

    family: str
    skin: str
    seed: int
    public: dict[str, Any]
    seats: tuple[Seat, ...]
    tags: Tags

    @property
    def seat_names(self) -> tuple[str, ...]:
        return tuple(seat.name for seat in self.seats)

    def index(self, seat: str) -> int:
        """The seat's position at the table; a name that nobody has is a `ScenarioError`."""
        if seat not in self.seat_names:
            raise ScenarioError(f"no seat is called {seat!r}: this scenario has {', '.join(self.seat_names)}")
        return self.seat_names.index(seat)

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the content: the canonical bytes with the seed set to 0."""
        return hashlib.sha256(canonical(msgspec.structs.replace(self, seed=0))).hexdigest()[:16]


def canonical(scenario: Scenario) -> bytes:
    """The scenario as one line of JSON, with sorted keys: the same bytes on every machine."""
    return msgspec.json.encode(scenario, order="sorted")


def load_scenario(data: bytes | str | dict[str, Any]) -> Scenario:
    """A scenario from JSON or from builtins. Raises `ScenarioError` saying which field is off."""
    try:
        if isinstance(data, dict):
            return msgspec.convert(data, Scenario)
        return msgspec.json.decode(data, type=Scenario)
    except RecursionError as error:
        raise ScenarioError("not a scenario: it is nested too deeply") from error
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ScenarioError(f"not a scenario: {error}") from error
