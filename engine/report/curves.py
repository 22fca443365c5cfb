"""Metrics over steps as inline SVG: which metrics share a chart, and how it is drawn.

Text stays text in the SVG, nothing is loaded from elsewhere, and the same metrics give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sparring.engine.report.markup import seen

Metrics = Mapping[int, Mapping[str, float]]
"""A run's metrics: step, then name."""

MAX_LINES = 8
"""More lines in one chart cannot be told apart."""
COLOURS = ("#2563ae", "#c2591b", "#2e7d4f", "#8a3d8f", "#a08000", "#2a8a99", "#b03a54", "#5b6470")
STYLE: dict[str, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a929c",
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.6,
    "xtick.color": "#4a525c",
    "ytick.color": "#4a525c",
}


@dataclass(frozen=True)
class Chart:
    """Which metrics go into one chart: patterns of names. A share is shown in percent, from 0 to 100 where it stays inside."""

    title: str
    patterns: tuple[str, ...]
    share: bool = False
    band: tuple[str, ...] = ()
    """Two of the metrics that are the ends of an interval."""


CHARTS = (
    Chart("Games won, in training", ("play/win_rate", "play/win_rate/*"), share=True),
    Chart(
        "Held-out win rate, with its interval",
        ("evaluate/win_rate", "evaluate/low", "evaluate/high"),
        share=True,
        band=("evaluate/low", "evaluate/high"),
    ),
    Chart("Mean score and reward", ("play/mean_score", "learn/reward_mean", "learn/reward_mean/*")),
    Chart("Ratings of the population", ("population/rating/*",)),
    Chart("Judges: places, flips and length", ("judge/first_wins", "judge/flips", "judge/longer_wins", "judge/ties"), share=True),
    Chart("Judges' controls", ("judge/identical_ties", "judge/padded_wins", "judge/failed", "judge/dropped"), share=True),
    Chart("Format and reasoning of entries", ("judge/form", "judge/reasoning", "judge/empty", "evaluate/strict"), share=True),
    Chart("Invalid games", ("play/invalid_rate",), share=True),
    Chart("Void games", ("play/void", "play/failed")),
    Chart("Entropy (nats)", ("learn/entropy", "learn/entropy/*")),
    Chart("Divergence (nats)", ("learn/kl", "learn/kl/*", "learn/old_kl", "learn/old_kl/*")),
    Chart("Gradient norm", ("learn/grad_norm", "learn/grad_norm/*")),
    Chart("Groups", ("learn/groups", "learn/groups/*", "learn/dropped_groups", "learn/dropped_groups/*")),
    Chart("Tokens per second", ("play/tokens_per_second", "learn/tokens_per_second", "learn/tokens_per_second/*")),
    Chart("Games per hour", ("play/games_per_hour",)),
    Chart("Generator idle while games go on", ("play/idle",), share=True),
    Chart("Staleness (updates behind)", ("play/staleness_*",)),
    Chart("Generator against learner (|log-prob difference|)", ("learn/mismatch_mean", "learn/mismatch_mean/*")),
    Chart("Dollars spent, by this process", ("remote/cost",)),
    Chart("Latency of calls (s)", ("remote/p50", "remote/p99")),
)


@dataclass(frozen=True)
class Drawn:
    """A chart as markup, and what it shows in words."""

    title: str
    svg: str
    text: str


def curves(metrics: Metrics, charts: tuple[Chart, ...] = CHARTS) -> list[Drawn]:
    """The charts that have anything to show, each metric in the first chart that asks for it."""
    names = sorted({name for own in metrics.values() for name in own})
    found: list[Drawn] = []
    for chart in charts:
        mine = [name for pattern in chart.patterns for name in names if fnmatchcase(name, pattern)]
        mine = list(dict.fromkeys(mine))[:MAX_LINES]
        names = [name for name in names if name not in mine]
        lines = {seen(name): line for name in mine if (line := _line(metrics, name))}
        if lines:
            found.append(Drawn(chart.title, _draw(chart, lines), _words(lines)))
    return found


def _line(metrics: Metrics, name: str) -> list[tuple[int, float]]:
    return [(step, own[name]) for step, own in sorted(metrics.items()) if name in own and math.isfinite(own[name])]


def _words(lines: Mapping[str, list[tuple[int, float]]]) -> str:
    """The first and last value of every line, for who cannot see it."""
    return "; ".join(
        f"{name}: {line[0][1]:.4g} at step {line[0][0]}, {line[-1][1]:.4g} at step {line[-1][0]}" for name, line in lines.items()
    )


def _draw(chart: Chart, lines: Mapping[str, list[tuple[int, float]]]) -> str:
    style: Any = {**STYLE, "svg.hashsalt": chart.title}
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if chart.band and all(name in lines for name in chart.band):
            (steps, low), (_, high) = (zip(*lines[name], strict=True) for name in chart.band)
            axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
            lines = {name: line for name, line in lines.items() if name not in chart.band}
        for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
            steps, values = zip(*line, strict=True)
            marker = "o" if len(line) == 1 else None
            axes.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=4, label=_short(name, lines))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.set_xlabel("step", color="#4a525c")
        if chart.share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            if all(0 <= value <= 1 for line in lines.values() for _, value in line):
                axes.set_ylim(-0.02, 1.02)
        if len(lines) > 1:
            axes.legend(fontsize=8, frameon=False, loc="best")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """The drawing alone, with no id that nothing refers to: several drawings share one page."""
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    wanted = set(re.findall(r"[\"(]#([\w-]+)", svg))
    return re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in wanted else "", svg)


def _short(name: str, lines: Mapping[str, object]) -> str:
    """The name without what all lines of the chart begin with; the one that they all begin with is "all"."""
    parts = [other.split("/") for other in lines]
    common = sum(1 for _ in takewhile(lambda own: len(set(own)) == 1, zip(*parts, strict=False)))
    # Matplotlib takes a leading underscore for "not in the legend".
    return "/".join(name.split("/")[common:]).lstrip("_").replace("_", " ") or "all"
