"""`write_report`: a run's folder as one page to look at: `report.html`, which loads nothing and runs nothing.

Owns the rendering. What is said is `facts.py`'s, how it stands on the page `page.html`'s and `page.css`'s.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from sparring.engine.report.curves import curves
from sparring.engine.report.facts import Facts, Reading, gather, read
from sparring.engine.report.markup import seen
from sparring.engine.run.folder import RunFolder

REPORT = "report.html"


def write_report(folder: Path) -> Path:
    """Writes the page of the run in `folder` into it, also while the run goes on or after it was killed; returns where it lies.

    Raises `RunError` where there is no run, its database is damaged, or the page cannot be written.

    Example:
        >>> write_report(Path("runs/demo"))
        PosixPath('runs/demo/report.html')
    """
    with RunFolder.read(folder) as run:
        return run.write(REPORT, render(gather(run), read(run)).encode())


def render(facts: Facts, reading: Reading) -> str:
    """The page. Everything that a model or a stranger wrote is escaped; only the charts, which are our own, are markup."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seen": seen, "percent": percent, "points": points, "short": short}
    return environment.get_template("page.html").render(
        facts=facts,
        reading=reading,
        charts=[(chart.title, Markup(chart.svg), chart.text) for chart in curves(reading.metrics)],
        css=Markup((here / "page.css").read_text(encoding="utf-8")),
    )


def percent(share: float) -> str:
    return f"{share:.1%}"


def points(difference: float) -> str:
    """A difference of shares, in points."""
    return f"{100 * difference:+.1f}"


def short(value: float | None) -> str:
    """A figure in four digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
