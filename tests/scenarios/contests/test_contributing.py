"""The contest that CONTRIBUTING.md shows as an example is one that works as it stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sparring.scenarios import registry
from sparring.scenarios.contests import topics
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.family import SPLITS
from sparring.scenarios.game import GameState
from sparring.scenarios.outcome import Reason

CONTRIBUTING = Path(__file__).parents[3] / "CONTRIBUTING.md"
HEAD = """
import msgspec
from collections.abc import Sequence
from random import Random
from sparring.scenarios.contests.contest import FORMAT, Contest, Criterion, NoSecret, Task
from sparring.scenarios.contests.speakers import PARTNERS, UNSEEN, Material, speakers
from sparring.scenarios.contests.topics import load_topics
from sparring.scenarios.scenario import Tags

def _write(view, rng):
    points = tuple(f"{point}.".capitalize() for point in view.public.points)
    return Material(f"News: {view.public.story}.", points, "More soon.", "A tale.")

"""


@pytest.fixture
def headlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contest[Any, Any]:
    """The example, read from the document, over stories of this test."""
    (block,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(), re.DOTALL)
    (tmp_path / "headlines.py").write_text(HEAD + block)
    spec = importlib.util.spec_from_file_location("headlines", tmp_path / "headlines.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stories = [
        f'[[topics]]\ntext = "a goat number {n} on the bus"\npoints = ["it had a ticket", "it ate the map"]' for n in range(30)
    ]
    stories.append('[[topics]]\ntext = "a very long tale of one goat that took a bus"\npoints = ["it paid", "it slept"]')
    (tmp_path / "stories.toml").write_text("\n".join(stories))
    monkeypatch.setattr(topics, "DATA", tmp_path)
    made: Contest[Any, Any] = module.Headlines()
    monkeypatch.setitem(registry._contests(), made.name, made)
    return made


def test_the_contest_in_the_document_plays(headlines: Contest[Any, Any]) -> None:
    for split in SPLITS:
        scenario = headlines.generate(3, split)
        assert (scenario.skin == "gossip column") == (split == "skin")
        for script, strategy in headlines.strategies.items():
            game = GameState(scenario)
            game.submit("editor", strategy(game.view("editor"), Random(script)))
            outcome = game.outcome()
            assert outcome is not None and outcome["editor"].reason is Reason.UNJUDGED
    entry = headlines.entry(game, "editor")
    assert entry.brief.endswith("Points that support it: it had a ticket; it ate the map")
    assert entry.text.startswith("News: a goat number") and len(entry.text.split()) == 15
