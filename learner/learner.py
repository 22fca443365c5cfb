"""`Learner`: trajectories in, a better adapter out.

Owns the trained parameters, the optimiser and their state on disk. `step` is the whole update; `forward_backward` and
`optim_step` are its halves, for callers who accumulate or schedule on their own. The loss is `grpo.py`'s, packing `batch.py`'s.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparring.kernels.linear_logprob import linear_logprob
from sparring.kernels.policy_loss import PolicySums
from sparring.learner.adapter import Adapter, LoraSpec, load_adapter
from sparring.learner.attention import ATTENTION
from sparring.learner.batch import Batch, pack
from sparring.learner.decoder import hidden_states
from sparring.learner.errors import AdapterError, LearnerError
from sparring.learner.files import write_folder
from sparring.learner.grpo import GrpoConfig, Selection, grpo_loss, select, sequence_weights
from sparring.learner.lora import attach, export_tensors, fingerprint_model, load_into, lora_parameters, share_base
from sparring.learner.schedule import Schedule, rate
from sparring.learner.stats import OptimStats, StepStats, step_stats
from sparring.rollout.trajectory import Trajectory

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "learner.json"
RNG = "rng"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps per parameter."""


class LearnerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an adapter is trained."""

    lora: LoraSpec = LoraSpec()
    grpo: GrpoConfig = GrpoConfig()
    learning_rate: float = 1e-4
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    total_steps: int = 0
    """Updates until a linear or cosine schedule reaches `final_rate`; each mini-batch of each epoch is one. In the settings of a
    run, 0 stands for all of the run's."""
    final_rate: float = 0.0
    """Where the schedule ends, as a share of `learning_rate`."""
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""
    epochs: int = 1
    """Passes over one step's games."""
    minibatches: int = 1
    """Updates per pass, on whole groups in random order."""
    token_budget: int = 4096
    """Packed tokens per forward pass. The result does not depend on it; memory does."""
    share_prefixes: bool = True
    """Compute what sequences have in common at their beginning once."""

    def __post_init__(self) -> None:
        numbers = (self.learning_rate, self.final_rate, *self.betas, self.eps, self.weight_decay, self.max_grad_norm)
        if not all(math.isfinite(number) for number in numbers):
            raise LearnerError("learner wants finite rates, betas, eps, weight_decay and max_grad_norm")
        if not all(0 <= beta < 1 for beta in self.betas) or self.eps <= 0:
            raise LearnerError(f"learner wants betas of at least 0 and below 1, and eps above 0, got {self.betas} and {self.eps}")
        if self.learning_rate <= 0 or min(self.warmup_steps, self.max_grad_norm, self.weight_decay) < 0:
            raise LearnerError("learner wants learning_rate above 0; warmup_steps, max_grad_norm and weight_decay not below 0")
        if min(self.epochs, self.minibatches, self.token_budget) < 1:
            raise LearnerError("learner wants epochs, minibatches and token_budget of at least 1")
        if self.schedule != "constant" and 0 < self.total_steps <= self.warmup_steps:
            raise LearnerError(f"the {self.schedule} schedule wants total_steps above warmup_steps ({self.warmup_steps})")


class Learner:
    """Trains one adapter on a base model, whose weights it shares and never changes.

    Example:
        >>> learner = Learner(base_model, LearnerConfig(), seed=0)
        >>> stats = learner.step(trajectories)
        >>> learner.adapter().save(Path("runs/demo/adapter"))
    """

    def __init__(self, base_model: PreTrainedModel, config: LearnerConfig, *, seed: int, name: str = "policy") -> None:
        if config.schedule != "constant" and not config.total_steps:
            raise LearnerError(f"the {config.schedule} schedule wants total_steps: the updates after which it ends")
        self.config = config
        self.name = name
        self.steps = 0
        """Calls of `step` so far."""
        self.updates = 0
        """Calls of `optim_step` so far: where the schedule stands."""
        self.skipped = 0
        """Of these, the ones that found gradients that were not finite and changed nothing."""
        self.base_model = fingerprint_model(base_model)
        first = next(base_model.parameters())
        self.device, self.dtype = first.device, first.dtype
        model = share_base(base_model)
        model.set_attn_implementation(ATTENTION)
        self._decoder, self._head = _halves(model)
        self._wrapped = attach(model, config.lora, seed=seed)
        self._wrapped.eval()  # gradients flow all the same, and no dropout of the base model's comes between
        self.parameters = lora_parameters(self._wrapped)
        """What is trained, by PEFT name."""
        self._optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._rng = torch.Generator().manual_seed(seed)

    # The update

    def step(self, trajectories: Sequence[Trajectory]) -> StepStats:
        """One step on one iteration's games: `epochs` x `minibatches` updates, or none where no group carries a gradient."""
        start = time.perf_counter()
        selection = select(trajectories, self.config.grpo)
        sums, optims, num_rows = PolicySums(), [], 0
        updates = [self._prepare(part) for part in self._split(selection)] if selection.trajectories else []
        several = self.config.epochs * len(updates) > 1
        if several:
            updates = [[replace(b, old_logp=self._score(b)) for b in batches] for batches in updates]
        for _ in range(self.config.epochs):
            for batches in updates:
                for batch in batches:
                    sums += self.forward_backward(batch)
                    num_rows += batch.num_rows
                optims.append(self.optim_step())
        self.steps += 1
        return step_stats(self.steps, selection, sums, optims, num_rows=num_rows, seconds=time.perf_counter() - start)

    def _split(self, selection: Selection) -> list[Selection]:
        """Whole groups in random order, dealt out into `minibatches` parts of nearly equal numbers of groups."""
        if self.config.minibatches == 1:
            return [selection]
        names = sorted(set(selection.groups))
        order = [names[i] for i in torch.randperm(len(names), generator=self._rng).tolist()]
        parts = []
        for part in range(min(self.config.minibatches, len(names))):
            mine = set(order[part :: self.config.minibatches])
            kept = [i for i, group in enumerate(selection.groups) if group in mine]
            parts.append(selection.part(kept))
        return parts

    def _prepare(self, selection: Selection) -> list[Batch]:
        """The micro-batches of one update, with the base model's log-probs where the loss asks for them."""
        grpo = self.config.grpo
        weights = sequence_weights(selection.trajectories, grpo.normalisation)
        batches = self.pack(selection.trajectories, selection.advantages, weights)
        if grpo.kl_beta:
            return [replace(b, reference_logp=self._score(b, base=True)) for b in batches]
        return batches

    def pack(self, trajectories: Sequence[Trajectory], advantages: Sequence[float], weights: Sequence[float]) -> list[Batch]:
        """Micro-batches for `forward_backward`, in host memory until their turn; a number per trajectory in both lists."""
        config, vocabulary = self.config, len(self._head.weight)
        for t in trajectories:
            if t.token_ids and not 0 <= min(t.token_ids) <= max(t.token_ids) < vocabulary:
                raise LearnerError(
                    f"game {t.game_id!r} holds token ids outside this model's {vocabulary}: collect with this model"
                )
        return pack(
            trajectories,
            advantages,
            weights,
            token_budget=config.token_budget,
            share_prefixes=config.share_prefixes,
            temperature=config.grpo.temperature,
        )

    def forward_backward(self, batch: Batch) -> PolicySums:
        """Adds one micro-batch's gradient to what has accumulated. Weights are global, so parts add up to the whole update."""
        grpo, batch = self.config.grpo, batch.to(self.device)
        logp, entropy = self._logprobs(batch, entropy_grad=grpo.entropy_coef > 0)
        loss, sums = grpo_loss(logp, entropy, batch, grpo)
        loss.backward()
        return sums

    def optim_step(self) -> OptimStats:
        """One AdamW update with what has accumulated, then a clean slate. Gradients that are not finite change nothing."""
        config = self.config
        lr = rate(
            config.schedule,
            self.updates,
            peak=config.learning_rate,
            warmup=config.warmup_steps,
            total=config.total_steps,
            floor=config.final_rate,
        )
        held = [p for p in self.parameters.values() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
        skipped = not bool(norm.isfinite())
        if not skipped:
            if config.max_grad_norm:
                nn.utils.clip_grads_with_norm_(held, config.max_grad_norm, norm)
            self._optimizer.param_groups[0]["lr"] = lr
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self.skipped += skipped
        return OptimStats(grad_norm=float(norm), learning_rate=lr, skipped=skipped)

    def frozen_parameters(self) -> list[nn.Parameter]:
        """The base weights as the learner sees them: each shares its storage with the base model's."""
        return [p for p in self._wrapped.parameters() if not p.requires_grad]

    # Log-probs

    def logprobs(self, trajectories: Sequence[Trajectory], *, base: bool = False) -> list[list[float]]:
        """Per token of each trajectory: its log-prob under the current policy (or the base) where sampled, 0.0 elsewhere."""
        found: list[list[float]] = [[0.0] * len(t.token_ids) for t in trajectories]
        zeros = [0.0] * len(trajectories)
        for batch in self.pack(trajectories, zeros, zeros):
            logp = self._score(batch, base=base)
            for b, member in enumerate(batch.members):
                trained = [at for at, mask in enumerate(trajectories[member].loss_mask) if mask]
                for at, value in zip(trained, logp[batch.sequence == b].tolist(), strict=True):
                    found[member][at] = value
        return found

    @torch.no_grad()
    def _score(self, batch: Batch, *, base: bool = False) -> Tensor:
        """[M] log-probs, in host memory like the batch."""
        with self._wrapped.disable_adapter() if base else contextlib.nullcontext():
            return self._logprobs(batch.to(self.device), entropy_grad=False)[0].cpu()

    def _logprobs(self, batch: Batch, *, entropy_grad: bool) -> tuple[Tensor, Tensor]:
        return linear_logprob(
            hidden_states(self._decoder, batch),
            self._head.weight,
            batch.targets,
            bias=self._head.bias,
            temperature=batch.temperature,
            entropy=True,
            entropy_grad=entropy_grad,
        )

    # Adapter and state

    def adapter(self) -> Adapter:
        """A copy of the policy as it stands."""
        tensors = export_tensors(self._wrapped)
        return Adapter(name=self.name, spec=self.config.lora, tensors=tensors, step=self.steps, base_model=self.base_model)

    def load_adapter(self, adapter: Adapter) -> None:
        """Takes an adapter's values, and starts the optimiser afresh. Raises `AdapterError` if it does not fit."""
        adapter.check_base(self.base_model)
        theirs, ours = adapter.spec, self.config.lora
        if theirs.scaling != ours.scaling:
            raise AdapterError(
                f"adapter {adapter.name!r} is scaled by {theirs.scaling:g}, the learner's by {ours.scaling:g}: "
                f"set lora.rank = {theirs.rank}, lora.alpha = {theirs.alpha:g} and lora.rslora = {theirs.rslora}"
            )
        load_into(self._wrapped, adapter)
        self._optimizer.state.clear()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `adapter()` does not hold of what decides the next update: the optimiser's moments and the RNG; counters."""
        tensors: dict[str, Tensor] = {RNG: self._rng.get_state()}
        for name, parameter in self.parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value.detach().clone().contiguous()
        return tensors, {"steps": self.steps, "updates": self.updates, "skipped": self.skipped, "base_model": self.base_model}

    def load_state(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Takes what `state` gave. Raises `LearnerError` if it is another model's or lacks something."""
        if scalars.get("base_model") != self.base_model:
            raise LearnerError(
                f"the state belongs to base model {scalars.get('base_model')}, this one is {self.base_model}: "
                "resume with the model that the run was started with"
            )
        moments: dict[Tensor, dict[str, Tensor]] = {}
        for name, parameter in self.parameters.items():
            found = {key: tensors[f"{key}.{name}"] for key in MOMENTS if f"{key}.{name}" in tensors}
            if found and any(key not in found or found[key].shape != parameter.shape for key in MOMENTS[1:]):
                raise LearnerError(f"the optimiser's state for {name} does not fit: resume with the lora settings of the run")
            if found:
                moments[parameter] = {key: value.clone().to(parameter.device) for key, value in found.items()}
        counters = [scalars.get(key) for key in ("steps", "updates", "skipped")]
        if RNG not in tensors or not all(isinstance(counter, int) for counter in counters):
            raise LearnerError("the state lacks its RNG or a counter: go back to an earlier checkpoint")
        self.steps, self.updates, self.skipped = cast(list[int], counters)
        self._rng.set_state(tensors[RNG])
        self._optimizer.state.clear()
        self._optimizer.state.update(moments)

    def files(self) -> dict[str, bytes]:
        """The whole checkpoint by file name: the adapter in PEFT format, the optimiser, the counters. Nothing is pickled."""
        tensors, scalars = self.state()
        held = {name: tensor.cpu() for name, tensor in tensors.items()}
        state = {OPTIMIZER_FILE: safetensors.torch.save(held), STATE_FILE: json.dumps(scalars, indent=2, sort_keys=True).encode()}
        return self.adapter().files() | state

    def save(self, folder: Path) -> None:
        """Writes the checkpoint; the folder is also a plain PEFT adapter."""
        write_folder(folder, self.files())

    def load(self, folder: Path) -> None:
        """Takes a checkpoint: the next update is bit for bit the one that the saved learner would have made (on a CPU)."""
        adapter = load_adapter(folder)
        try:
            tensors = safetensors.torch.load((folder / OPTIMIZER_FILE).read_bytes())
            scalars = json.loads((folder / STATE_FILE).read_bytes())
        except OSError as error:
            raise LearnerError(f"{folder} has no {error.filename}: it is no checkpoint, load it as an adapter") from error
        except (SafetensorError, ValueError) as error:
            raise LearnerError(f"the checkpoint in {folder} is broken ({error}): go back to an earlier one") from error
        self.load_adapter(adapter)
        self.load_state(tensors, scalars)


def _halves(model: PreTrainedModel) -> tuple[PreTrainedModel, nn.Linear]:
    """The decoder and the head, which must be all there is between hidden states and logits."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    for option in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, option, None) is not None:
            raise LearnerError(
                f"{type(model).__name__} scales logits ({option}), which the learner does not: choose another model"
            )
    if not isinstance(head, nn.Linear) or not isinstance(decoder, PreTrainedModel):
        raise LearnerError(f"{type(model).__name__} is no decoder with a linear head: give a causal language model")
    return decoder, head
