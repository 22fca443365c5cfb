"""Which trajectories count, what a token weighs, and agreement with TRL's GRPO loss on the same batch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from sparring.learner.batch import Batch
from sparring.learner.errors import LearnerError
from sparring.learner.grpo import GrpoConfig, select, sequence_weights
from sparring.learner.learner import Learner, LearnerConfig
from sparring.learner.lora import share_base
from sparring.rollout.trajectory import Trajectory

Deal = Callable[..., list[Trajectory]]


def test_equal_groups_and_void_games_are_dropped_and_counted(deal: Deal) -> None:
    rewards = [1.0, 1.0, 1.0, 1.0, 1.0, -1.0, None, -1.0, 1.0, None, None, None]
    selection = select(deal(rewards=rewards), GrpoConfig(advantage="dr_grpo"))
    assert (selection.num_groups, selection.dropped_groups, selection.void) == (1, 2, 4)
    assert [t.game_id for t in selection.trajectories] == ["1/0", "1/1", "1/3"]
    assert selection.advantages == pytest.approx((4 / 3, -2 / 3, -2 / 3))


def test_nothing_to_learn_from_is_an_empty_selection(deal: Deal) -> None:
    assert select([], GrpoConfig()).trajectories == ()
    assert select(deal(rewards=[None]), GrpoConfig()).void == 12


def test_weights_of_both_normalisations_add_up_to_one(trajectories: list[Trajectory]) -> None:
    counts = [sum(t.loss_mask) for t in trajectories]
    token, sequence = (sequence_weights(trajectories, kind) for kind in ("token", "sequence"))
    assert sum(w * n for w, n in zip(token, counts, strict=True)) == pytest.approx(1.0)
    assert [w * n for w, n in zip(sequence, counts, strict=True)] == pytest.approx([1 / len(counts)] * len(counts))
    assert len(set(token)) == 1


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"clip_low": 1.5}, {"kl_beta": -1.0}, {"tis_cap": 0.0}, {"temperature": 0.0}):
        with pytest.raises(LearnerError, match="grpo wants"):
            GrpoConfig(**settings)


# TRL: its own loss on a padded batch through plain Transformers and PEFT, against ours on the packed one


def padded(trajectories: list[Trajectory], extra: dict[str, list[list[float]]]) -> dict[str, torch.Tensor]:
    """TRL's batch: one prompt token, the rest as completion with gaps in `tool_mask`, padded on the right."""
    width = max(len(t.token_ids) for t in trajectories)

    def fill(rows: list[list[Any]]) -> torch.Tensor:
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])

    ids, real = fill([t.token_ids for t in trajectories]), fill([[1] * len(t.token_ids) for t in trajectories])
    mask = fill([[int(m) for m in t.loss_mask] for t in trajectories])
    batch = {"prompt_ids": ids[:, :1], "prompt_mask": real[:, :1], "completion_ids": ids[:, 1:], "completion_mask": real[:, 1:]}
    batch |= {"tool_mask": mask[:, 1:], "num_items_in_batch": mask.sum().float()}
    return batch | {name: fill(rows)[:, 1:] for name, rows in extra.items()}


def trl_logps(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, keep: int, **_: Any) -> tuple[Any, ...]:
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, -keep - 1 : -1]
    logp = logits.log_softmax(-1)
    return logp.gather(2, input_ids[:, -keep:, None]).squeeze(2), -(logp.exp() * logp).sum(-1), None


def trl_stub(config: GrpoConfig, loss_type: str) -> SimpleNamespace:
    same: Callable[..., Any] = lambda x, **_: x  # noqa: E731
    accelerator = SimpleNamespace(gather=same, gather_for_metrics=same, reduce=same, sync_gradients=True, num_processes=1)
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    metrics: dict[str, dict[str, list[float]]] = {"train": {}}
    for name in ("kl", "entropy", "policy_loss", "entropy_coef"):
        metrics["train"][name] = []
    for part in ("low_mean", "high_mean", "region_mean", "low_min", "high_max"):
        metrics["train"][f"clip_ratio/{part}"] = []
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=trl_logps,
        _metrics=metrics,
        accelerator=accelerator,
        args=args,
        aux_loss_enabled=False,
        beta=config.kl_beta,
        current_gradient_accumulation_steps=1,
        entropy_coef=config.entropy_coef,
        _entropy_bonus_enabled=config.entropy_coef > 0,
        epsilon_low=config.clip_low,
        epsilon_high=config.clip_high,
        importance_sampling_level="token",
        loss_type=loss_type,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_adaptive_entropy=False,
        use_vllm=config.tis_cap is not None,
        vllm_importance_sampling_correction=True,
    )


def wobble(row: list[float], mask: list[bool]) -> list[float]:
    """Log-probs of a policy some updates ago."""
    rng = random.Random(len(row))
    return [x + 0.15 * rng.gauss(0, 1) * m for x, m in zip(row, mask, strict=True)]


def importance(old: list[float], t: Trajectory) -> list[float]:
    return [min(math.exp(o - g), 2.0) for o, g in zip(old, t.logprobs, strict=True)]


def sampled(rows: list[list[float]], kept: list[Trajectory], batch: Batch) -> torch.Tensor:
    """The entries of a batch's trained tokens, in its order."""
    return torch.tensor([x for i in batch.members for x, m in zip(rows[i], kept[i].loss_mask, strict=True) if m])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("loss_type", "config"),
    [
        ("grpo", GrpoConfig(normalisation="sequence", clip_low=0.1, clip_high=0.28, kl_beta=0.04, tis_cap=None)),
        ("bnpo", GrpoConfig(normalisation="token", clip_low=0.2, clip_high=0.2, kl_beta=0.0, entropy_coef=0.01, tis_cap=None)),
        ("dapo", GrpoConfig(normalisation="token", clip_low=0.05, clip_high=0.1, kl_beta=0.1, tis_cap=2.0)),
    ],
)
def test_loss_and_gradients_equal_trl(
    base: PreTrainedModel,
    deal: Deal,
    warm: Callable[..., Learner],
    tmp_path: Path,
    loss_type: str,
    config: GrpoConfig,
    gradients: Callable[[Learner], dict[str, torch.Tensor]],
) -> None:
    from trl.trainer.grpo_trainer import GRPOTrainer

    learner = warm(base, LearnerConfig(grpo=config, token_budget=64))
    selection = select(deal(groups=2, rewards=[1.0, -1.0, 0.0, 1.0, 1.0]), config)
    kept = list(selection.trajectories)
    now, reference = learner.logprobs(kept), learner.logprobs(kept, base=True)
    old = [wobble(row, t.loss_mask) for row, t in zip(now, kept, strict=True)]

    weights = sequence_weights(kept, config.normalisation)
    total, clipped = 0.0, 0.0
    for batch in learner.pack(kept, selection.advantages, weights):
        given = {"old_logp": sampled(old, kept, batch)}
        if config.kl_beta:
            given["reference_logp"] = sampled(reference, kept, batch)
        sums = learner.forward_backward(replace(batch, **given))
        total, clipped = total + sums.loss, clipped + sums.clipped

    learner.adapter().save(tmp_path / "adapter")
    model = PeftModel.from_pretrained(share_base(base), str(tmp_path / "adapter"), is_trainable=True)
    extra = {"old_per_token_logps": old, "ref_per_token_logps": reference}
    ratios = [importance(row, t) for row, t in zip(old, kept, strict=True)]
    inputs = padded(kept, extra | {"importance_sampling_ratio": ratios}) | {"advantages": torch.tensor(selection.advantages)}
    theirs = GRPOTrainer._compute_loss(trl_stub(config, loss_type), model, inputs)
    theirs.backward()

    assert clipped > 0
    assert total == pytest.approx(theirs.item(), abs=2e-6)
    found = gradients(learner)
    assert len(found) == 28
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            mine = found[name.replace(".default.weight", ".weight")]
            torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)
