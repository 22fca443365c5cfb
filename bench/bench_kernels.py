"""`linear_logprob` beside plain logits and `log_softmax`: forward and backward, time and the most memory held at once.

The chunked one knows the gradient in its forward pass and never holds more logits than a chunk; its memory is flat in the
vocabulary, and it pays for that with its own temporaries where the vocabulary is small. `head` gives rows, hidden size and
vocabulary: the tiny model's, and a large vocabulary on few rows. On a GPU, at Qwen2.5's widths: `make gpu`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparring.bench.memory import peak_bytes
from sparring.bench.rounds import Rounds
from sparring.kernels.linear_logprob import linear_logprob, reference_linear_logprob

HEADS = {"2048x128x1024": (2048, 128, 1024), "512x256x32768": (512, 256, 32768)}
MIB = 1 << 20


@pytest.mark.benchmark(group="kernels: linear_logprob, forward and backward")
@pytest.mark.parametrize("entropy", [False, True], ids=["logprob", "and-entropy"])
@pytest.mark.parametrize("head", HEADS)
def test_linear_logprob(rounds: Rounds, head: str, entropy: bool) -> None:
    num_rows, width, vocabulary = HEADS[head]
    num_rows = rounds.size(num_rows, 8)
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_rows, width, generator=rng).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=rng) / width**0.5
    ids = torch.randint(vocabulary, (num_rows,), generator=rng)

    def gradient(logp: Tensor, ent: Tensor | None) -> Tensor:
        hidden.grad = None
        total = logp.sum() if ent is None else logp.sum() + 0.01 * ent.sum()
        total.backward()
        assert hidden.grad is not None
        return hidden.grad

    def chunked() -> Tensor:
        if entropy:
            return gradient(*linear_logprob(hidden, weight, ids, entropy=True))
        return gradient(linear_logprob(hidden, weight, ids), None)

    def plain() -> Tensor:
        if entropy:
            return gradient(*reference_linear_logprob(hidden, weight, ids, entropy=True))
        return gradient(reference_linear_logprob(hidden, weight, ids), None)

    torch.testing.assert_close(chunked().clone(), plain(), rtol=1e-3, atol=1e-4)
    rounds.time(chunked, rounds=6, beside={"plain logits": plain})
    rounds.rate(rows=num_rows)
    peaks = {"chunked": peak_bytes(chunked), "plain": peak_bytes(plain)}
    rounds.note(f"peak {peaks['chunked'] / MIB:,.1f} MiB, plain logits {peaks['plain'] / MIB:,.1f} MiB", **peaks)
    rounds.compare()
