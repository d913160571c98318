import math

import pytest
import torch
from hypothesis import given, strategies as st

from limbeck.errors import SettingError
from limbeck.losses.value import expected, hl_gauss, mid_points, two_hot
from tests.losses.test_label import case, double
from tests.strategies import few

values = st.lists(st.floats(-3, 3) | st.sampled_from([-2.0, 0.0, 2.0, 1e4, -1e4]), min_size=1, max_size=5).map(double)


@few
@given(values, st.integers(2, 60), st.sampled_from([None, 1e-3, 0.5, 10.0]))
def test_a_histogram_sums_to_one(y, bins: int, sigma: float | None) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for q in (
            hl_gauss(y.to(dtype), low=-2.0, high=2.0, bins=bins, sigma=sigma),
            two_hot(y.to(dtype), low=-2.0, high=2.0, bins=bins),
        ):
            assert q.shape == (len(y), bins)
            assert (q >= 0).all()
            torch.testing.assert_close(q.sum(-1), torch.ones_like(q[:, 0]))


@few
@given(values, st.integers(2, 60))
def test_two_hot_keeps_the_mean(y, bins: int) -> None:
    q = two_hot(y, low=-2.0, high=2.0, bins=bins)
    torch.testing.assert_close(q @ torch.linspace(-2, 2, bins, dtype=y.dtype), y.clamp(-2, 2), rtol=1e-9, atol=1e-9)
    assert ((q > 0).sum(-1) <= 2).all()


@few
@given(st.floats(-1, 1), st.sampled_from([21, 51]))
def test_hl_gauss_keeps_the_mean_far_from_the_ends(y: float, bins: int) -> None:
    q = hl_gauss(double([y]), low=-3.0, high=3.0, bins=bins)
    assert (q @ mid_points(-3, 3, bins).double()).item() == pytest.approx(y, abs=0.02)


def test_a_narrow_gaussian_is_one_bin_and_a_mirrored_one_mirrored() -> None:
    assert torch.equal(hl_gauss(torch.tensor([0.1]), low=-1.0, high=1.0, bins=4, sigma=1e-4), torch.eye(4)[2:3])
    y = double([0.3])
    torch.testing.assert_close(
        hl_gauss(-y, low=-1.0, high=1.0, bins=5), hl_gauss(y, low=-1.0, high=1.0, bins=5).flip(-1)
    )


def test_the_histograms_and_values_of_the_case() -> None:
    known = case("hl-gauss")
    q = hl_gauss(double(known["inputs"]["target"]), low=-2.0, high=2.0, bins=7)
    torch.testing.assert_close(q, double(known["extra"]["target_probs"]), rtol=1e-6, atol=1e-15)
    decoded = expected(double(known["inputs"]["student"]), mid_points(-2.0, 2.0, 7))
    torch.testing.assert_close(decoded, double(known["extra"]["decoded_value"]), rtol=1e-6, atol=1e-9)


def test_by_hand() -> None:
    torch.testing.assert_close(
        two_hot(double([0.25, -7, 1]), low=-1.0, high=1.0, bins=3), double([[0, 0.75, 0.25], [1, 0, 0], [0, 0, 1]])
    )
    # three bins of width 2 about 0 with sigma 1: the middle one has erf(1 / sqrt 2), all erf(3 / sqrt 2)
    q = hl_gauss(double([0.0]), low=-3.0, high=3.0, bins=3, sigma=1.0)
    assert q[0, 1].item() == pytest.approx(math.erf(2**-0.5) / math.erf(3 * 2**-0.5))


def test_settings_that_cannot_be() -> None:
    y = torch.zeros(1)
    for call in (hl_gauss, two_hot):
        with pytest.raises(SettingError, match="bins"):
            call(y, low=1.0, high=1.0, bins=5)
    with pytest.raises(SettingError, match="sigma"):
        hl_gauss(y, low=0.0, high=1.0, bins=5, sigma=0.0)
