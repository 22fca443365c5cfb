"""`sparring evaluate`: an adapter on held-out scenarios: against its base model, in contests against anybody's entries."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.engine.cli.options import (
    BudgetOption,
    CompareOption,
    ConfigOption,
    GeneratorOption,
    JsonOption,
    PresetOption,
    QuietOption,
    RecordOption,
    ReplayOption,
    SetOption,
    TaskOption,
    contest_settings,
    examples,
    load_settings,
    preset_for,
)
from sparring.engine.cli.output import notices, print_json

if TYPE_CHECKING:
    from sparring.engine.config import RunConfig

SEATS = 2
"""Seats of a game's scenario, at the least: each is played once. A contest may have a single one."""


def evaluate(
    adapter: Annotated[Path, typer.Option("--adapter", metavar="DIR", help="The adapter, in PEFT format.")],
    games: Annotated[
        int | None,
        typer.Option(
            "--games",
            metavar="N",
            min=1,
            help="Games of each policy, at least: one from every seat of as many scenarios as that takes.",
        ),
    ] = None,
    scenarios: Annotated[
        int | None,
        typer.Option("--scenarios", metavar="N", min=1, help="Held-out scenarios, over all families."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE.json", help="Write the report.")] = None,
    split: Annotated[str | None, typer.Option("--split", metavar="seed|range|skin", help="How they are held out.")] = None,
    partners: Annotated[
        str | None,
        typer.Option("--partners", metavar="A,B", help="Who sits across, such as scripts,unseen,base."),
    ] = None,
    control: Annotated[
        bool | None,
        typer.Option(
            "--shuffled/--no-shuffled",
            "--control/--no-control",
            help="Also with other instances' private values: a gain that survives is blind to them.",
        ),
    ] = None,
    task: TaskOption = None,
    compare: CompareOption = None,
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="SPEC", help="Who judges contests: embedded, gpt-4o-mini, anthropic:NAME.")
    ] = None,
    batch: Annotated[
        bool,
        typer.Option("--batch", help="Ask the judge through OpenAI's Batch API: at half the price, within a day, resumable."),
    ] = False,
    batch_dir: Annotated[
        Path | None,
        typer.Option(
            "--batch-dir",
            metavar="DIR",
            help="With --batch: what an interrupted evaluation goes on from; beside --output, or in the run's folder.",
            show_default=False,
        ),
    ] = None,
    budget: BudgetOption = None,
    record: RecordOption = None,
    replay: ReplayOption = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Draws scenarios and games.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="The base model.")] = None,
    generator: GeneratorOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure an adapter against its base model on held-out scenarios: every seat, common seeds, paired.

    In contests its entries meet those of --compare on held-out topics, from every side, each pair judged in both orders.

    An adapter inside a run's folder is measured with that run's settings, unless --preset or --config name others. Games won,
    difference and its 95% interval are also written as JSON with --output.

    With --batch all comparisons go to the judge at once. However the command ends before they are answered, the same command goes
    on from there, and nothing is submitted or paid twice.
    """
    from sparring.engine.cli.report import show_contest_report, show_report
    from sparring.engine.errors import ConfigError
    from sparring.engine.evaluation.appraise import appraise_adapter

    if games is not None and scenarios is not None:
        raise ConfigError("--games and --scenarios both say how much to play: give one of them")
    elsewhere = contest_settings(task=task, compare=compare, evaluation_judge=judge, budget=budget, record=record, replay=replay)
    own: dict[str, Any] = elsewhere | {
        "model": model,
        "generator": generator,
        "evaluation.scenarios": scenarios,
        "evaluation.split": split,
        "evaluation.partners": partners.split(",") if partners else None,
        "evaluation.control": control,
        "evaluation.seed": seed,
    }
    if preset is None and config is None and (of_run := _settings_of_run(adapter)) is not None:
        notices().print(f"with the settings of {of_run}")
        config = [of_run]
    settings = load_settings(preset, config, sets, own, default=preset_for(task))
    if games is not None:
        settings = _enough(settings, games)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    batches = _batches(batch_dir, output, adapter) if batch or batch_dir is not None else None
    found = appraise_adapter(settings, adapter, quiet=quiet, batches=batches)
    if output is not None:
        output.write_bytes(found.json)
    if as_json:
        print_json(found)
        return
    if found.evaluation is not None:
        show_report(found.evaluation)
    if found.contest is not None:
        show_contest_report(found.contest)


def _batches(given: Path | None, output: Path | None, adapter: Path) -> Path:
    """Where an evaluation in batches keeps what it goes on from. Raises `ConfigError` where nothing says."""
    from sparring.engine.errors import ConfigError

    if given is not None:
        return given
    if output is not None:
        return output.with_suffix(".batch")
    run = _settings_of_run(adapter)
    if run is None:
        raise ConfigError("--batch keeps what an interrupted evaluation goes on from: say where, with --output or --batch-dir")
    return run.parent / "batch"


def _settings_of_run(adapter: Path) -> Path | None:
    """The settings of the run that an adapter or a checkpoint lies in."""
    folders = adapter.absolute().parents[:2]
    return next((path for folder in folders if (path := folder / "config.toml").is_file()), None)


def _enough(settings: RunConfig, games: int) -> RunConfig:
    """One game from every seat of enough scenarios, and of every family at least one; several of each where contests have fewer
    topics than that."""
    import msgspec

    from sparring.engine.evaluation.topics import held_out_topics

    wanted, seats = settings.evaluation, 1 if settings.contests else SEATS
    scenarios = max(math.ceil(games / seats), len(settings.families))
    each = 1
    if not settings.games:
        own = settings.contest_topics
        topics = held_out_topics(settings.contests, scenarios, split=wanted.split, seed=wanted.seed, topics=own)
        each = math.ceil(games / sum(len(topic.seats) for topic in topics))
    evaluation = msgspec.structs.replace(wanted, scenarios=scenarios, games=each)
    return msgspec.structs.replace(settings, evaluation=evaluation)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        epilog=examples(
            "sparring evaluate --adapter runs/demo/adapter --games 20",
            "sparring evaluate --adapter runs/demo/adapter --scenarios 400 --split skin --output skin.json",
            "sparring evaluate --adapter runs/debate/adapter --compare gpt-4o-mini --judge anthropic:claude-haiku-4-5 --budget 2",
            "sparring evaluate --adapter runs/debate/adapter --judge gpt-4o-mini --batch --output debate.json",
        )
    )(evaluate)
