"""Asking a model for new topics of a contest: what is asked, in how many rounds, and the file that the answers make.

What is kept of an answer is `topic_draft.py`'s. Calls lie in a folder beside the file: the same command after a crash pays for
nothing again.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from sparring.engine.contests import find_contest
from sparring.engine.errors import AuthoringError
from sparring.engine.run.database import RunDatabase
from sparring.engine.run.folder import DATABASE, take_lock
from sparring.engine.topic_draft import Draft
from sparring.rollout.errors import BudgetError
from sparring.rollout.files import write_durably
from sparring.rollout.remote.batch import find_batched
from sparring.rollout.remote.batch_job import Polling
from sparring.rollout.remote.batch_model import BatchModel
from sparring.rollout.remote.call import ChatMessage, ChatModel, ChatRequest, Schema
from sparring.rollout.remote.config import RemoteConfig
from sparring.rollout.remote.remote import RemoteModels
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.contests.topics import format_topics, in_order

EACH = 10
"""Topics that one call asks for: more come out more alike."""
SPARE = 1.3
"""So many times what is missing is asked for, as some will be dropped."""
ROUNDS = 4
TOPIC_TOKENS = 250
EXAMPLES, SHOWN = 3, 150
"""Topics shown as examples, and texts at most that are shown as taken."""
SUBJECTS = (
    "home and family", "work", "schools", "food", "travel", "towns", "the countryside", "money", "health", "sport", "music",
    "books and films", "machines", "the internet", "animals", "the weather", "seasons and holidays", "children", "old age",
    "friends", "neighbours", "shops", "clothes", "law", "science", "history", "language", "games", "sleep", "time",
)  # fmt: skip
"""Each call is pointed at a few, as calls of one round do not know of each other."""


class Authored(msgspec.Struct, frozen=True, kw_only=True):
    """What `author_topics` did. `parts` counts the kept topics by split; `cost`, in US dollars, and `calls` are those of earlier
    processes at the same file, too."""

    contest: str
    model: str
    path: str
    wanted: int
    kept: int
    parts: dict[str, int]
    dropped: dict[str, int]
    examples: tuple[str, ...]
    """One of each reason for dropping."""
    stopped: str
    calls: int
    cost: float


def author_topics(
    name: str,
    count: int,
    output: Path,
    *,
    model: str,
    remote: RemoteConfig,
    seed: int = 0,
    batch: bool = False,
    polling: Polling | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Authored:
    """Writes a file of up to `count` new topics of a contest, asked of `model`; `RunConfig.contest_topics` takes it.

    Raises `ScenarioError` for a family that is no contest, `AuthoringError` where the file exists or no topic could be had,
    `RemoteError` and `BudgetError` where the model cannot be called.

    Example:
        >>> author_topics("debate", 50, Path("my-debate.toml"), model="gpt-4o-mini", remote=RemoteConfig(budget=0.5)).kept
        50
    """
    contest = find_contest(name)
    if output.exists():
        raise AuthoringError(f"{output} exists: give another --output, or move it away")
    if batch and remote.cassette_mode != "replay":
        find_batched(model, remote)
    folder = output.with_suffix(".calls")
    with _calls(folder) as database:
        draft = Draft(contest, count)
        asyncio.run(_ask(draft, database, folder, model=model, config=remote, seed=seed, batch=batch, polling=polling, say=say))
        if not draft.kept and draft.out_of_budget:
            raise BudgetError(draft.stopped)
        if not draft.kept:
            raise AuthoringError(f"not one topic could be kept: {'; '.join(draft.examples) or draft.stopped}")
        comment = (
            f"Topics for {name}, written by {model}. {contest.topic_guide}\nA topic's split follows from its own text alone."
        )
        write_durably(output, format_topics(in_order(draft.kept), comment))
        totals = database.ledger.totals()
    return Authored(
        contest=name,
        model=model,
        path=str(output),
        wanted=count,
        kept=len(draft.kept),
        parts=dict(Counter(contest.part(topic) for topic in draft.kept)),
        dropped=dict(draft.dropped),
        examples=tuple(draft.examples),
        stopped=draft.stopped,
        calls=totals.calls if totals else 0,
        cost=totals.cost if totals else 0.0,
    )


async def write_topics(draft: Draft, chat: ChatModel, model: str, *, seed: int = 0, say: Callable[[str], None] = print) -> None:
    """Fills a draft, in rounds whose calls go out together; each round knows what was kept before."""
    for number in range(ROUNDS):
        if draft.missing <= 0 or draft.stopped:
            return
        calls = -(-round(SPARE * draft.missing) // EACH) or 1
        requests = [_request(draft, model, f"{seed}/{number}/{at}") for at in range(calls)]
        tasks = [asyncio.create_task(chat.chat(request)) for request in requests]
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
        before = len(draft.kept)
        for task in tasks:
            draft.read(task.exception() or task.result())
        say(f"round {number + 1}: {calls} calls, {len(draft.kept) - before} new topics, {len(draft.kept)} of {draft.count}")
        if draft.missing > 0 and len(draft.kept) == before:
            draft.stopped = draft.stopped or f"after {number + 1} rounds: the last one brought nothing new"
    if draft.missing > 0:
        draft.stopped = draft.stopped or f"after {ROUNDS} rounds: most of what comes is dropped"


async def _ask(
    draft: Draft,
    database: RunDatabase,
    folder: Path,
    *,
    model: str,
    config: RemoteConfig,
    seed: int,
    batch: bool,
    polling: Polling | None,
    say: Callable[[str], None],
) -> None:
    async with RemoteModels(config, database.ledger) as remote:
        remote.check(model)
        if not batch:
            await write_topics(draft, remote, model, seed=seed, say=say)
            return
        batched = BatchModel(remote, folder, journal=database.ledger, polling=polling, say=say)
        try:
            await write_topics(draft, batched, model, seed=seed, say=say)
        finally:
            await batched.close()


@contextmanager
def _calls(folder: Path) -> Iterator[RunDatabase]:
    """The database of the calls, held by this process alone. Raises `RunError` where another one is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = take_lock(folder)
    try:
        database = RunDatabase(folder / DATABASE)
        try:
            yield database
        finally:
            database.close()
    finally:
        os.close(lock)


def _request(draft: Draft, model: str, key: str) -> ChatRequest:
    contest, rng = draft.contest, Random(f"sparring/author/{key}")
    examples = [msgspec.json.encode(topic).decode() for topic in rng.sample(contest.all_topics, EXAMPLES)]
    taken = [topic.text for topic in (*contest.all_topics, *draft.kept)]
    lines = (
        f"Write {EACH} new topics for the contest {contest.name}: {contest.title}. {contest.topic_guide}",
        "Plain words, for adults of any country; nothing about living people; no two alike. Each text stands on one line, "
        "without full stops, semicolons, brackets or quotation marks.",
        f"Think of {', '.join(rng.sample(SUBJECTS, 3))}, or of anything else that nobody listed below has.",
        "",
        "Examples:",
        *examples,
        "",
        "These are taken:",
        *rng.sample(taken, min(SHOWN, len(taken))),
        "",
        'Answer with one JSON object and nothing else: {"topics": [...]}, with topics like those in the examples.',
    )
    return ChatRequest(
        model=model,
        messages=(ChatMessage("system", "You write material for a contest of language."), ChatMessage("user", "\n".join(lines))),
        max_tokens=TOPIC_TOKENS * EACH,
        schema=Schema(name="topics", body=_schema(contest)),
        key=f"author/{contest.name}/{key}",
        purpose="author",
    )


def _schema(contest: Contest[Any, Any]) -> dict[str, Any]:
    """The answer's JSON Schema: closed objects, as providers of structured output ask for. A field that holds a skin in every
    topic that ships may hold nothing else."""
    properties: dict[str, Any] = {}
    for name in contest.topic_type.__struct_fields__:
        values = [getattr(topic, name) for topic in contest.all_topics]
        if isinstance(values[0], tuple):
            properties[name] = {"type": "array", "items": {"type": "string"}}
        else:
            is_skin = all(value in contest.skins for value in values)
            properties[name] = {"type": "string", "enum": list(contest.skins)} if is_skin else {"type": "string"}
    topic = _object(properties)
    return _object({"topics": {"type": "array", "items": topic}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
