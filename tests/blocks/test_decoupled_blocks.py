"""OFA-KD's branches."""

import pytest
import torch
from torch import nn

from limbeck.blocks.decoupled import Enhanced, EnhancedExits, Merge, branch
from limbeck.errors import ShapeError
from limbeck.losses.decoupled import ofa
from tests.blocks.logit_runs import gradients, images, net, run_of, terms_of

SHAPES = [(2, 8, 8, 8), (2, 8, 1, 1), (2, 8, 7, 5), (2, 64, 12), (2, 65, 12), (2, 196, 12), (2, 785, 7), (2, 9)]


@pytest.mark.parametrize("follow", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_branch_gives_class_logits(shape: tuple[int, ...], follow: int) -> None:
    own = branch(shape, follow=follow, student=16, teacher=24, classes=5)
    assert own(torch.rand(shape)).shape == (2, 5)


def test_widths_of_a_branch() -> None:
    own = branch((2, 8, 8, 8), follow=3, student=16, teacher=24, classes=5)
    assert [layer.out_channels for layer in own.modules() if isinstance(layer, nn.Conv2d)] == [
        *(8, 8, 8, 16),
        *(16, 16, 16, 32),
        *(32, 32, 32, 24),
    ]


def test_merging_keeps_neighbours_together() -> None:
    merge = Merge(1)
    merge.map = nn.Identity()
    grid = torch.arange(16.0).view(1, 4, 4, 1)
    assert merge(grid)[0, 0, 1].tolist() == [2, 3, 6, 7]
    assert merge(torch.rand(1, 5, 5, 1)).shape == (1, 2, 2, 4)


@pytest.mark.parametrize("shape", [(2, 3), (2, 7, 4), (2, 3, 4, 5, 6)])
def test_what_is_no_map_token_or_vector(shape: tuple[int, ...]) -> None:
    if len(shape) == 2:
        assert branch(shape, follow=0, student=4, teacher=4, classes=3)(torch.rand(shape)).shape == (2, 3)
    else:
        with pytest.raises(ShapeError):
            branch(shape, follow=0, student=4, teacher=4, classes=3)


@pytest.mark.parametrize(
    ("student", "layers"),
    [("cnn", ("layer1", "layer2", "layer3")), ("vit", ("blocks.1", "blocks.3")), ("mlp", ("layer1", "layer2"))],
)
def test_every_exit_teaches_what_is_before_it(student: str, layers: tuple[str, ...]) -> None:
    run = run_of(EnhancedExits(layers, 1.5), net(student, seed=1), net("cnn", seed=2))
    _, terms = terms_of(run)
    assert list(terms) == [f"ofa/{layer}" for layer in layers]
    for i, (layer, term) in enumerate(zip(layers, terms.values(), strict=True)):
        assert term.where == "labelled"
        assert gradients(term.value, run.students[0].layer(layer, "student"))
        assert gradients(term.value, run.bundle.state[i])
        assert not gradients(term.value, run.students[0].layer("fc", "student"))


def test_branches_train_and_the_student_stays_the_same_network() -> None:
    student = net("cnn", seed=1)
    names = set(student.state_dict())
    run = run_of(Enhanced(1.5) + EnhancedExits(("layer1", "layer3"), 1.5), student, net("vit", seed=2))
    run.setup()
    before = [p.clone() for p in run.bundle.state.parameters()]
    run.fit()
    assert not any(torch.equal(old, new) for old, new in zip(before, run.bundle.state.parameters(), strict=True))
    assert set(student.state_dict()) == names
    assert student(images()[:2]).shape == (2, 4)


def test_the_final_term() -> None:
    step, terms = terms_of(run_of(Enhanced(1.5, 2.0, "paper"), teacher=net(seed=1)))
    expected = ofa(step.student("x").logits, step.teacher("x").logits, step.y, eps=1.5, tau=2.0, variant="paper")
    torch.testing.assert_close(terms["ofa"].value, expected)
