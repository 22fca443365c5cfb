"""Games and judged pairs of a run to read: a few of each kind, with the characters that decided them marked.

Owns which ones are shown and what is shown of them. Everything in here was written by models and strangers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from sparring.engine.report.markup import Piece, cut, pieces, seen
from sparring.engine.run.database import RunDatabase, Sampled
from sparring.rollout.judging.judge import Judgement, Preference
from sparring.rollout.judging.score import entry_of
from sparring.rollout.trajectory import Game
from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.outcome import Reason

EACH = 2
"""Games of one phase, side, family and verdict."""
PAIRS = 4
"""Judged pairs of one step."""
MAX_GAMES = 80
CONTROL_SIDE = "shuffled"
"""Sides whose games show nothing of the policy as it is."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One message."""

    seat: str
    own: bool
    """Written by a policy."""
    complete: bool
    pieces: tuple[Piece, ...]


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What one seat got."""

    seat: str
    player: str
    verdict: str
    reason: str
    score: float
    own: bool


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One game to read."""

    family: str
    phase: str
    label: str
    step: int
    id: str
    verdict: str
    """Of the policy's first seat."""
    skin: str
    instructions: str
    """As that seat read them."""
    endings: tuple[Ending, ...]
    turns: tuple[Said, ...]
    error: str


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One judged pair to read: both texts, and every verdict on them."""

    phase: str
    step: int
    brief: str
    first: str
    first_text: tuple[Piece, ...]
    second: str
    second_text: tuple[Piece, ...]
    verdicts: tuple[str, ...]
    kind: str
    """Whether the judges held to their word when the order was swapped."""


def shown_games(sampled: Iterable[Sampled]) -> dict[str, list[Shown]]:
    """Games by family; in each, in the order of verdict, phase and step."""
    games = [_show(one) for one in sampled if CONTROL_SIDE not in one.label and not _awaits_a_judge(one)]
    order = {"win": 0, "draw": 1, "loss": 2, "void": 3}
    found: dict[str, list[Shown]] = {}
    for game in sorted(games[:MAX_GAMES], key=lambda g: (g.family, order.get(g.verdict, 9), g.phase, g.label, -g.step)):
        found.setdefault(game.family, []).append(game)
    return found


def judged_pairs(database: RunDatabase, steps: Sequence[tuple[str, int]]) -> list[Pair]:
    """A few pairs of each (phase, step): flipped ones, decided ones and ties in turn."""
    found: list[Pair] = []
    for phase, step in steps:
        chosen = _chosen(database.ledger.judgements(phase=phase, step=step))
        wanted = {name for said in chosen for name in (said[0].first, said[0].second)}
        games = {game.id: game for game in database.games(phase=phase, step=step) if game.id in wanted} if wanted else {}
        for said in chosen:
            first, second = games.get(said[0].first), games.get(said[0].second)
            if first is not None and second is not None:
                found.append(_pair(phase, step, first, second, said))
    return found


def _awaits_a_judge(sampled: Sampled) -> bool:
    """Whether it is an entry of an evaluation: those are shown as judged pairs."""
    return bool(sampled.label) and any(o.reason is Reason.UNJUDGED for o in sampled.game.outcomes.values())


def _show(sampled: Sampled) -> Shown:
    game = sampled.game
    own = [seat for seat in game.scenario.seat_names if _is_policy(game.players[seat])]
    marks: dict[int, set[tuple[int, int]]] = {}
    for outcome in game.outcomes.values():
        for place in outcome.evidence:
            marks.setdefault(place.turn, set()).add((place.start, place.end))
    return Shown(
        family=game.scenario.family,
        phase=sampled.phase,
        label=sampled.label,
        step=sampled.step,
        id=seen(game.id),
        verdict=str(game.outcomes[own[0]].verdict.value),
        skin=seen(game.scenario.skin),
        instructions=seen(game.scenario.seats[game.scenario.index(own[0])].instructions),
        endings=tuple(_ending(game, seat, seat in own) for seat in game.scenario.seat_names),
        turns=tuple(
            Said(
                seat=turn.seat, own=turn.seat in own, complete=turn.complete, pieces=pieces(turn.text, sorted(marks.get(at, ())))
            )
            for at, turn in enumerate(game.turns)
        ),
        error=seen(cut(game.error or "", 500)),
    )


def _ending(game: Game, seat: str, own: bool) -> Ending:
    outcome = game.outcomes[seat]
    return Ending(
        seat=seat,
        player=seen(game.players[seat]),
        verdict=outcome.verdict.value,
        reason=outcome.reason.value.replace("_", " "),
        score=outcome.score,
        own=own,
    )


def _is_policy(spec: str) -> bool:
    return spec == "policy" or spec.startswith("policy:")


def _chosen(judgements: Sequence[Judgement]) -> list[list[Judgement]]:
    """All that was said of a few pairs, controls left out."""
    pairs: dict[tuple[str, frozenset[str]], list[Judgement]] = {}
    for judgement in judgements:
        if not judgement.control:
            pairs.setdefault((judgement.group, frozenset((judgement.first, judgement.second))), []).append(judgement)
    kinds: dict[str, list[list[Judgement]]] = {}
    for said in pairs.values():
        kinds.setdefault(_kind(said), []).append(said)
    chosen: list[list[Judgement]] = []
    for place in range(PAIRS):
        chosen += [own[place] for own in kinds.values() if place < len(own)]
    return chosen[:PAIRS]


def _kind(said: Sequence[Judgement]) -> str:
    """In a word, what became of a pair."""
    winners = [_winner(judgement) for judgement in said]
    if None in winners:
        return "a call failed"
    by_vote: dict[tuple[str, str], set[str | None]] = {}
    for judgement, winner in zip(said, winners, strict=True):
        by_vote.setdefault((judgement.judge, judgement.criterion), set()).add(winner)
    if any(len(own - {""}) > 1 for own in by_vote.values()):
        return "the order turned a verdict around"
    if set(winners) == {""}:
        return "tied"
    return "decided" if all(len(own) == 1 for own in by_vote.values()) else "decided in one order only"


def _winner(judgement: Judgement) -> str | None:
    """The id of the better one, "" for a tie, `None` without a verdict."""
    match judgement.preference:
        case None:
            return None
        case Preference.FIRST:
            return judgement.first
        case Preference.SECOND:
            return judgement.second
        case _:
            return ""


def _pair(phase: str, step: int, first: Game, second: Game, said: Sequence[Judgement]) -> Pair:
    names = {first.id: "first", second.id: "second"}
    verdicts = []
    for judgement in said:
        winner = _winner(judgement)
        word = "no verdict" if winner is None else "tie" if winner == "" else f"{names.get(winner, winner)} is better"
        verdicts.append(f"{judgement.judge}, {judgement.criterion}, {names.get(judgement.first, '')} read first: {word}")
    brief, texts = "", []
    for game in (first, second):
        brief, text = _text(game, said[0].group)
        texts.append(pieces(text))
    return Pair(
        phase=phase,
        step=step,
        brief=seen(brief),
        first=seen(first.id),
        first_text=texts[0],
        second=seen(second.id),
        second_text=texts[1],
        verdicts=tuple(seen(verdict) for verdict in verdicts),
        kind=_kind(said),
    )


def _text(game: Game, group: str) -> tuple[str, str]:
    """The task and what the judged seat handed in; of a family without judges, its last message."""
    named = [seat for seat in group.split("/") if seat in game.scenario.seat_names]  # groups are "scenario/seat/..."
    seat = named[0] if named else game.scenario.seat_names[0]
    if isinstance(registry.get(game.scenario.family), Contest):
        entry = entry_of(game, seat)
        return entry.brief, entry.text
    return "", next((turn.text for turn in reversed(game.turns) if turn.seat == seat), "")
