"""The families of a run: the registry's, contests with the topics of a user's files beside their own.

Reading and checking a file of topics is `scenarios/contests/topics.py`'s. A run keeps a copy of each file in its folder, so that
it goes on with the same topics whatever becomes of the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.contests.topics import read_topics
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Family

TOPICS = "topics-"
"""How the names of a run's own files of topics begin."""


def find_family(name: str, topics: Mapping[str, str] | None = None) -> Family[Any, Any]:
    """The family or contest called `name`; `topics` are paths of files of topics, by contest.

    Raises `ScenarioError` for a name that nobody has, and for a file that does not fit, with file, entry and field.

    Example:
        >>> find_family("debate", {"debate": "my-debate.toml"}).generate(7)
    """
    path = (topics or {}).get(name)
    if path is None:
        return registry.get(name)
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise ScenarioError(f"cannot read the topics in {path}: {error.strerror}") from error
    return _extended(name, path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))


def find_contest(name: str, topics: Mapping[str, str] | None = None) -> Contest[Any, Any]:
    """As `find_family`. Raises `ScenarioError` for a family that a referee decides, too."""
    contest = find_family(name, topics)
    if not isinstance(contest, Contest):
        raise ScenarioError(f"{name} is no contest, and has no topics: choose from {', '.join(registry.contests())}")
    return contest


def keep_topics(topics: Mapping[str, str], folder: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Where the files of topics lie once the run's folder holds them, by contest, and what is to be written there, by name."""
    names = {contest: f"{TOPICS}{contest}.toml" for contest in topics}
    paths = {contest: str((folder / name).absolute()) for contest, name in names.items()}
    return paths, {names[contest]: Path(path).read_bytes() for contest, path in topics.items()}


@lru_cache(maxsize=64)
def _extended(name: str, path: str, stamp: tuple[int, ...]) -> Family[Any, Any]:
    """One object for a file as it is now: reading it compares every topic with every other one."""
    contest = find_contest(name)
    return contest.with_topics(read_topics(Path(path), contest.topic_type, contest.all_topics, contest.skins))
