"""What the doctor finds: facts of this machine, packages, keys that are never shown, and the plan of a run."""

from __future__ import annotations

import os
from importlib import metadata

import msgspec
import pytest
import torch

from sparring.engine import doctor, machine
from sparring.engine.config import load_run_config
from sparring.engine.doctor import KEYS, Diagnosis, Package, examine
from sparring.engine.machine import GB, Gpu
from sparring.engine.vllm import support


def package(found: Diagnosis, name: str) -> Package:
    (wanted,) = (p for p in found.packages if p.name == name)
    return wanted


def test_the_machine_is_this_one() -> None:
    found = machine.look()
    assert found.torch == torch.__version__
    assert (found.gpu is not None) == torch.cuda.is_available()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.ram_gb == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB, rel=0.05)
    assert 0 < found.free_ram_gb <= found.ram_gb
    assert found.disk_gb > 0


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 * GB, 47.5 * GB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA RTX A6000")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    assert machine.look().gpu == Gpu(name="NVIDIA RTX A6000", capability="8.6", memory_gb=47.5, free_gb=40.0)
    assert machine.memory_gb("cuda") == 47.5


def test_packages_are_those_installed() -> None:
    found = examine()
    assert found.plan is None
    for name in ("triton", "wandb", "flash-attn"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = ""
        assert package(found, name).version == version
        assert "pip install" in package(found, name).add


@pytest.mark.parametrize(("version", "usable"), [("0.25.1", False), ("0.26.0", True), ("0.33.2", True), ("0.34.0", False)])
def test_a_vllm_that_is_not_supported_is_told(version: str, usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "installed", lambda: version)
    monkeypatch.setattr(support, "_is_cpu_build", lambda: not torch.cuda.is_available())
    found = examine()
    vllm = package(found, "vllm")
    assert vllm.version == version
    assert (vllm.problem == "") is usable
    assert found.generator == ("vllm" if usable else "torch")
    if not usable:
        assert "0.26 to 0.33 are supported" in vllm.problem
        assert found.reason == vllm.problem


def test_without_vllm_it_gives_the_line_that_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "installed", lambda: None)
    found = examine()
    assert (found.generator, package(found, "vllm").version) == ("torch", "")
    assert "pip install" in package(found, "vllm").add
    assert "not installed" in found.reason


def test_keys_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    found = examine()
    assert found.keys == {key: key == "OPENAI_API_KEY" for key in KEYS}
    assert b"secret" not in msgspec.json.encode(found)


def test_the_demo_is_planned_for_this_machine() -> None:
    found = examine(load_run_config("demo"))
    assert found.plan is not None
    assert (found.plan.device, found.generator, found.refusal) == ("cpu", "torch", "")
    assert found.plan.device_gb == pytest.approx(found.machine.ram_gb)


def test_a_preset_is_planned_for_the_card_it_names() -> None:
    found = examine(load_run_config("h100-qwen2.5-7b"))
    assert found.plan is not None
    assert (found.plan.device, found.plan.device_gb, found.refusal) == ("cuda", 79.1, "")


def test_a_run_that_does_not_fit_is_told_why() -> None:
    found = examine(load_run_config("a6000-qwen2.5-7b", overrides=["learner.token_budget=8192"]))
    assert "the learn phase needs" in found.refusal
    assert "learner.token_budget = " in found.refusal
    assert found.plan is not None
    assert not found.plan.fits


@pytest.mark.parametrize(("version", "noted"), [("0.27.1", False), ("0.28.0", True), ("0.32.0", True), (None, True)])
def test_a_vllm_that_serves_no_4_bit_models_is_noted(version: str | None, noted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note: the run may be planned here for another machine."""
    monkeypatch.setattr(doctor.support, "installed", lambda: version)
    found = examine(load_run_config("a6000-qwen2.5-7b-4bit"))
    assert any("needs vLLM 0.26 or 0.27" in note for note in found.notes) is noted
    assert found.refusal == ""


def test_what_stands_between_this_machine_and_models_elsewhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = examine(load_run_config("demo", overrides=["partners=['gpt-4o']"]))
    assert any("OPENAI_API_KEY" in note for note in found.notes)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    assert not any("OPENAI_API_KEY" in note for note in examine(load_run_config("demo", overrides=["partners=['gpt-4o']"])).notes)
    same = examine(load_run_config("demo", overrides=["families=['debate']", "model=tiny"]))
    assert any("evaluation is judged by embedded, of the same family" in note for note in same.notes)
