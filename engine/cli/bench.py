"""`sparring bench`: how fast this machine plays and learns."""

from __future__ import annotations

from typing import Annotated

import typer

from sparring.engine.cli.options import ConfigOption, JsonOption, PresetOption, QuietOption, SetOption, examples, load_settings
from sparring.engine.cli.output import print_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Measure how fast this machine plays and learns.")


@app.callback()
def bench() -> None:
    """Measure how fast this machine plays and learns."""


@app.command(epilog=examples("sparring bench throughput", "sparring bench throughput --steps 20 --set threads=2 --json"))
def throughput(
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Measured steps, after one to warm up.")] = 5,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tokens/s and games/hour of playing, of learning and of the whole loop, and the share of each phase.

    Plays real deals with a fresh adapter; nothing is kept. Also the games/s of the runner and the referee without a model.
    """
    from sparring.bench.throughput import measure

    found = measure(load_settings(preset, config, sets), steps=steps, quiet=quiet)
    if as_json:
        print_json(found)
    else:
        print(found.text)
