"""`sparring doctor`: what this machine has, what is missing, what will be used, and whether a run fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sparring.engine.cli.options import ConfigOption, JsonOption, PresetOption, SetOption, examples, load_settings
from sparring.engine.cli.output import print_json, results

if TYPE_CHECKING:
    from sparring.engine.doctor import Diagnosis, Package
    from sparring.engine.machine import Machine
    from sparring.engine.memory.plan import MemoryPlan

DOES_NOT_FIT = 1


def doctor(
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has, what is missing, which generator would play, and whether a run fits the memory.

    With --preset, --config or --set it plans the memory of that run before anything is loaded: for a GPU with memory.device_gb GB
    where the settings name that, so that a run can be planned on any machine, otherwise for what is here. Nothing is downloaded
    for the models of the presets. Where the run does not fit, the answer names settings that mend it, and the exit code is 1.
    """
    from sparring.engine.doctor import examine

    wanted = preset is not None or bool(config) or bool(sets)
    found = examine(load_settings(preset, config, sets) if wanted else None)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if found.refusal:
        raise typer.Exit(DOES_NOT_FIT)


def _show(found: Diagnosis) -> None:
    _show_machine(found.machine)
    _show_packages(found.packages)
    keys = ", ".join(f"{name} {'is set' if there else 'is not set'}" for name, there in found.keys.items())
    print(f"Keys: {keys}.")
    print(f"Generator here: {found.generator} ({found.reason}).")
    if found.plan is not None:
        _show_plan(found.plan, found)


def _show_machine(machine: Machine) -> None:
    build = f"CUDA {machine.torch_cuda}" if machine.torch_cuda else "CPU build"
    print(f"Python {machine.python}, PyTorch {machine.torch} ({build}), computes on {machine.device}.")
    if machine.gpu is not None:
        gpu = machine.gpu
        print(f"GPU: {gpu.name}, compute capability {gpu.capability}, {gpu.memory_gb:.1f} GB, {gpu.free_gb:.1f} GB of it free.")
    print(
        f"{machine.cores} CPU cores, {machine.ram_gb:.1f} GB RAM ({machine.free_ram_gb:.1f} GB free), "
        f"{machine.disk_gb:.0f} GB of disk free in {Path.cwd()}."
    )


def _show_packages(packages: tuple[Package, ...]) -> None:
    from rich.table import Table

    table = Table(title="Optional packages", title_justify="left")
    for name in ("package", "version", "for", "to add it"):
        table.add_column(name, overflow="fold")
    for package in packages:
        remark = package.problem or ("" if package.version else package.add)
        table.add_row(package.name, package.version or "missing", package.purpose, remark)
    results().print(table)


def _show_plan(plan: MemoryPlan, found: Diagnosis) -> None:
    results().print(plan.table)
    print(plan.kv_cache_text)
    for note in found.notes:
        print(f"Note: {note}.")
    print(f"It does not fit: {found.refusal}." if found.refusal else "It fits.")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        epilog=examples(
            "sparring doctor",
            "sparring doctor --preset a6000-qwen2.5-7b",
            "sparring doctor --preset h100-qwen2.5-7b --set learner.token_budget=8192",
            "sparring doctor --config mine.toml --set memory.device_gb=23.5 --json",
        )
    )(doctor)
