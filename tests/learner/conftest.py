"""A model of two layers, trajectories to learn from, and a learner whose adapter already says something."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from sparring.learner.learner import Learner, LearnerConfig
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios.outcome import Verdict

VOCABULARY = 61


def tiny_model(seed: int = 0, **changes: Any) -> PreTrainedModel:
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(Qwen2Config(**(shape | heads | changes)))


@pytest.fixture(scope="session")
def base() -> PreTrainedModel:
    return tiny_model()


@pytest.fixture(scope="session")
def other_base() -> PreTrainedModel:
    return tiny_model(seed=1)


def deal_trajectories(
    groups: int = 3, size: int = 4, *, seed: int = 0, rewards: list[float | None] | None = None
) -> list[Trajectory]:
    """Games of a group share their prompt, some of them their first sampled tokens too; lengths differ."""
    rng = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(count)]

    out = []
    for group in range(groups):
        prompt, opening = ids(rng.randint(5, 12)), ids(3)
        for member in range(size):
            tokens, mask = prompt + opening, [False] * len(prompt) + [True] * 3
            for _ in range(rng.randint(1, 3)):
                said, heard = rng.randint(1, 6), rng.randint(2, 5)
                tokens = tokens + ids(said + heard)
                mask = mask + [True] * said + [False] * heard
            reward = rng.choice([-1.0, 0.0, 1.0]) if rewards is None else rewards[(group * size + member) % len(rewards)]
            out.append(
                Trajectory(
                    game_id=f"{group}/{member}",
                    scenario_id=str(group),
                    family="haggle",
                    seat="seller",
                    partner="script:hold",
                    token_ids=tokens,
                    logprobs=[-4.0 - 0.3 * rng.random() if m else 0.0 for m in mask],
                    loss_mask=mask,
                    temperature=1.0,
                    policy="",
                    reward=reward,
                    verdict=Verdict.VOID if reward is None else Verdict.WIN,
                    score=0.5,
                )
            )
    return out


@pytest.fixture
def trajectories() -> list[Trajectory]:
    return deal_trajectories(rewards=[1.0, -1.0, 0.0, 1.0, 1.0])


def warm_learner(model: PreTrainedModel, config: LearnerConfig | None = None, *, seed: int = 0) -> Learner:
    """A fresh LoRA changes nothing (B is zero) and A gets no gradient; this one's B is random."""
    learner = Learner(model, config or LearnerConfig(), seed=seed)
    adapter = learner.adapter()
    rng = torch.Generator().manual_seed(7)
    tensors = {name: 0.1 * torch.randn(tensor.shape, generator=rng) for name, tensor in adapter.tensors.items()}
    learner.load_adapter(replace(adapter, tensors=tensors))
    return learner


@pytest.fixture
def plain_logprobs() -> Callable[[PreTrainedModel, Trajectory], torch.Tensor]:
    """One sequence through a model as Transformers made it: log-probs where sampled, 0 elsewhere."""

    @torch.no_grad()
    def compute(model: PreTrainedModel, t: Trajectory) -> torch.Tensor:
        logp = model(torch.tensor([t.token_ids[:-1]])).logits[0].log_softmax(-1)
        found = logp.gather(1, torch.tensor(t.token_ids[1:])[:, None]).squeeze(1)
        return torch.cat((torch.zeros(1), found)) * torch.tensor(t.loss_mask)

    return compute


@pytest.fixture
def warm() -> Callable[..., Learner]:
    return warm_learner


@pytest.fixture
def deal() -> Callable[..., list[Trajectory]]:
    return deal_trajectories


@pytest.fixture
def gradients() -> Callable[[Learner], dict[str, torch.Tensor]]:
    def read(learner: Learner) -> dict[str, torch.Tensor]:
        return {name: parameter.grad.clone() for name, parameter in learner.parameters.items() if parameter.grad is not None}

    return read
