"""The tree of commands: help that teaches, nothing heavy imported, exit codes, one line for what the user can mend."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import sparring as package
from sparring.engine.cli import scenarios

ROOT = Path(__file__).parents[3]
Run = Callable[..., Result]

COMMANDS = (
    "demo",
    "train",
    "collect",
    "learn",
    "evaluate",
    "scenarios generate",
    "scenarios list",
    "scenarios show",
    "scenarios referee",
    "scenarios recheck",
    "bench throughput",
    "doctor",
    "tiny build",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(sparring: Run, name: str) -> None:
    shown = sparring(*name.split(), "--help")
    assert shown.exit_code == 0
    assert f"sparring {name}" in " ".join(shown.stdout.split("Example", 1)[1].split())


def test_version(sparring: Run) -> None:
    assert sparring("--version").stdout == f"sparring {package.__version__}\n"


def test_an_unknown_command_names_the_nearest(sparring: Run) -> None:
    answer = sparring("scenarios", "refere")
    assert answer.exit_code == 2
    assert "referee" in answer.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["scenarios", "list"], ["scenarios", "show", "--family", "split"]]
)
def test_nothing_heavy_is_imported_for_what_needs_no_model(arguments: list[str]) -> None:
    code = (
        "import sys; from sparring.engine.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
        "print(sorted({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.stderr.strip() == "[]"


def test_an_error_is_one_harmless_line(sparring: Run) -> None:
    """A message may quote a file: no escape sequence of it may reach the terminal."""
    answer = sparring("scenarios", "generate", "--family", "hag\x1b[31mgle\nx")
    assert answer.exit_code == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("sparring: error: no family is called")
    assert "\x1b" not in line


def test_a_file_that_cannot_be_written_is_no_traceback(sparring: Run, tmp_path: Path) -> None:
    answer = sparring("scenarios", "generate", "--count", 1, "--output", tmp_path)
    assert answer.exit_code == 2
    assert answer.stderr == f"sparring: error: {tmp_path}: Is a directory\n"


def test_ctrl_c_is_130(sparring: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scenarios, "_list_families", stop)
    answer = sparring("scenarios", "list")
    assert (answer.exit_code, answer.stderr) == (130, "sparring: interrupted\n")


def test_a_reader_that_goes_away_is_no_error_message(command: Callable[..., subprocess.Popen[str]]) -> None:
    with command("scenarios", "generate", "--family", "haggle", "--count", 150) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_slow_pipe_gets_every_byte(
    command: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    """Unbuffered, `sys.stdout.buffer.write` writes what fits the pipe at once: half of 150 scenarios went missing."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with command("scenarios", "generate", "--family", "haggle", "--count", 150) as process:
        written, _ = process.communicate()
    assert len(written.splitlines()) == 150


def test_a_second_ctrl_c_while_a_thread_still_ends_gives_no_traceback() -> None:
    """vLLM goes on loading in its thread for a while after the first one."""
    code = (
        "import os, signal, sys, threading, time\n"
        "from sparring.engine.cli.main import main\n"
        "def end():\n"
        "    deadline = time.monotonic() + 20\n"
        "    while signal.getsignal(signal.SIGINT) != signal.SIG_DFL and time.monotonic() < deadline:\n"
        "        time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(5)\n"
        "sys.argv = ['sparring', '--version']\n"
        "threading.Thread(target=end).start()\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
