"""Draws are a function of (seed, id, epoch, stream, column), and look random along each of them."""

from hashlib import blake2b

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

from limbeck.data.draws import integers, normal, uniform

IDS = torch.arange(4000)


def draw(seed: int = 0, index: Tensor = IDS, epoch: int = 0, stream: str = "test", n: int = 4) -> Tensor:
    return uniform(seed, index, epoch=epoch, stream=stream, n=n)


def splitmix64(state: int) -> tuple[int, int]:
    """The published generator, in Python's integers: next state and output."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    return state, finalise(state)


def finalise(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_values_stay_what_they_are() -> None:
    """A change here would change every run."""
    assert splitmix64(0)[1] == 0xE220A8397B1DCDAF  # the generator's published first output
    key = int.from_bytes(blake2b(b"(7, 3, 'flip')", digest_size=8).digest(), "little")
    index = torch.tensor([0, 1, 123_456_789, 2**62])
    expected = []
    for i in index.tolist():
        state, row = finalise((key + i) % 2**64), []
        for _ in range(3):
            state, output = splitmix64(state)
            row.append((output >> 40) / 2**24)
        expected.append(row)
    assert uniform(7, index, epoch=3, stream="flip", n=3).tolist() == expected
    assert uniform(7, index[:1], epoch=3, stream="flip", n=2).tolist() == [[0.588951051235199, 0.9600449800491333]]


def test_reproducible_whatever_the_global_state() -> None:
    torch.manual_seed(1)
    first = draw()
    torch.manual_seed(2)
    torch.rand(3)
    assert torch.equal(first, draw())
    assert first.shape == (4000, 4)
    assert first.dtype == torch.float32


def test_rows_follow_ids_and_columns_are_a_prefix() -> None:
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(index=order), draw()[order])
    assert torch.equal(torch.cat([draw(index=part) for part in torch.split(IDS, 7)]), draw())
    assert torch.equal(draw(n=2), draw()[:, :2])
    assert torch.equal(
        normal(0, IDS, epoch=0, stream="s", n=2), normal(0, IDS, epoch=0, stream="s", n=3)[:, :2]
    )  # also for normal, which takes two uniforms each


@pytest.mark.parametrize("other", [{"seed": 1}, {"seed": -1}, {"seed": 2**80}, {"epoch": 1}, {"stream": "tesu"}])
def test_another_seed_epoch_or_stream_is_unrelated(other: dict[str, int]) -> None:
    a, b = draw().flatten(), draw(**other).flatten()  # type: ignore[arg-type]
    assert (a == b).sum() < 10
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4 / len(a) ** 0.5


@pytest.mark.parametrize("first", [0, 10**12, -4000])
def test_uniform(first: int) -> None:
    u = draw(index=IDS + first, n=8)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    assert torch.equal(u * 2**24, (u * 2**24).round())
    # pairs fill the square: 10 x 10 cells of neighbouring ids and of neighbouring columns
    for a, b in ((u[:-1:2], u[1::2]), (u[:, ::2], u[:, 1::2])):
        cell = (a * 10).long() * 10 + (b * 10).long()
        assert stats.chisquare(cell.flatten().bincount(minlength=100).numpy()).pvalue > 1e-3


def test_neighbours_are_not_correlated() -> None:
    u = draw(n=8)
    pairs = {
        "ids": (u[:-1], u[1:]),
        "columns": (u[:, :-1], u[:, 1:]),
        "epochs": (u, draw(epoch=1, n=8)),
        "seeds": (u, draw(seed=1, n=8)),
        "strides": (draw(index=IDS * 64), draw(index=IDS * 64 + 64)),
    }
    for name, (a, b) in pairs.items():
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(correlation) < 4 / a.numel() ** 0.5, name


def test_integers() -> None:
    k = integers(0, IDS, epoch=0, stream="k", n=5, high=7)
    assert k.dtype == torch.int64
    assert stats.chisquare(k.flatten().bincount(minlength=7).numpy()).pvalue > 1e-3
    assert not integers(0, IDS, epoch=0, stream="k", n=2, high=1).any()
    large = integers(0, IDS, epoch=0, stream="k", n=2, high=2**62)
    assert large.min() >= 0
    assert large.max() > 2**61


def test_integers_with_a_bound_per_example() -> None:
    high = IDS[:, None] % 9 + 1
    k = integers(0, IDS, epoch=0, stream="k", n=50, high=high)
    assert (k >= 0).all()
    assert (k < high).all()
    assert (k.amax(1) == high[:, 0] - 1).float().mean() > 0.95
    row = integers(0, IDS[5:6], epoch=0, stream="k", n=50, high=6)
    assert torch.equal(k[5:6], row)


def test_integers_needs_room() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        integers(0, IDS, epoch=0, stream="k", n=1, high=0)


def test_normal() -> None:
    z = normal(0, IDS, epoch=0, stream="z", n=6)
    assert z.shape == (4000, 6)
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(torch.corrcoef(z.T).triu(1)).max() < 4 / 4000**0.5


@pytest.mark.parametrize(("b", "n"), [(0, 3), (1, 0), (0, 0)])
def test_nothing_to_draw(b: int, n: int) -> None:
    index = IDS[:b]
    assert draw(index=index, n=n).shape == (b, n)
    assert normal(0, index, epoch=0, stream="z", n=n).shape == (b, n)
    assert integers(0, index, epoch=0, stream="k", n=n, high=3).shape == (b, n)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_to_the_bit_on_a_gpu() -> None:
    assert torch.equal(draw(index=IDS.cuda()).cpu(), draw())
    there = integers(0, IDS.cuda(), epoch=0, stream="k", n=3, high=1000)
    assert torch.equal(there.cpu(), integers(0, IDS, epoch=0, stream="k", n=3, high=1000))
