"""Topics asked of a model: what is kept and dropped, hostile answers, duplicates, budgets, batches, and going on after a kill."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sparring.bench.fake_provider import Ask, BatchPlan, FakeProvider, Faults
from sparring.bench.fake_provider import Price as Listed
from sparring.engine.authoring import Authored, author_topics
from sparring.engine.contests import find_contest
from sparring.engine.errors import AuthoringError
from sparring.engine.topic_draft import Draft
from sparring.rollout.errors import BudgetError, RemoteError
from sparring.rollout.remote.batch_job import Polling
from sparring.rollout.remote.call import ChatReply, Finish
from sparring.rollout.remote.config import Endpoint, Price, RemoteConfig
from sparring.scenarios import registry
from sparring.scenarios.contests.debate import Motion
from sparring.scenarios.contests.topics import Seen, fault
from sparring.scenarios.errors import ScenarioError

Reply = Callable[[Ask], str]
WORDS = [
    a + b for a in ("bal", "cor", "dun", "fel", "gar", "hol", "jin", "kam") for b in ("ade", "ino", "ory", "ule", "ast", "erm")
]


def motion(number: int) -> dict[str, Any]:
    """A motion unlike any other."""
    one, two, three = WORDS[number % 48], WORDS[number // 48 % 48], WORDS[number * 7 % 48]
    sides = {side: [f"{side} {word} matters" for word in ("one", "two", "three")] for side in ("pro", "con")}
    return {"text": f"Number{number} {one} should replace {two} {three}", **sides}


def fresh(each: int = 10) -> Reply:
    """Answers that bring new motions every time."""
    numbers = count()
    return lambda ask: json.dumps({"topics": [motion(next(numbers)) for _ in range(each)]})


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeProvider]]:
    running: list[Any] = []

    def start(reply: Reply, **options: Any) -> FakeProvider:
        provider = FakeProvider(reply=reply, prices={"author": Listed(input=1.0, output=4.0)}, **options).running()
        running.append(provider)
        return provider.__enter__()  # type: ignore[no-any-return]

    yield start
    for provider in running:
        provider.__exit__(None, None, None)


def settings(provider: FakeProvider, **options: Any) -> RemoteConfig:
    endpoints = {"fake": Endpoint(base_url=provider.url), "claude": Endpoint(base_url=provider.anthropic_url, kind="anthropic")}
    prices = {"author": Price(input=1.0, output=4.0, batch=0.5)}
    return RemoteConfig(endpoints=endpoints, prices=prices, backoff=0.001, **options)


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


def write(provider: FakeProvider, output: Path, wanted: int = 20, name: str = "debate", **options: Any) -> Authored:
    more = {"model": "fake:author", "remote": settings(provider), "polling": Polling(sleep=no_pause)} | options
    return author_topics(name, wanted, output, **more)


def test_a_file_in_the_format_of_those_that_ship(serve: Callable[..., FakeProvider], tmp_path: Path) -> None:
    provider, output, said = serve(fresh()), tmp_path / "my.toml", list[str]()
    found = write(provider, output, say=said.append)
    assert (found.kept, found.wanted, found.calls, found.stopped) == (20, 20, 3, "")
    assert found.dropped == {"there were enough": 10}
    assert found.cost == pytest.approx(provider.ledger.total.dollars)
    assert said == ["round 1: 3 calls, 20 new topics, 20 of 20"]
    topics = tomllib.loads(output.read_text())["topics"]
    assert len(topics) == 20
    assert all(topic in [motion(number) for number in range(30)] for topic in topics)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["my.calls", "my.toml"]
    contest = find_contest("debate", {"debate": str(output)})
    assert len(contest.all_topics) == len(find_contest("debate").all_topics) + 20
    assert found.parts == {part: sum(contest.part(Motion(**t)) == part for t in topics) for part in found.parts}
    assert set(found.parts) == {"train", "seed"}


@pytest.mark.parametrize("name", registry.contests())
def test_every_contest_can_be_authored(name: str, serve: Callable[..., FakeProvider], tmp_path: Path) -> None:
    """What is asked holds the schema of that contest's topics, three examples and what is taken."""
    contest, numbers, asked = find_contest(name), count(), list[Ask]()

    def reply(ask: Ask) -> str:
        asked.append(ask)
        topic = dict(json.loads(next(line for line in ask.last().split("\n") if line.startswith("{"))))
        found = []
        for _ in range(10):
            number = next(numbers)
            words = [WORDS[number], WORDS[number + 7 % 48], WORDS[47 - number]]
            found.append({**topic, **({"text": " ".join(words)} if "text" in topic else {"ingredients": words})})
        return json.dumps({"topics": found})

    found = write(serve(reply), tmp_path / "my.toml", 10, name)
    assert found.kept == 10
    assert all(len([line for line in ask.last().split("\n") if line.startswith("{")]) == 3 for ask in asked)
    schema = asked[0].schema
    assert schema is not None
    item = schema["properties"]["topics"]["items"]
    assert tuple(item["properties"]) == contest.topic_type.__struct_fields__
    assert item["properties"].get("style", {}).get("enum") == (list(contest.skins) if name == "comedy" else None)
    assert contest.topic_guide in asked[0].text
    extended = find_contest(name, {name: str(tmp_path / "my.toml")})
    assert all(fault(topic, contest.skins) is None for topic in extended.all_topics)


HOSTILE = (
    "no JSON at all",
    '{"topics": "all"}',
    "[1, 2]",
    '{"topics": [' + "[" * 100_000,
    '{"topics": [null, 7, "text", [], {}, {"text": "Only a text"}]}',
    json.dumps({"topics": [{**motion(900), "extra": 1}, {**motion(901), "pro": "one"}, {**motion(902), "pro": [1, 2, 3]}]}),
    json.dumps({"topics": [{**motion(903), "text": text} for text in (
        "", "   ", "the and of", "word", "x" * 500, "Cities; should ban cars", "Judge </answer> says first",
        "{0} should {motion}", "Tigers [INST] should win", "Zebras \u202e should \u0000 hide", "Buses should\x1b[31m stop",
        "Pigs \ud800 should fly", "`Owls` should sing",
    )]}),
    json.dumps({"topics": [{**motion(904), "con": items} for items in ([], ["a", "b"], ["same", "Same!", "other"], ["x"] * 50)]}),
)  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_dropped_with_a_reason(answer: str) -> None:
    draft = Draft(find_contest("debate"), 50)
    draft.read(ChatReply(text=answer))
    assert draft.kept == []
    assert sum(draft.dropped.values()) == len(draft.examples) if len(draft.dropped) > 1 else draft.dropped.total() >= 1
    assert all(len(example) < 400 and "\n" not in example for example in draft.examples)


def test_refused_and_cut_answers_are_told_apart() -> None:
    draft = Draft(find_contest("debate"), 50)
    draft.read(ChatReply(text="I cannot", finish=Finish.REFUSED))
    draft.read(ChatReply(text='{"topics": [{"te', finish=Finish.LENGTH))
    assert draft.dropped == {"the model refused": 1, "an answer was cut": 1}


def test_texts_are_written_as_those_that_ship() -> None:
    draft = Draft(find_contest("debate"), 50)
    said = {**motion(1), "text": "  It\u2019s  time \u2014 gliders should replace kites. "}
    draft.read(ChatReply(text=json.dumps({"topics": [said]})))
    assert [topic.text for topic in draft.kept] == ["It's time - gliders should replace kites"]


def test_duplicates_of_what_ships_and_of_each_other_are_dropped() -> None:
    contest = find_contest("debate")
    shipped = contest.all_topics[0]
    near = f"{shipped.text} {shipped.text.split()[0]}!"
    same = motion(3)["text"]
    texts = [shipped.text.upper(), near.replace("!", ""), same, same.upper(), " ".join(reversed(same.split())), motion(4)["text"]]
    draft = Draft(contest, 50)
    draft.read(ChatReply(text=json.dumps({"topics": [{**motion(9), "text": text} for text in texts]})))
    assert [topic.text for topic in draft.kept] == [same, motion(4)["text"]]
    assert draft.dropped == {"it ships already": 2, "it came before": 2}
    assert Seen(contest.all_topics).twin(draft.kept[0]) is None


def test_a_model_that_repeats_itself_is_not_asked_for_ever(serve: Callable[..., FakeProvider], tmp_path: Path) -> None:
    provider = serve(lambda ask: json.dumps({"topics": [motion(number) for number in range(4)]}))
    found = write(provider, tmp_path / "my.toml", 30)
    assert found.kept == 4
    assert found.stopped == "after 2 rounds: the last one brought nothing new"
    assert provider.ledger.total.requests == found.calls == 8


def test_failed_calls_are_counted_and_the_others_kept(serve: Callable[..., FakeProvider], tmp_path: Path) -> None:
    provider = serve(fresh(), faults=Faults(rate=0.6, kinds={"server_error": 1}))
    found = write(provider, tmp_path / "my.toml", 40, remote=settings(provider, max_retries=0))
    assert 0 < found.kept <= 40
    assert found.dropped["a call failed"] > 0
    assert any("500" in example for example in found.examples)


def test_what_was_kept_when_the_budget_ends_is_written(serve: Callable[..., FakeProvider], tmp_path: Path) -> None:
    provider = serve(fresh(2))
    with pytest.raises(BudgetError):
        write(provider, tmp_path / "none.toml", remote=settings(provider, budget=1e-5))
    assert not (tmp_path / "none.toml").exists()
    found = write(provider, tmp_path / "my.toml", 200, remote=settings(provider, budget=0.05))
    assert 0 < found.kept < 200
    assert "the budget of $0.05 is spent" in found.stopped
    assert found.cost <= 0.05
    assert len(tomllib.loads((tmp_path / "my.toml").read_text())["topics"]) == found.kept


def test_nothing_kept_and_a_file_that_exists_are_errors(serve: Callable[..., FakeProvider], tmp_path: Path) -> None:
    provider = serve(lambda ask: "no")
    with pytest.raises(AuthoringError, match="not one topic could be kept: an answer was no list of topics: no"):
        write(provider, tmp_path / "my.toml")
    asked = provider.ledger.total.requests
    (tmp_path / "my.toml").write_text("mine")
    with pytest.raises(AuthoringError, match="exists: give another"):
        write(provider, tmp_path / "my.toml")
    with pytest.raises(ScenarioError, match="haggle is no contest"):
        write(provider, tmp_path / "other.toml", name="haggle")
    with pytest.raises(RemoteError, match="has no Batch API here"):
        write(provider, tmp_path / "other.toml", model="claude:author", batch=True)
    assert provider.ledger.total.requests == asked
    assert (tmp_path / "my.toml").read_text() == "mine"


def test_a_batch_costs_half_and_a_killed_one_goes_on(serve: Callable[..., FakeProvider], tmp_path: Path) -> None:
    def answer(ask: Ask) -> str:
        return json.dumps({"topics": [motion(ask.rng.randrange(2304)) for _ in range(10)]})

    class Killed(BaseException):
        pass

    async def kill(seconds: float) -> None:
        raise Killed

    plain = write(serve(answer), tmp_path / "plain.toml")
    provider, output = serve(answer, batch=BatchPlan(looks=1)), tmp_path / "my.toml"
    with pytest.raises((Killed, asyncio.CancelledError)):
        write(provider, output, batch=True, polling=Polling(sleep=kill))
    assert provider.ledger.batches == 1
    found = write(provider, output, batch=True)
    assert (found.kept, found.calls) == (plain.kept, plain.calls)
    assert provider.ledger.total.requests == provider.ledger.total.batched == plain.calls
    assert provider.ledger.total.paid_again == 0
    assert found.cost == pytest.approx(plain.cost / 2)
    assert output.read_bytes() == (tmp_path / "plain.toml").read_bytes()


def test_calls_that_were_paid_are_not_paid_again(serve: Callable[..., FakeProvider], tmp_path: Path) -> None:
    provider = serve(fresh())
    first = write(provider, tmp_path / "my.toml")
    (tmp_path / "my.toml").rename(tmp_path / "old.toml")
    assert write(provider, tmp_path / "my.toml") == first
    assert provider.ledger.total.requests == first.calls
    other = write(provider, tmp_path / "other.toml", seed=1)
    assert provider.ledger.total.requests == first.calls + other.calls
