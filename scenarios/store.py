"""`ScenarioStore`: scenarios in one SQLite file, each once by content hash, with its split and queryable tags.

Safe with several readers and writers: WAL, a busy timeout, one transaction for each call that writes. A store object belongs
to the thread that made it; others open their own. Generating instances is the families' business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any, Self

from sparring.scenarios.database import connect, explained, transaction
from sparring.scenarios.errors import ScenarioError, StoreError
from sparring.scenarios.family import SPLITS, Split
from sparring.scenarios.scenario import Scenario, canonical, load_scenario

APPLICATION_ID = 0x53505343
"""Marks a file as a scenario store ("SPSC")."""
SCHEMA_VERSION = 1
COLUMNS = ("family", "skin", "split", "seed", "theory", "interdependence", "relation", "resource", "context")
"""What rows can be selected, counted and stratified by."""


class ScenarioStore:
    """The scenarios of one database file.

    Example:
        >>> with ScenarioStore("scenarios.db") as store:
        ...     store.add((registry.get("haggle").generate(seed) for seed in range(1000)), split="train")
        ...     held_out = store.stratified(400, by=("family", "relation"), split="seed")
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        """Opens the file, making it where there is none. Raises `StoreError` for one that is not a scenario store."""
        self.path = Path(path)
        with self._explained("open"):
            schema = Path(__file__).with_name("schema.sql")
            version = SCHEMA_VERSION
            self._db = connect(self.path, schema, application=APPLICATION_ID, version=version, read_only=read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count()

    def __contains__(self, scenario_id: object) -> bool:
        with self._explained("read"):
            return self._db.execute("SELECT 1 FROM scenarios WHERE id = ?", (scenario_id,)).fetchone() is not None

    def close(self) -> None:
        self._db.close()

    def add(self, scenarios: Iterable[Scenario], split: Split) -> int:
        """Stores what is not there yet, all or nothing, and returns how many that were; a second time changes nothing.

        Raises `StoreError` where a scenario is in another split already: held-out instances must not leak into training.
        """
        if split not in SPLITS:
            raise StoreError(f"no split is called {split!r}: choose from {', '.join(SPLITS)}")
        rows = [_row(scenario, split) for scenario in scenarios]
        with self._explained("write"), transaction(self._db):
            return sum(self._insert(row, split) for row in rows)

    def get(self, scenario_id: str) -> Scenario:
        """The scenario with that content hash. Raises `StoreError` for one that is not here."""
        with self._explained("read"):
            row = self._db.execute("SELECT id, body FROM scenarios WHERE id = ?", (scenario_id,)).fetchone()
        if row is None:
            raise StoreError(f"{self.path} has no scenario {scenario_id}: list what there is with `sparring scenarios list`")
        return self._read(row)

    def split_of(self, scenario_id: str) -> Split:
        """The split of a stored scenario. Raises `StoreError` for one that is not here."""
        with self._explained("read"):
            row = self._db.execute("SELECT split FROM scenarios WHERE id = ?", (scenario_id,)).fetchone()
        if row is None:
            raise StoreError(f"{self.path} has no scenario {scenario_id}")
        split: Split = row[0]
        return split

    def select(self, *, limit: int | None = None, **where: str | int | Sequence[str]) -> Iterator[Scenario]:
        """Scenarios whose columns (`COLUMNS`) have the given value, or one of several; by family, split and hash.

        The order does not depend on when a scenario came in. Raises `StoreError` for a column that does not exist.

        Example:
            >>> list(store.select(family=("haggle", "split"), split="train", relation="market pricing", limit=10))
        """
        clause, values = _where(where)
        query = f"SELECT id, body FROM scenarios{clause} ORDER BY family, split, id LIMIT ?"
        with self._explained("read"):
            rows = self._db.execute(query, (*values, -1 if limit is None else limit)).fetchall()
        return (self._read(row) for row in rows)

    def count(self, **where: str | int | Sequence[str]) -> int:
        """How many scenarios `select` would give."""
        clause, values = _where(where)
        with self._explained("read"):
            found: int = self._db.execute(f"SELECT count(*) FROM scenarios{clause}", values).fetchone()[0]
        return found

    def strata(self, by: Sequence[str], **where: str | int | Sequence[str]) -> dict[tuple[str, ...], int]:
        """How many scenarios each combination of the columns `by` has, in sorted order."""
        columns, (clause, values) = ", ".join(_column(name) for name in by), _where(where)
        query = f"SELECT {columns}, count(*) FROM scenarios{clause} GROUP BY {columns} ORDER BY {columns}"
        with self._explained("read"):
            return {tuple(row[:-1]): row[-1] for row in self._db.execute(query, values)}

    def stratified(
        self, count: int, *, by: Sequence[str] = ("family",), seed: int = 0, **where: str | int | Sequence[str]
    ) -> list[Scenario]:
        """`count` scenarios spread as evenly over the combinations of `by` as there are enough of each; drawn by `seed`.

        Raises `StoreError` where fewer than `count` match.
        """
        columns, (clause, values) = ", ".join(_column(name) for name in by), _where(where)
        with self._explained("read"):
            rows = self._db.execute(f"SELECT id, {columns} FROM scenarios{clause} ORDER BY {columns}, id", values).fetchall()
        if len(rows) < count:
            raise StoreError(f"{self.path} has {len(rows)} such scenarios, not {count}: generate more or ask for fewer")
        pools: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for scenario_id, *stratum in rows:
            pools[tuple(stratum)].append(scenario_id)
        return [self.get(scenario_id) for scenario_id in _draw_evenly(pools, count, seed)]

    def _insert(self, row: tuple[Any, ...], split: Split) -> int:
        statement = f"INSERT INTO scenarios VALUES ({', '.join('?' * len(row))}) ON CONFLICT (id) DO NOTHING"
        if self._db.execute(statement, row).rowcount == 1:
            return 1
        held = self._db.execute("SELECT split FROM scenarios WHERE id = ?", row[:1]).fetchone()[0]
        if held != split:
            raise StoreError(f"scenario {row[0]} is in split {held!r} of {self.path} already and cannot join {split!r}")
        return 0

    def _read(self, row: tuple[str, bytes]) -> Scenario:
        try:
            scenario = load_scenario(row[1])
        except ScenarioError as error:
            raise StoreError(f"{self.path} is damaged: scenario {row[0]} cannot be read ({error}); generate it again") from error
        if scenario.id != row[0]:
            raise StoreError(f"{self.path} is damaged: scenario {row[0]} holds the content of {scenario.id}; generate it again")
        return scenario

    def _explained(self, verb: str) -> AbstractContextManager[None]:
        hint = "check the path, its permissions and the free space"
        return explained(StoreError, f"{verb} the scenario store {self.path}", hint)


def _row(scenario: Scenario, split: Split) -> tuple[Any, ...]:
    if not -(2**63) <= scenario.seed < 2**63:
        raise StoreError(f"seed {scenario.seed} of scenario {scenario.id} does not fit 64 bits: give it a smaller one")
    tags = scenario.tags
    axes = (tags.theory, tags.interdependence, tags.relation, tags.resource, tags.context)
    return (scenario.id, scenario.family, scenario.skin, split, scenario.seed, *axes, canonical(scenario))


def _column(name: str) -> str:
    if name not in COLUMNS:
        raise StoreError(f"scenarios cannot be chosen by {name!r}: choose from {', '.join(COLUMNS)}")
    return name


def _where(where: Mapping[str, str | int | Sequence[str]]) -> tuple[str, list[str | int]]:
    """The SQL condition and its values; only known column names reach the text."""
    terms: list[str] = []
    values: list[str | int] = []
    for name, wanted in where.items():
        several = [wanted] if isinstance(wanted, (str, int)) else list(wanted)
        terms.append(f"{_column(name)} IN ({', '.join('?' * len(several))})")
        values += several
    return (" WHERE " + " AND ".join(terms) if terms else ""), values


def _draw_evenly(pools: Mapping[tuple[str, ...], list[str]], count: int, seed: int) -> list[str]:
    """One from each pool in turn, in a seeded order, until there are `count`; an empty pool leaves its share to the others."""
    rng = Random(f"sparring/stratified/{seed}")
    shuffled = [rng.sample(ids, len(ids)) for _, ids in sorted(pools.items())]
    drawn: list[str] = []
    while len(drawn) < count:
        for ids in rng.sample(shuffled, len(shuffled)):
            if ids and len(drawn) < count:
                drawn.append(ids.pop())
    return drawn
