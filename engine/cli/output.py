"""What commands print: results to stdout, JSON as other programs read it, text of strangers made harmless for a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

PIPE_WIDTH = 110
"""Columns where no terminal says how many there are."""


def results() -> Console:
    """The console for results. Plain where it is not a terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def notices() -> Console:
    """The console for progress and remarks."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """A struct or builtins, as indented JSON on stdout."""
    write_output(None, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def write_output(path: Path | None, data: bytes) -> None:
    """To the file, making its folder; to stdout where there is none, or it is "-"."""
    if path is None or str(path) == "-":
        sys.stdout.flush()
        rest = memoryview(data)
        while rest:  # an unbuffered stdout (python -u) takes what fits the pipe, and no more
            rest = rest[sys.stdout.buffer.write(rest) :]
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def printable(text: str) -> str:
    """One line without control characters."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in line)
