import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck import CE, AdamW, Cosine, Run
from limbeck.blocks.trilateral import TrilateralRatio, trilateral
from limbeck.data import UNLABELLED, Data
from limbeck.errors import SettingError
from limbeck.losses.inputs import probabilities
from limbeck.losses.logit import cross_entropy, kl
from limbeck.signals import Output
from limbeck.targets import one_hot
from tests.pipelines import digits, net, parts, step_of


def run_of(method: TrilateralRatio | None = None, **settings: Any) -> Run:
    data, _ = digits()
    settings = {"student": net(1), "teacher": net(2), "data": data, **settings}
    return Run(method=method or TrilateralRatio(2.0, 0.25), **settings)


def test_geometry_by_hand() -> None:
    s, t, g, c = (torch.tensor([row]) for row in ([0.5, 0.5], [0.25, 0.75], [0.0, 1.0], [0.0, 1.0]))
    square = trilateral(s, t, g, c)[0, 8:].view(5, 2)
    assert square.tolist() == [[0.25, 0.25], [0.25, 0.25], [0.0625, 0.0625], [0.0625, 0.0625], [0.0, 0.0]]
    plain = trilateral(s, t, g, c, edge="difference")[0, 8:].view(5, 2)
    assert plain[2].tolist() == [-0.25, 0.25]  # T - S
    assert trilateral(s, t, g, c)[0, :8].tolist() == [0.5, 0.5, 0.25, 0.75, 0.0, 1.0, 0.0, 1.0]


def test_loss_is_the_equation() -> None:
    run = run_of()
    step = step_of(run)
    s, t, y = step.student("x").logits, step.teacher("x").logits, step.y
    alpha = run.bundle.state(
        trilateral(probabilities(s.detach()), probabilities(t), one_hot(y, 10), run.bundle.state.centres[y])
    )
    assert ((alpha > 0) & (alpha < 1)).all()
    expected = (alpha * kl(s, t, tau=2.0) + (1 - alpha) * cross_entropy(s, y)).mean()
    torch.testing.assert_close(sum(parts(run, step).values()), expected)


def test_centres_are_the_teachers_means_over_what_is_not_held_out() -> None:
    run = run_of()
    run.setup()
    method, batch = run.method, next(run.train_data.batches([torch.arange(256)]))
    assert isinstance(method, TrilateralRatio)
    inner = method.inner(run, batch)
    assert 0.1 < 1 - inner.float().mean() < 0.4
    with torch.no_grad():
        p = run.teachers[0](batch.view("x"), "x", batch.index).logits.softmax(-1)
    for k in range(10):
        torch.testing.assert_close(run.bundle.state.centres[k], p[inner & (batch.y == k)].mean(0))


def test_held_out_and_unlabelled_examples_teach_the_student_nothing() -> None:
    data, _ = digits()
    assert data.y is not None
    y = data.y.clone()
    y[::3] = UNLABELLED
    run = run_of(data=Data(data.x, y, classes=10))
    step = step_of(run, 64)
    method = run.method
    assert isinstance(method, TrilateralRatio)
    expected = method.inner(run, next(run.train_data.batches([torch.arange(64)]))) & (y[:64] != UNLABELLED)
    assert step.index.tolist() == expected.nonzero()[:, 0].tolist()
    nobody = run_of(data=Data(data.x, torch.full_like(y, UNLABELLED), classes=10))
    assert not any(part.item() for part in parts(nobody, step_of(nobody)).values())


def test_the_students_weights_and_averages_are_not_moved_by_looking_ahead() -> None:
    run = run_of(student=net(1, "cnn"), optimizer=AdamW(Cosine(0.01)))
    run.setup()
    before = copy.deepcopy(run.bundle.state_dict())
    step_of(run, 64)
    after = run.bundle.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("state.") and "centres" not in name for name in moved)


def test_the_optimiser_does_not_train_the_ratio() -> None:
    run = run_of()
    run.setup()
    assert not list(run.bundle.state.parameters())
    assert TrilateralRatio(1.0).couples_examples


@pytest.mark.slow
def test_alpha_falls_where_the_teacher_is_wrong() -> None:
    """The entry's check, on digits: a teacher that is wrong on a fifth of the examples."""
    data, _ = digits(1297)
    teacher, student = net(2, "cnn"), net(1, "cnn")
    Run(student=teacher, data=data, method=CE(), epochs=8).fit()
    wrong = torch.rand(1297, generator=torch.Generator().manual_seed(0)) < 0.2

    class Liar:
        def read(self, names: Any, *, owner: str = "teacher") -> None: ...

        def __call__(self, x: Tensor, view: str, index: Tensor) -> Output:
            with torch.no_grad():
                logits = teacher.eval()(x)
            return Output({".logits": torch.where(wrong[index, None], logits.roll(1, -1), logits)})

    run = run_of(TrilateralRatio(2.0), data=data, student=student, teacher=Liar(), epochs=10)
    run.fit()
    batch = next(run.train_data.batches([torch.arange(1297)]))
    run.students[0].eval()
    with torch.no_grad():
        s, t = run.students[0](batch.view("x")).logits, Liar()(batch.view("x"), "x", batch.index).logits
    geometry = trilateral(
        probabilities(s),
        probabilities(t),
        one_hot(data.y, 10),
        run.bundle.state.centres[data.y],  # type: ignore
    )
    alpha = run.bundle.state(geometry)
    assert alpha[wrong].mean() < alpha[~wrong].mean() - 0.1


def test_resumes_to_the_bit(tmp_path: Path) -> None:
    whole = run_of(epochs=4, student=net(1, "cnn"))
    whole.fit()
    first = run_of(epochs=4, student=net(1, "cnn"), folder=tmp_path, save_every=3)
    first.setup()
    for _ in range(2):
        list(first.train_epoch(threading.Event()))
    second = run_of(epochs=4, student=net(1, "cnn"), folder=tmp_path)
    second.fit(resume=True)
    for name, value in whole.bundle.state_dict().items():
        assert torch.equal(value, second.bundle.state_dict()[name]), name


def test_settings_that_cannot_be() -> None:
    with pytest.raises(SettingError, match="held_out"):
        TrilateralRatio(2.0, 0.0)
    with pytest.raises(SettingError, match="one teacher"):
        run_of(teacher=[net(2), net(3)]).setup()
