"""Objectives of labels, and of robustness, within runs."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import registry
from limbeck.blocks.label import DCO, AnyLoss, Dice, DiceSet, HLGauss, TriBCE, TwoHot, VarianceWeighted
from limbeck.blocks.logit import CE
from limbeck.blocks.robust import ALDR, AdvCompSum, CompSum
from limbeck.data import Data
from limbeck.errors import SettingError, ShapeError
from limbeck.losses.label import bias_weight, feature_variance, tri_bce
from limbeck.losses.logit import cross_entropy
from limbeck.losses.robust import aldr_lambda, margin_shift
from limbeck.losses.value import hl_gauss
from limbeck.models.calibrated import Calibrated
from limbeck.optim import SGD
from limbeck.run import Run
from limbeck.schedules import Clock
from limbeck.step import Step
from tests.strategies import normal

METHODS = {
    "comp_sum": {"tau": 1.7},
    "comp_sum_adv": {"radius": 0.1, "steps": 2},
    "ldr": {},
    "aldr": {},
    "dice": {},
    "dice_binary": {"ohem": 0.3},
    "anyloss": {"metric": "gmean"},
    "hl_gauss": {"low": -0.5, "high": 2.5},
    "two_hot": {"low": 0.0, "high": 2.0},
    "ca_calibration": {},
    "bias_loss": {"layer": "hidden", "scope": "run"},
    "dco": {"n": 4},
    "tri_bce": {},
}


def net(classes: int = 3) -> nn.Module:
    hidden = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(OrderedDict(hidden=hidden, fc=nn.Linear(8, classes)))


def a_run(method: Any, *, labelled: int = 12, student: Any = None, epochs: int = 3, **settings: Any) -> Run:
    """12 examples in [0, 1]^4 of 3 classes, in batches of 6; those from `labelled` on have no label."""
    torch.manual_seed(0)
    x, y = normal(12, 4).float().sigmoid(), torch.arange(12) % 3
    y[labelled:] = -1
    return Run(
        student=student or net(),
        data=Data(x, y, classes=3),
        method=method,
        epochs=epochs,
        batch_size=6,
        optimizer=SGD(0.1),
        **settings,
    )


def first_step(run: Run, rows: int = 6) -> Step:
    run.setup()
    step = Step(run, run.train_data.example(rows), Clock(0, 1, 0, 1), 0)
    step.batch = run.method.prepare(step.batch, step, run.bundle.state)
    step.forget()
    return step


@pytest.mark.parametrize("name", METHODS)
def test_every_method_prints_and_trains_with_few_labels(name: str) -> None:
    method = registry.make(name, **METHODS[name])
    assert registry.read(repr(method)) == method
    run = a_run(method, labelled=9, student=[net(), net()] if name == "tri_bce" else None)
    run.setup()
    before = [parameter.detach().clone() for parameter in run.bundle.students.parameters()]
    run.fit()
    assert all(torch.tensor(row["loss"]).isfinite() for row in run.history)
    assert any(not torch.equal(a, b) for a, b in zip(before, run.bundle.students.parameters(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_no_method_learns_without_a_label(name: str) -> None:
    run = a_run(registry.make(name, **METHODS[name]), student=[net(), net()] if name == "tri_bce" else None)
    run.setup()
    run.train_data.y[:] = -1
    assert all(row["loss"] == 0 for row in run.fit())


def test_two_classes_are_one_question_and_more_are_many() -> None:
    for method in (DiceSet(), AnyLoss()):
        run = a_run(method)
        step = first_step(run)
        many = method.loss(step, None)
        assert all(term.value.shape == (6,) and term.value.unique().numel() == 1 for term in many.values())
    run = a_run(Dice(), student=net(2))
    run.data = Data(run.data.x, run.data.y % 2, classes=2)
    step = first_step(run)
    logits = step.student("x").logits
    mirrored = logits + 7.0  # only the difference of both logits counts
    both = [AnyLoss().loss(step, None)["fbeta"].value]
    step.student.seen["x"].signals[".logits"] = mirrored
    both.append(AnyLoss().loss(step, None)["fbeta"].value)
    torch.testing.assert_close(*both)


# --- numbers as classes -------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A teacher that regresses: the sum of the inputs, by a layer that torch can find."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 1, bias=False)
        nn.init.ones_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def test_a_number_from_the_labels_or_a_teacher() -> None:
    step = first_step(a_run(HLGauss(-1.0, 3.0), student=net(21)))
    want = cross_entropy(step.student("x").logits, hl_gauss(step.y.float(), low=-1.0, high=3.0, bins=21))
    torch.testing.assert_close(HLGauss(-1.0, 3.0).loss(step, None)["bins"].value, want)
    method = HLGauss(0.0, 4.0, of="teacher")
    step = first_step(a_run(method, student=net(21), teacher=Constant()))
    want = cross_entropy(step.student("x").logits, hl_gauss(step.view("x").sum(1), low=0.0, high=4.0, bins=21))
    torch.testing.assert_close(method.loss(step, None)["bins"], want)
    with pytest.raises(ShapeError, match="one number per example"):
        a_run(method, teacher=net()).setup()


def test_two_hot_centres_at_the_classes_are_the_cross_entropy() -> None:
    step = first_step(a_run(TwoHot(0.0, 2.0)))
    torch.testing.assert_close(TwoHot(0.0, 2.0).loss(step, None)["bins"].value, CE().loss(step, None)["ce"].value)
    torch.testing.assert_close(DCO(1).loss(step, None)["dco"].value, CE().loss(step, None)["ce"].value)
    torch.testing.assert_close(CompSum(1.0).loss(step, None)["comp_sum"].value, CE().loss(step, None)["ce"].value)


# --- state --------------------------------------------------------------------------------------------------------


def test_aldr_remembers_a_lambda_for_each_example() -> None:
    run = a_run(ALDR(lam0=1.0), epochs=1)
    step = first_step(run)
    method, bank = run.method, run.bundle.state
    method.loss(step, bank)
    one = aldr_lambda(step.student("x").logits, torch.ones(6), lam0=1.0)
    torch.testing.assert_close(step.kept["aldr"].squeeze(1), one)
    run.fit()
    assert bank.filled.all()
    known = bank.values.squeeze(1)
    assert ((known > 0.5) & (known <= 1)).all()
    assert known.unique().numel() > 6
    step = Step(run, run.train_data.example(6), Clock(0, 1, 0, 1), 0)
    method.loss(step, bank)
    again = aldr_lambda(step.student("x").logits, known[:6], lam0=1.0)
    torch.testing.assert_close(step.kept["aldr"].squeeze(1), again)


def test_variance_weights_any_objective_and_remembers_the_lowest() -> None:
    method = VarianceWeighted(CE(), "hidden", scope="run")
    run = a_run(method, epochs=2)
    step = first_step(run)
    variance = feature_variance(step.student("x")["hidden"])
    terms = method.loss(step, run.bundle.state)
    ce = cross_entropy(step.student("x").logits, step.y)
    torch.testing.assert_close(terms["ce"].value, bias_weight(variance) * ce)
    assert terms["ce"].where == "labelled"
    run.bundle.state.lowest.fill_(0.0)
    lower = bias_weight(variance, lowest=torch.tensor(0.0))
    torch.testing.assert_close(method.loss(step, run.bundle.state)["ce"].value, lower * ce)
    run.bundle.state.lowest.fill_(torch.inf)
    run.fit()
    assert run.bundle.state.lowest.isfinite()
    assert "lowest" in run.bundle.state.state_dict()


# --- adversarial inputs -------------------------------------------------------------------------------------------


def test_the_worst_input_is_near_and_worse_than_a_random_one() -> None:
    method = AdvCompSum(0.1)
    run = a_run(method, epochs=2)
    run.fit()
    student = run.students[0].train()
    statistics = student.module.hidden[1].running_mean.clone()
    step = first_step(run)
    assert student.training
    assert torch.equal(student.module.hidden[1].running_mean, statistics)
    assert all(parameter.grad is None for parameter in student.parameters())
    x, worst = step.view("x"), step.view("adversarial")
    assert (worst - x).abs().max() <= 0.1 + 1e-6
    assert worst.min() >= 0
    assert worst.max() <= 1
    student.eval()
    with torch.no_grad():
        before = student(x).logits
        shift = margin_shift(before, student(worst).logits, step.y)
        for seed in range(5):
            noise = 0.1 * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 1)
            assert (shift > margin_shift(before, student((x + noise).clamp(0, 1)).logits, step.y)).all()


def test_inputs_without_limits() -> None:
    step = first_step(a_run(AdvCompSum(5.0, limits=None)))
    assert step.view("adversarial").min() < 0
    with pytest.raises(SettingError, match="radius"):
        AdvCompSum(0.0)


# --- branches -----------------------------------------------------------------------------------------------------


class Branched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.deep, self.cross = net(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.deep(x) + self.cross(x)) / 2


def test_branches_are_students_or_layers() -> None:
    method = TriBCE(("deep", "cross"))
    step = first_step(a_run(method, student=Branched()))
    output = step.student("x")
    want = tri_bce(torch.stack([output["deep"], output["cross"]]), step.y)
    torch.testing.assert_close(method.loss(step, None)["branches"].value, want)
    step = first_step(a_run(TriBCE(), student=[net(), net(), net()]))
    want = tri_bce(torch.stack([student("x").logits for student in step.students]), step.y)
    torch.testing.assert_close(TriBCE().loss(step, None)["branches"].value, want)
    with pytest.raises(SettingError, match="one branch"):
        a_run(TriBCE()).setup()


# --- calibration --------------------------------------------------------------------------------------------------


def test_a_calibrated_model_keeps_its_choices_and_its_weights() -> None:
    model = net(5).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    student = Calibrated(model, [lambda x: x.flip(-1), lambda x: x + 0.1])
    run = a_run(registry.make("ca_calibration"), student=student, epochs=5)
    heads = [parameter.detach().clone() for parameter in student.head.parameters()]
    run.fit()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(heads, student.head.parameters(), strict=True))
    x = normal(50, 4).float()
    with torch.no_grad():
        plain, calibrated = model(x), student(x)
    assert torch.equal(plain.argmax(1), calibrated.argmax(1))
    ratio = plain / calibrated
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=0)
    with pytest.raises(SettingError, match="copies"):
        Calibrated(model, [])
