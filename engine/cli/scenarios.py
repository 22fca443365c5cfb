"""`sparring scenarios`: making, authoring, listing, reading and refereeing games. Nothing here loads a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sparring.engine.cli.options import (
    BudgetOption,
    ConfigOption,
    JsonOption,
    QuietOption,
    RecordOption,
    ReplayOption,
    SetOption,
    contest_settings,
    examples,
    load_settings,
)
from sparring.engine.cli.output import notices, print_json, printable, results, write_output

if TYPE_CHECKING:
    from sparring.engine.authoring import Authored
    from sparring.rollout.transcript import Transcript
    from sparring.scenarios.family import Split
    from sparring.scenarios.scenario import Scenario

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Generate, list, read and referee scenarios.")

SQLITE = b"SQLite format 3\0"

SplitOption = Annotated[
    str,
    typer.Option("--split", metavar="NAME", help="train, or held out by seed, by parameter range or by skin: seed, range, skin."),
]
SkinOption = Annotated[str | None, typer.Option("--skin", metavar="NAME", help="The story; drawn by the seed if left out.")]


@app.command(epilog=examples("sparring scenarios generate --family haggle --count 20 --seed 7 --output haggle.jsonl"))
def generate(
    family: Annotated[
        list[str] | None,
        typer.Option("--family", metavar="NAME", help="May be given several times; every family of games if left out."),
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="Scenarios of each family.")] = 10,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Instance i has seed S * 1,000,000 + i.")] = 0,
    split: SplitOption = "train",
    skin: SkinOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE.jsonl", help="One scenario a line; stdout if left out."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="FILE.db", help="Add them to a scenario store instead."),
    ] = None,
) -> None:
    """Generate certified scenarios: the same bytes for the same arguments on any machine.

    Each is proven winnable for the seats that should be able to win; those of contests, which a judge decides, are made where
    they are named. A store holds each scenario once, however often it is added.
    """
    from sparring.scenarios import registry
    from sparring.scenarios.scenario import canonical
    from sparring.scenarios.series import series

    held = _split(split)
    found = [s for name in family or registry.names() for s in series(name, count, seed=seed, split=held, skin=skin)]
    if output is not None or store is None:
        write_output(output, b"".join(canonical(scenario) + b"\n" for scenario in found))
    if store is not None:
        _add(store, found, held)


def _add(path: Path, found: list[Scenario], split: Split) -> None:
    from sparring.scenarios.store import ScenarioStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with ScenarioStore(path) as stored:
        new = stored.add(found, split)
        notices().print(f"{path}: {new} new scenarios in split {split}, {len(found) - new} were there; {len(stored)} in all")


@app.command(
    epilog=examples(
        "sparring scenarios author debate --count 50 --model gpt-4o-mini --budget 0.50 --output my-debate.toml",
        "sparring train --task debate --topics my-debate.toml",
    )
)
def author(
    contest: Annotated[str, typer.Argument(metavar="CONTEST", help="debate, debate_rounds, comedy or recipes.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE.toml", help="Where the topics go; it must not exist.")],
    model: Annotated[str, typer.Option("--model", metavar="SPEC", help="Who writes: gpt-4o-mini, anthropic:NAME, ...")],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=10_000, help="Topics.")] = 50,
    batch: Annotated[
        bool, typer.Option("--batch", help="Ask through OpenAI's Batch API: at half the price, within a day a round, resumable.")
    ] = False,
    budget: BudgetOption = None,
    record: RecordOption = None,
    replay: ReplayOption = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Another one asks other questions.")] = 0,
    config: ConfigOption = None,
    sets: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a model for new topics of a contest, and keep those that can be played and that nobody has yet.

    Each is checked as those that ship are. What is dropped is counted, with a reason. Calls are kept beside the file: however the
    command ends, the same one goes on and pays for nothing again. --config and --set name endpoints and prices, [remote].
    """
    from sparring.engine.authoring import author_topics

    own = contest_settings(budget=budget, record=record, replay=replay)
    settings = load_settings(None, config, sets, own)
    say = (lambda line: None) if quiet else (lambda line: notices().print(printable(line)))
    found = author_topics(contest, count, output, model=model, remote=settings.remote, seed=seed, batch=batch, say=say)
    if as_json:
        print_json(found)
    else:
        _show_authored(found)


def _show_authored(found: Authored) -> None:
    parts = ", ".join(f"{count} {split}" for split, count in sorted(found.parts.items()))
    print(f"{found.path}: {found.kept} of {found.wanted} topics ({parts}), {found.calls} calls, ${found.cost:.4f}")
    if found.dropped:
        print(f"dropped {sum(found.dropped.values())}:")
        for example in found.examples:
            print(f"  {found.dropped[example.partition(':')[0]]}, as {printable(example)}")
    if found.stopped:
        print(printable(f"stopped {found.stopped}" if found.stopped.startswith("after") else f"stopped: {found.stopped}"))


@app.command("list", epilog=examples("sparring scenarios list", "sparring scenarios list scenarios.db --json"))
def list_(
    store: Annotated[Path | None, typer.Argument(metavar="[FILE.db]", help="A scenario store, to count.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the families of games and the contests, or what a scenario store holds."""
    if store is None:
        _list_families(as_json)
    else:
        _list_store(store, as_json)


def _list_families(as_json: bool) -> None:
    from rich.table import Table

    from sparring.scenarios import registry

    families = [registry.get(name) for name in (*registry.names(), *registry.contests())]
    if as_json:
        print_json([
            {
                "family": f.name,
                "title": f.title,
                "decided_by": "judge" if f.name in registry.contests() else "referee",
                "skins": f.skins,
                "held_out_skins": sorted(f.held_out_skins),
                "scripts": list(f.strategies),
                "partners": f.partners,
                "unseen_partner": f.unseen_partner,
                "tags": {skin: f.tags(skin) for skin in f.skins},
            }
            for f in families
        ])  # fmt: skip
        return
    table = Table("family", "title", "decided by", "skins (* held out)", "partners in training", "never met", "theory")
    for f in families:
        skins = ", ".join(f"{skin}{'*' if skin in f.held_out_skins else ''}" for skin in f.skins)
        decided = "a judge" if f.name in registry.contests() else "the referee"
        table.add_row(f.name, f.title, decided, skins, ", ".join(f.partners), f.unseen_partner, f.tags(f.skins[0]).theory)
    results().print(table)


def _list_store(path: Path, as_json: bool) -> None:
    from rich.table import Table

    from sparring.scenarios.store import ScenarioStore

    columns = ("family", "split", "skin", "relation", "resource")
    with ScenarioStore(path, read_only=True) as store:
        strata, total = store.strata(columns), len(store)
    if as_json:
        print_json(
            {"scenarios": total, "strata": [{**dict(zip(columns, row, strict=True)), "count": n} for row, n in strata.items()]}
        )
        return
    table = Table(*columns, title=f"{total} scenarios")
    table.add_column("count", justify="right")
    for row, count in strata.items():
        table.add_row(*row, str(count))
    results().print(table)


@app.command(epilog=examples("sparring scenarios show --family split --seed 7", "sparring scenarios show haggle.jsonl --line 3"))
def show(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A file of scenarios, one a line, or a scenario store."),
    ] = None,
    line: Annotated[int, typer.Option("--line", metavar="N", min=1, help="Which line of the file.")] = 1,
    scenario_id: Annotated[str | None, typer.Option("--id", metavar="HASH", help="Which scenario of the store.")] = None,
    family: Annotated[str | None, typer.Option("--family", metavar="NAME", help="Without a file: the family ...")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="... and the instance's own seed.")] = 0,
    split: SplitOption = "train",
    skin: SkinOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one scenario as its seats read it, with their private values and who can win it."""
    from sparring.scenarios import registry
    from sparring.scenarios.errors import ScenarioError
    from sparring.scenarios.scenario import canonical

    if (source is None) == (family is None):
        raise ScenarioError("say what to show: either a FILE, or --family with --seed")
    scenario = (
        registry.get(family).generate(seed, _split(split), skin) if family else _read(cast(Path, source), line, scenario_id)
    )
    if as_json:
        write_output(None, canonical(scenario) + b"\n")
    else:
        _show(scenario)


def _read(path: Path, line: int, scenario_id: str | None) -> Scenario:
    """One scenario of a file or a store, told apart by how the file begins."""
    from sparring.scenarios.errors import ScenarioError
    from sparring.scenarios.scenario import load_scenario
    from sparring.scenarios.store import ScenarioStore

    with open(path, "rb") as file:
        is_store = file.read(len(SQLITE)) == SQLITE
        file.seek(0)
        lines = [] if is_store else file.read().splitlines()
    if is_store:
        if scenario_id is None:
            raise ScenarioError(f"{path} is a scenario store: name the scenario with --id")
        with ScenarioStore(path, read_only=True) as store:
            return store.get(scenario_id)
    if line > len(lines):
        raise ScenarioError(f"{path} has {len(lines)} lines, not {line}")
    try:
        return load_scenario(lines[line - 1])
    except ScenarioError as error:
        raise ScenarioError(f"{path}, line {line}: {error}") from error


def _show(scenario: Scenario) -> None:
    from sparring.scenarios import registry

    family, tags = registry.get(scenario.family), scenario.tags
    certificate = family.certificate(family.setup(scenario))
    print(f"{scenario.family}, {scenario.skin}, seed {scenario.seed}, id {scenario.id}")
    print(f"theory: {tags.theory}; {tags.interdependence} interdependence, {tags.relation}, {tags.resource}, {tags.context}")
    if scenario.family in registry.contests():
        print(certificate.method)
    else:
        print(f"winnable by {', '.join(sorted(certificate.winners)) or 'nobody'} ({certificate.method})")
    print(f"public: {_values(scenario.public)}")
    for seat in scenario.seats:
        print(f"\n--- {seat.name} (private: {_values(seat.private)})\n{seat.instructions}")


def _values(values: dict[str, Any]) -> str:
    return printable(", ".join(f"{key} = {value}" for key, value in values.items()))


@app.command(epilog=examples("sparring scenarios referee transcript.json --json"))
def referee(
    transcript: Annotated[str, typer.Argument(metavar="TRANSCRIPT.json", help='A file, or "-" for stdin.')],
    as_json: JsonOption = False,
) -> None:
    """Referee a transcript: the verdict of every seat, recomputed from what was said.

    The file holds {"scenario": {...}, "turns": [{"seat": "seller", "text": "..."}, ...]}; in games whose target depends on the
    partner also the scripts by seat, "cast": {"buyer": "grim"}. What does not fit: exit code 2 and one line that says where.
    """
    from sparring.rollout import transcript as transcripts
    from sparring.rollout.errors import TranscriptError

    if transcript == "-":
        loaded = transcripts.load_transcript(sys.stdin.buffer.read())
    else:
        loaded = transcripts.read_transcript(Path(transcript))
    try:
        verdict = transcripts.referee(loaded)
    except TranscriptError as error:
        raise TranscriptError(f"{transcript}: {error}") from error
    if as_json:
        print_json(verdict)
    else:
        _show_verdict(loaded, verdict)


def _show_verdict(transcript: Transcript, verdict: dict[str, Any]) -> None:
    from rich.table import Table

    if not verdict["ended"]:
        print(f"The game goes on after {len(transcript.turns)} turns: there is no verdict yet.")
        return
    table = Table("seat", "verdict", "reward", "score", "reason", "evidence")
    for seat, outcome in verdict["outcomes"].items():
        places = [
            (place["turn"], transcript.turns[place["turn"]].text[place["start"] : place["end"]]) for place in outcome["evidence"]
        ]
        evidence = "; ".join(f"turn {turn}: {printable(text)}" for turn, text in places)
        reward = "" if outcome["reward"] is None else f"{outcome['reward']:+d}"
        table.add_row(seat, outcome["verdict"], reward, f"{outcome['score']:.2f}", outcome["reason"], evidence)
    results().print(table)


@app.command(epilog=examples("sparring scenarios recheck runs/demo"))
def recheck(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    as_json: JsonOption = False,
) -> None:
    """Referee every game of a run again, from its stored transcript. Exit code 1 where a verdict comes out differently."""
    from sparring.engine.run.folder import RunFolder

    with RunFolder.read(run) as folder, notices().status("refereeing every game again"):
        found = folder.database.recheck()
    if as_json:
        print_json(found)
    else:
        print(f"{found.games} games refereed again, {len(found.discrepancies)} came out differently")
        for odd in found.discrepancies:
            print(f"  {odd.phase} step {odd.step}, game {printable(odd.game)}: {printable(odd.problem)}")
    if found.discrepancies:
        raise typer.Exit(1)


def _split(name: str) -> Split:
    from sparring.scenarios.errors import ScenarioError
    from sparring.scenarios.family import SPLITS

    if name not in SPLITS:
        raise ScenarioError(f"no split is called {name!r}: choose from {', '.join(SPLITS)}")
    return name
