"""What a family of games provides: pure functions from an instance and its record to the next stage and the result.

A family is one file under `families/`: rules text, parameters, transition, payoff, strict parser, scripted strategies and a
certificate. Everything that all families share (turns, sealing, repair, delivery) is `game.py`'s.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from sparring.scenarios.commit import Line
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.outcome import Evidence, Outcome
from sparring.scenarios.scenario import Scenario, Seat, Tags

Pub = TypeVar("Pub", bound=msgspec.Struct)
Priv = TypeVar("Priv", bound=msgspec.Struct)

Split = Literal["train", "seed", "range", "skin"]
"""`train`, or held out: by seed (same kind of instance, never one seen in training), by parameter range, by skin."""

SPLITS: tuple[Split, ...] = ("train", "seed", "range", "skin")
MAX_DRAWS = 10_000
REFEREE = "referee"
"""The author of what the referee says."""
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9 _-]{0,38}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Setup(Generic[Pub, Priv]):
    """An instance as its family reads it. `cast[i]` names the script that plays seat i, "" for any other player."""

    public: Pub
    private: tuple[Priv, ...]
    names: tuple[str, ...]
    cast: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One accepted message: turn `turn` of the transcript, by seat index `seat`; `commit` is what the family parsed, if any."""

    turn: int
    seat: int
    commit: Any
    start: int
    end: int
    text: str = ""
    """Of a message without a commit: what was written, for families that read talk. `complete` is false where it was cut."""
    complete: bool = True

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.turn, self.start, self.end)


Record = tuple[Entry, ...]


@dataclass(frozen=True)
class Stage:
    """Who speaks now. Several seats speak at once, each sealed until all have. `notice` is the referee's word to them.

    Without `must_commit` a message may be plain talk. With `reveal` the commit lines are shown to the others afterwards;
    otherwise only the talk before them is.
    """

    seats: tuple[int, ...]
    must_commit: bool = False
    reveal: bool = False
    notice: str = ""


@dataclass(frozen=True)
class Message:
    """What a seat hears: `author` is a seat's name or "referee" and comes from the channel, never from the text."""

    author: str
    text: str


@dataclass(frozen=True)
class View(Generic[Pub, Priv]):
    """What a scripted strategy may know: its own private values, what it heard, and what it said itself.

    Both oldest first; a message that the referee refused was never said.
    """

    public: Pub
    private: Priv
    seat: int
    names: tuple[str, ...]
    heard: tuple[Message, ...]
    said: tuple[str, ...]
    must_commit: bool


Strategy = Callable[[View[Any, Any], Random], str]
"""A pure function of the view and of a generator that starts in the same state at every turn of a game."""


class Witness(msgspec.Struct, frozen=True, kw_only=True):
    """A proof that `seat` can win: messages that, fed to the game in order, give it the verdict `win`."""

    seat: str
    cast: dict[str, str]
    turns: tuple[tuple[str, str], ...]


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """Who can win an instance, and with what; found by a solver or by enumeration, never guessed."""

    witnesses: tuple[Witness, ...]
    method: str

    @property
    def winners(self) -> frozenset[str]:
        return frozenset(witness.seat for witness in self.witnesses)


class Family(ABC, Generic[Pub, Priv]):
    """One family of games. Subclasses are stateless; `Pub` and `Priv` are the types of its parameters."""

    name: ClassVar[str]
    title: ClassVar[str]
    commit_tags: ClassVar[tuple[str, ...]]
    public_type: type[Pub]
    private_type: type[Priv]
    skins: ClassVar[tuple[str, ...]]
    held_out_skins: ClassVar[frozenset[str]]
    strategies: ClassVar[Mapping[str, Strategy]]
    """Scripted players by name, from naive to strong."""
    partners: ClassVar[tuple[str, ...]]
    """The strategies that a policy meets in training."""
    unseen_partner: ClassVar[str]
    """The strategy that it meets in evaluation only."""

    @abstractmethod
    def draw(self, rng: Random, skin: str, *, far: bool) -> tuple[Pub, tuple[Priv, ...], tuple[str, ...]]:
        """Parameters and seat names of one instance, not yet certified; with `far`, from the held-out parameter range."""

    @abstractmethod
    def tags(self, skin: str) -> Tags:
        """Where the skin's instances stand on the four axes."""

    @abstractmethod
    def instructions(self, public: Pub, private: Priv, seat: int, names: tuple[str, ...]) -> str:
        """The opening text of one seat: the rules and its own private values, nobody else's."""

    @abstractmethod
    def stage(self, setup: Setup[Pub, Priv], record: Record) -> Stage | None:
        """Who speaks after `record`; `None` when the game has ended."""

    @abstractmethod
    def parse(self, setup: Setup[Pub, Priv], record: Record, seat: int, line: Line) -> Any:
        """The commit that a tag line stands for. Raises `Rejected` with the reason told to the seat."""

    @abstractmethod
    def settle(self, setup: Setup[Pub, Priv], record: Record) -> tuple[Outcome, ...]:
        """Each seat's outcome once `stage` is `None`."""

    @abstractmethod
    def certificate(self, setup: Setup[Pub, Priv]) -> Certificate:
        """Who can win, with a witness each."""

    @abstractmethod
    def should_win(self, setup: Setup[Pub, Priv]) -> frozenset[str]:
        """The seats that an instance must be winnable for; `generate` draws again until the certificate covers them."""

    def setup(self, scenario: Scenario, cast: Mapping[str, str] | None = None) -> Setup[Pub, Priv]:
        """The scenario's parameters, typed. Raises `ScenarioError` where they are not this family's."""
        _check_names(scenario.seat_names)
        try:
            public = msgspec.convert(scenario.public, self.public_type)
            private = tuple(msgspec.convert(seat.private, self.private_type) for seat in scenario.seats)
        except msgspec.ValidationError as error:
            raise ScenarioError(f"scenario of family {self.name!r}: {error}") from error
        self.check(public, private)
        unknown = sorted(set(cast or {}) - set(scenario.seat_names))
        if unknown:
            raise ScenarioError(f"cast names {unknown[0]!r}, but the seats are {', '.join(scenario.seat_names)}")
        return Setup(public, private, scenario.seat_names, tuple((cast or {}).get(name, "") for name in scenario.seat_names))

    def check(self, public: Pub, private: tuple[Priv, ...]) -> None:
        """Raises `ScenarioError` where typed parameters contradict each other (a hand-written scenario may)."""

    def said_aloud(self, text: str, *, complete: bool) -> str:
        """What of a message without a commit is meant for the others' ears; the referee escapes it."""
        return text

    def generate(self, seed: int, split: Split = "train", skin: str | None = None) -> Scenario:
        """The certified instance number `seed` of a split: the same on every machine.

        Raises `ScenarioError` for a skin that the family or the split does not have.
        """
        skins = self.skins_of(split, skin)
        rng = Random(f"sparring/{self.name}/{split}/{seed}")
        for _ in range(MAX_DRAWS):
            chosen = skin or rng.choice(skins)
            scenario = self._build(rng, seed, chosen, far=split == "range")
            if split in ("train", "seed") and (int(scenario.id[:4], 16) % 8 == 0) != (split == "seed"):
                continue
            setup = self.setup(scenario)
            if self.should_win(setup) <= self.certificate(setup).winners:
                return scenario
        raise AssertionError(f"{self.name}: no certified instance in {MAX_DRAWS} draws of seed {seed}")

    def _build(self, rng: Random, seed: int, skin: str, *, far: bool) -> Scenario:
        return self.build(seed, skin, *self.draw(rng, skin, far=far))

    def skins_of(self, split: Split, skin: str | None = None) -> tuple[str, ...]:
        """The skins of a split, or the one asked for. Raises `ScenarioError` where the split does not have it."""
        skins = tuple(s for s in self.skins if (s in self.held_out_skins) == (split == "skin"))
        if skin is not None and skin not in skins:
            raise ScenarioError(f"{self.name} has no skin {skin!r} in split {split!r}: choose from {', '.join(skins)}")
        return skins if skin is None else (skin,)

    def build(self, seed: int, skin: str, public: Pub, private: tuple[Priv, ...], names: tuple[str, ...]) -> Scenario:
        """The scenario that these parameters make, with what each seat reads."""
        seats = tuple(
            Seat(name=name, private=msgspec.to_builtins(own), instructions=self.instructions(public, own, i, names))
            for i, (name, own) in enumerate(zip(names, private, strict=True))
        )
        return Scenario(
            family=self.name, skin=skin, seed=seed, public=msgspec.to_builtins(public), seats=seats, tags=self.tags(skin)
        )


def _check_names(names: tuple[str, ...]) -> None:
    """A name heads what its seat says: it must be one plain word or a few, nobody else's, and not the referee's."""
    odd = [name for name in names if not _NAME.fullmatch(name) or name.lower() == REFEREE]
    if odd:
        raise ScenarioError(f"no seat can be called {odd[0]!r}: take plain letters, digits, blanks, - and _; not {REFEREE}")
    if len(set(names)) != len(names):
        raise ScenarioError(f"seat names must differ, not {', '.join(names)}")


class Rejected(ScenarioError):
    """A commit that cannot stand; its text is told to the seat that wrote it."""
