"""Packing one update: how long it takes, and how many rows of the model's work are left where games share their beginnings.

Rows are what linear layers run on; tokens are what the sequences hold up to their last trained token. Packing itself is worth its
time where it stays far below the learner's step (`bench_learner.py`).
"""

from __future__ import annotations

import pytest

from sparring.bench.rounds import Rounds
from sparring.bench.workload import Workload
from sparring.learner.batch import Batch, pack


@pytest.mark.benchmark(group="packing: one update")
@pytest.mark.parametrize("budget", [2048, 8192])
def test_pack(rounds: Rounds, workload: Workload, budget: int) -> None:
    update = workload.update

    def packed(*, share: bool) -> list[Batch]:
        given = update.trajectories, update.advantages, update.weights
        return pack(*given, token_budget=budget, share_prefixes=share)

    batches = rounds.time(lambda: packed(share=True), beside={"unshared": lambda: packed(share=False)})
    apart = packed(share=False)
    rows, tokens = (sum(batch.num_rows for batch in found) for found in (batches, apart))
    heads = sum(len(batch.predicting) for batch in batches)
    assert sum(len(batch.targets) for batch in batches) == sum(sum(t.loss_mask) for t in update.trajectories)
    rounds.rate(tokens=tokens)
    rounds.note(f"{tokens:,} tokens in {rows:,} rows ({rows / tokens:.0%})", tokens=tokens, rows=rows)
    rounds.note(f"{heads:,} rows reach the head", head_rows=heads)
    rounds.note(f"{len(batches)} micro-batches instead of {len(apart)}")
    rounds.compare()
