"""The policy loss against the formula written out in float64 numpy."""

from __future__ import annotations

import numpy
import pytest
import torch

from sparring.kernels.policy_loss import PolicySums, policy_loss

N = 40


def batch() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    logp = -torch.rand(N, generator=rng, dtype=torch.float64) * 3
    near = {
        name: logp + spread * torch.randn(N, generator=rng, dtype=torch.float64)
        for name, spread in (("old_logp", 0.3), ("generator_logp", 0.5), ("reference_logp", 0.4))
    }
    extra = {name: torch.rand(N, generator=rng, dtype=torch.float64) for name in ("weight", "entropy")}
    return {"logp": logp, "advantage": torch.randn(N, generator=rng, dtype=torch.float64), **near, **extra}


def by_hand(b: dict[str, torch.Tensor], low: float, high: float, cap: float | None, beta: float, bonus: float) -> float:
    total = 0.0
    for i in range(N):
        logp, a, w, old, gen, ref, ent = (
            float(b[k][i]) for k in ("logp", "advantage", "weight", "old_logp", "generator_logp", "reference_logp", "entropy")
        )
        r = numpy.exp(logp - old)
        tis = 1.0 if cap is None else min(numpy.exp(old - gen), cap)
        pg = -min(r * a, min(max(r, 1 - low), 1 + high) * a) * tis
        kl = numpy.exp(ref - logp) - (ref - logp) - 1
        total += w * (pg + beta * kl) - bonus * ent
    return total


@pytest.mark.parametrize(
    ("low", "high", "cap", "beta", "bonus"),
    [(0.2, 0.2, None, 0.0, 0.0), (0.1, 0.28, 1.5, 0.04, 0.003), (0.2, 0.2, 2.0, 0.1, 0.0)],
)
def test_loss_matches_the_formula(low: float, high: float, cap: float | None, beta: float, bonus: float) -> None:
    b = batch()
    loss, sums = policy_loss(**b, clip_low=low, clip_high=high, tis_cap=cap, kl_beta=beta, entropy_weight=bonus)
    assert float(loss) == pytest.approx(by_hand(b, low, high, cap, beta, bonus), rel=1e-12)
    assert sums.loss == pytest.approx(float(loss))


def test_gradient_is_right_and_stops_where_clipped() -> None:
    b = batch()
    b["logp"].requires_grad_()
    assert torch.autograd.gradcheck(lambda logp: policy_loss(**{**b, "logp": logp}, tis_cap=2.0, kl_beta=0.1)[0], (b["logp"],))
    one = torch.ones(1)
    logp = torch.full((1,), -1.0, requires_grad=True)
    loss, sums = policy_loss(logp, one, one, generator_logp=logp.detach(), old_logp=torch.full((1,), -2.0))
    loss.backward()
    assert float(logp.grad) == 0.0 and sums.clipped == 1.0


def test_without_old_log_probs_the_gradient_is_plain_policy_gradient() -> None:
    b = batch()
    logp = b["logp"].requires_grad_()
    loss, sums = policy_loss(logp, b["advantage"], b["weight"], generator_logp=logp.detach())
    loss.backward()
    torch.testing.assert_close(logp.grad, -b["advantage"] * b["weight"])
    assert sums.mean("ratio") == 1.0 and sums.effective_sample_size == pytest.approx(1.0) and sums.mismatch_max == 0.0


def test_statistics_of_parts_add_up_to_the_whole() -> None:
    b = batch()
    options = {"tis_cap": 1.2, "kl_beta": 0.1, "entropy_weight": 0.01}
    _, whole = policy_loss(**b, **options)
    parts = [
        policy_loss(**{name: value[part] for name, value in b.items()}, **options)[1] for part in (slice(0, 13), slice(13, N))
    ]
    total = parts[0] + parts[1]
    for name in PolicySums.__dataclass_fields__:
        assert getattr(total, name) == pytest.approx(getattr(whole, name), rel=1e-12), name
    w = (b["old_logp"] - b["generator_logp"]).exp().numpy()
    assert whole.effective_sample_size == pytest.approx(w.sum() ** 2 / (N * (w**2).sum()))
    assert whole.mean("tis") == pytest.approx(numpy.minimum(w, 1.2).mean())


def test_a_term_without_its_tensor_is_refused() -> None:
    b = batch()
    with pytest.raises(ValueError, match="kl_beta"):
        policy_loss(b["logp"], b["advantage"], b["weight"], generator_logp=b["generator_logp"], kl_beta=0.1)
    with pytest.raises(ValueError, match="entropy_coef"):
        policy_loss(b["logp"], b["advantage"], b["weight"], generator_logp=b["generator_logp"], entropy_weight=0.1)
