"""Options that several commands share, and the settings that they add up to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sparring.engine.config import RunConfig

DEFAULT_PRESET = "demo"

PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help=f"Settings that ship with the package; {DEFAULT_PRESET} where there is no --config either.",
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
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def examples(*lines: str) -> str:
    """What stands under a command's help, one line each."""
    return "Examples:\n\n" + "\n".join(f"- `{line}`" for line in lines)


def load_settings(
    preset: str | None, configs: list[Path] | None, sets: list[str] | None, options: dict[str, Any] | None = None
) -> RunConfig:
    """The settings that the options ask for; `options` holds dotted keys with values that win over all else, `None` left out.

    Raises `ConfigError`.
    """
    from sparring.engine.config import load_run_config

    sources: list[str | Path] = [] if preset is None and configs else [preset or DEFAULT_PRESET]
    given = {key: value for key, value in (options or {}).items() if value is not None}
    overrides = [*(sets or ()), *(f"{key}={_toml(value)}" for key, value in given.items())]
    return load_run_config(*sources, *(configs or ()), overrides=overrides)


def _toml(value: Any) -> str:
    """A value as TOML; JSON's lists, booleans and numbers are TOML's."""
    return value if isinstance(value, str) else json.dumps(value)
