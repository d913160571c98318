import pytest
import torch
from torch import Tensor

from limbeck import SGD, UNLABELLED, Data, Run
from limbeck.blocks.targets import DHO, Aspects, FerKD, HotCE, beta_quantile, paste
from limbeck.errors import SettingError
from limbeck.losses.binary import binary_cross_entropy
from limbeck.losses.logit import cross_entropy, kl
from limbeck.models import build
from limbeck.registry import find
from limbeck.schedules import Clock
from limbeck.step import Step
from limbeck.targets import route_by_confidence


def data(n: int = 12, **settings) -> Data:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (n,), generator=g)
    y[n // 2 :] = UNLABELLED
    return Data(torch.rand(n, 1, 4, 4, generator=g), y, classes=3, **settings)


def net(seed: int, classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = build("mlp", channels=1, classes=classes, size=4)
    for p in model.fc.parameters():
        p.data *= 8
    return model


def ready(method, source=None, teacher=None, **settings) -> Run:
    run = Run(
        data=data() if source is None else source,
        method=method,
        teacher=net(2) if teacher is None else teacher,
        optimizer=SGD(0.1),
        accelerator="cpu",
        **{"student": net(1), "batch_size": 12, "epochs": 1, **settings},
    )
    run.setup()
    return run


def value(run: Run) -> tuple[float, Step]:
    """The loss on all examples, as the loop takes it."""
    batch = next(run.train_data.batches([torch.arange(run.num_examples)]))
    step = Step(run, batch, Clock(0, 1, 0, 1), 0)
    with torch.no_grad():
        step.batch = run.method.prepare(batch, step, run.bundle.state)
        step.forget()
    step.counts = run.count([step])
    return float(run.bundle(step)[0].detach()), step


def ferkd() -> FerKD:
    """With thresholds that the teacher's confidences are on both sides of."""
    confidence = net(2)(data().x).detach().softmax(1).amax(1).sort().values
    low, middle, high = (float(confidence[i : i + 2].mean()) for i in (1, 6, 9))
    return FerKD(low, middle, high, 0.1)


def test_ferkd_divides_by_the_crops_that_it_keeps() -> None:
    method = ferkd()
    found, step = value(ready(method))
    soft = step.teacher("x").logits.softmax(1)
    target, counts = route_by_confidence(soft, step.y, low=method.low, middle=method.middle, high=method.high, eps=0.1)
    assert counts.sum() == 8
    assert not torch.equal(target, soft)
    expected = cross_entropy(step.student("x").logits, target)[counts].mean()
    assert found == pytest.approx(expected.item())


def test_ferkd_that_keeps_nothing_learns_nothing() -> None:
    assert value(ready(FerKD(1.0, 1.0, 1.0, 0.1)))[0] == 0


def test_ferkd_in_micro_batches_is_the_same() -> None:
    weights = []
    for micro in (12, 5):
        run = ready(ferkd(), micro_batch=micro)
        run.fit()
        weights.append(run.students[0].module.fc.weight.detach())
    torch.testing.assert_close(*weights)


def test_selfmix_mixes_image_and_target_alike() -> None:
    views = {"x": lambda x, draw: x * 0, "other": lambda x, draw: x * 0 + 1}
    run = ready(FerKD(0.0, 0.0, 1.0, 0.1, selfmix=1.0), data(views=views))
    _, step = value(run)
    share = 1 - step.view("selfmix").mean((1, 2, 3))  # of the zeros
    first, second = (step.teacher(view).logits.softmax(1) for view in ("x", "other"))
    expected = share[:, None] * first + (1 - share[:, None]) * second
    torch.testing.assert_close(step.kept[repr(run.method)], expected)
    assert share.std() > 0.05


def test_paste_by_hand() -> None:
    x, other = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    mixed, share = paste(x, other, torch.tensor([0.75, 0.0]), torch.tensor([[0.5, 0.5], [0.0, 0.0]]))
    assert share.tolist() == [0.75, 0.75]
    assert mixed[0, 0, 1:3, 1:3].sum() == mixed[0].sum() == 4  # a quarter, in the middle
    assert mixed[1, 0, :2, :2].sum() == mixed[1].sum() == 4  # all of it around a corner: a quarter is inside


def test_beta_quantile() -> None:
    u = torch.linspace(0.01, 0.99, 99)
    torch.testing.assert_close(beta_quantile(u, 1.0), u)
    assert beta_quantile(u, 0.2).std() > u.std() > beta_quantile(u, 5.0).std()


def test_dho_heads_hear_one_side_each() -> None:
    run = ready(DHO(tau=2.0, weight=0.3))
    found, step = value(run)
    ce, kd = (step.student("x")[f"fc.{head}"] for head in ("ce", "kd"))
    taught, known = kl(kd, step.teacher("x").logits, tau=2.0), step.y != UNLABELLED
    expected = 0.3 * cross_entropy(ce, step.y)[known].mean() + 0.7 * (taught[known].mean() + taught[~known].mean())
    assert found == pytest.approx(expected.item())
    # each head's gradient is that of its own part alone
    run.bundle(step)[0].backward(retain_graph=True)
    head, label_part = run.students[0].module.fc, 0.3 * cross_entropy(ce, step.y)[known].mean()
    for own, part in ((head.ce.bias, label_part), (head.kd.bias, expected - label_part)):
        torch.testing.assert_close(own.grad, torch.autograd.grad(part, own, retain_graph=True)[0])


def test_dho_without_unlabelled_examples_and_again_with_the_same_student() -> None:
    whole = Data(data().x, torch.arange(12) % 3)
    run = ready(DHO(), whole)
    assert value(run)[0] > 0
    again = Run(
        student=run.students[0].module, data=whole, teacher=net(2), method=DHO(alpha=1.0), accelerator="cpu", epochs=1
    )
    again.setup()
    head = again.students[0].module.fc
    assert head.alpha == 1
    assert isinstance(head.ce, torch.nn.Linear)


def test_aspects() -> None:
    run = ready(Aspects(), teacher=net(2, classes=5))
    found, step = value(run)
    head = run.bundle.state
    answers: Tensor = step.teacher("x").logits.sigmoid()
    assert answers.shape == (12, 5)
    expected = binary_cross_entropy(head(run.students[0].module[:-1](step.view("x"))), answers).mean()
    assert found == pytest.approx(expected.item())


def test_defensive_distillation_is_cross_entropy_at_tau_less_the_entropy() -> None:
    run = ready(find("defensive_distillation")(tau=20.0))
    found, step = value(run)
    hot = [player("x").logits / 20 for player in (step.student, step.teacher)]
    q = hot[1].softmax(1)
    expected = (cross_entropy(hot[0], q) - cross_entropy(hot[1], q)).mean()
    assert found == pytest.approx(expected.item(), rel=1e-3)


def test_hot_labels() -> None:
    run = ready(HotCE(5.0))
    found, step = value(run)
    known = step.y != UNLABELLED
    expected = cross_entropy(step.student("x").logits / 5, step.y)[known].mean()
    assert found == pytest.approx(expected.item())
    with pytest.raises(SettingError, match="positive"):
        HotCE(0.0)
