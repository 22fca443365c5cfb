"""`sparring report` on a run that was really trained: the page has its figures, and so has the JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Run = Callable[..., Result]


def test_the_page_of_a_trained_run(sparring: Run, short: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert sparring("train", "--output-dir", folder, *short, "--quiet").exit_code == 0
    summary = json.loads((folder / "summary.json").read_bytes())
    done = sparring("report", folder)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split() == [str(folder / "report.html")]
    page = (folder / "report.html").read_text(encoding="utf-8")
    evaluation = summary["evaluation"]
    assert f"{evaluation['trained']['win_rate']:.1%} of {evaluation['trained']['games']} games won" in page
    assert "2 of 2 steps" in page
    for title in ("Games won, in training", "Entropy (nats)", "Gradient norm", "Games per hour"):
        assert f"<figcaption>{title}</figcaption><svg" in page
    assert "values shuffled (control)" in page
    assert "<mark>" in page
    assert "<script" not in page

    facts = json.loads(sparring("report", folder, "--json").stdout)
    assert facts["steps"] == facts["iterations"] == 2
    assert facts["evaluation"]["trained"] == evaluation["trained"]
    assert {"learn/entropy", "play/win_rate"} <= {figure["name"] for figure in facts["figures"]}


def test_a_folder_without_a_run_is_one_line(sparring: Run, tmp_path: Path) -> None:
    answer = sparring("report", tmp_path)
    assert answer.exit_code == 2
    assert answer.stderr.startswith(f"sparring: error: {tmp_path} holds no run")
