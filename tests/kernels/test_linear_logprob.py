"""Log-probs without logits: values, gradients, odd sizes, extreme rows."""

from __future__ import annotations

import pytest
import torch

from sparring.kernels.linear_logprob import linear_logprob, reference_linear_logprob


def problem(n: int, h: int, v: int, *, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(n * 1009 + v)
    hidden = torch.randn(n, h, generator=rng, dtype=torch.float64).to(dtype)
    weight = (scale * torch.randn(v, h, generator=rng, dtype=torch.float64) / h**0.5).to(dtype)
    return hidden, weight, torch.randint(v, (n,), generator=rng)


@pytest.mark.parametrize(
    ("n", "h", "v", "chunk"), [(1, 3, 2, None), (7, 5, 11, 3), (33, 16, 127, 32), (64, 32, 512, 5), (4, 8, 1, 2)]
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_fp32_values_match_float64(n: int, h: int, v: int, chunk: int | None, temperature: float) -> None:
    hidden, weight, ids = problem(n, h, v, scale=3.0)
    logp, entropy = linear_logprob(hidden, weight, ids, temperature=temperature, entropy=True, chunk_rows=chunk)
    want, want_entropy = reference_linear_logprob(hidden.double(), weight.double(), ids, temperature=temperature, entropy=True)
    assert (logp.double() - want).abs().max() < 1e-5
    assert (entropy.double() - want_entropy).abs().max() < 1e-5
    assert logp.dtype == torch.float32


def test_confident_tokens_keep_their_relative_accuracy() -> None:
    """log_softmax in fp32 rounds 1 - p = 1e-9 to 0; leaving the target out of the sum does not."""
    weight = torch.tensor([[20.0], [-0.5], [0.25]])
    hidden = torch.ones(1, 1, requires_grad=True)
    ids = torch.tensor([0])
    logp = linear_logprob(hidden, weight, ids)
    logp.sum().backward()
    exact = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    want = reference_linear_logprob(exact, weight.double(), ids)
    want.sum().backward()
    assert want.item() < 0 and abs(logp.item() / want.item() - 1) < 1e-5
    assert abs(hidden.grad.item() / exact.grad.item() - 1) < 1e-5


def test_an_impossible_token_stays_finite() -> None:
    hidden, weight = torch.ones(1, 1, requires_grad=True), torch.tensor([[300.0], [-300.0]])
    logp, entropy = linear_logprob(hidden, weight, torch.tensor([1]), entropy=True)
    assert logp.item() == pytest.approx(-600.0) and entropy.item() == 0.0
    (logp + entropy).sum().backward()
    assert float(hidden.grad) == pytest.approx(-600.0)


@pytest.mark.parametrize("temperature", [1.0, torch.tensor([0.5, 1.0, 2.0, 0.8, 1.3], dtype=torch.float64)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_gradcheck(temperature: float | torch.Tensor, with_bias: bool) -> None:
    hidden, weight, ids = problem(5, 4, 9, scale=2.0, dtype=torch.float64)
    hidden.requires_grad_()
    bias = torch.linspace(-1, 1, 9, dtype=torch.float64) if with_bias else None

    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return linear_logprob(x, weight, ids, bias=bias, temperature=temperature, entropy=True, chunk_rows=2)

    assert torch.autograd.gradcheck(both, (hidden,))


def test_gradients_of_a_mixed_loss_match_the_reference() -> None:
    hidden, weight, ids = problem(29, 16, 127, scale=3.0)
    mix = torch.linspace(-1, 1, 29)
    grads = []
    for function in (linear_logprob, reference_linear_logprob):
        x = hidden.clone().requires_grad_()
        logp, entropy = function(x, weight, ids, entropy=True, temperature=0.9)
        ((mix * logp).sum() - 0.3 * (mix * entropy).sum()).backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-4)


def test_entropy_can_be_looked_at_without_a_gradient() -> None:
    hidden, weight, ids = problem(6, 4, 9)
    hidden.requires_grad_()
    logp, entropy = linear_logprob(hidden, weight, ids, entropy=True, entropy_grad=False)
    assert logp.requires_grad and not entropy.requires_grad


def test_no_graph_and_no_rows() -> None:
    hidden, weight, ids = problem(6, 4, 9)
    assert not linear_logprob(hidden, weight, ids).requires_grad
    empty = linear_logprob(hidden[:0].requires_grad_(), weight, ids[:0])
    assert empty.shape == (0,)
    empty.sum().backward()


def test_half_precision_gives_fp32_log_probs() -> None:
    hidden, weight, ids = problem(17, 16, 127, dtype=torch.bfloat16)
    logp = linear_logprob(hidden, weight, ids)
    want = reference_linear_logprob(hidden.double(), weight.double(), ids)
    assert logp.dtype == torch.float32 and (logp - want).abs().max() < 1e-5


def test_arguments_that_do_not_fit_are_refused() -> None:
    hidden, weight, ids = problem(6, 4, 9)
    for arguments in ((hidden, weight.t(), ids), (hidden, weight, ids[:-1])):
        with pytest.raises(ValueError, match=r"wants hidden \[N, H\]"):
            linear_logprob(*arguments)
    with pytest.raises(ValueError, match="bias"):
        linear_logprob(hidden, weight, ids, bias=torch.zeros(8))
    with pytest.raises(ValueError, match="one temperature"):
        linear_logprob(hidden, weight, ids, temperature=torch.ones(5))
    with pytest.raises(ValueError, match="positive"):
        linear_logprob(hidden, weight, ids, temperature=0.0)
    with pytest.raises(ValueError, match="freeze"):
        linear_logprob(hidden, weight.requires_grad_(), ids)
