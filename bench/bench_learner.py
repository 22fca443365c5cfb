"""One update of the learner: packing, forward, backward, AdamW, on the games of a training step of the demo.

Beside it, in the same rounds and with the same gradient: the learner without shared prefixes, and what a plain trainer does with
the same games: PEFT's own layers on the model as Transformers made it, sequences padded to the longest of 16, logits of every
position. Tokens/s count the sequences' own tokens, whichever way they are computed.
"""

from __future__ import annotations

from math import isclose

import msgspec
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence

from sparring.bench.rounds import Rounds
from sparring.bench.workload import Update, Workload
from sparring.kernels.policy_loss import policy_loss
from sparring.learner.learner import Learner, LearnerConfig
from sparring.learner.lora import load_into, lora_parameters, share_base

PADDED_ROWS = 16


class PlainTrainer:
    """The baseline. Starts from the learner's own initial adapter."""

    def __init__(self, learner: Learner, workload: Workload) -> None:
        config = learner.config
        spec = LoraConfig(
            r=config.lora.rank, lora_alpha=int(config.lora.alpha), target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = share_base(workload.model)
        model.set_attn_implementation("sdpa")
        self._model = get_peft_model(model, spec).train()
        load_into(self._model, learner.adapter())
        self._config = config
        self._parameters = list(lora_parameters(self._model).values())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def step(self, update: Update) -> float:
        """The norm of the update's gradient."""
        for start in range(0, len(update.trajectories), PADDED_ROWS):
            self._backward(update, slice(start, start + PADDED_ROWS))
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm or float("inf"))
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def _backward(self, update: Update, part: slice) -> None:
        games, grpo = update.trajectories[part], self._config.grpo
        ids_BT = pad_sequence([torch.tensor(t.token_ids) for t in games], batch_first=True)
        real_BT = pad_sequence([torch.ones(len(t.token_ids), dtype=torch.int64) for t in games], batch_first=True)
        trained_BT = pad_sequence([torch.tensor(t.loss_mask) for t in games], batch_first=True)[:, 1:]
        generator_BT = pad_sequence([torch.tensor(t.logprobs) for t in games], batch_first=True)[:, 1:]
        logits_BTV = self._model(input_ids=ids_BT, attention_mask=real_BT, use_cache=False).logits[:, :-1]
        logp_BT = logits_BTV.log_softmax(-1).gather(2, ids_BT[:, 1:, None]).squeeze(2)

        def spread(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values[part])[:, None].expand_as(logp_BT)[trained_BT]

        loss, _ = policy_loss(
            logp_BT[trained_BT],
            spread(update.advantages),
            spread(update.weights),
            generator_logp=generator_BT[trained_BT],
            clip_low=grpo.clip_low,
            clip_high=grpo.clip_high,
            tis_cap=grpo.tis_cap,
        )
        loss.backward()


@pytest.mark.benchmark(group="learner: one update")
def test_step(rounds: Rounds, workload: Workload) -> None:
    update = workload.update
    config = plainest(workload.config.run_learner)
    shared = Learner(workload.model, config, seed=0)
    apart = Learner(workload.model, msgspec.structs.replace(config, share_prefixes=False), seed=0)
    plain = PlainTrainer(shared, workload)
    few = Update.of(update.trajectories[:PADDED_ROWS], config.grpo)
    first = [shared.step(few.trajectories).grad_norm, apart.step(few.trajectories).grad_norm, plain.step(few)]
    assert all(isclose(norm, first[0], rel_tol=1e-3) for norm in first), "the three sides must compute the same gradient"
    beside = {"unshared": lambda: apart.step(update.trajectories), "padded Hugging Face": lambda: plain.step(update)}
    stats = rounds.time(lambda: shared.step(update.trajectories), rounds=3, beside=beside)
    tokens = sum(len(t.token_ids) for t in update.trajectories)
    rounds.rate(tokens=tokens, games=len(update.trajectories))
    rounds.note(f"{tokens:,} tokens, {stats.packed_tokens:,} rows, {padded_tokens(update):,} padded", tokens=tokens)
    for name in beside:
        rounds.note(f"{name}: {tokens / rounds.seconds_beside(name):,.0f} tokens/s")
    rounds.compare()


def plainest(config: LearnerConfig) -> LearnerConfig:
    """The run's learner with what the baseline does not do switched off: its loss is GRPO alone, in one update."""
    grpo = msgspec.structs.replace(config.grpo, kl_beta=0.0, entropy_coef=0.0)
    return msgspec.structs.replace(config, grpo=grpo, schedule="constant", epochs=1, minibatches=1)


def padded_tokens(update: Update) -> int:
    lengths = [len(t.token_ids) for t in update.trajectories]
    parts = [lengths[start : start + PADDED_ROWS] for start in range(0, len(lengths), PADDED_ROWS)]
    return sum(len(part) * max(part) for part in parts)
