"""Packing: what is computed once, what a token is matched with, and that none of it changes a number."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from sparring.learner.attention import ATTENTION, path_mask
from sparring.learner.batch import Batch, pack
from sparring.learner.errors import LearnerError
from sparring.learner.learner import Learner, LearnerConfig
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios.outcome import Verdict

Plain = Callable[[PreTrainedModel, Trajectory], torch.Tensor]
Sequences = list[tuple[list[int], list[bool]]]


def trajectory(ids: list[int], mask: list[bool], **changes: object) -> Trajectory:
    logprobs = [-float(at) if m else 0.0 for at, m in enumerate(mask)]
    plain = {"game_id": "g", "scenario_id": "s", "family": "f", "seat": "a", "partner": "p", "policy": "", "temperature": 1.0}
    record = plain | {
        "reward": 1.0,
        "verdict": Verdict.WIN,
        "score": 1.0,
        "token_ids": ids,
        "loss_mask": mask,
        "logprobs": logprobs,
    }
    return Trajectory(**(record | changes))  # type: ignore[arg-type]


def packed(sequences: Sequences, budget: int = 1000, share: bool = True) -> list[Batch]:
    trajectories = [trajectory(ids, mask) for ids, mask in sequences]
    numbers = [float(i) for i in range(len(sequences))]
    return pack(trajectories, numbers, numbers, token_budget=budget, share_prefixes=share)


def test_the_example_of_the_docstring() -> None:
    (batch,) = packed([([5, 6, 9], [False, False, True]), ([5, 6, 7, 8], [False, False, True, True])])
    assert batch.token_ids.tolist() == [5, 6, 7]
    assert batch.paths.tolist() == [[0, 1, 0], [0, 1, 2]]
    assert batch.rows.tolist() == [1, 1, 2]
    assert batch.targets.tolist() == [9, 7, 8]
    assert batch.generator_logp.tolist() == [-2.0, -2.0, -3.0]
    assert batch.advantage.tolist() == [0.0, 1.0, 1.0]


@st.composite
def sequences(draw: st.DrawFn) -> tuple[list[int], list[bool]]:
    """Few different tokens, so that beginnings often agree; the first is not trained, the last is."""
    ids = draw(st.lists(st.integers(0, 2), min_size=2, max_size=9))
    middle = draw(st.lists(st.booleans(), min_size=len(ids) - 2, max_size=len(ids) - 2))
    return ids, [False, *middle, True]


@given(st.lists(sequences(), min_size=1, max_size=8), st.integers(1, 20), st.booleans())
def test_every_trained_token_is_there_once_with_its_own_past(given: Sequences, budget: int, share: bool) -> None:
    seen = {}
    for batch in packed(given, budget, share):
        assert batch.num_rows <= max(budget, max(len(given[i][0]) for i in batch.members))
        asked = torch.cat([block.queries.flatten() for block in batch.blocks])
        assert asked[batch.home].tolist() == list(range(batch.num_rows))
        for b, member in enumerate(batch.members):
            path = batch.paths[b, : batch.lengths[b]]
            ids, mask = given[member]
            assert batch.token_ids[path].tolist() == ids[: len(path)]
            assert batch.position_ids[path].tolist() == list(range(len(path)))
            mine = batch.sequence == b
            trained = [at for at, m in enumerate(mask) if m]
            assert batch.targets[mine].tolist() == [ids[at] for at in trained]
            assert batch.rows[mine].tolist() == [int(path[at - 1]) for at in trained]
            assert batch.generator_logp[mine].tolist() == [-float(at) for at in trained]
            assert set(batch.weight[mine].tolist()) == {float(member)}
            seen[member] = True
    assert len(seen) == len(given)


def test_equal_beginnings_are_computed_once() -> None:
    tail = [True] * 2
    (batch,) = packed([([1] * 20 + [2, i], [False] * 20 + tail) for i in range(5)])
    assert batch.num_rows == 21


@pytest.mark.parametrize("share", [False, True])
def test_packed_equals_one_sequence_at_a_time(
    base: PreTrainedModel, trajectories: list[Trajectory], warm: Callable[..., Learner], share: bool
) -> None:
    learner = warm(base, LearnerConfig(share_prefixes=share))
    together = learner.logprobs(trajectories)
    for t, found in zip(trajectories, together, strict=True):
        (alone,) = learner.logprobs([t])
        torch.testing.assert_close(torch.tensor(found), torch.tensor(alone), atol=2e-6, rtol=0)
        assert all((value == 0.0) != mask for value, mask in zip(found, t.loss_mask, strict=True))


def test_base_log_probs_equal_the_plain_model(
    base: PreTrainedModel, trajectories: list[Trajectory], warm: Callable[..., Learner], plain_logprobs: Plain
) -> None:
    found = warm(base).logprobs(trajectories, base=True)
    for t, logprobs in zip(trajectories, found, strict=True):
        torch.testing.assert_close(torch.tensor(logprobs), plain_logprobs(base, t), atol=2e-6, rtol=0)


def test_paths_equal_a_dense_mask(base: PreTrainedModel, trajectories: list[Trajectory]) -> None:
    zeros = [0.0] * len(trajectories)
    (batch,) = pack(trajectories, zeros, zeros, token_budget=10_000)
    ids, positions = batch.token_ids[None], batch.position_ids[None]
    with torch.no_grad():
        dense = base.model(input_ids=ids, position_ids=positions, attention_mask=path_mask(batch), use_cache=False)
        base.set_attn_implementation(ATTENTION)
        along = base.model(input_ids=ids, position_ids=positions, use_cache=False, batch=batch)
        base.set_attn_implementation("sdpa")
    torch.testing.assert_close(along.last_hidden_state, dense.last_hidden_state, atol=3e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss_mask": [False, False]}, "no sampled token"),
        ({"loss_mask": [True, True]}, "record the prompt"),
        ({"logprobs": [0.0]}, "entries"),
        ({"temperature": 0.0}, "greedily"),
    ],
)
def test_a_trajectory_that_cannot_be_trained_on_is_named(changes: dict[str, object], says: str) -> None:
    broken = msgspec.structs.replace(trajectory([1, 2], [False, True], game_id="7/a"), **changes)
    with pytest.raises(LearnerError, match=f"'7/a'.*{says}"):
        pack([broken], [1.0], [1.0], token_budget=10)


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(LearnerError, match="got 1 and 2 for 0"):
        pack([], [1.0], [1.0, 2.0], token_budget=10)
