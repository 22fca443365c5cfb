"""`Batch`: sequences of unequal length in one row of tokens, no padding, and shared beginnings only once.

Owns packing. Games of one group begin with the same prompt, and a causal model computes the same thing for it in each of them:
the packed rows form a trie, and a sequence is a path through it. Linear layers run on the rows, attention on the paths
(`attention.py`), the head only on rows that predict a trained token. All of it is exact.

Axes: N packed rows, B sequences, T positions of the longest, M trained tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparring.learner.blocks import Blocks, plan
from sparring.learner.errors import LearnerError
from sparring.rollout.trajectory import Trajectory


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One micro-batch: what a forward and backward pass needs, and nothing of the others.

    Example: two sequences 5 6 9 and 5 6 7 8, whose tokens from the third on are trained, share the rows of 5 and of 6:
        token_ids [5, 6, 7]   paths [[0, 1, 0], [0, 1, 2]]   rows [1, 1, 2]   targets [9, 7, 8]
    The last token of a sequence is predicted, never read.
    """

    token_ids: Tensor
    """[N] int64."""
    position_ids: Tensor
    """[N] int64, from 0 in each sequence."""
    paths: Tensor
    """[B, T] int64: the row at each position of each sequence; padded with row 0, which no earlier position can see."""
    lengths: Tensor
    """[B] int64: positions of each path that count."""
    blocks: tuple[Blocks, ...]
    """What attention computes."""
    home: Tensor
    """[N] int64: where each row's answer stands in what the blocks give."""
    predicting: Tensor
    """[R] int64: the rows that predict a trained token, each once."""
    last_blocks: tuple[Blocks, ...]
    """What the last layer's attention computes: the predicting rows alone ask."""
    last_home: Tensor
    """[R] int64, like `home`."""
    predictor: Tensor
    """[M] int64: which of the predicting rows predicts each trained token."""
    targets: Tensor
    """[M] int64: the trained tokens."""
    sequence: Tensor
    """[M] int64: which sequence of this batch each belongs to."""
    generator_logp: Tensor
    """[M] log-probs under the policy that sampled them."""
    advantage: Tensor
    """[M]"""
    weight: Tensor
    """[M] share of each token in the loss; over all micro-batches of an update these add up to the whole normalisation."""
    temperature: Tensor
    """[M]"""
    members: tuple[int, ...]
    """Where each of the B sequences stands in the list that was packed."""
    update_tokens: int
    """Trained tokens of the whole update, over all its micro-batches."""
    old_logp: Tensor | None = None
    reference_logp: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """[M] int64: the row whose hidden state predicts each trained token."""
        return self.predicting[self.predictor]

    @property
    def num_rows(self) -> int:
        return len(self.token_ids)

    def to(self, device: torch.device) -> Self:
        """A copy on a device, for one pass: what attention's masks take there is held by the copy alone."""
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}
        plans = {name: tuple(block.to(device) for block in held[name]) for name in ("blocks", "last_blocks")}
        return replace(self, **(held | moved | plans))


def pack(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[float],
    weights: Sequence[float],
    *,
    token_budget: int,
    share_prefixes: bool = True,
    temperature: float | None = None,
) -> list[Batch]:
    """Micro-batches of at most `token_budget` rows each (one sequence may exceed it), in an order that depends on contents alone.

    `advantages` and `weights` hold a number per sequence; every trained token of it gets both. `temperature` replaces that of
    the trajectories. Raises `LearnerError` for a trajectory that cannot be trained on.
    """
    given = len(trajectories), len(advantages), len(weights)
    if len(set(given)) > 1:
        raise LearnerError("pack wants as many advantages and weights as trajectories: got {1} and {2} for {0}".format(*given))
    for trajectory in trajectories:
        check(trajectory)
    total = sum(sum(t.loss_mask) for t in trajectories)
    heats = [t.temperature if temperature is None else temperature for t in trajectories]
    batches = []
    for members, paths, shares in _fill([_read(t) for t in trajectories], token_budget, share_prefixes):
        batches.append(_batch(trajectories, advantages, weights, heats, members, paths, shares, total))
    return batches


def check(trajectory: Trajectory) -> None:
    """Raises `LearnerError` if lists differ in length, nothing was sampled, or nothing stands before the first sampled token."""
    t, where = trajectory, f"trajectory of {trajectory.seat!r} in game {trajectory.game_id!r}"
    lengths = len(t.token_ids), len(t.logprobs), len(t.loss_mask)
    if len(set(lengths)) > 1:
        raise LearnerError(f"{where}: token_ids, logprobs and loss_mask have {lengths[0]}, {lengths[1]} and {lengths[2]} entries")
    if not any(t.loss_mask):
        raise LearnerError(f"{where} holds no sampled token: leave it out")
    if t.loss_mask[0]:
        raise LearnerError(f"{where} begins with a sampled token, which nothing predicts: record the prompt before it")
    if t.temperature <= 0:
        raise LearnerError(f"{where} was sampled greedily, which has no gradient: sample at a temperature above 0")


def _read(trajectory: Trajectory) -> list[int]:
    """The tokens to read: up to the one before the last trained token."""
    last = len(trajectory.loss_mask) - 1 - trajectory.loss_mask[::-1].index(True)
    return trajectory.token_ids[:last]


def _fill(reads: list[list[int]], budget: int, share: bool) -> Iterator[tuple[list[int], list[Tensor], list[int]]]:
    """(members, paths, rows shared with the one before) per micro-batch.

    In the order of their tokens, the longest beginning that a sequence shares with any before it is that with the one just
    before: paths that grow side by side in this order form the trie.
    """
    order = sorted(range(len(reads)), key=lambda i: (reads[i] if share else -len(reads[i]), i))
    members: list[int] = []
    paths: list[Tensor] = []
    shares: list[int] = []
    used = 0
    for i in order:
        common = _common(reads[members[-1]], reads[i]) if share and members else 0
        if members and used + len(reads[i]) - common > budget:
            yield members, paths, shares
            members, paths, shares, used, common = [], [], [], 0, 0
        stop = used + len(reads[i]) - common
        fresh = torch.arange(used, stop)
        paths.append(torch.cat((paths[-1][:common], fresh)) if common else fresh)
        members.append(i)
        shares.append(common)
        used = stop
    if members:
        yield members, paths, shares


def _common(left: list[int], right: list[int]) -> int:
    """How many first tokens are equal."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return next(i for i in range(shorter) if left[i] != right[i])


def _batch(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[float],
    weights: Sequence[float],
    heats: Sequence[float],
    members: list[int],
    paths: list[Tensor],
    shares: list[int],
    total: int,
) -> Batch:
    token_ids: list[int] = []
    trained: list[Tensor] = []
    for i, path, common in zip(members, paths, shares, strict=True):
        t = trajectories[i]
        token_ids += t.token_ids[common : len(path)]
        trained.append(torch.tensor(t.loss_mask).nonzero()[:, 0])
    own = [torch.arange(common, len(path)) for path, common in zip(paths, shares, strict=True)]
    blocks, home = plan(paths, own)
    rows = torch.cat([path[at - 1] for path, at in zip(paths, trained, strict=True)])
    predicting, predictor = torch.unique(rows, return_inverse=True)
    predicts = torch.zeros(len(token_ids), dtype=torch.bool).index_fill_(0, predicting, True)
    last_blocks, last_home = plan(paths, [at[predicts[path[at]]] for path, at in zip(paths, own, strict=True)])
    assert len(token_ids) == len(home)
    assert len(predicting) == len(last_home)
    per_token = torch.tensor([len(at) for at in trained])

    def spread(values: Sequence[float]) -> Tensor:
        return torch.tensor([values[i] for i in members], dtype=torch.float32).repeat_interleave(per_token)

    def pick(of: Callable[[Trajectory], Sequence[float]], dtype: torch.dtype) -> Tensor:
        return torch.cat([torch.tensor(of(trajectories[i]), dtype=dtype)[at] for i, at in zip(members, trained, strict=True)])

    return Batch(
        token_ids=torch.tensor(token_ids),
        position_ids=torch.cat(own),
        paths=pad_sequence(paths, batch_first=True),
        lengths=torch.tensor([len(path) for path in paths]),
        blocks=blocks,
        home=home,
        predicting=predicting,
        last_blocks=last_blocks,
        last_home=last_home,
        predictor=predictor,
        targets=pick(lambda t: t.token_ids, torch.int64),
        sequence=torch.arange(len(members)).repeat_interleave(per_token),
        generator_logp=pick(lambda t: t.logprobs, torch.float32),
        advantage=spread(advantages),
        weight=spread(weights),
        temperature=spread(heats),
        members=tuple(members),
        update_tokens=total,
    )
