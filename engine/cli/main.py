"""`sparring`: the command line. Owns the tree of commands, the exit codes and how an error reads. The commands stand in the files
beside this one, each a thin user of a library call.

Nothing heavy is imported until a command needs it: `sparring --help` and `sparring scenarios` load no torch.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sparring import __version__
from sparring.engine.cli import bench, doctor, evaluation, page, scenarios, tiny, training
from sparring.engine.cli.output import printable
from sparring.engine.errors import GeneratorStopped, Interrupted
from sparring.scenarios.errors import SparringError

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
EPILOG = (
    "Exit codes: 0 done, 1 a check found something, 2 wrong input (stderr says what to change), 130 stopped by Ctrl-C. "
    "Results go to stdout, progress to stderr."
)


class Commands(TyperGroup):
    """Turns what a command raises into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt as error:
            raise _stop("interrupted", INTERRUPTED) from error
        except BrokenPipeError as error:  # nobody reads on; at exit Python would try, and complain, again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from error
        except Interrupted as error:
            raise _stop(str(error), INTERRUPTED) from error
        except (SparringError, GeneratorStopped) as error:
            raise _stop(f"error: {error}", USER_ERROR) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise _stop(f"error: {where}{error.strerror or error}", USER_ERROR) from error
        return result


def _stop(message: str, code: int) -> typer.Exit:
    print(f"sparring: {printable(message)}", file=sys.stderr)
    return typer.Exit(code)


app = typer.Typer(
    name="sparring",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sparring {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Trains language agents by letting them play games whose outcome can be verified.

    Begin with `sparring demo`: a tiny model learns four games from scripted partners, on any machine.
    `sparring COMMAND --help` shows examples of each command.
    """


training.register(app)
evaluation.register(app)
page.register(app)
doctor.register(app)
app.add_typer(scenarios.app, name="scenarios")
app.add_typer(bench.app, name="bench")
app.add_typer(tiny.app, name="tiny")


def main() -> None:
    """The console script."""
    # Before torch loads: idle OpenMP threads sleep, as spinning ones take the cores from whoever else computes.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while a thread still ends gives no traceback


if __name__ == "__main__":
    main()
