"""`GameState`: the referee's state machine, the same for every family.

Pure: no clock, no network, no global random numbers. Feeding it the same turns gives the same verdict, which is how a stored
transcript is checked. Owns turn order, sealing, the one repair turn and what each seat hears; the family owns the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sparring.scenarios import registry
from sparring.scenarios.commit import CONTINUES, Fault, escape, find_commit, visible
from sparring.scenarios.errors import NotYourTurn
from sparring.scenarios.family import REFEREE, Entry, Message, Record, Rejected, View
from sparring.scenarios.outcome import Evidence, Outcome, Reason, Verdict
from sparring.scenarios.scenario import Scenario

MAX_TEXT = 20_000
"""Characters of one message that the referee reads; the rest is cut and the message counts as incomplete."""


class Turn(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One message as it was written. `complete` is false where the token limit cut it."""

    seat: str
    text: str
    complete: bool = True


@dataclass(frozen=True)
class Observation:
    """What a seat knows: its opening instructions and everything it heard, oldest first."""

    instructions: str
    heard: tuple[Message, ...]
    my_turn: bool
    must_commit: bool


class GameState:
    """A game in progress.

    Example:
        >>> game = GameState(registry.get("haggle").generate(seed=7))
        >>> while game.outcome() is None:
        ...     for seat in game.to_move:
        ...         game.submit(seat, my_player(game.observe(seat)))
        >>> game.outcome()["seller"].verdict
        <Verdict.WIN: 'win'>
    """

    def __init__(self, scenario: Scenario, cast: Mapping[str, str] | None = None) -> None:
        """`cast` maps seats to the scripts that play them, for families whose target depends on the partner.

        Raises `ScenarioError` for a family, parameters or a cast that do not exist.
        """
        self.scenario = scenario
        self.family = registry.get(scenario.family)
        self.setup = self.family.setup(scenario, cast)
        self.turns: list[Turn] = []
        self._record: Record = ()
        self._pending: dict[int, Entry] = {}
        self._heard: tuple[list[Message], ...] = tuple([] for _ in scenario.seats)
        self._said: tuple[list[str], ...] = tuple([] for _ in scenario.seats)
        self._faults: list[int] = [0] * len(scenario.seats)
        self._outcomes: tuple[Outcome, ...] | None = None
        self._open_stage()

    @property
    def cast(self) -> dict[str, str]:
        return {name: script for name, script in zip(self.setup.names, self.setup.cast, strict=True) if script}

    @property
    def to_move(self) -> tuple[str, ...]:
        """The seats that the game waits for; empty when it has ended."""
        if self._outcomes is not None or self._stage is None:
            return ()
        return tuple(self.setup.names[seat] for seat in self._stage.seats if seat not in self._pending)

    def observe(self, seat: str) -> Observation:
        """What the seat knows now. Raises `ScenarioError` for an unknown seat."""
        index = self.scenario.index(seat)
        must = self._stage is not None and self._stage.must_commit
        return Observation(self.scenario.seats[index].instructions, tuple(self._heard[index]), seat in self.to_move, must)

    def view(self, seat: str) -> View[Any, Any]:
        """The same knowledge, typed, for a scripted strategy."""
        index = self.scenario.index(seat)
        setup, must = self.setup, self._stage is not None and self._stage.must_commit
        heard, said = tuple(self._heard[index]), tuple(self._said[index])
        return View(setup.public, setup.private[index], index, setup.names, heard, said, must)

    def submit(self, seat: str, text: str, *, complete: bool = True) -> None:
        """The seat's next message. Raises `NotYourTurn` where the game does not wait for that seat; never for the text."""
        index = self.scenario.index(seat)
        if seat not in self.to_move:
            waits = " and ".join(self.to_move)
            raise NotYourTurn(f"{seat} cannot speak now: " + (f"the game waits for {waits}" if waits else "the game has ended"))
        text = text.encode("utf-8", "replace").decode()
        complete = complete and len(text) <= MAX_TEXT
        turn = Turn(seat, text[:MAX_TEXT], complete)
        self.turns.append(turn)
        entry = self._read(index, turn)
        if isinstance(entry, Fault):
            self._fault(index, entry)
        else:
            self._pending[index] = entry
            self._said[index].append(turn.text)
            self._close_stage()

    def outcome(self) -> dict[str, Outcome] | None:
        """Each seat's outcome by name, `None` while the game goes on."""
        if self._outcomes is None:
            return None
        return dict(zip(self.setup.names, self._outcomes, strict=True))

    def _read(self, seat: int, turn: Turn) -> Entry | Fault:
        assert self._stage is not None
        number, found = len(self.turns) - 1, find_commit(turn.text, self.family.commit_tags)
        if isinstance(found, Fault):
            return found
        if found is None:
            if self._stage.must_commit:
                tags = " or ".join(f"`{tag}`" for tag in self.family.commit_tags)
                return Fault(f"a commit is due: end your message with one line {tags}", 0, len(turn.text))
            return Entry(number, seat, None, 0, len(turn.text), turn.text, turn.complete)
        if not turn.complete:
            return Fault("your message was cut off: write a shorter one", found.start, found.end)
        try:
            commit = self.family.parse(self.setup, self._record, seat, found)
        except Rejected as error:
            return Fault(str(error), found.start, found.end)
        return Entry(number, seat, commit, found.start, found.end)

    def _fault(self, seat: int, fault: Fault) -> None:
        """The first invalid commit is told to its author alone; the second loses for it and is void for the others."""
        self._faults[seat] += 1
        if self._faults[seat] == 1:
            self._heard[seat].append(Message(REFEREE, f"invalid: {fault.message}. Write your message again."))
            return
        evidence = (Evidence(len(self.turns) - 1, fault.start, fault.end),)
        lost = Outcome.of(Verdict.LOSS, 0.0, Reason.INVALID_COMMIT, evidence)
        void = Outcome.of(Verdict.VOID, 0.0, Reason.PARTNER_INVALID, evidence)
        self._outcomes = tuple(lost if i == seat else void for i in range(len(self.setup.names)))

    def _open_stage(self) -> None:
        self._stage = self.family.stage(self.setup, self._record)
        if self._stage is None:
            self._outcomes = self.family.settle(self.setup, self._record)
        elif self._stage.notice:
            for seat in self._stage.seats:
                self._heard[seat].append(Message(REFEREE, self._stage.notice))

    def _close_stage(self) -> None:
        """Once every seat of the stage has spoken: deliver what was said, and open the next."""
        stage = self._stage
        assert stage is not None
        if set(self._pending) != set(stage.seats):
            return
        entries = tuple(self._pending[seat] for seat in stage.seats)
        for entry in entries:
            if heard := self._delivered(entry, stage.reveal):
                for seat in range(len(self.setup.names)):
                    if seat != entry.seat:
                        self._heard[seat].append(Message(self.setup.names[entry.seat], heard))
        self._record += entries
        self._pending = {}
        self._open_stage()

    def _delivered(self, entry: Entry, reveal: bool) -> str:
        """What the others hear of a message. A commit is shown only with `reveal`, and then however long the prose before it."""
        if entry.commit is None:
            return escape(self.family.said_aloud(entry.text, complete=entry.complete))
        text = visible(self.turns[entry.turn].text)
        parts = (escape(text[: entry.start]), escape(text[entry.start : entry.end]) if reveal else "")
        return CONTINUES.join(part for part in parts if part)


def replay(scenario: Scenario, turns: list[Turn], cast: Mapping[str, str] | None = None) -> GameState:
    """The game after `turns`: the verdict of a transcript, recomputed. Raises `NotYourTurn` where the order is wrong."""
    game = GameState(scenario, cast)
    for turn in turns:
        game.submit(turn.seat, turn.text, complete=turn.complete)
    return game
