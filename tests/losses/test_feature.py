import pytest
import torch
from torch import Tensor

import limbeck.losses
from limbeck.errors import ShapeError
from tests.strategies import losses, normal


def test_mse_by_hand() -> None:
    student = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
    torch.testing.assert_close(losses.mse(student, teacher), torch.tensor([13 / 4, 1.0]))


def test_mse_of_different_shapes_names_the_bridge() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(2, 4\).*bridge"):
        limbeck.losses.mse(torch.zeros(2, 3), torch.zeros(2, 4))


def attention_by_loops(features: Tensor, h: int, w: int) -> Tensor:
    """(b, h * w) for maps whose sides are multiples of h and w: mean of each cell, mean square over the channels,
    unit length."""
    b, c, height, width = features.shape
    maps = torch.zeros(b, h, w, dtype=features.dtype)
    for n in range(b):
        for i in range(h):
            for j in range(w):
                for k in range(c):
                    cell = features[
                        n, k, i * height // h : (i + 1) * height // h, j * width // w : (j + 1) * width // w
                    ]
                    maps[n, i, j] += cell.mean() ** 2 / c
        maps[n] /= maps[n].square().sum().sqrt()
    return maps.flatten(1)


def test_attention_map_by_loops() -> None:
    features = normal(3, 2, 4, 6)
    for size in [(4, 6), (2, 3), (4, 2), (1, 1)]:
        torch.testing.assert_close(losses.attention_map(features, size=size), attention_by_loops(features, *size))


@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [
        ((2, 4, 4), (5, 4, 4), (4, 4)),
        ((2, 8, 8), (5, 4, 4), (4, 4)),
        ((2, 4, 4), (5, 8, 8), (4, 4)),
        ((2, 8, 2), (5, 4, 6), (4, 2)),
    ],
)
def test_attention_transfer_by_loops(
    student: tuple[int, int, int], teacher: tuple[int, int, int], size: tuple[int, int]
) -> None:
    s, t = normal(3, *student), normal(3, *teacher, seed=1)
    difference = attention_by_loops(s, *size) - attention_by_loops(t, *size)
    expected = torch.stack([sum(d * d for d in row) / len(row) for row in difference])
    torch.testing.assert_close(losses.attention_transfer(s, t), expected)


def test_attention_sees_no_scale_no_sign_and_no_order_of_channels() -> None:
    s, t = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
    value = losses.attention_transfer(s, t)
    torch.testing.assert_close(losses.attention_transfer(-7 * s.flip(1), 0.1 * t), value)
    assert (losses.attention_transfer(s.flip(2), t) - value).abs().min() > 1e-3


# --- neurons ------------------------------------------------------------------------------------------------------


def test_nst_by_loops_of_more_neurons_than_places_and_fewer() -> None:
    for n, m, places in ((2, 3, 5), (4, 3, 2)):
        s, t = normal(2, n, places), normal(2, m, places, seed=1)
        for row in range(2):
            units = [[v / v.norm() for v in side[row]] for side in (s, t)]

            def mean(a: list[Tensor], b: list[Tensor]) -> Tensor:
                return torch.stack([(u @ v) ** 2 for u in a for v in b]).mean()

            cross = mean(units[0], units[0]) - 2 * mean(*units)
            torch.testing.assert_close(losses.nst(s, t, constant=False)[row], cross)
            torch.testing.assert_close(losses.nst(s, t)[row], cross + mean(units[1], units[1]))


def test_nst_sees_neither_order_nor_size_of_neurons() -> None:
    s, t = normal(2, 4, 3, 3), normal(2, 3, 3, 3, seed=1)
    moved = -2 * s[:, [2, 0, 3, 1]]  # nor, squared, their sign
    torch.testing.assert_close(losses.nst(moved, t), losses.nst(s, t))
    with pytest.raises(ShapeError, match=r"\(3, 3\).*\(2, 2\)"):
        limbeck.losses.nst(s, t[:, :, :2, :2])
