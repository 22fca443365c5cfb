"""Transcripts: strict to read, refereed as the contract says, and never a crash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.rollout.errors import TranscriptError
from sparring.rollout.player import Seating
from sparring.rollout.runner import play
from sparring.rollout.trajectory import Deal, Game
from sparring.rollout.transcript import GameRecord, Transcript, load_transcript, read_transcript, referee
from sparring.scenarios import registry
from sparring.scenarios.outcome import Outcome, Reason, Verdict
from sparring.scenarios.scenario import Scenario, canonical

SCENARIO = registry.get("haggle").generate(seed=3)
SELLER, BUYER = SCENARIO.seat_names


def as_json(turns: list[dict[str, Any]], **more: Any) -> str:
    return json.dumps({"scenario": json.loads(canonical(SCENARIO)), "turns": turns, **more})


def first_turns(price: int) -> list[dict[str, Any]]:
    """The seat that opens commits to a price, the other agrees."""
    seats = SCENARIO.seat_names if SCENARIO.public["first"] == 0 else SCENARIO.seat_names[::-1]
    return [{"seat": seats[0], "text": f"Fine.\nDEAL_PRICE: {price}"}, {"seat": seats[1], "text": f"DEAL_PRICE: {price}"}]


def test_the_verdict_as_the_contract_writes_it() -> None:
    limits = [seat.private["limit"] for seat in SCENARIO.seats]
    price = limits[1] if limits[1] > limits[0] else limits[0]
    ruling = json.loads(json.dumps(referee(load_transcript(as_json(first_turns(price))))))
    won = ruling["outcomes"][SELLER]
    assert ruling["ended"] is True and set(ruling["outcomes"]) == {SELLER, BUYER}
    assert list(won) == ["verdict", "reward", "score", "reason", "evidence"]
    assert (won["verdict"], won["reward"], won["score"], won["reason"]) == ("win", 1, 1.0, "target_met")
    assert {"turn": 0, "start": 6, "end": 6 + len(f"DEAL_PRICE: {price}")} in won["evidence"]
    assert ruling["outcomes"][BUYER]["verdict"] == "loss" and ruling["outcomes"][BUYER]["reward"] == -1


def test_a_game_that_goes_on_has_no_outcomes() -> None:
    assert referee(load_transcript(as_json([]))) == {"ended": False, "outcomes": {}}
    assert referee(load_transcript(as_json(first_turns(40)[:1]))) == {"ended": False, "outcomes": {}}


def test_a_void_outcome_has_no_reward() -> None:
    opener = first_turns(0)[0]["seat"]
    bad = {"seat": opener, "text": "DEAL_PRICE: -5"}
    ruling = referee(load_transcript(as_json([bad, bad])))
    (other,) = set(SCENARIO.seat_names) - {opener}
    assert ruling["outcomes"][other]["verdict"] == "void" and ruling["outcomes"][other]["reward"] is None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"turns": []}', "missing required field `scenario`"),
        (b"\xff\xfe", "malformed"),
        (as_json([], extra=1), "unknown field `extra`"),
        (as_json([{"seat": SELLER}]), r"missing required field `text` - at `\$\.turns\[0\]`"),
        (as_json([{"seat": 7, "text": "x"}]), r"Expected `str`, got `int` - at `\$\.turns\[0\]\.seat`"),
        (as_json([{"seat": SELLER, "text": "x", "when": 1}]), r"unknown field `when` - at `\$\.turns\[0\]`"),
        (as_json([*first_turns(40), {"seat": SELLER, "text": "x"}]), r"the game has ended - at `\$\.turns\[2\]`"),
        (as_json(first_turns(40)[1:]), r"cannot speak now: the game waits for \w+ - at `\$\.turns\[0\]`"),
        (as_json([{"seat": "judge", "text": "x"}]), r"no seat is called 'judge'.* - at `\$\.turns\[0\]`"),
        (as_json([], cast={"judge": "linear"}), r"no seat is called 'judge'.* - at `\$\.cast`"),
        (as_json([], cast={SELLER: "nobody"}), r"no script 'nobody': choose from .* - at `\$\.cast`"),
        (as_json([]).replace('"family": "haggle"', '"family": "chess"'), r"no family is called 'chess'.* - at `\$\.scenario`"),
        (as_json([]).replace('"limit"', '"bound"'), r"scenario of family 'haggle': .* - at `\$\.scenario`"),
        (as_json([]).replace('"skin": "', '"skin": 5, "x": "'), r"Expected `str`, got `int` - at `\$\.scenario\.skin`"),
        (as_json([], cast=[]).replace("[]}", "[" * 100_000), r"nested too deeply|Expected `object`|truncated"),
        ('{"scenario": {"family": "haggle", "public": {"x": ' + "[" * 100_000, "nested too deeply|malformed|truncated"),
    ],
)
def test_malformed_transcripts_say_where(data: bytes | str, error: str) -> None:
    with pytest.raises(TranscriptError, match=error) as caught:
        referee(load_transcript(data))
    assert "\n" not in str(caught.value)


def test_errors_of_a_file_name_it(tmp_path: Path) -> None:
    path = tmp_path / "game.json"
    with pytest.raises(TranscriptError, match=r"game\.json: No such file"):
        read_transcript(path)
    path.write_text("{")
    with pytest.raises(TranscriptError, match=r"game\.json: not a transcript: Input data was truncated"):
        read_transcript(path)
    path.write_text(as_json([], cast={BUYER: "linear"}))
    assert read_transcript(path) == Transcript(scenario=SCENARIO, turns=(), cast={BUYER: "linear"})


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mangled_transcript_is_refused_or_refereed(data: st.DataObject) -> None:
    tree = json.loads(as_json(first_turns(40), cast={BUYER: "linear"}))
    junk = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=5)
        | st.sampled_from([SELLER, BUYER]),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        max_leaves=4,
    )
    node, key = tree, data.draw(st.sampled_from(sorted(tree)))
    while isinstance(node[key], dict | list) and node[key] and data.draw(st.integers(0, 5)):
        node, keys = node[key], range(len(node[key])) if isinstance(node[key], list) else sorted(node[key])
        key = data.draw(st.sampled_from(list(keys)))
    node[key] = data.draw(junk)
    try:
        ruling = referee(load_transcript(json.dumps(tree)))
    except TranscriptError as error:
        refused = str(error)
        assert refused and "\n" not in refused
    else:
        assert ruling["ended"] == bool(ruling["outcomes"])


def test_records_of_played_games_recheck(make_deals: Callable[..., list[Deal]]) -> None:
    async def games() -> list[Game]:
        async with aclosing(play(make_deals(40, "script:boulware"), Seating())) as played:
            return [game async for game in played]

    for game in asyncio.run(games()):
        record = GameRecord.of(game)
        assert record.line.endswith(b"\n") and record.line.count(b"\n") == 1
        again = msgspec.json.decode(record.line, type=GameRecord)
        assert again == record and again.recheck()
        assert again.transcript.cast == game.cast and again.outcomes == game.outcomes
        assert load_transcript(msgspec.json.encode(again.transcript)) == again.transcript
        forged = {seat: Outcome.of(Verdict.WIN, 0.987, Reason.TARGET_MET) for seat in game.outcomes}
        assert not msgspec.structs.replace(record, outcomes=forged).recheck()


def test_a_failed_game_rechecks_as_void(scenario: Scenario) -> None:
    void = {seat: Outcome.of(Verdict.VOID, 0.0, Reason.PLAYER_FAILED) for seat in scenario.seat_names}
    record = GameRecord(
        id="x", players={}, outcomes=void, transcript=Transcript(scenario=scenario, turns=()), seconds=1.0, error="gone"
    )
    assert record.recheck()
    assert not msgspec.structs.replace(record, error=None).recheck()
