"""Joint labels of class and transformation."""

import pytest
import torch

from limbeck.blocks.joint import JointLabels, transformed
from limbeck.blocks.logit import KL
from limbeck.data import Data
from limbeck.data.views import Crop
from limbeck.errors import SettingError, ShapeError
from limbeck.losses.joint import aggregate
from limbeck.losses.logit import kl
from tests.blocks.logit_runs import N, gradients, images, labels, net, run_of, terms_of


@pytest.mark.parametrize(("rotations", "colours"), [(4, 1), (2, 1), (1, 6), (1, 3), (2, 3), (4, 6)])
def test_every_transformation_is_another_image(rotations: int, colours: int) -> None:
    objective = JointLabels(rotations, colours)
    x = images(channels=3)
    assert next(iter(objective.views)) == "x"
    made = [transformed(x, *each) for each in objective.views.values()]
    assert len(made) == rotations * colours
    assert torch.equal(made[0], x)
    assert all(not torch.equal(a, b) for i, a in enumerate(made) for b in made[:i])


def test_all_views_turn_the_same_crop() -> None:
    data = Data(images(), labels(), views={"x": Crop(2)}, classes=4)
    step, _ = terms_of(run_of(JointLabels(), data=data))
    x = step.view("x")
    assert not torch.equal(x, images())
    for i in range(4):
        assert torch.equal(step.view(f"x/{i}" if i else "x"), x.rot90(i, (2, 3)))


def test_terms() -> None:
    run = run_of(JointLabels(tau=2.0, joint=3.0), net("cnn"))
    step, terms = terms_of(run)
    outputs = step.student.join("x", "x/1", "x/2", "x/3")
    joint = run.bundle.state(torch.stack([output.embedding for output in outputs], 1))
    torch.testing.assert_close(terms["self"].value, kl(outputs[0].logits, aggregate(joint), tau=2.0))
    assert [terms[name].where for name in ("joint", "ce", "self")] == ["labelled", "labelled", None]
    assert not terms["joint"].value[-2:].any()
    head, fc = run.bundle.state, run.students[0].layer("fc", "student")
    assert [gradients(terms[name].value, head) for name in ("joint", "ce", "self")] == [True, False, False]
    assert [gradients(terms[name].value, fc) for name in ("joint", "ce", "self")] == [False, True, True]
    one = terms_of(run_of(JointLabels(tau=2.0), net("cnn")))[1]
    torch.testing.assert_close(terms["joint"].value, 3 * one["joint"].value)


def test_one_forward_sees_all_images() -> None:
    run = run_of(JointLabels(), net("cnn"))
    run.setup()
    sizes = []
    run.students[0].register_forward_hook(lambda module, args, output: sizes.append(len(output.logits)))
    terms_of(run)
    assert sizes == [4 * N]


def test_it_goes_with_a_teacher() -> None:
    assert run_of(JointLabels() + KL(4.0), net("cnn"), net("cnn", seed=1)).fit()


def test_what_cannot_be_turned() -> None:
    with pytest.raises(ShapeError, match="rotations=2"):
        transformed(torch.rand(2, 1, 8, 6), 1, (0, 1, 2))
    with pytest.raises(ShapeError, match="colours=1"):
        transformed(torch.rand(2, 1, 8, 8), 0, (1, 2, 0))
    for settings in ({"rotations": 1}, {"rotations": 3}, {"colours": 2}):
        with pytest.raises(SettingError, match="rotations is 1, 2 or 4"):
            JointLabels(**settings)
