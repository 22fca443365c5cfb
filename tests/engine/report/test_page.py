"""The report page: what a run holds appears on it, whatever state the run is in, and what strangers wrote stays text."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sparring.engine.config import load_run_config
from sparring.engine.errors import RunError
from sparring.engine.evaluation.compare import compare
from sparring.engine.evaluation.contest import Contenders, contend
from sparring.engine.evaluation.evaluate import arrange, evaluate, held_out
from sparring.engine.evaluation.topics import held_out_topics
from sparring.engine.report.facts import gather
from sparring.engine.report.markup import Piece, pieces, seen
from sparring.engine.report.page import write_report
from sparring.engine.run.folder import RunFolder
from sparring.engine.settings import dump_config
from sparring.rollout.judging.embedded import EmbeddedJudge
from sparring.rollout.judging.judge import Judgement, Preference
from sparring.rollout.judging.panel import Member, Panel
from sparring.rollout.player import Player, Reply, Seating, Table
from sparring.rollout.remote.call import Attempt, Result, Usage
from sparring.rollout.runner import play
from sparring.rollout.trajectory import Deal, Game
from sparring.scenarios import registry
from sparring.scenarios.scenario import Scenario

HOSTILE = '</p><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}<!-- \u202egnihtyna\x07'
SCRIPT = "script:holder"


class Says(Player):
    def __init__(self, text: Callable[[Table], str]) -> None:
        self.text = text

    async def act(self, table: Table) -> Reply:
        return Reply(self.text(table))


def seats(text: Callable[[Table], str]) -> Callable[[Deal, str], Player]:
    """The policy says `text`, and scripts play themselves."""
    return lambda deal, seat: Says(text) if deal.players[seat] in ("policy", "base") else Seating()(deal, seat)


def holder(deal: Deal, seat: str) -> Player:
    """The policy's seat is played by a script that commits."""
    players = {name: SCRIPT if spec == "policy" else spec for name, spec in deal.players.items()}
    return Seating()(msgspec.structs.replace(deal, players=players), seat)


async def _games(deals: list[Deal], factory: Callable[[Deal, str], Player]) -> list[Game]:
    return [game async for game in play(deals, factory)]


def haggles(factory: Callable[[Deal, str], Player] = holder, label: str = "0") -> list[Game]:
    return asyncio.run(_games([m.deal for m in arrange(held_out(["haggle"], 6), games=2, label=label)], factory))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", dump_config(load_run_config("demo", overrides=["iterations=9"])))


class Page(HTMLParser):
    """The page's elements and text, as a browser reads them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.marked: list[str] = []
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "mark" in self._open:
            self.marked.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(run: RunFolder) -> Page:
    return Page(write_report(run.path))


def assert_inert(page: Page) -> None:
    """No script, nothing that loads, no handler, and a policy that forbids all of it."""
    assert not {"script", "img", "iframe", "object", "embed", "link", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    loads = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "data")]
    assert all(value.startswith("#") for value in loads)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'") in page.attributes


def test_a_run_that_has_just_begun(run: RunFolder) -> None:
    page = page_of(run)
    assert "demo" in page.text
    assert "0 of 9 steps; the run has not ended" in page.text
    assert "no step has ended yet" in page.text
    assert "svg" not in page.tags
    assert_inert(page)


def test_metrics_become_curves_and_figures(run: RunFolder) -> None:
    for step in range(1, 5):
        figures = {
            "play/win_rate": 0.1 * step,
            "play/win_rate/haggle": 0.2,
            "learn/entropy": 2.0 - step / 10,
            "learn/groups": 3.0,
        }
        run.database.log_metrics(step, figures | {"learn/grad_norm": math.nan if step == 2 else 1234.5, "play/idle": 0.03})
    page = page_of(run)
    assert "40.0% of games won in the latest step of training, 10.0% in the first; no evaluation yet" in page.text
    assert page.tags.count("svg") == 5
    assert ("aria-label", "Entropy (nats). learn/entropy: 1.9 at step 1, 1.6 at step 4") in page.attributes
    assert "learn/grad_norm 1,234 1,234" in page.text
    assert "Generator idle while games go on" in page.text
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert_inert(page)
    assert page_of(run).source == page.source


def test_held_out_win_rates_have_their_interval_and_lines_short_names(run: RunFolder) -> None:
    for step in (10, 20):
        rates = {"evaluate/win_rate": 0.5, "evaluate/low": 0.4, "evaluate/high": 0.6, "evaluate/strict": 0.9}
        run.database.log_metrics(step, rates | {"play/win_rate": 0.5, "play/win_rate/haggle": 0.25, "play/win_rate/split": 0.75})
    page = page_of(run)
    words = "evaluate/win_rate: 0.5 at step 10, 0.5 at step 20; evaluate/low: 0.4 at step 10"
    assert any(name == "aria-label" and words in value for name, value in page.attributes)
    for label in ("all", "haggle", "split"):
        assert f">{label}</text>" in page.source
    assert ">low</text>" not in page.source


def test_games_are_shown_with_what_decided_them_marked(run: RunFolder) -> None:
    games = haggles()
    run.database.record(games, step=3)
    page = page_of(run)
    verdicts = {game.outcomes[seat].verdict.value for game in games for seat, spec in game.players.items() if spec == "policy"}
    assert verdicts
    for verdict in verdicts:
        assert ("class", verdict) in page.attributes
    commits = {game.turns[e.turn].text[e.start : e.end] for game in games for o in game.outcomes.values() for e in o.evidence}
    assert page.marked.pop(0) == "Marked"  # the legend
    assert page.marked
    assert set(page.marked) <= commits
    assert all("DEAL" in text for text in page.marked)
    assert "haggle" in page.text
    assert page.tags.count("summary") <= 2 * len(verdicts) + 2


def test_what_strangers_wrote_stays_text(run: RunFolder) -> None:
    games = haggles(seats(lambda table: HOSTILE))
    failed = msgspec.structs.replace(games[0], id="failed", error=HOSTILE)
    run.database.record([*games, failed], step=1)
    run.database.log_metrics(1, {f"play/win_rate/{HOSTILE}": 0.5})
    run.database.ledger.record(call("a", model=HOSTILE))
    said = [
        Judgement(group=HOSTILE, judge=HOSTILE, criterion=HOSTILE, first=a, second=b, preference=Preference.FIRST)
        for a, b in ((games[0].id, games[1].id), (games[1].id, games[0].id))
    ]
    run.database.ledger.record_judgements(said, phase="train", step=1)
    page = page_of(run)
    assert_inert(page)
    shown = seen(HOSTILE)
    assert "\\u202e" in shown
    assert "\\u0007" in shown
    for piece in ("<script>alert(1)</script>", "{{ 7 * 7 }}", "<!--"):
        assert piece in page.text
    assert "\u202e" not in page.source
    assert "\x07" not in page.source
    assert f"{shown}, {shown}, first read first: first is better" in page.text


def call(digest: str, number: int = 0, **more: Any) -> Attempt:
    usage = Usage(prompt_tokens=100, completion_tokens=10)
    facts = {"model": "openai:gpt-4o", "purpose": "judge", "game": "", "seat": "", "result": Result.OK, "seconds": 2.0}
    return Attempt(**{**facts, "usage": usage, "cost": 0.25, "digest": digest, "number": number, **more})


def test_calls_are_added_up(run: RunFolder) -> None:
    rows = [
        call("a", result=Result.SERVER, cost=0.0, seconds=9.0),
        call("a", 1, seconds=1.0),
        call("b", result=Result.TIMEOUT, cost=0.5, estimated=True),
        call("b", 1, hedge=True, result=Result.CANCELLED, cost=0.0),
        call("c", purpose="partner", model="anthropic:m", seconds=3.0),
    ]
    for row in rows:
        run.database.ledger.record(row)
    calls = gather(run).calls
    judge = next(row for row in calls.rows if row.purpose == "judge")
    assert (judge.calls, judge.answered, judge.failed, judge.attempts, judge.retries, judge.hedges) == (2, 1, 1, 4, 1, 1)
    assert judge.failures == {"cancelled": 1, "server": 1, "timeout": 1}
    assert (judge.dollars, judge.estimated_dollars, judge.prompt_tokens, judge.completion_tokens) == (0.75, 0.5, 400, 40)
    assert (judge.p50_seconds, judge.p99_seconds) == (1.0, 1.0)
    assert (calls.total.calls, calls.total.attempts, calls.total.dollars, calls.total.p50_seconds) == (3, 5, 1.0, 2.0)
    text = page_of(run).text
    assert "openai:gpt-4o, judge 2 1 4 1 1 400 0 40 0.7500 (at most: 0.5000 of it unreported) 1 1 cancelled 1, server 1" in text
    assert "total 3 2 5 1 1 500 0 50 1.0000" in text


def test_an_evaluation_of_games_becomes_tables(run: RunFolder) -> None:
    scenarios = held_out(["haggle"], 8)
    weak = asyncio.run(evaluate(arrange(scenarios, policy="script:naive"), Seating()))
    strong = asyncio.run(evaluate(arrange(scenarios, policy="script:holder"), Seating()))
    report = compare(weak, strong, shuffled=(weak, weak))
    run.write_summary({"evaluation": msgspec.to_builtins(report), "stopped": "budget <b>spent</b>", "unknown": 1})
    page = page_of(run)
    assert report.text.splitlines()[0] in page.text
    assert "budget <b>spent</b>" in page.text
    assert "values shuffled (control)" in page.text
    assert (
        f"all {report.baseline.win_rate:.1%} {report.trained.win_rate:.1%} {100 * report.difference.win_rate:+.1f}" in page.text
    )
    assert "the run has ended" in page.text


def speech(table: Table) -> str:
    own = table.game.scenario.id
    return f"<reasoning>short</reasoning><answer>First, {own} is better because reasons matter. Therefore yes. {HOSTILE}</answer>"


def test_a_contest_becomes_tables_examples_and_judges(run: RunFolder) -> None:
    topics: list[Scenario] = held_out_topics(["debate"], 12)
    contenders = Contenders(policy=seats(speech), base=seats(lambda table: "I think so too, I do, yes."))
    report = asyncio.run(contend(topics, contenders, Panel((Member(EmbeddedJudge()),))))
    run.write_summary({"contest": msgspec.to_builtins(report)})
    page = page_of(run)
    assert_inert(page)
    assert f"{report.topics} held-out topics (split seed), 1 from every side" in page.text
    standing = report.trained
    assert (
        f"trained {standing.win_rate:.1%} {standing.low:.1%} to {standing.high:.1%} {standing.win} / {standing.tie}" in page.text
    )
    assert "embedded-rubric 100.0%" in page.text
    assert report.examples[0].verdicts[0] in page.text
    assert report.text.splitlines()[0].strip() in page.text


def test_judged_pairs_of_training_are_shown_with_their_audit(run: RunFolder) -> None:
    topic = registry.get("debate").generate(0)
    deals = [Deal(id=f"2/0/{n}", scenario=topic, players={topic.seat_names[0]: "policy"}, seed=n) for n in range(4)]
    numbers = iter("abcd")
    games = asyncio.run(_games(deals, seats(lambda table: f"<answer>A plain speech, number {next(numbers)}.</answer>")))
    run.database.record(games, step=2)
    group = f"{topic.id}/{topic.seat_names[0]}/"

    def said(first: int, second: int, preference: Preference | None) -> Judgement:
        ids = {"first": games[first].id, "second": games[second].id}
        return Judgement(group=group, judge="gpt", criterion="case", preference=preference, **ids)

    judgements = [said(0, 1, Preference.FIRST), said(1, 0, Preference.FIRST)]
    judgements += [said(0, 2, Preference.FIRST), said(2, 0, Preference.SECOND)]
    judgements += [said(0, 3, Preference.TIE), said(3, 0, Preference.TIE), said(2, 3, None)]
    run.database.ledger.record_judgements(judgements, phase="train", step=2)
    facts = gather(run)
    assert facts.judged is not None
    (judge,) = facts.judged.audit.judges
    assert (judge.flips.hits, judge.flips.trials, judge.answered.trials) == (1, 2, 7)
    page = page_of(run)
    for kind in ("the order turned a verdict around", "decided", "tied", "a call failed"):
        assert f"– {kind}" in page.text
    for letter in "abcd":
        assert f"A plain speech, number {letter}." in page.text
    assert "gpt, case, second read first: second is better" in page.text
    assert "7 judgements of steps 3 to 3" in page.text


def test_a_running_run_is_read_beside_its_writer_and_a_folder_without_one_is_refused(run: RunFolder, tmp_path: Path) -> None:
    run.database.record(haggles(), step=0)
    first = page_of(run).source
    run.database.log_metrics(1, {"play/win_rate": 0.25})
    assert page_of(run).source != first
    with pytest.raises(RunError, match="holds no run"):
        write_report(tmp_path)


def test_settings_and_a_summary_of_another_version_do_not_stop_the_page(run: RunFolder) -> None:
    run.config_path.write_text('name = "old"\nno_longer_known = 3\n', encoding="utf-8")
    (run.path / "summary.json").write_text("[1, 2]", encoding="utf-8")
    page = page_of(run)
    assert "no_longer_known = 3" in page.text
    assert "the run has ended" in page.text


def test_facts_are_json(run: RunFolder) -> None:
    run.database.log_metrics(1, {"play/win_rate": 0.25, "learn/grad_norm": math.inf})
    facts = json.loads(msgspec.json.encode(gather(run)))
    assert facts["headline"].startswith("25.0% of games won")
    assert {"name": "learn/grad_norm", "first": None, "last": None} in facts["figures"]


@pytest.mark.parametrize(
    ("text", "spans", "expected"),
    [
        ("abcdef", [(1, 3), (2, 4)], [("a", False), ("bcd", True), ("ef", False)]),
        ("abc", [(0, 3)], [("abc", True)]),
        ("abc", [(2, 99), (-5, 1), (1, 1)], [("a", True), ("b", False), ("c", True)]),
        ("", [(0, 1)], []),
        ("a\u202eb", [(1, 2)], [("a", False), ("\\u202e", True), ("b", False)]),
    ],
)
def test_pieces(text: str, spans: list[tuple[int, int]], expected: list[tuple[str, bool]]) -> None:
    assert pieces(text, spans) == tuple(Piece(part, marked) for part, marked in expected)


def test_long_texts_are_cut_with_a_note() -> None:
    first, note = pieces("x" * 7000)
    assert (len(first.text), note.text) == (6000, " … (1,000 more characters)")
