"""Options that several commands share, and the settings that they add up to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sparring.engine.config import RunConfig

DEFAULT_PRESET, CONTEST_PRESET = "demo", "demo-debate"
GAMES = "games"
"""The task of all families that a referee decides."""

PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help=f"Settings that ship with the package; where there is no --config either, {DEFAULT_PRESET}, or {CONTEST_PRESET} "
        "for contests.",
    ),
]
ConfigOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="Your own settings, over the preset's; several are read in order.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as learner.learning_rate=1e-3; repeatable."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="The run's seed.")]
IterationsOption = Annotated[int | None, typer.Option("--iterations", metavar="N", min=1, help="Steps: play, learn, publish.")]
AdapterOption = Annotated[
    Path | None,
    typer.Option("--adapter", metavar="DIR", help="The adapter to begin with, instead of a fresh one."),
]
GeneratorOption = Annotated[
    str | None,
    typer.Option(
        "--generator",
        metavar="auto|torch|vllm",
        help="What samples: vLLM, the embedded torch, or auto, which takes vLLM where it is usable (`sparring doctor` tells).",
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="NAME[,NAME]",
        help="What to play: games (all four), debate, debate_rounds, comedy, recipes, or families by name.",
    ),
]
PartnerOption = Annotated[
    list[str] | None,
    typer.Option("--partner", metavar="SPEC", help="Who sits across, if anybody: scripts, base, gpt-4o, ...; repeatable."),
]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option("--judge", metavar="SPEC", help="Who judges contests: embedded, gpt-4o-mini, ...; several are a panel."),
]
EvaluationJudgeOption = Annotated[
    str | None,
    typer.Option("--evaluation-judge", metavar="SPEC", help="Who judges the evaluation: best of another maker than --judge."),
]
CompareOption = Annotated[
    str | None,
    typer.Option("--compare", metavar="SPEC", help="Whose contest entries evaluation compares with: base, or a model."),
]
TopicsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--topics",
        metavar="[CONTEST=]FILE",
        help="Further topics of the contest that is played, as `sparring scenarios author` writes them; repeatable.",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option("--budget", metavar="DOLLARS", min=0, help="What calls of models may cost in all: the run ends before that."),
]
RecordOption = Annotated[
    Path | None, typer.Option("--record", metavar="FILE", help="Keep every call and its answer in this cassette.")
]
ReplayOption = Annotated[
    Path | None, typer.Option("--replay", metavar="FILE", help="Answer every call from this cassette: no network, no keys.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def examples(*lines: str) -> str:
    """What stands under a command's help, one line each."""
    return "Examples:\n\n" + "\n".join(f"- `{line}`" for line in lines)


def load_settings(
    preset: str | None,
    configs: list[Path] | None,
    sets: list[str] | None,
    options: dict[str, Any] | None = None,
    *,
    default: str = DEFAULT_PRESET,
) -> RunConfig:
    """The settings that the options ask for; `options` holds dotted keys with values that win over all else, `None` left out.
    `default` is the preset where neither one nor a file is given.

    Raises `ConfigError`.
    """
    from sparring.engine.config import load_run_config

    sources: list[str | Path] = [] if preset is None and configs else [preset or default]
    given = {key: value for key, value in (options or {}).items() if value is not None}
    overrides = [*(sets or ()), *(f"{key}={_toml(value)}" for key, value in given.items())]
    return load_run_config(*sources, *(configs or ()), overrides=overrides)


def contest_settings(
    *,
    task: str | None = None,
    topics: list[str] | None = None,
    partner: list[str] | None = None,
    judge: list[str] | None = None,
    evaluation_judge: str | None = None,
    compare: str | None = None,
    budget: float | None = None,
    record: Path | None = None,
    replay: Path | None = None,
) -> dict[str, Any]:
    """What the options about tasks and models elsewhere mean as settings, by dotted key. Raises `ConfigError`."""
    from sparring.engine.errors import ConfigError

    if record is not None and replay is not None:
        raise ConfigError("--record and --replay name one cassette's two uses: give one of them")
    cassette = record or replay
    return {
        "families": families_of(task),
        **{f"contest_topics.{name}": Toml(json.dumps(path)) for name, path in _topics(topics or [], task).items()},
        "partners": partner or None,
        "judging.judges": Toml("[" + ", ".join(f"{{model = {json.dumps(one)}}}" for one in judge) + "]") if judge else None,
        "judging.evaluation_judge": evaluation_judge,
        "judging.comparison": compare,
        "remote.budget": budget,
        "remote.cassette": None if cassette is None else str(cassette),
        "remote.cassette_mode": None if cassette is None else "record" if record else "replay",
    }


def _topics(given: list[str], task: str | None) -> dict[str, str]:
    """Files of topics by contest. Raises `ConfigError` where a file does not say which contest it is for."""
    from sparring.engine.errors import ConfigError
    from sparring.scenarios import registry

    contests = [family for family in families_of(task) or () if family in registry.contests()]
    found: dict[str, str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or name not in registry.contests():
            if len(contests) != 1:
                raise ConfigError(f"--topics {one}: for which contest? Name one with --task, or write CONTEST=FILE")
            name, path = contests[0], one
        found[name] = path
    return found


def families_of(task: str | None) -> list[str] | None:
    """The families that a task names; `None` where it names none. A name that nobody has is the settings' to refuse."""
    if task is None:
        return None
    from sparring.scenarios import registry

    return [family for name in task.split(",") for family in (registry.names() if name == GAMES else (name.strip(),))]


def preset_for(task: str | None) -> str:
    """The preset of a run that names none: contests need a model that can write."""
    from sparring.scenarios import registry

    return CONTEST_PRESET if set(families_of(task) or ()) & set(registry.contests()) else DEFAULT_PRESET


class Toml(str):
    """A value that is TOML already."""


def _toml(value: Any) -> str:
    """A value as TOML; JSON's lists, booleans and numbers are TOML's."""
    return value if isinstance(value, str) else json.dumps(value)
