import math

import torch
from torch import Tensor

from tests.strategies import losses, normal


def huber(a: float, b: float) -> float:
    return (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 1 / 2


def distances_by_loops(x: Tensor) -> list[list[float]]:
    """Over their mean, which is over pairs of different examples."""
    rows = x.tolist()
    distances = [[math.dist(a, b) for b in rows] for a in rows]
    mean = sum(map(sum, distances)) / (len(rows) * (len(rows) - 1))
    return [[each / mean for each in row] for row in distances]


def cosine_by_loops(x: Tensor, i: int, j: int, k: int) -> float:
    """Of the angle at i, towards j and k; 0 where there is no direction."""
    a, b = (x[j] - x[i]).tolist(), (x[k] - x[i]).tolist()
    length = math.hypot(*a) * math.hypot(*b)
    return sum(p * q for p, q in zip(a, b, strict=True)) / length if length else 0.0


def test_distance_by_loops() -> None:
    s, t = 3 * normal(6, 2), normal(6, 5, seed=1).exp()  # of different widths, and far enough for Huber's linear part
    a, b = distances_by_loops(s), distances_by_loops(t)
    assert max(abs(p - q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True)) > 1
    expected = [sum(huber(p, q) for p, q in zip(a[i], b[i], strict=True)) / 6 for i in range(6)]
    torch.testing.assert_close(losses.rkd_distance(s, t), torch.tensor(expected, dtype=torch.float64))


def test_angle_by_loops() -> None:
    n = 5
    s, t = normal(n, 3), normal(n, 2, seed=1)
    expected = [
        sum(huber(cosine_by_loops(s, i, j, k), cosine_by_loops(t, i, j, k)) for j in range(n) for k in range(n)) / n**2
        for i in range(n)
    ]
    torch.testing.assert_close(losses.rkd_angle(s, t), torch.tensor(expected, dtype=torch.float64))


def test_angle_by_hand() -> None:
    # at the first point: a right angle to the student, none to the teacher
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    line = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    # (j, k) = (1, 2) and (2, 1) differ by 1, all others agree: 2 * 1/2 / 9
    assert losses.rkd_angle(corner, line)[0].item() == 1 / 9


def test_moving_turning_and_scaling_are_no_matter() -> None:
    s, t = normal(6, 2), normal(6, 3, seed=1)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    moved = 5 * s @ turn + torch.tensor([3.0, -1.0])
    for loss in (losses.rkd_distance, losses.rkd_angle):
        torch.testing.assert_close(loss(moved, t), loss(s, t))


def test_far_from_the_origin_in_single_precision() -> None:
    s, t = normal(6, 20), normal(6, 30, seed=1)
    for loss in (losses.rkd_distance, losses.rkd_angle):
        far = loss(s.float() + 1000, t.float() + 1000)
        torch.testing.assert_close(far.double(), loss(s, t), rtol=0.01, atol=0)


def test_the_teacher_gets_no_gradient() -> None:
    s, t = normal(4, 2).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    for loss in (losses.rkd_distance, losses.rkd_angle):
        loss(s, t).sum().backward()
    assert s.grad is not None
    assert t.grad is None


def test_twins_of_the_student_that_the_teacher_tells_apart() -> None:
    """Two equal rows have distance 0 and no angle; nothing is divided by the 0."""
    s = normal(4, 3)
    s[1] = s[0]
    t = normal(4, 3, seed=1)
    for loss in (losses.rkd_distance, losses.rkd_angle):
        (gradient,) = torch.autograd.grad(loss(s.requires_grad_(), t).sum(), s)
        assert gradient.abs().max() < 10
