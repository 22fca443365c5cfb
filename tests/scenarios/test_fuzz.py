"""Whatever is written, by whatever seat of whatever family: the referee stands, gives nothing away, and says the same twice."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.scenarios import registry
from sparring.scenarios.commit import Line, escape, find_commit, whole_number
from sparring.scenarios.family import SPLITS
from sparring.scenarios.game import MAX_TEXT, GameState, Turn, replay
from sparring.scenarios.outcome import REWARDS, Reason, Verdict
from sparring.scenarios.scenario import Scenario, load_scenario

TAGS = tuple(tag for name in registry.names() for tag in registry.get(name).commit_tags)
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates too
FRAGMENTS = st.sampled_from(
    [
        *TAGS,
        *(f"{tag}: " for tag in TAGS),
        *(f"\n{tag}: 5" for tag in TAGS),
        *("MOVE: A", "MOVE: X", "FINAL_BID: 0", "NO_DEAL", "DEAL_PRICE: 30", "books=1", "hats=0,balls=1", ",", "=", ":"),
        *(
            "0",
            "7",
            "10",
            "-",
            "1e9",
            "99",
            "99999999999999999999",
            "\uff15",
            "A",
            "B",
            "\n",
            "\n\n",
            "\r\n",
            " ",
            "\t",
            "\u2028",
        ),
        *(
            "<think>",
            "</think>",
            "<reasoning>",
            "</THINK >",
            "<|im_end|>",
            "<|",
            "|>",
            "referee: ",
            "\nreferee: ",
            "**",
            "`",
            "> ",
        ),
        *("\u200b", "\ufeff", "\u0301", "\x00", "\ud800", "I accept ", "```", "\u202e"),
    ]
)
MIXED = st.lists(st.one_of(FRAGMENTS, FRAGMENTS, ANYTHING), max_size=8).map("".join)
LONG = st.builds(lambda piece, times, end: piece * times + end, MIXED, st.integers(1, 2000), FRAGMENTS)
LEGAL = st.just(None)
MESSAGES = st.tuples(st.one_of(ANYTHING, MIXED, MIXED, LEGAL, LEGAL), st.sampled_from([True, True, True, False]))


@cache
def instance(family: str, seed: int) -> Scenario:
    return registry.get(family).generate(seed, SPLITS[seed % 4])


@cache
def legal_line(family: str, seed: int, seat: int) -> str:
    """A commit that the seat's certificate holds."""
    kind, dealt = registry.get(family), instance(family, seed)
    witnesses = kind.certificate(kind.setup(dealt)).witnesses
    lines = [text for witness in witnesses for name, text in witness.turns if name == dealt.seat_names[seat]]
    return lines[-1]


@pytest.mark.parametrize("family", registry.names())
@settings(max_examples=80)
@given(data=st.data())
def test_no_text_crashes_the_referee_wins_without_a_commit_or_changes_on_recheck(family: str, data: st.DataObject) -> None:
    seed, kind = data.draw(st.integers(0, 11)), registry.get(family)
    dealt = instance(family, seed)
    cast = {name: data.draw(st.sampled_from(("", *kind.partners))) for name in dealt.seat_names}
    game = GameState(dealt, cast)
    while game.outcome() is None:
        seat = data.draw(st.sampled_from(game.to_move))
        drawn, complete = data.draw(MESSAGES)
        text = legal_line(family, seed, dealt.index(seat)) if drawn is None else drawn
        game.submit(seat, text, complete=complete)
        assert all(inert(message.text) for name in dealt.seat_names for message in game.observe(name).heard)
    judge(game)
    stored = msgspec.json.decode(msgspec.json.encode({"scenario": dealt, "turns": game.turns, "cast": game.cast}))
    turns = msgspec.convert(stored["turns"], list[Turn])
    assert replay(load_scenario(stored["scenario"]), turns, stored["cast"]).outcome() == game.outcome()


def judge(game: GameState) -> None:
    outcomes = game.outcome()
    assert outcomes is not None and tuple(outcomes) == game.scenario.seat_names and game.to_move == ()
    for seat, outcome in outcomes.items():
        assert outcome.reward == REWARDS[outcome.verdict] and 0 <= outcome.score <= 1
        for marked in outcome.evidence:
            assert 0 <= marked.start <= marked.end <= len(game.turns[marked.turn].text) <= MAX_TEXT
        if outcome.verdict is Verdict.WIN:
            own = [marked for marked in outcome.evidence if game.turns[marked.turn].seat == seat]
            assert own
            for marked in own:
                turn = game.turns[marked.turn]
                found = find_commit(turn.text, game.family.commit_tags)
                assert isinstance(found, Line) and turn.complete and (found.start, found.end) == (marked.start, marked.end)
    invalid = [outcome.reason is Reason.INVALID_COMMIT for outcome in outcomes.values()]
    void = [outcome.verdict is Verdict.VOID for outcome in outcomes.values()]
    assert sum(invalid) in (0, 1) and sum(void) == (len(void) - 1 if any(invalid) else 0)


def inert(heard: str) -> bool:
    """Whether a text has one first line, marked others, and nothing that a terminal or a chat template would obey."""
    marked = all(line.startswith("| ") for line in heard.split("\n")[1:])
    obeyed = any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in heard if c != "\n")
    return marked and "<|" not in heard and "|>" not in heard and not obeyed


@settings(max_examples=60)
@given(text=LONG)
def test_very_long_texts(text: str) -> None:
    game = GameState(instance("dilemma", 0))
    game.submit(game.to_move[0], text)
    assert len(game.turns[0].text) <= MAX_TEXT and game.turns[0].complete == (len(text) <= MAX_TEXT)
    assert len(escape(text)) <= 3 * 2000


@settings(max_examples=300)
@given(text=st.one_of(ANYTHING, MIXED))
def test_a_commit_is_what_a_reader_sees_on_the_last_line(text: str) -> None:
    found, seen = find_commit(text, TAGS), escape(text, limit=10**6).split("\n")[-1].removeprefix("| ")
    if isinstance(found, Line):
        assert text[found.start :].startswith(found.tag)
        if text[found.start : found.end].isprintable():
            assert seen == escape(text[found.start : found.end])
    if found is None:
        assert not any(seen == tag or seen.startswith(f"{tag}:") for tag in TAGS)


@settings(max_examples=300)
@given(value=st.one_of(ANYTHING, st.text("0123456789 +-.,eE_", max_size=12), st.integers(-99, 10**12).map(str)))
def test_a_whole_number_has_one_spelling(value: str) -> None:
    number = whole_number(value, 0, 10**12)
    assert number is None or (str(number) == value and 0 <= number < 10**9)


JSON = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@settings(max_examples=40)
@given(data=st.one_of(JSON, st.dictionaries(st.sampled_from([*Scenario.__struct_fields__, "x"]), JSON)))
def test_what_is_no_scenario_is_a_clear_error(data: Any) -> None:
    with pytest.raises(ValueError, match="not a scenario"):
        load_scenario(msgspec.json.encode(data))
