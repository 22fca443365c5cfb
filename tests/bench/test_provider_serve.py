"""The fake provider as a program, and what it says in games and as a judge."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from random import Random
from typing import Any

import httpx2
import pytest

from sparring.bench.fake_provider import NAMED, Ask, FakeProvider, Price, RehearsalError, Reply
from sparring.bench.provider.serve import bill, lesson, listed_prices, read_prices, read_weights, serve
from sparring.rollout.judging.judge import Comparison, Preference
from sparring.rollout.judging.llm import compare_messages, parse_verdict
from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Criterion
from sparring.scenarios.game import GameState
from sparring.scenarios.outcome import Reason

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"verdict": {"type": "string", "enum": ["first", "second", "tie"]}}}


def test_it_serves_until_it_is_stopped_and_shows_its_bill() -> None:
    provider = FakeProvider(reply="echo", prices={"small": Price(input=1e6, output=0.0)})
    said: list[str] = []

    async def ask() -> None:
        while len(said) < len(list(lesson(provider))):
            await asyncio.sleep(0.01)
        async with httpx2.AsyncClient(verify=False) as client:
            body = {"model": "small", "messages": [{"role": "user", "content": "1234"}]}
            answer = await client.post(f"{provider.url}/chat/completions", json=body, headers={"Authorization": "Bearer any"})
        assert answer.json()["choices"][0]["message"]["content"] == "1234"
        os.kill(os.getpid(), signal.SIGINT)

    async def both() -> Any:
        return (await asyncio.gather(serve(provider, said.append), ask()))[0]

    totals = asyncio.run(both())
    assert provider.url in said[0]
    assert f'remote.endpoints.openai={{base_url="{provider.url}"}}' in said[1]
    assert list(bill(totals)) == [
        "small: 1 requests (1 answered)",
        "  1 billed: 5 prompt and 1 completion tokens, $5.0000",
        "at most 1 at once over 1 connections; 0 abandoned",
    ]


def test_prices_and_faults_are_read_as_written() -> None:
    assert read_prices(["small=0.15,0.6", "a=b=1,2"]) == {"small": Price(input=0.15, output=0.6), "a=b": Price(input=1, output=2)}
    assert read_weights(["timeout", "cut=2.5"]) == {"timeout": 1.0, "cut": 2.5}
    assert listed_prices()["gpt-4o-mini"] == Price(input=0.15, output=0.6)
    for price in ("small", "=1,2", "small=1", "small=1,x", "small=-1,2"):
        with pytest.raises(RehearsalError, match="MODEL=IN,OUT"):
            read_prices([price])
    with pytest.raises(RehearsalError, match="KIND=WEIGHT"):
        read_weights(["cut=often"])


AGREED = {
    "haggle": {Reason.TARGET_MET},
    "split": {Reason.MISMATCH},
    "dilemma": {Reason.TARGET_MET},
    "auction": {Reason.PROFIT},
}


@pytest.mark.parametrize("family", registry.names())
def test_the_negotiator_plays_every_family_to_its_end(family: str) -> None:
    """Its messages commit to something legal, so games end for a reason of their own, not for a fault in form."""
    reasons = [outcome.reason for seed in range(20) for outcome in play(family, seed)]
    assert not {Reason.INVALID_COMMIT, Reason.PARTNER_INVALID} & set(reasons)
    assert AGREED[family] <= set(reasons)


def play(family: str, seed: int) -> list[Any]:
    game = GameState(registry.get(family).generate(seed=seed))
    said: dict[str, list[tuple[str, str]]] = {}
    while game.outcome() is None:
        for seat in game.to_move:
            seen = game.observe(seat)
            heard = "\n".join(f"{message.author}: {message.text}" for message in seen.heard) or "(silence)"
            history = said.setdefault(seat, [("system", seen.instructions)])
            history.append(("user", heard))
            text = NAMED["auto"](Ask("small", tuple(history), 64, rng=Random(f"{seed}/{seat}/{len(history)}")))
            history.append(("assistant", text))
            if seat in game.to_move:
                game.submit(seat, text)
    outcomes = game.outcome()
    assert outcomes is not None
    return list(outcomes.values())


CRITERION = Criterion(name="whole", question="Which is better?", weight=1.0)


@pytest.mark.parametrize(
    ("reply", "first", "second", "wanted"),
    [
        ("judge:first", "a", "b", Preference.FIRST),
        ("judge:longest", "short", "a longer\ntext", Preference.SECOND),
        ("judge:longest", "a longer\n\n| text", "short", Preference.FIRST),
        ("judge:longest", "same", "size", Preference.TIE),
        ("judge:tie", "a", "b", Preference.TIE),
        ("judge", "one two three", "one one one one one", Preference.FIRST),
        ("auto", "one two", "one two three", Preference.SECOND),
    ],
)
def test_judges_answer_the_judging_prompt_by_their_rule(reply: str, first: str, second: str, wanted: Preference) -> None:
    judge: Reply = NAMED[reply]
    asked = compare_messages(Comparison(brief="Argue.", criterion=CRITERION, first=first, second=second))
    messages = tuple((message.role, message.text) for message in asked)
    structured = judge(Ask("small", messages, 64, schema=SCHEMA))
    assert json.loads(structured) == {"verdict": wanted.value}
    assert parse_verdict(structured) is wanted
    if reply != "auto":
        assert parse_verdict(judge(Ask("small", messages, 64))) is wanted


def test_the_random_judge_says_all_three() -> None:
    messages = (("user", "First text:\n| a\n\nSecond text:\n| b"),)
    verdicts = {NAMED["judge:random"](Ask("small", messages, 64, rng=Random(seed))) for seed in range(40)}
    assert verdicts == {"first", "second", "tie"}


def test_the_debater_keeps_to_the_form() -> None:
    ask = Ask(
        "small", (("system", "Answer in <reasoning></reasoning><answer></answer>."), ("user", "Ban homework in schools?")), 256
    )
    for reply in (NAMED["debater"], NAMED["auto"]):
        text = reply(ask)
        assert text.startswith("<reasoning>")
        assert text.endswith("</answer>")
        assert any(word in text for word in ("homework", "schools"))
