import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import limbeck
from limbeck.blocks.contrastive import ContrastState
from limbeck.errors import SettingError
from tests.blocks.tiny import WIDTH, assert_same, descend, examples, net, step_of, terms_of, tiny, weights

LABELS = torch.tensor([2, 0, -1, 1, 2, 2, 0, -1, 2, 1])


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(1, keepdim=True).sqrt()


# ---- whom an example is contrasted with -----------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [LABELS, torch.arange(6), torch.tensor([0, 0, 0, 5]), torch.tensor([-1, -1, 3])])
def test_others_are_uniform_over_all_examples_of_other_labels(labels: Tensor) -> None:
    state = ContrastState(1, 1, 1, labels)
    n, draws = len(labels), 4000
    u = torch.rand(n, draws, generator=torch.Generator().manual_seed(0))
    for i, drawn in enumerate(state.others(torch.arange(n), u)):
        counts = drawn.bincount(minlength=n)
        allowed = labels != labels[i]
        assert not counts[~allowed].any()
        if allowed.sum() > 1:
            assert stats.chisquare(counts[allowed].numpy()).pvalue > 1e-3
        assert counts.sum() == draws


def test_the_largest_and_smallest_draw_are_in_the_data() -> None:
    edges = torch.tensor([[0.0, 1 - 2.0**-24]])
    for n in (2, 3, 1000, 2**15 + 1, 2**16, 60_000):
        drawn = ContrastState(1, 1, 1, torch.arange(n)).others(torch.tensor([n - 1]), edges)
        assert drawn.tolist() == [[0, n - 2]]


def test_draws_depend_on_the_example_and_not_on_the_batch() -> None:
    run = tiny(limbeck.CRD(negatives=5, dim=2), teacher=net(seed=1))
    whole, part = step_of(run, torch.arange(12)), step_of(run, torch.tensor([7, 3]))
    assert torch.equal(whole.uniform("crd", 5)[[7, 3]], part.uniform("crd", 5))


# ---- two optimiser steps, in the order of the authors' memory.py ----------------------------------------------------


class Authors:
    """Tian et al.'s update, written with probabilities: projections to the sphere, exp(score / T) / Z with Z from the
    first batch, noise-contrastive estimation, banks that move after their scores were taken."""

    def __init__(self, run: limbeck.Run, student: nn.Module, teacher: nn.Module, temperature: float) -> None:
        state = run.bundle.state[1][0]  # of beta * CRD, in CE + beta * CRD
        self.student, self.teacher, self.temperature = student, teacher, temperature
        self.project_s, self.project_t = nn.Linear(5, 2), nn.Linear(6, 2)
        self.project_s.load_state_dict(state.project_s.state_dict())
        self.project_t.load_state_dict(state.project_t.state_dict())
        self.bank_s, self.bank_t = state.bank_s.clone(), state.bank_t.clone()
        self.z: dict[str, Tensor] = {}

    def contrast(self, own: Tensor, bank: Tensor, rows: Tensor, side: str) -> Tensor:
        p = torch.einsum("bd,bkd->bk", own, bank[rows]).div(self.temperature).exp()
        z = self.z.setdefault(side, p.detach().mean() * len(bank))
        p, noise = p / z, (rows.shape[1] - 1) / len(bank)
        return -((p[:, 0] / (p[:, 0] + noise)).log() + (noise / (p[:, 1:] + noise)).log().sum(1)).mean()

    def step(self, x: Tensor, y: Tensor, index: Tensor, others: Tensor, beta: float) -> None:
        rows = torch.cat([index.unsqueeze(1), others], 1)
        own_s = unit(self.project_s(self.student.body(x)))
        own_t = unit(self.project_t(self.teacher.body(x).detach()))
        loss = self.contrast(own_s, self.bank_t, rows, "s") + self.contrast(own_t, self.bank_s, rows, "t")
        hard = -self.student(x).log_softmax(1)[torch.arange(len(y)), y].mean()
        descend(hard + beta * loss, self.student, self.project_s, self.project_t)
        self.bank_s[index] = unit(0.7 * self.bank_s[index] + 0.3 * own_s.detach())
        self.bank_t[index] = unit(0.7 * self.bank_t[index] + 0.3 * own_t.detach())


def test_two_epochs_as_the_authors_compute_them() -> None:
    data, teacher = examples(), net(6, seed=1)
    method = limbeck.CE() + 0.8 * limbeck.CRD(negatives=9, dim=2, temperature=0.5, momentum=0.7)
    run = tiny(method, data=data, teacher=teacher, batch_size=6, epochs=2)
    state = run.bundle.state[1][0]
    theirs = Authors(run, net(), teacher, 0.5)
    banks = state.bank_s.clone(), state.bank_t.clone()
    run.fit()
    for number, index in enumerate([*run.plan(0), *run.plan(1)]):
        run.steps_done = number
        step = step_of(run, index)
        theirs.step(data.x[index], data.y[index], index, state.others(index, step.uniform("crd", 9)), 0.8)
    torch.testing.assert_close(state.log_z, torch.stack([theirs.z["s"], theirs.z["t"]]).log())
    assert_same({"s": state.bank_s, "t": state.bank_t}, {"s": theirs.bank_s, "t": theirs.bank_t})
    assert_same(weights(run.students[0].module), weights(theirs.student))
    assert_same(weights(state.project_s), weights(theirs.project_s))
    assert_same(weights(state.project_t), weights(theirs.project_t))
    assert all(
        (before - after).abs().max() > 0.1 for before, after in zip(banks, (state.bank_s, state.bank_t), strict=True)
    )


def test_both_projections_learn_and_nothing_else_of_the_state() -> None:
    run = tiny(limbeck.CRD(negatives=5, dim=2), teacher=net(seed=1))
    terms = terms_of(run, step_of(run, torch.arange(6)))
    torch.stack([term.value for term in terms.values()]).sum().backward()
    state = run.bundle.state
    assert {name for name, parameter in state.named_parameters() if parameter.grad is not None} == {
        f"project_{side}.{name}" for side in "st" for name in ("weight", "bias")
    }


def test_banks_start_uniform_with_rows_of_length_one_on_average() -> None:
    state = ContrastState(1, 1, 64, torch.arange(3000))
    for bank in (state.bank_s, state.bank_t):
        assert bank.abs().max().item() == pytest.approx((3 / 64) ** 0.5, rel=1e-3)
        assert bank.square().sum(1).mean().item() == pytest.approx(1, rel=0.01)
        assert stats.kstest(bank.flatten().numpy(), "uniform", (-((3 / 64) ** 0.5), 2 * (3 / 64) ** 0.5)).pvalue > 1e-3


def test_the_papers_settings() -> None:
    assert limbeck.crd() == limbeck.CE() + 0.8 * limbeck.CRD(negatives=16384, dim=128, temperature=0.07, momentum=0.5)


# ---- other data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unlabelled", [(1, 5), tuple(range(12))])
def test_unlabelled_examples_take_part(unlabelled: tuple[int, ...]) -> None:
    run = tiny(limbeck.crd(negatives=7, dim=2), data=examples(unlabelled=unlabelled), teacher=net(seed=1))
    row = run.fit()[-1]
    assert row["terms"]["contrast/student"] > 0
    assert run.bundle.state[1][0].bank_s.norm(dim=1).allclose(torch.ones(12))  # each was met


def test_data_without_labels() -> None:
    x = torch.randn(8, WIDTH)
    run = tiny(limbeck.CRD(negatives=7, dim=2), data=limbeck.Data(x), teacher=net(seed=1))
    run.fit()
    everyone = torch.arange(8)
    drawn = run.bundle.state.others(everyone, torch.rand(8, 200))
    assert [set(row.tolist()) for row in drawn] == [set(range(8)) - {i} for i in range(8)]


def test_one_class_has_no_others() -> None:
    with pytest.raises(SettingError, match="one class"):
        tiny(
            limbeck.CRD(),
            data=limbeck.Data(torch.randn(8, WIDTH), torch.ones(8).long(), classes=3),
            teacher=net(seed=1),
        )


def test_mixed_precision() -> None:
    full, mixed = (
        tiny(limbeck.crd(negatives=7, dim=2, temperature=1.0), teacher=net(seed=1), precision=precision)
        for precision in ("32-true", "bf16-mixed")
    )
    assert mixed.fit()[0]["terms"] == pytest.approx(full.fit()[0]["terms"], rel=0.02)
    assert mixed.bundle.state[1][0].bank_s.dtype == torch.float32
