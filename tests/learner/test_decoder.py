"""The trimmed decoder and the whole one, on models of several families, against each as Transformers made it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sparring.learner.decoder import TRIMMED
from sparring.learner.errors import LearnerError
from sparring.learner.learner import Learner, LearnerConfig
from sparring.rollout.trajectory import Trajectory

SHAPE = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def make(model_type: str, **changes: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(model_type, **(SHAPE | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0} | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():  # norms start as ones, which would hide one applied twice
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("model_type", [*sorted(TRIMMED), "olmo2"])
def test_log_probs_equal_the_plain_model(
    model_type: str,
    trajectories: list[Trajectory],
    warm: Callable[..., Learner],
    plain_logprobs: Callable[[PreTrainedModel, Trajectory], torch.Tensor],
) -> None:
    model = make(model_type)
    for t, found in zip(trajectories, warm(model).logprobs(trajectories, base=True), strict=True):
        torch.testing.assert_close(torch.tensor(found), plain_logprobs(model, t), atol=3e-6, rtol=0)


def test_gradients_do_not_depend_on_trimming(
    base: PreTrainedModel,
    trajectories: list[Trajectory],
    warm: Callable[..., Learner],
    gradients: Callable[[Learner], dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for trimmed in (TRIMMED, frozenset[str]()):
        monkeypatch.setattr("sparring.learner.decoder.TRIMMED", trimmed)
        learner = warm(base)
        numbers = [(-1.0) ** i for i in range(len(trajectories))]
        for batch in learner.pack(trajectories, numbers, [1.0] * len(numbers)):
            learner.forward_backward(batch)
        found.append(gradients(learner))
    assert len(found[0]) == 28
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], atol=1e-5, rtol=1e-4)


def test_a_sequence_beyond_the_sliding_window_is_refused(trajectories: list[Trajectory]) -> None:
    learner = Learner(make("mistral", sliding_window=8), LearnerConfig(), seed=0)
    with pytest.raises(LearnerError, match="attends to 8 tokens only"):
        learner.logprobs(trajectories)
