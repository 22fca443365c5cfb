"""`linear_logprob` on a CUDA device, at a real model's widths, against the plain op in float64."""

from __future__ import annotations

import pytest
import torch

from sparring.kernels.linear_logprob import linear_logprob, reference_linear_logprob

ROWS, HIDDEN, VOCABULARY = 257, 1536, 151_936
"""An odd number of tokens; hidden size and vocabulary of Qwen2.5-1.5B."""

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 5e-2}
"""On log-probs near -12, from inputs already rounded to the dtype: what is left is the rounding of one matmul."""


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_log_probs_and_entropy_equal_the_plain_op(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, HIDDEN, generator=draw).to("cuda", dtype)
    weight = (torch.randn(VOCABULARY, HIDDEN, generator=draw) / HIDDEN**0.5).to("cuda", dtype)
    ids = torch.randint(VOCABULARY, (ROWS,), generator=draw).cuda()

    logp, entropy = linear_logprob(hidden, weight, ids, entropy=True)
    expected_logp, expected_entropy = reference_linear_logprob(hidden.double(), weight.double(), ids, entropy=True)

    assert (logp.double() - expected_logp).abs().max().item() < TOLERANCE[dtype]
    assert (entropy.double() - expected_entropy).abs().max().item() < TOLERANCE[dtype]
