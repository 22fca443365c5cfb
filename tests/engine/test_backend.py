"""Opening on a GPU as far as it goes without one: which model the learner gets, and what is closed where opening fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from sparring.engine import backend
from sparring.engine.backend import Choice
from sparring.engine.config import load_run_config
from sparring.engine.errors import ConfigError
from sparring.engine.models import load_model
from sparring.engine.vllm.shared_weights import NotShared
from sparring.learner.lora import fingerprint_model

VLLM = Choice("vllm", "set in the settings")


class FakeGenerator:
    """Stands for vLLM."""

    opened: list[FakeGenerator]

    def __init__(self, settings: Any) -> None:
        self.settings, self.base_model, self.closed = settings, "", False
        self.opened.append(self)

    def parameters(self) -> dict[str, torch.Tensor]:
        return {}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[FakeGenerator]:
    """The generators that were opened, with a GPU's place taken by the CPU."""
    FakeGenerator.opened = []
    monkeypatch.setattr(backend, "VllmGenerator", FakeGenerator)
    monkeypatch.setattr(backend, "plan", lambda *_, **__: SimpleNamespace(device="cpu", kv_cache_bytes=1 << 20))
    monkeypatch.setattr(backend, "memory_gb", lambda device: 44.0)
    monkeypatch.setattr(backend, "check_shared", lambda *_: 0)
    monkeypatch.setattr(backend, "load_model", lambda name, device, quantization: load_model(name, torch.device("cpu")))
    return FakeGenerator.opened


def test_the_learner_gets_vllms_weights_or_a_copy_and_is_told(
    opened: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, (shared, _) = load_run_config("demo"), load_model("tiny", torch.device("cpu"))
    monkeypatch.setattr(backend, "share_weights", lambda *_: shared)
    one = backend._vllm_on_gpu(config, VLLM)
    assert (one.model is shared, one.notes) == (True, ())
    refused = NotShared(reason="the checkpoint is quantised", copy_gb=14.19)
    monkeypatch.setattr(backend, "share_weights", lambda *_: refused)
    other = backend._vllm_on_gpu(config, VLLM)
    assert isinstance(other.model, PreTrainedModel)
    assert (other.model is shared, other.notes) == (False, (str(refused),))
    assert [generator.base_model for generator in opened] == [fingerprint_model(shared)] * 2
    assert not any(generator.closed for generator in opened)


def test_an_engine_is_closed_where_the_learners_model_cannot_be_had(
    opened: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed open, and another one could not be opened in the process."""

    def refuse(*_: Any) -> None:
        raise ConfigError("cannot read the configuration")

    monkeypatch.setattr(backend, "share_weights", refuse)
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        backend._vllm_on_gpu(load_run_config("demo"), VLLM)
    assert [generator.closed for generator in opened] == [True]


@pytest.mark.parametrize(("asked", "planned"), [(0.0, 44.0), (47.5, 44.0), (24.0, 24.0)])
def test_a_run_is_planned_for_the_card_that_is_here(monkeypatch: pytest.MonkeyPatch, asked: float, planned: float) -> None:
    """Settings made for a larger card passed the plan, and ran out of memory in vLLM."""
    seen: list[float] = []
    monkeypatch.setattr(backend, "memory_gb", lambda device: 44.0)
    monkeypatch.setattr(backend, "plan", lambda config, shape, device_gb, **_: seen.append(device_gb))
    backend._plan(load_run_config("demo", overrides=[f"memory.device_gb={asked}"]), "cuda", "vllm")
    assert seen == [planned]
