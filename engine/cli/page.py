"""`sparring report`: a run's folder as one page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.engine.cli.options import JsonOption, examples
from sparring.engine.cli.output import print_json


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder of a run, also of one that goes on.")],
    as_json: JsonOption = False,
) -> None:
    """Write a run's report page, report.html, into its folder: headline, curves, evaluation, judges, calls, games to read.

    The page loads nothing and runs nothing. With --json the figures are printed as well as written.
    """
    from sparring.engine.report.facts import gather
    from sparring.engine.report.page import write_report
    from sparring.engine.run.folder import RunFolder

    path = write_report(run)
    if not as_json:
        print(path)
        return
    with RunFolder.read(run) as folder:
        print_json(gather(folder))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=examples("sparring report runs/demo", "sparring report runs/demo --json"))(report)
