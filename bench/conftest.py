"""What every benchmark stands on: one thread that does not spin, the `rounds` to time with, and a table of rates at the end."""

from __future__ import annotations

import os

# Set before anything imports torch: on two cores, tiny models are fastest on one thread that does not spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.utils import load_timer

from sparring.bench.rounds import Figures, Rounds
from sparring.bench.workload import Workload

TABLE = pytest.StashKey[list[Figures]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--model", default="tiny", help="the model to measure with: a local folder, or the one that ships")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = []


@pytest.fixture
def rounds(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Rounds:
    timer = load_timer(request.config.getoption("benchmark_timer")).target  # type: ignore[no-untyped-call]
    return Rounds(benchmark, timer, request.node.name.removeprefix("test_"), request.config.stash[TABLE])


@pytest.fixture(scope="session")
def workload(request: pytest.FixtureRequest) -> Iterator[Workload]:
    found = Workload(request.config.getoption("model"), quick=request.config.getoption("benchmark_disable"))
    yield found
    found.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A line per benchmark: the median round, and what it amounts to."""
    table = config.stash[TABLE]
    for group in dict.fromkeys(figures.group for figures in table):
        terminalreporter.section(group)
        for figures in table:
            if figures.group == group:
                terminalreporter.write_line(f"{figures.name:<40} {1000 * figures.seconds:>9,.1f} ms  {'; '.join(figures.notes)}")
