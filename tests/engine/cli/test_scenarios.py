"""`sparring scenarios`: the same bytes everywhere, verdicts as the contract writes them, one line for what does not fit."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from sparring.engine.cli.main import app
from sparring.engine.run.folder import RunFolder
from sparring.rollout.trajectory import Game
from sparring.scenarios import registry
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.game import Turn, replay
from sparring.scenarios.scenario import canonical, load_scenario
from sparring.scenarios.series import SERIES, series

Run = Callable[..., Result]

SCENARIO = registry.get("haggle").generate(3)
OPENER = SCENARIO.public["first"]
SEATS = SCENARIO.seat_names[OPENER], SCENARIO.seat_names[1 - OPENER]
TURNS = [Turn(SEATS[0], "Well.\nDEAL_PRICE: 60"), Turn(SEATS[1], "DEAL_PRICE: 60")]


def transcript(turns: list[Turn] = TURNS) -> str:
    told = [{"seat": turn.seat, "text": turn.text} for turn in turns]
    return json.dumps({"scenario": json.loads(canonical(SCENARIO)), "turns": told})


# generate


def test_a_series_is_numbered_by_its_seed() -> None:
    assert [scenario.seed for scenario in series("haggle", 3, seed=7)] == [7 * SERIES, 7 * SERIES + 1, 7 * SERIES + 2]
    for count in (0, SERIES + 1):
        with pytest.raises(ScenarioError, match="1 to 1000000 instances"):
            series("haggle", count)


def test_the_same_arguments_give_the_same_bytes(sparring: Run, tmp_path: Path) -> None:
    arguments = ("scenarios", "generate", "--family", "haggle", "--count", 20, "--seed", 7)
    printed = sparring(*arguments)
    assert sparring(*arguments, "--output", tmp_path / "new" / "file.jsonl").exit_code == 0
    written = (tmp_path / "new" / "file.jsonl").read_bytes()
    assert written == printed.stdout_bytes
    lines = written.splitlines()
    assert [load_scenario(line) for line in lines] == list(series("haggle", 20, seed=7))
    assert all(canonical(load_scenario(line)) == line for line in lines)


def test_families_and_splits_are_chosen(sparring: Run) -> None:
    made = sparring("scenarios", "generate", "--family", "split", "--family", "auction", "--count", 2, "--split", "skin")
    found = [load_scenario(line) for line in made.stdout.splitlines()]
    assert [scenario.family for scenario in found] == ["split", "split", "auction", "auction"]
    assert all(scenario.skin in registry.get(scenario.family).held_out_skins for scenario in found)
    everything = sparring("scenarios", "generate", "--count", 1)
    assert [load_scenario(line).family for line in everything.stdout.splitlines()] == list(registry.names())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "chess"], "no family is called 'chess': choose from haggle, split, dilemma, auction"),
        (["--split", "test"], "no split is called 'test': choose from train, seed, range, skin"),
        (["--skin", "moon"], "haggle has no skin 'moon' in split 'train': choose from"),
    ],
)
def test_what_cannot_be_generated(sparring: Run, arguments: list[str], message: str) -> None:
    answer = sparring("scenarios", "generate", *arguments)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"sparring: error: {message}")


def test_a_store_takes_each_once_and_is_listed_and_shown(sparring: Run, tmp_path: Path) -> None:
    store = tmp_path / "scenarios.db"
    arguments = ("scenarios", "generate", "--family", "haggle", "--count", 3, "--store", store)
    assert "3 new scenarios in split train, 0 were there; 3 in all" in sparring(*arguments).stderr
    again = sparring(*arguments)
    assert "0 new scenarios in split train, 3 were there; 3 in all" in again.stderr
    assert again.stdout == ""
    listed = json.loads(sparring("scenarios", "list", store, "--json").stdout)
    assert listed["scenarios"] == sum(row["count"] for row in listed["strata"]) == 3
    assert "3 scenarios" in sparring("scenarios", "list", store).stdout
    wanted = next(series("haggle", 1))
    assert sparring("scenarios", "show", store, "--id", wanted.id, "--json").stdout_bytes == canonical(wanted) + b"\n"
    assert (
        sparring("scenarios", "show", store).stderr
        == f"sparring: error: {store} is a scenario store: name the scenario with --id\n"
    )


def test_a_store_that_is_not_there_is_not_made(sparring: Run, tmp_path: Path) -> None:
    answer = sparring("scenarios", "list", tmp_path / "none.db")
    assert answer.exit_code == 2
    assert "does not exist" in answer.stderr
    assert list(tmp_path.iterdir()) == []


# list and show


def test_families_are_listed(sparring: Run) -> None:
    plain, families = sparring("scenarios", "list").stdout, json.loads(sparring("scenarios", "list", "--json").stdout)
    assert [family["family"] for family in families] == [*registry.names(), *registry.contests()]
    assert [family["decided_by"] for family in families] == ["referee"] * 4 + ["judge"] * 4
    for family in families:
        assert family["family"] in plain
        assert family["unseen_partner"] in family["scripts"]
        assert set(family["tags"]) == set(family["skins"])


@pytest.mark.parametrize("family", registry.names())
def test_a_scenario_is_shown_as_its_seats_read_it(sparring: Run, family: str) -> None:
    scenario = registry.get(family).generate(5)
    shown = sparring("scenarios", "show", "--family", family, "--seed", 5).stdout
    assert scenario.id in shown
    assert "winnable by " in shown
    assert all(seat.instructions in shown for seat in scenario.seats)


@pytest.mark.parametrize("contest", registry.contests())
def test_a_contest_is_generated_by_name_and_shown_without_a_winner(sparring: Run, contest: str) -> None:
    scenario = registry.get(contest).generate(5)
    shown = sparring("scenarios", "show", "--family", contest, "--seed", 5).stdout
    assert scenario.id in shown
    assert "judged: no certificate" in shown
    assert "winnable" not in shown
    lines = sparring("scenarios", "generate", "--family", contest, "--count", 6).stdout_bytes.splitlines()
    assert lines[5] == canonical(scenario)


def test_a_line_of_a_file_is_shown(sparring: Run, tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_bytes(b"".join(canonical(scenario) + b"\n" for scenario in series("split", 2)) + b'{"family": 3}\n')
    second = list(series("split", 2))[1]
    assert sparring("scenarios", "show", path, "--line", 2, "--json").stdout_bytes == canonical(second) + b"\n"
    broken = sparring("scenarios", "show", path, "--line", 3)
    assert broken.exit_code == 2
    assert broken.stderr.startswith(f"sparring: error: {path}, line 3: not a scenario: ")
    assert sparring("scenarios", "show", path, "--line", 9).stderr == f"sparring: error: {path} has 3 lines, not 9\n"
    assert sparring("scenarios", "show").exit_code == 2


# referee


def test_the_verdict_as_the_contract_writes_it(sparring: Run, tmp_path: Path) -> None:
    path = tmp_path / "game.json"
    path.write_text(transcript())
    answer = sparring("scenarios", "referee", path, "--json")
    assert answer.exit_code == 0
    outcomes = replay(SCENARIO, TURNS).outcome()
    assert outcomes is not None
    verdict = json.loads(answer.stdout)
    assert verdict["ended"] is True
    assert list(verdict["outcomes"]) == list(SCENARIO.seat_names)
    for seat, outcome in outcomes.items():
        assert verdict["outcomes"][seat] == {
            "verdict": outcome.verdict,
            "reward": outcome.reward,
            "score": outcome.score,
            "reason": outcome.reason,
            "evidence": [{"turn": e.turn, "start": e.start, "end": e.end} for e in outcome.evidence],
        }
    assert sparring("scenarios", "referee", "-", "--json", input=transcript()).stdout == answer.stdout
    table = sparring("scenarios", "referee", path).stdout
    assert "DEAL_PRICE: 60" in table


def test_a_game_that_goes_on_has_no_verdict(sparring: Run) -> None:
    assert json.loads(sparring("scenarios", "referee", "-", "--json", input=transcript(TURNS[:1])).stdout) == {
        "ended": False,
        "outcomes": {},
    }
    assert "goes on after 1 turns" in sparring("scenarios", "referee", "-", input=transcript(TURNS[:1])).stdout


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"turns": []}', "missing required field `scenario`"),
        (transcript([Turn("nobody", "hello")]), "$.turns[0]"),
        (transcript([*TURNS, TURNS[0]]), "$.turns[2]"),
        (transcript().replace('"seat": ', '"seatt": ', 1), "$.turns[0]"),
        (transcript().replace('"haggle"', '"chess"'), "$.scenario"),
        ('{"scenario": {"public": {"a": ' + "[" * 100_000, "nested too deeply"),
        ('"\ud800"', "not a transcript"),
    ],
)
def test_malformed_input_is_one_line_that_says_where(sparring: Run, text: str, place: str) -> None:
    answer = sparring("scenarios", "referee", "-", "--json", input=text.encode("utf-8", "surrogatepass"))
    assert (answer.exit_code, answer.stdout) == (2, "")
    (line,) = answer.stderr.splitlines()
    assert line.startswith("sparring: error: ")
    assert place in line


@settings(max_examples=25)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_input_is_a_crash(data: bytes) -> None:
    answer = CliRunner().invoke(app, ["scenarios", "referee", "-"], input=data)
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1


def test_a_file_that_is_not_there(sparring: Run, tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    assert sparring("scenarios", "referee", path).stderr == f"sparring: error: {path}: No such file or directory\n"


# recheck


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one game."""
    outcomes = replay(SCENARIO, TURNS).outcome()
    assert outcomes is not None
    players = dict.fromkeys(SCENARIO.seat_names, "policy")
    game = Game(
        id="0/0/0", scenario=SCENARIO, players=players, turns=tuple(TURNS), outcomes=outcomes, trajectories=(), seconds=0.1
    )
    with RunFolder.create(tmp_path / "run", "") as folder:
        folder.database.record([game])
    return tmp_path / "run"


def test_a_sound_run_is_rechecked(sparring: Run, run: Path) -> None:
    before = hashlib.sha256((run / "run.db").read_bytes()).hexdigest()
    answer = sparring("scenarios", "recheck", run)
    assert (answer.exit_code, answer.stdout) == (0, "1 games refereed again, 0 came out differently\n")
    assert json.loads(sparring("scenarios", "recheck", run, "--json").stdout) == {"games": 1, "discrepancies": []}
    assert hashlib.sha256((run / "run.db").read_bytes()).hexdigest() == before


def test_a_verdict_that_differs_is_exit_code_1(sparring: Run, run: Path) -> None:
    database = sqlite3.connect(run / "run.db")
    database.execute("UPDATE turns SET text = 'DEAL_PRICE: 61' WHERE turn = 1")
    database.commit()
    database.close()
    answer = sparring("scenarios", "recheck", run)
    assert answer.exit_code == 1
    assert "1 came out differently\n  train step 0, game 0/0/0: another outcome for" in answer.stdout
    told = sparring("scenarios", "recheck", run, "--json")
    assert told.exit_code == 1
    assert len(json.loads(told.stdout)["discrepancies"]) == 1


def test_a_folder_that_is_no_run(sparring: Run, tmp_path: Path) -> None:
    answer = sparring("scenarios", "recheck", tmp_path)
    assert answer.exit_code == 2
    assert "holds no run" in answer.stderr
