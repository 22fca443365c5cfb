"""`sparring tiny`: making the embedded models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sparring.engine.cli.options import examples
from sparring.engine.cli.output import notices

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Make the tiny models that the demos train.")


@app.callback()
def tiny() -> None:
    """Make the tiny models that the demos train."""


@app.command(epilog=examples("sparring tiny build --model contests --output my-talk", "sparring train --set model=my-talk"))
def build(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="The model's folder.")],
    model: Annotated[
        Literal["games", "contests"],
        typer.Option("--model", help="What it learns to play: the verifiable games, or the contests that are judged."),
    ] = "games",
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", min=1, help="Warm-start steps; fewer make a worse model."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Another model of the same kind.")] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, help="CPU threads; other sums, so other bits."),
    ] = None,
) -> None:
    """Make a tokenizer and a tiny model from nothing, offline: warm-started on scripts that are legal but mediocre.

    Without further options it is the recipe of the model that ships; its card says how it was made, and its hash.
    """
    import msgspec
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sparring.engine.tiny.build import RECIPES, build, save

    given = {"steps": steps, "seed": seed, "threads": threads}
    config = msgspec.structs.replace(RECIPES[model], **{name: value for name, value in given.items() if value is not None})
    output.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("warm start"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notices()) as progress:
        task = progress.add_task("", total=config.steps, loss="")
        made, tokenizer = build(config, on_step=lambda step, loss: progress.update(task, completed=step + 1, loss=f"{loss:.3f}"))
    digest = save(made, tokenizer, config, output)
    print(f"{output}: {sum(p.numel() for p in made.parameters()):,} parameters, model.safetensors has SHA-256 {digest}")
