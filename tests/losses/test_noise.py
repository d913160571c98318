import json
import math
from pathlib import Path

import pytest
import torch

from limbeck.losses.logit import kl
from limbeck.losses.noise import adaptive_noise, noisy_kl, signal_to_noise
from tests.strategies import normal

CASE = json.loads((Path(__file__).parents[1] / "parity" / "cases" / "noisefit.json").read_text())


def test_noise_of_the_case() -> None:
    known = {name: torch.tensor(value, dtype=torch.float64) for name, value in CASE["noise"].items()}
    std, beta = CASE["noise"]["base_std"], CASE["noise"]["beta"]
    found = adaptive_noise(known["hidden"], known["z"], std=std, beta=beta)
    torch.testing.assert_close(found, known["output"], rtol=1e-6, atol=1e-12)


def test_noise_grows_with_its_std_and_not_with_the_place() -> None:
    h, z = normal(2, 3, 8), normal(2, 3, 8, seed=1)
    one = adaptive_noise(h, z, std=0.1) - h
    torch.testing.assert_close(adaptive_noise(h, z, std=0.3) - h, 3 * one)
    assert torch.equal(adaptive_noise(h, torch.zeros_like(z), std=0.3), h)
    # the spread scales, its ratio to the mean spread hardly: noise is relative to the signal
    torch.testing.assert_close(adaptive_noise(100 * h, z, std=0.1) - 100 * h, 100 * one, rtol=1e-3, atol=1e-6)


def test_padding_changes_no_noise_of_others() -> None:
    h, z = normal(1, 4, 8), normal(1, 4, 8, seed=1)
    mask = torch.tensor([[True, True, True, False]])
    other = h.clone()
    other[0, 3] = 50.0 * normal(8, seed=2)
    found = [adaptive_noise(each, z, std=0.1, mask=mask)[:, :3] for each in (h, other)]
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], adaptive_noise(h[:, :3], z[:, :3], std=0.1))


def test_noise_by_hand() -> None:
    # median 0, distances 1 0 1: their median 1; one token, so its variance is the mean: f = e
    h, z = torch.tensor([[[-1.0, 0.0, 1.0]]], dtype=torch.float64), torch.ones(1, 1, 3, dtype=torch.float64)
    weight = math.exp(-0.5)
    want = [-1 + math.e * weight, math.e, 1 + math.e * weight]
    found = adaptive_noise(h, z, std=1.0, beta=0.5)
    torch.testing.assert_close(found[0, 0], torch.tensor(want, dtype=torch.float64), rtol=1e-5, atol=0)
    capped = adaptive_noise(h, z, std=1.0, beta=0.5, most=2.0)
    assert capped[0, 0, 1].item() == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flat_and_huge_states_get_finite_noise(dtype: torch.dtype) -> None:
    for h in (torch.zeros(1, 2, 4), torch.ones(1, 2, 4), 1e4 * normal(1, 2, 4).float()):
        at = h.to(dtype).requires_grad_()
        noisy = adaptive_noise(at, normal(1, 2, 4).to(dtype), std=0.1)
        assert noisy.dtype == dtype
        assert noisy.isfinite().all()


def test_signal_to_noise_by_hand() -> None:
    clean = torch.tensor([1.0, -3.0])
    assert signal_to_noise(clean, clean + torch.tensor([0.5, -0.5])).item() == pytest.approx(4.0)


def test_clean_pass_learns_unless_detached() -> None:
    clean, noisy = normal(3, 4).requires_grad_(), normal(2, 3, 4, seed=1)
    value = noisy_kl(clean, noisy, tau=2.0)
    torch.testing.assert_close(value, (kl(noisy[0], clean / 2) + kl(noisy[1], clean / 2)) / 2)
    assert torch.autograd.grad(value.sum(), clean)[0].abs().min() > 0
    assert torch.autograd.gradcheck(lambda c, n: noisy_kl(c, n), (clean, noisy.requires_grad_()))
    assert torch.equal(noisy_kl(clean, noisy, tau=2.0, detach=True), value)
    detached = noisy_kl(clean, noisy, detach=True).sum()
    assert torch.autograd.grad(detached, clean, allow_unused=True) == (None,)
