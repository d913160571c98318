import torch
from torch import nn

from limbeck import Run, registry
from limbeck.models import build
from limbeck.models.projection import Cosines, projection
from limbeck.signals import Net
from tests.pipelines import digits, net


def test_projection_gives_cosines_whatever_the_lengths() -> None:
    torch.manual_seed(0)
    head = projection(8, hidden=(16, 16), bottleneck=4, outputs=50)
    out = head(torch.randn(5, 8))
    assert out.shape == (5, 50)
    last = head[-1]
    assert isinstance(last, Cosines)
    x = torch.randn(5, 4)
    scaled = Cosines(4, 50, bias=False)
    scaled.weight.data = 3 * last.weight.data
    torch.testing.assert_close(scaled(2 * x), last(x))
    assert last(x).abs().max() <= 1 + 1e-6
    assert last(torch.zeros(1, 4)).isfinite().all()
    assert head[0].weight.std() < 0.03
    assert not head[0].bias.any()


def test_cell_cnn_has_the_authors_size() -> None:
    model = build("limbeck.models.cell:cell_cnn", channels=1, classes=2, size=48)
    assert sum(p.numel() for p in model.parameters()) == 5682
    assert model(torch.rand(3, 1, 48, 48)).shape == (3, 2)
    assert build("limbeck.models.cell:cell_cnn", channels=3, classes=4, size=10)(torch.rand(2, 3, 10, 10)).shape == (
        2,
        4,
    )


def test_a_student_of_smaller_images_learns_from_the_same_cells() -> None:
    data, _ = digits(128)
    seen = []
    small = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    small.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1:]))
    student = Net(small, inputs=nn.AdaptiveAvgPool2d(4))
    Run(student=student, teacher=net(2, "cnn"), data=data, method=registry.make("cell_sorting"), epochs=1).fit()
    assert set(seen) == {(1, 4, 4)}
