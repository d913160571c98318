import pytest
import torch
from torch import nn

from limbeck import Run, registry
from limbeck.errors import SettingError
from limbeck.procedures.start import blend
from limbeck.signals import Net
from tests.pipelines import digits, net, parts, step_of


def test_blend_by_hand_and_with_the_variance_of_one() -> None:
    teacher, fresh = net(1), net(2)
    mixed = blend(teacher, fresh, (0.75, 0.25))
    for p, q, r in zip(mixed.parameters(), teacher.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(p, 0.75 * q + 0.25 * r)
        assert p.requires_grad
    kept = blend(teacher, fresh, (0.5, 0.5), same_variance=True)
    weight = [model[1][0].weight for model in (teacher, kept)]
    assert weight[1].var().item() == pytest.approx(weight[0].var().item(), rel=0.1)
    with pytest.raises(SettingError, match="alike"):
        blend(teacher, net(2, "cnn"), (1.0, 0.1))


def test_blend_leaves_both_as_they_are_and_thaws() -> None:
    teacher = net(1, "cnn").requires_grad_(False).eval()
    student = blend(teacher, net(2, "cnn"), (1.0, 0.0))
    assert student.training
    assert not teacher.training
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
    next(student.parameters()).data.zero_()
    assert next(teacher.parameters()).any()


@pytest.mark.parametrize(("name", "moves"), [("mlp", False), ("cnn", True)])
def test_at_its_teacher_only_batch_statistics_move_a_student(name: str, moves: bool) -> None:
    data, _ = digits(64)
    teacher = net(1, name)
    student = blend(teacher, teacher, (1.0, 0.0))
    run = Run(student=student, teacher=teacher, data=data, method=registry.make("random_teachers"))
    (loss,) = parts(run, step_of(run)).values()
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    assert (max(g.abs().max() for g in gradients) > 1e-4) == moves


def test_a_student_with_a_projection_gives_the_encoder_to_probe() -> None:
    from limbeck.models.projection import projection

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
        return nn.Sequential(encoder, projection(32, hidden=(64,), bottleneck=16, outputs=128))

    data, _ = digits(128)
    teacher = model(0)
    student = Net(blend(teacher, model(1), (0.9, 0.1)), head="1.0")
    run = Run(student=student, teacher=teacher, data=data.x, method=registry.make("random_teachers"), epochs=3)
    rows = run.fit()
    assert rows[-1]["loss"] < rows[0]["loss"]
    student.read([".embedding"])
    x = torch.rand(4, 1, 8, 8)
    output = student.eval()(x)
    torch.testing.assert_close(output.embedding, student.module[0](x))
    assert output.logits.abs().max() <= 1 + 1e-6
