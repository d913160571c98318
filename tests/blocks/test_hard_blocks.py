import math

import pytest
import torch
from torch import Tensor

from limbeck import SGD, Data, Run
from limbeck.answers import Answers
from limbeck.blocks.hard import HARD, Affine
from limbeck.errors import SettingError
from limbeck.models import build
from limbeck.schedules import Clock
from tests.blocks.test_targets_blocks import value


def inverse(name: str, number: float) -> float:
    limit = Affine.LIMITS[name]
    return limit * math.asin(number / limit)


def moved(x: Tensor, **numbers: float) -> Tensor:
    affine, noise = Affine(), torch.zeros(len(x), 6)
    for name, number in numbers.items():
        affine.mean.data[list(Affine.LIMITS).index(name)] = inverse(name, number)
    return affine(x, noise).detach()


def test_affine_by_hand() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(moved(x), x)
    torch.testing.assert_close(moved(x, right=0.5)[..., :3], x[..., 1:])  # half of the half image: a pixel
    assert torch.equal(moved(x, right=0.5)[..., 3], x[..., 3])  # the border repeats itself
    torch.testing.assert_close(moved(x, down=1.0)[:, :, :2], x[:, :, 2:])
    torch.testing.assert_close(moved(x, rotate=torch.pi / 2), x.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    half = moved(x, wide=-math.log(2), high=-math.log(2))  # the middle, twice as large
    torch.testing.assert_close(half[0, 0, 0], torch.tensor([3.75, 4.25, 4.75, 5.25]))


def test_no_number_loses_the_image() -> None:
    affine, x = Affine(), torch.rand(2, 1, 8, 8)
    affine.mean.data.fill_(1e3)
    assert affine(x, torch.randn(2, 6)).flatten(1).std(1).min() > 0.01


def test_only_the_chosen_moves() -> None:
    affine, x = Affine(("right",)), torch.rand(3, 1, 5, 5)
    affine(x, torch.randn(3, 6)).square().sum().backward()
    for p in affine.parameters():
        assert p.grad.nonzero().flatten().tolist() == [1]
    with pytest.raises(SettingError, match="rotate"):
        Affine(("up",))


def run(method: HARD, model: str = "cnn") -> Run:
    torch.manual_seed(0)
    student, teacher = (build(model, channels=1, classes=3, size=8) for _ in range(2))
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made = Run(
        student=student, data=Data(x), teacher=teacher, method=method, accelerator="cpu", epochs=1, batch_size=12
    )
    made.optimizer = SGD(0.1)
    made.setup()
    return made


def state_of(made: Run) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    student, teacher = made.students[0].state_dict(), made.teachers[0].state_dict()
    return {k: v.clone() for k, v in student.items()}, {k: v.clone() for k, v in teacher.items()}


def test_turns() -> None:
    """In the distortions' turn nothing of the nets moves, not even their batch statistics, and the other way round."""
    made = run(HARD(2.0, 1.0, 1.0, 2))
    affine = made.bundle.state
    for turn in range(6):
        made.steps_done = turn
        before, phi = state_of(made), affine.deviation.detach().clone()
        for micros in made.micro_batches(made.plan(0)):
            made.train_step(micros, Clock(0, 1, 0, 1))
        after = state_of(made)
        student_moved = any(not torch.equal(before[0][k], after[0][k]) for k in before[0])
        assert student_moved == (turn % 3 < 2)
        assert torch.equal(phi, affine.deviation) == (turn % 3 < 2)
        assert all(torch.equal(before[1][k], after[1][k]) for k in before[1])
        assert made.students[0].training


def test_distortions_learn_to_divide_student_and_teacher() -> None:
    made = run(HARD(1.0, 1.0, 0.0, 1), "mlp")
    made.steps_done = 1
    made.optimizer = SGD(1.0, momentum=0.0)
    before, step = value(made)
    loss, _ = made.bundle(step)
    parameters = list(made.bundle.state.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p -= 0.05 * g / torch.stack([g.norm() for g in gradients]).norm()
    assert before < 0  # minus the disagreement
    assert value(made)[0] < before


def test_a_teacher_without_gradient_is_refused() -> None:
    made = run(HARD(1.0, 1.0, 1.0, 1))
    made.teachers = [Answers(torch.rand(12, 3))]
    with pytest.raises(SettingError, match="gradients"):
        made.method.init(made)
