"""`sparring bench`: how fast this machine plays and learns, and whether the engine holds what it promises there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.engine.cli.options import ConfigOption, JsonOption, PresetOption, QuietOption, SetOption, examples, load_settings
from sparring.engine.cli.output import notices, print_json, results, write_output

FAILED = 1

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


@app.command(
    epilog=examples("sparring bench engine", "sparring bench engine --shape 7b --cap-gb 48", "sparring bench engine --cycles 5")
)
def engine(
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Settings to run with; those made for this machine by default.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape", metavar="SHAPE", help="Random weights of the shape 7b, 1.5b, 0.5b or of a Qwen2 model's folder; or tiny."
        ),
    ] = None,
    cycles: Annotated[int, typer.Option("--cycles", metavar="N", min=1, help="Measured cycles, after one to warm up.")] = 50,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Rounds of games beside LLM.generate.")] = 3,
    cap_gb: Annotated[
        float | None, typer.Option("--cap-gb", metavar="GB", min=1, help="Hold the run to a smaller GPU's memory, such as 48.")
    ] = None,
    sets: SetOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE.json", help="Where the report goes; bench/results by default.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Accept the engine on this machine: cycles of play, learn and publish, checked and timed.

    One copy of the weights, agreement of generator and learner, memory, publication, KV cache, speed beside plain vLLM, the
    learner's utilisation. Needs no network. Exits with 1 where a check fails; what this machine cannot show is "not measured".
    """
    import msgspec

    from sparring.bench.engine import default_preset, default_shape, measure, result_path, run_config, shaped

    config = run_config(preset or default_preset(cap_gb), sets or (), cap_gb)
    with shaped(config, shape or default_shape()) as settings:
        found = measure(settings, cycles=cycles, seeds=seeds, cap_gb=cap_gb, quiet=quiet)
    path = output or result_path(found)
    write_output(path, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    if as_json:
        print_json(found)
    else:
        for table in found.tables:
            results().print(table)
    notices().print(f"written to {path}")
    if found.failed:
        raise typer.Exit(FAILED)
