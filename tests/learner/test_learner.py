"""The update: parts equal the whole, resumed equals straight, and a bad gradient changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import PreTrainedModel

from sparring.learner.errors import AdapterError, LearnerError
from sparring.learner.grpo import GrpoConfig, select, sequence_weights
from sparring.learner.learner import OPTIMIZER_FILE, STATE_FILE, Learner, LearnerConfig
from sparring.learner.schedule import rate
from sparring.learner.stats import StepStats
from sparring.rollout.trajectory import Trajectory

Warm = Callable[..., Learner]
Gradients = Callable[[Learner], dict[str, torch.Tensor]]


def accumulate(learner: Learner, trajectories: list[Trajectory]) -> float:
    selection = select(trajectories, learner.config.grpo)
    weights = sequence_weights(selection.trajectories, learner.config.grpo.normalisation)
    return sum(
        learner.forward_backward(batch).loss for batch in learner.pack(selection.trajectories, selection.advantages, weights)
    )


@pytest.mark.parametrize("normalisation", ["token", "sequence"])
def test_micro_batches_shared_or_not_equal_one_big_batch(
    base: PreTrainedModel, trajectories: list[Trajectory], warm: Warm, gradients: Gradients, normalisation: str
) -> None:
    found = []
    for budget, share in ((10_000, False), (40, False), (40, True), (10_000, True)):
        grpo = GrpoConfig(normalisation=normalisation, entropy_coef=0.01)  # type: ignore[arg-type]
        learner = warm(base, LearnerConfig(grpo=grpo, token_budget=budget, share_prefixes=share))
        found.append((accumulate(learner, trajectories), gradients(learner)))
    for loss, grads in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-6)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, found[0][1][name], atol=1e-6, rtol=1e-4)


def test_the_halves_make_the_step(base: PreTrainedModel, trajectories: list[Trajectory], warm: Warm) -> None:
    whole, halves = warm(base), warm(base)
    stats = whole.step(trajectories)
    accumulate(halves, trajectories)
    optim = halves.optim_step()
    assert whole.adapter().fingerprint == halves.adapter().fingerprint
    assert optim.grad_norm == pytest.approx(stats.grad_norm) and stats.grad_norm > 0


def test_steps_raise_the_log_probs_of_what_won(base: PreTrainedModel, trajectories: list[Trajectory]) -> None:
    learner = Learner(base, LearnerConfig(learning_rate=3e-3), seed=0)

    def margin() -> float:
        selection = select(trajectories, learner.config.grpo)
        logps = learner.logprobs(selection.trajectories)
        return sum(a * sum(row) for a, row in zip(selection.advantages, logps, strict=True))

    before = margin()
    for _ in range(5):
        stats = learner.step(trajectories)
    assert margin() > before + 1.0
    assert stats.step == 5 and stats.updates == 1 and stats.ratio_mean == 1.0 and stats.clip_fraction == 0.0


def test_several_epochs_keep_the_old_log_probs(base: PreTrainedModel, trajectories: list[Trajectory], warm: Warm) -> None:
    learner = warm(base, LearnerConfig(epochs=3, minibatches=2, learning_rate=1e-2, grpo=GrpoConfig(kl_beta=0.1)))
    stats = learner.step(trajectories)
    assert stats.updates == 6
    assert stats.ratio_max > 1.01 and stats.old_kl > 0 and stats.kl > 0 and stats.clip_fraction > 0
    assert stats.trained_tokens == 3 * sum(sum(t.loss_mask) for t in select(trajectories, learner.config.grpo).trajectories)
    once = warm(base, LearnerConfig(learning_rate=1e-2)).step(trajectories)
    assert once.ratio_max == 1.0 and once.old_kl == 0.0


def sampled(rows: list[list[float]], trajectories: list[Trajectory]) -> list[float]:
    return [x for row, t in zip(rows, trajectories, strict=True) for x, m in zip(row, t.loss_mask, strict=True) if m]


def test_statistics_are_right(base: PreTrainedModel, trajectories: list[Trajectory], warm: Warm) -> None:
    learner = warm(base, LearnerConfig(grpo=GrpoConfig(kl_beta=0.05)))
    logps, reference = learner.logprobs(trajectories), learner.logprobs(trajectories, base=True)
    stats = learner.step(trajectories)
    lists = (logps, [t.logprobs for t in trajectories], reference)
    pairs = list(zip(*(sampled(rows, trajectories) for rows in lists), strict=True))
    gaps = [abs(now - gen) for now, gen, _ in pairs]
    assert stats.mismatch_mean == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    assert stats.mismatch_max == pytest.approx(max(gaps), rel=1e-4)
    assert stats.tis_mean == pytest.approx(sum(min(math.exp(now - gen), 2.0) for now, gen, _ in pairs) / len(pairs), rel=1e-4)
    assert stats.kl == pytest.approx(sum(math.exp(ref - now) - (ref - now) - 1 for now, _, ref in pairs) / len(pairs), rel=1e-3)
    assert stats.loss == pytest.approx(stats.policy_loss + stats.kl_loss)
    assert (stats.groups, stats.trajectories, stats.tokens) == (3, 12, sum(len(t.token_ids) for t in trajectories))
    assert stats.packed_tokens < stats.tokens and stats.tokens_per_second > 0


def test_nothing_to_learn_from_changes_nothing(base: PreTrainedModel, deal: Callable[..., list[Trajectory]]) -> None:
    learner = Learner(base, LearnerConfig(), seed=0)
    before = learner.adapter().fingerprint
    stats = learner.step(deal(rewards=[1.0]))
    assert (stats.updates, stats.dropped_groups, stats.loss, stats.step) == (0, 3, 0.0, 1)
    assert learner.adapter().fingerprint == before


@pytest.mark.parametrize("config", [LearnerConfig(), LearnerConfig(epochs=2, minibatches=2, schedule="cosine", total_steps=20)])
def test_resumed_equals_straight_bit_for_bit(
    base: PreTrainedModel, trajectories: list[Trajectory], tmp_path: Path, config: LearnerConfig
) -> None:
    straight, first = Learner(base, config, seed=3), Learner(base, config, seed=3)
    straight.step(trajectories)
    want = straight.step(trajectories)
    first.step(trajectories)
    first.save(tmp_path / "step-1")
    second = Learner(base, config, seed=99)
    second.load(tmp_path / "step-1")
    got = second.step(trajectories)
    assert second.adapter().fingerprint == straight.adapter().fingerprint
    assert without_time(got) == without_time(want)


def without_time(stats: StepStats) -> dict[str, object]:
    return msgspec.to_builtins(msgspec.structs.replace(stats, seconds=0.0, tokens_per_second=0.0))


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(
    base: PreTrainedModel, trajectories: list[Trajectory], warm: Warm
) -> None:
    learner = warm(base)
    before = learner.adapter().fingerprint
    (batch,) = learner.pack(trajectories[:2], [1.0, -1.0], [1.0, 1.0])
    learner.forward_backward(replace(batch, advantage=torch.full_like(batch.advantage, float("nan"))))
    stats = learner.optim_step()
    assert stats.skipped and not math.isfinite(stats.grad_norm)
    assert (learner.skipped, learner.updates) == (1, 1)
    assert learner.adapter().fingerprint == before
    assert learner.step(trajectories).skipped_updates == 0


def largest_moment(learner: Learner) -> float:
    return max(float(tensor.abs().max()) for name, tensor in learner.state()[0].items() if name.startswith("exp_avg."))


def test_gradients_are_clipped_to_the_norm(base: PreTrainedModel, trajectories: list[Trajectory], warm: Warm) -> None:
    stats = {norm: warm(base, LearnerConfig(max_grad_norm=norm)) for norm in (0.0, 1e-9)}
    norms = {norm: learner.step(trajectories).grad_norm for norm, learner in stats.items()}
    assert norms[0.0] == norms[1e-9] > 1e-3
    moments = {norm: largest_moment(learner) for norm, learner in stats.items()}
    assert moments[1e-9] < 1e-9 < moments[0.0]


def test_schedules() -> None:
    def rates(schedule: str) -> list[float]:
        return [round(rate(schedule, step, peak=1.0, warmup=2, total=6, floor=0.1), 4) for step in range(8)]  # type: ignore[arg-type]

    assert rates("constant") == [0.3333, 0.6667, 1, 1, 1, 1, 1, 1]
    assert rates("linear") == [0.3333, 0.6667, 1, 0.775, 0.55, 0.325, 0.1, 0.1]
    assert rates("cosine") == [0.3333, 0.6667, 1, 0.8682, 0.55, 0.2318, 0.1, 0.1]


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"learning_rate": 0.0}, {"epochs": 0}, {"schedule": "linear", "warmup_steps": 3, "total_steps": 3}):
        with pytest.raises(LearnerError, match="wants"):
            LearnerConfig(**settings)  # type: ignore[arg-type]


def test_a_checkpoint_that_does_not_fit_is_refused(
    base: PreTrainedModel, other_base: PreTrainedModel, trajectories: list[Trajectory], tmp_path: Path
) -> None:
    learner = Learner(base, LearnerConfig(), seed=0)
    learner.step(trajectories)
    learner.save(tmp_path / "c")
    with pytest.raises(AdapterError, match="was trained on base model"):
        Learner(other_base, LearnerConfig(), seed=0).load(tmp_path / "c")
    state = json.loads((tmp_path / "c" / STATE_FILE).read_text())
    (tmp_path / "c" / STATE_FILE).write_text(json.dumps(state | {"updates": None}))
    with pytest.raises(LearnerError, match="lacks its RNG or a counter"):
        learner.load(tmp_path / "c")
    (tmp_path / "c" / OPTIMIZER_FILE).write_bytes(b"cut")
    with pytest.raises(LearnerError, match="go back to an earlier one"):
        learner.load(tmp_path / "c")
    (tmp_path / "c" / OPTIMIZER_FILE).unlink()
    with pytest.raises(LearnerError, match="load it as an adapter"):
        learner.load(tmp_path / "c")
