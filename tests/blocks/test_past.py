import pytest
import torch

import limbeck
from limbeck.errors import SettingError
from limbeck.losses import cross_entropy
from limbeck.schedules import Clock
from limbeck.targets import mix, one_hot
from tests.blocks.tiny import CLASSES, WIDTH, assert_same, descend, examples, net, tiny, weights


def test_alpha_grows_by_epoch_to_its_last() -> None:
    alpha = limbeck.ps_kd().alpha
    assert limbeck.PastSelf().alpha == alpha
    for epoch in range(300):
        for step in (0, 9):
            now = alpha(Clock(step=10 * epoch + step, steps=3000, epoch=epoch, epochs=300))
            assert now == pytest.approx(0.8 * (epoch + 1) / 300)


def test_three_epochs_by_hand() -> None:
    """The past is what the model said in training before its update, and the truth in the first epoch."""
    data = examples(unlabelled=(2, 9))
    run = tiny(limbeck.ps_kd(alpha=0.6), data=data, epochs=3, batch_size=6)
    run.fit()
    student = net()
    truth = torch.zeros(12, CLASSES)
    for i, c in enumerate(data.y.tolist()):
        if c >= 0:
            truth[i, c] = 1
    past = truth.clone()
    for epoch, alpha in enumerate([0.2, 0.4, 0.6]):
        for index in run.plan(epoch):
            logits = student(data.x[index])
            target = (1 - alpha) * truth[index] + alpha * past[index]
            labelled = data.y[index] >= 0
            loss = -(target * logits.log_softmax(1)).sum(1)[labelled].mean()
            past[index] = logits.detach().softmax(1)
            descend(loss, student)
    assert_same(weights(run.students[0].module), weights(student))
    assert_same({"past": run.bundle.state.values}, {"past": past})
    assert run.bundle.state.filled.all()


def test_the_first_epoch_is_plain_cross_entropy() -> None:
    ours, plain = (tiny(method, batch_size=6) for method in (limbeck.ps_kd(), limbeck.supervised()))
    assert ours.fit()[0]["loss"] == pytest.approx(plain.fit()[0]["loss"], rel=1e-6)
    assert_same(weights(ours.students[0]), weights(plain.students[0]))


def test_what_the_authors_code_gives() -> None:
    """lgcnsai/PS-KD-Pytorch run on these numbers at epoch 149 of 300: its loss, and two rows of its gradient."""
    student = torch.tensor(
        [
            [-0.3251, 0.1762, -0.0663, 0.0489, 0.0493],
            [-0.578, -1.7242, 1.0405, 1.3606, -0.6008],
            [-2.0913, 0.143, -0.1479, -1.7772, 1.5023],
            [0.9084, 0.44, 0.4703, -1.8267, -0.0446],
        ],
        dtype=torch.float64,
        requires_grad=True,
    )
    past = torch.tensor(
        [
            [0.09159554844916518, 0.14327740880895556, 0.38779725825364364, 0.09763955351848029, 0.27969023096975537],
            [0.14825288693560168, 0.4211207085007432, 0.28503714671199787, 0.026327644560564516, 0.11926161329109261],
            [0.491960416062605, 0.0731197317197329, 0.2639073931536034, 0.022644075674651196, 0.1483683833894075],
            [0.1372761481115008, 0.04348841482309162, 0.43397831903745376, 0.2006565172187883, 0.18460060080916552],
        ],
        dtype=torch.float64,
    )
    alpha = limbeck.ps_kd(alpha=0.8).alpha(Clock(step=0, steps=1, epoch=149, epochs=300))
    truth = one_hot(torch.tensor([0, 0, 0, 1]), 5, torch.float64)
    loss = cross_entropy(student, mix(truth, past, alpha)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(2.406588613388328, rel=1e-9)
    assert student.grad is not None
    gradient = torch.tensor(
        [
            [
                -0.1226839531769435,
                0.04588858981983015,
                0.008469845887706752,
                0.043254686757816664,
                0.025070830711589973,
            ],
            [
                0.07812558055383822,
                -0.09684845897941197,
                0.015871476075968234,
                -0.01410552585173753,
                0.01695692820132296,
            ],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(student.grad[[0, 3]], gradient)


def test_classes_must_be_known() -> None:
    class Mute(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"embedding": x}

    with pytest.raises(SettingError, match="number of classes"):
        tiny(limbeck.ps_kd(), data=limbeck.Data(torch.randn(8, WIDTH)), student=Mute())
