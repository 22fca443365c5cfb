"""`sparring demo`, `train`, `collect` and `learn`: options in, a library call of `train.py` or `collect.py`, results out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.engine.cli.options import (
    AdapterOption,
    BudgetOption,
    CompareOption,
    ConfigOption,
    EvaluationJudgeOption,
    GeneratorOption,
    IterationsOption,
    JsonOption,
    JudgeOption,
    PartnerOption,
    PresetOption,
    QuietOption,
    RecordOption,
    ReplayOption,
    SeedOption,
    SetOption,
    TaskOption,
    TopicsOption,
    contest_settings,
    examples,
    families_of,
    load_settings,
    preset_for,
)
from sparring.engine.cli.output import notices, print_json

if TYPE_CHECKING:
    from sparring.engine.run.summary import Summary

ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --output-dir from its last checkpoint.")]


def demo(
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", metavar="DIR", help="The run's folder; runs/demo, or runs/demo-TASK.", show_default=False),
    ] = None,
    task: TaskOption = None,
    iterations: IterationsOption = None,
    seed: SeedOption = None,
    generator: GeneratorOption = None,
    sets: SetOption = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a tiny model to play four games, on any machine, and measure by how much it got better.

    The model ships with the package, its partners are scripts, nothing is downloaded. At the end, the model before and after
    training plays the same held-out scenarios. With --task debate another tiny model writes speeches, which a rubric judges, not
    a model. An earlier demo in the same folder is moved aside, never overwritten.
    """
    from sparring.engine.run.folder import move_aside
    from sparring.engine.train import train

    output_dir = output_dir or Path("runs") / ("demo" if task is None else f"demo-{task}")
    if resume:
        _refuse_settings({"--iterations": iterations, "--seed": seed, "--generator": generator, "--set": sets})
        _show(_resume(output_dir, quiet), output_dir, as_json)
        return
    own = {"families": families_of(task), "iterations": iterations, "seed": seed, "generator": generator}
    config = load_settings(preset_for(task), None, sets, own)
    moved = move_aside(output_dir)
    if moved is not None:
        notices().print(f"the run that was in {output_dir} is now in {moved}")
    _show(train(config, output_dir, quiet=quiet), output_dir, as_json)


def train(
    output_dir: Annotated[Path, typer.Option("--output-dir", metavar="DIR", help="The run's folder.")] = Path("runs/train"),
    iterations: IterationsOption = None,
    games_per_scenario: Annotated[
        int | None,
        typer.Option(
            "--games-per-scenario",
            metavar="N",
            min=2,
            help="Games of one scenario, compared with each other.",
        ),
    ] = None,
    task: TaskOption = None,
    topics: TopicsOption = None,
    partner: PartnerOption = None,
    judge: JudgeOption = None,
    evaluation_judge: EvaluationJudgeOption = None,
    compare: CompareOption = None,
    budget: BudgetOption = None,
    record: RecordOption = None,
    replay: ReplayOption = None,
    seed: SeedOption = None,
    generator: GeneratorOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    adapter: AdapterOption = None,
    resume: ResumeOption = False,
    tracker: Annotated[
        str | None,
        typer.Option("--tracker", metavar="none|wandb", help="Where metrics go besides run.db and the terminal."),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter by playing, in a new run folder.

    Settings come from the preset, then --config files, then --set, then the other options. Ctrl-C ends the run with a checkpoint,
    and --resume goes on with the same next update. Keys of models elsewhere come from the environment (OPENAI_API_KEY,
    ANTHROPIC_API_KEY); what calls cost stands in run.db, and a run that --budget ended goes on with --resume --budget MORE.
    """
    from sparring.engine.train import train

    remote: dict[str, Any] = {
        "task": task,
        "topics": topics,
        "partner": partner,
        "judge": judge,
        "evaluation_judge": evaluation_judge,
        "compare": compare,
        "record": record,
        "replay": replay,
    }
    own = {
        "iterations": iterations,
        "games_per_scenario": games_per_scenario,
        "seed": seed,
        "generator": generator,
        "tracker": tracker,
    }
    if resume:
        given = {"--" + name.replace("_", "-"): value for name, value in {**own, **remote}.items()}
        _refuse_settings({**given, "--preset": preset, "--config": config, "--set": sets, "--adapter": adapter})
        summary = _resume(output_dir, quiet, budget)
    else:
        asked = own | contest_settings(**remote, budget=budget)
        settings = load_settings(preset, config, sets, asked, default=preset_for(task))
        summary = train(settings, output_dir, quiet=quiet, adapter=adapter)
    _show(summary, output_dir, as_json)


def _resume(output_dir: Path, quiet: bool, budget: float | None = None) -> Summary:
    from sparring.engine.train import resume

    return resume(output_dir, quiet=quiet, budget=budget)


def _refuse_settings(given: dict[str, object]) -> None:
    """A resumed run has the settings that it was started with."""
    from sparring.engine.errors import ConfigError

    if names := [name for name, value in given.items() if value is not None]:
        raise ConfigError(f"--resume goes on with the run's own settings: leave out {' and '.join(names)}")


def _show(summary: Summary, folder: Path, as_json: bool) -> None:
    from sparring.engine.cli.report import show_summary

    if as_json:
        print_json(summary)
    else:
        show_summary(summary, folder)


def collect(
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The training file.")],
    texts: Annotated[Path | None, typer.Option("--texts", metavar="FILE.jsonl", help="Also the games, to read.")] = None,
    step: Annotated[int, typer.Option("--step", metavar="N", min=0, help="Which step's games, from 0.")] = 0,
    adapter: AdapterOption = None,
    seed: SeedOption = None,
    generator: GeneratorOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play the games of one step into a training file: ids, log-probs, masks, rewards and groups.

    With `learn` this is one step of `train`, by hand: the same settings make the same update.
    """
    from sparring.engine.collect import collect

    settings = load_settings(preset, config, sets, {"seed": seed, "generator": generator})
    found = collect(settings, output, texts=texts, adapter=adapter, step=step, quiet=quiet)
    if as_json:
        print_json(found)
        return
    print(f"{found.games} games, {found.win_rate:.1%} won, {found.trajectories} trajectories in {output}")
    print(f"{found.tokens_per_second:,.0f} tokens/s, {found.games_per_hour:,.0f} games/hour")


def learn(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Training files; each is one step, in this order.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="The folder of the adapter, in PEFT format.")],
    start: Annotated[
        Path | None,
        typer.Option("--start", metavar="DIR", help="What to go on from: an earlier --output, or an adapter."),
    ] = None,
    seed: SeedOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn from training files: one update a file, to an adapter that `collect`, `train` and `evaluate` take.

    A file that was collected with another base model or tokenizer is refused. A folder that `learn` wrote also holds the
    optimiser, so that --start goes on exactly where it ended.
    """
    from sparring.engine.collect import learn

    found = learn(load_settings(preset, config, sets, {"seed": seed}), files, output, start=start)
    if as_json:
        print_json(found)
        return
    for file, stats in zip(files, found.steps, strict=True):
        print(
            f"{file}: {stats.groups} groups, {stats.tokens:,} tokens, loss {stats.loss:+.4f}, gradient norm {stats.grad_norm:.3f}"
        )
    print(f"adapter {found.adapter} is in {output}")


def register(app: typer.Typer) -> None:
    """Adds the four commands."""
    app.command(
        epilog=examples(
            "sparring demo",
            "sparring demo --task debate",
            "sparring demo --iterations 10 --seed 1 --output-dir runs/short",
            "sparring demo --generator vllm",
        )
    )(demo)
    app.command(
        epilog=examples(
            "sparring train --iterations 3 --games-per-scenario 10 --output-dir runs/mine",
            "sparring train --set learner.learning_rate=1e-3 --set 'families=[\"haggle\"]'",
            "sparring train --task debate --judge gpt-4o-mini --compare gpt-4o-mini --budget 5",
            "sparring train --task haggle --partner gpt-4o --record gpt.cassette --set steps_ahead=1",
            "sparring train --resume --output-dir runs/mine",
        )
    )(train)
    app.command(epilog=examples("sparring collect --output step0.train --texts step0.jsonl"))(collect)
    app.command(
        epilog=examples("sparring learn step0.train --output after0", "sparring learn step1.train --start after0 --output after1")
    )(learn)
