"""The scenario store: once by content, queryable, deterministic, safe with company, clear about a file that is not its own."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from sparring.scenarios import registry
from sparring.scenarios.errors import StoreError
from sparring.scenarios.scenario import Scenario
from sparring.scenarios.store import ScenarioStore


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return [registry.get("haggle").generate(seed) for seed in range(40)]


@pytest.fixture
def store(tmp_path: Path) -> ScenarioStore:
    return ScenarioStore(tmp_path / "scenarios.db")


def retagged(scenario: Scenario, **tags: str) -> Scenario:
    return msgspec.structs.replace(scenario, tags=msgspec.structs.replace(scenario.tags, **tags))


def test_add_is_idempotent_and_content_addressed(store: ScenarioStore, scenarios: list[Scenario]) -> None:
    assert store.add(scenarios, "train") == 40
    assert store.add(scenarios, "train") == 0
    assert store.add([msgspec.structs.replace(scenarios[0], seed=999)], "train") == 0  # the same game under another seed
    assert len(store) == 40
    assert scenarios[3].id in store
    assert "0" * 16 not in store
    assert store.get(scenarios[3].id) == scenarios[3]
    assert store.split_of(scenarios[3].id) == "train"


def test_scenarios_survive_reopening(tmp_path: Path, scenarios: list[Scenario]) -> None:
    with ScenarioStore(tmp_path / "s.db") as store:
        store.add(scenarios, "train")
    with ScenarioStore(tmp_path / "s.db", read_only=True) as store:
        assert sorted(s.id for s in store.select()) == sorted(s.id for s in scenarios)
        with pytest.raises(StoreError, match="readonly"):
            store.add([registry.get("haggle").generate(77)], "train")


def test_a_held_out_scenario_cannot_enter_training(store: ScenarioStore, scenarios: list[Scenario]) -> None:
    store.add(scenarios[:1], "seed")
    with pytest.raises(StoreError, match=f"{scenarios[0].id} is in split 'seed'"):
        store.add(scenarios, "train")
    assert len(store) == 1  # all or nothing


def test_order_is_that_of_the_content(tmp_path: Path, scenarios: list[Scenario]) -> None:
    orders = []
    for number, given in enumerate((scenarios, scenarios[::-1])):
        store = ScenarioStore(tmp_path / f"{number}.db")
        for scenario in given:
            store.add([scenario], "train")
        orders.append([s.id for s in store.select()])
        assert [s.id for s in store.select(limit=5)] == orders[-1][:5]
    assert orders[0] == orders[1] == sorted(orders[0])


def test_select_and_count_by_columns(store: ScenarioStore, scenarios: list[Scenario]) -> None:
    store.add(scenarios[:30], "train")
    store.add([retagged(s, context="family", resource="love") for s in scenarios[30:]], "seed")
    assert store.count(split="seed", context="family") == 10
    assert store.count(split=("seed", "train"), resource="love") == 10
    assert store.count(context="nowhere") == 0
    assert {s.id for s in store.select(seed=scenarios[4].seed)} == {scenarios[4].id}
    skins = Counter((s.skin,) for s in scenarios)
    assert store.strata(("skin",)) == dict(sorted(skins.items()))
    with pytest.raises(StoreError, match="cannot be chosen by 'body; DROP TABLE scenarios'"):
        store.count(**{"body; DROP TABLE scenarios": "x"})


def test_stratified_is_even_seeded_and_fills_from_what_there_is(store: ScenarioStore, scenarios: list[Scenario]) -> None:
    mixed = [retagged(s, context="rare" if i < 2 else ("work", "market")[i % 2]) for i, s in enumerate(scenarios)]
    store.add(mixed, "train")
    drawn = store.stratified(20, by=("context",), seed=3)
    assert Counter(s.tags.context for s in drawn) == {"rare": 2, "work": 9, "market": 9}
    assert len({s.id for s in drawn}) == 20
    assert drawn == store.stratified(20, by=("context",), seed=3)
    assert {s.id for s in drawn} != {s.id for s in store.stratified(20, by=("context",), seed=4)}
    assert len(store.stratified(40, by=("context", "skin"))) == 40
    with pytest.raises(StoreError, match="has 40 such scenarios, not 41"):
        store.stratified(41)
    with pytest.raises(StoreError, match="cannot be chosen by 'colour'"):
        store.stratified(1, by=("colour",))


def test_missing_scenario_and_unknown_split(store: ScenarioStore, scenarios: list[Scenario]) -> None:
    with pytest.raises(StoreError, match="has no scenario beef"):
        store.get("beef")
    with pytest.raises(StoreError, match="has no scenario beef"):
        store.split_of("beef")
    with pytest.raises(StoreError, match="no split is called 'test'"):
        store.add(scenarios, "test")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="does not fit 64 bits"):
        store.add([msgspec.structs.replace(scenarios[0], seed=2**63)], "train")


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text, other, newer = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "newer.db"
    text.write_text("not a database, but long enough to be read as the header of one\n" * 10)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()
    ScenarioStore(newer).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = {path: path.read_bytes() for path in (text, other, newer)}
    for path, message in (
        (text, "not a usable SQLite"),
        (other, "another program"),
        (newer, "schema version 99.*update sparring"),
    ):
        with pytest.raises(StoreError, match=message):
            ScenarioStore(path)
        assert path.read_bytes() == before[path]
    with pytest.raises(StoreError, match="does not exist"):
        ScenarioStore(tmp_path / "missing.db", read_only=True)
    with pytest.raises(StoreError, match="check the path, its permissions"):
        ScenarioStore(tmp_path / "no" / "such" / "folder.db")


def test_damage_is_found_when_read(store: ScenarioStore, scenarios: list[Scenario]) -> None:
    store.add(scenarios[:2], "train")
    first, second = sorted(s.id for s in scenarios[:2])
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE scenarios SET body = replace(body, '\"seed\":', '\"sead\":') WHERE id = ?", (first,))
        connection.execute("UPDATE scenarios SET body = replace(body, 'limit', 'limix') WHERE id = ?", (second,))
    connection.close()
    for scenario_id, message in ((first, "cannot be read"), (second, "holds the content of")):
        with pytest.raises(StoreError, match=message):
            store.get(scenario_id)


def test_a_truncated_file_is_an_error_with_its_name(tmp_path: Path, scenarios: list[Scenario]) -> None:
    path = tmp_path / "s.db"
    with ScenarioStore(path) as store:
        store.add(scenarios, "train")
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(StoreError, match=r"s\.db"), ScenarioStore(path) as store:
        list(store.select())


WRITER = """
import sys
from sparring.scenarios import registry
from sparring.scenarios.store import ScenarioStore
haggle = registry.get("haggle")
with ScenarioStore(sys.argv[1]) as store:
    for seed in range(int(sys.argv[2]), int(sys.argv[2]) + 30):
        store.add([haggle.generate(seed)], "train")
        assert len(list(store.select(limit=3))) > 0
"""


def test_several_processes_make_and_fill_one_store(tmp_path: Path) -> None:
    """All start on a file that does not exist yet, with overlapping seeds."""
    source = Path(__file__).resolve().parents[2] / "src"
    command = [sys.executable, "-c", WRITER, str(tmp_path / "shared.db")]
    writers = [
        subprocess.Popen([*command, str(start)], env={"PYTHONPATH": str(source)}, stderr=subprocess.PIPE) for start in (0, 15, 30)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors.decode()
    haggle = registry.get("haggle")
    with ScenarioStore(tmp_path / "shared.db") as store:
        assert {s.id for s in store.select()} == {haggle.generate(seed).id for seed in range(60)}
