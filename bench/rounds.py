"""`Rounds`: times a call in rounds, with what it is compared to timed in the same rounds, and keeps the figures for the table.

On a machine that does other work too, two calls timed one after the other differ by what the machine did meanwhile. Here each
round times every side once, and a ratio is the median over rounds. Owns no workload.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from pytest_benchmark.fixture import BenchmarkFixture

T = TypeVar("T")
Timer = Callable[[], float]


@dataclass(frozen=True)
class Figures:
    """What one benchmark found, in words: a line of the table."""

    group: str
    name: str
    seconds: float
    notes: list[str] = field(default_factory=list)


class Rounds:
    """One benchmark. `quick` asks for one pass over little work, which shows that it runs and nothing else.

    Example:
        >>> rounds.time(lambda: pack(games), beside={"unshared": lambda: pack(games, share_prefixes=False)})
        >>> rounds.rate(games=128)
        >>> rounds.compare()
    """

    def __init__(self, benchmark: BenchmarkFixture, timer: Timer, name: str, table: list[Figures]) -> None:
        self.quick: bool = benchmark.disabled
        self._benchmark, self._timer, self._name, self._table = benchmark, timer, name, table
        self._taken: list[float] = []
        self._beside: dict[str, list[float]] = {}

    def size(self, full: int, quick: int) -> int:
        """How much work: `full` where it is timed."""
        return quick if self.quick else full

    def time(
        self,
        work: Callable[[], T],
        *,
        rounds: int = 10,
        before: Callable[[], object] | None = None,
        beside: Mapping[str, Callable[[], object]] | None = None,
    ) -> T:
        """Runs `work` once to warm up and `rounds` times for the table, each time after the calls of `beside`.

        `before` precedes every one of these calls, untimed. Returns what `work` returned last.
        """
        others = dict(beside or {})
        self._beside = {name: [] for name in others}

        def setup() -> None:
            for name, other in others.items():
                self._clocked(other, before, self._beside[name])
            if before is not None:
                before()

        result: T = self._benchmark.pedantic(  # type: ignore[no-untyped-call]
            lambda: self._clocked(work, None, self._taken), setup=setup, rounds=rounds, warmup_rounds=1
        )
        for taken in (self._taken, *self._beside.values()):
            del taken[:-rounds]
        self._table.append(Figures(self._benchmark.group or "", self._name, self.seconds))
        return result

    @property
    def seconds(self) -> float:
        """Of the median round."""
        return median(self._taken)

    def seconds_beside(self, name: str) -> float:
        return median(self._beside[name])

    def rate(self, **counts: float) -> None:
        """Notes what a round did, as so many a second: `rate(games=64)`."""
        for unit, count in counts.items():
            self.note(f"{count / self.seconds:,.0f} {unit.replace('_', ' ')}/s", **{f"{unit}_per_second": count / self.seconds})

    def compare(self) -> None:
        """Notes how many times as long each other side took, the median over rounds."""
        for name, taken in self._beside.items():
            ratio = median(other / own for other, own in zip(taken, self._taken, strict=True))
            self.note(f"{name} {ratio:.2f} times as long", **{f"times {name}": ratio})

    def note(self, text: str, **values: float | str) -> None:
        """A figure for the table; `values` go into the JSON that pytest-benchmark writes."""
        self._table[-1].notes.append(text)
        self._benchmark.extra_info.update(values)

    def _clocked(self, work: Callable[[], T], before: Callable[[], object] | None, taken: list[float]) -> T:
        if before is not None:
            before()
        start = self._timer()
        result = work()
        taken.append(self._timer() - start)
        return result
