import pytest
import torch
from torch import Tensor

import limbeck
from limbeck.errors import SettingError
from tests.blocks.tiny import assert_same, descend, examples, net, step_of, terms_of, tiny, weights

EVERY = torch.arange(12)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """The mean of KL(p || q) over the rows, from probabilities."""
    return (p * (p / q).log()).sum(1).mean()


def total(run: limbeck.Run, index: Tensor = EVERY) -> Tensor:
    """The loss of the run's method on these examples, as the training loop has it."""
    return run.bundle(step_of(run, index))[0]


def cross_entropy(student: Tensor, y: Tensor) -> Tensor:
    """The mean over the labelled rows."""
    rows = [i for i, c in enumerate(y.tolist()) if c >= 0]
    return -torch.stack([student.log_softmax(1)[i, y[i]] for i in rows]).mean()


def test_kd_is_the_weighted_sum_of_both_means() -> None:
    """Labels count where there are some, the teacher everywhere."""
    data, teacher = examples(unlabelled=(1, 2, 7)), net(6, seed=1)
    run = tiny(limbeck.kd(), data=data, teacher=teacher)
    student, soft = net()(data.x), (teacher(data.x) / 4).softmax(1)
    expected = 0.1 * cross_entropy(student, data.y) + 0.9 * 16 * divergence(soft, (student / 4).softmax(1))
    torch.testing.assert_close(total(run), expected)


def test_kd_without_any_label() -> None:
    data, teacher = examples(unlabelled=tuple(range(12))), net(6, seed=1)
    run = tiny(limbeck.kd(tau=2.0, alpha=0.75), data=data, teacher=teacher)
    soft, student = (teacher(data.x) / 2).softmax(1), (net()(data.x) / 2).softmax(1)
    torch.testing.assert_close(total(run), 0.75 * 4 * divergence(soft, student))


def test_two_epochs_of_kd() -> None:
    data, teacher, student = examples(), net(6, seed=1), net()
    run = tiny(limbeck.kd(tau=2.0, alpha=0.5), data=data, teacher=teacher, epochs=2)
    before = weights(teacher)
    run.fit()
    for epoch in (0, 1):
        for index in run.plan(epoch):
            z, t = student(data.x[index]), teacher(data.x[index]).detach()
            loss = cross_entropy(z, data.y[index]) + 4 * divergence((t / 2).softmax(1), (z / 2).softmax(1))
            descend(loss / 2, student)
    assert_same(weights(run.students[0].module), weights(student))
    assert_same(weights(teacher), before)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_committee_of_three_by_hand(mean: str) -> None:
    data, teachers, tau = examples(), [net(6, seed=seed) for seed in (1, 2, 3)], 3.0
    for teacher in teachers:  # sharper, so that the two means differ well
        teacher.fc.weight.data *= 9
    run = tiny(limbeck.CommitteeKL(tau, mean), data=data, teacher=teachers)
    soft = torch.stack([(teacher(data.x) / tau).softmax(1) for teacher in teachers])
    target = soft.mean(0) if mean == "arithmetic" else soft.prod(0) ** (1 / 3)
    target = target / target.sum(1, keepdim=True)
    student = (net()(data.x) / tau).softmax(1)
    torch.testing.assert_close(total(run), tau**2 * divergence(target, student))


def test_a_committee_of_equals_is_one_teacher() -> None:
    same = {"data": examples()}
    alone = total(tiny(limbeck.kd(), teacher=net(6, seed=1), **same))
    for mean in ("arithmetic", "geometric"):
        both = total(tiny(limbeck.committee(mean=mean), teacher=[net(6, seed=1), net(6, seed=1)], **same))
        torch.testing.assert_close(both, alone)


def test_a_committee_is_more_than_one() -> None:
    with pytest.raises(SettingError, match=r"run has 1: Run\(teacher=\[a, b\]\)"):
        tiny(limbeck.committee(), teacher=net(seed=1))


def test_every_row_has_its_number() -> None:
    run = tiny(limbeck.CE() + limbeck.KL(), data=examples(unlabelled=(0,)), teacher=net(6, seed=1))
    terms = terms_of(run, step_of(run, EVERY))
    assert {name: (term.where, tuple(term.value.shape)) for name, term in terms.items()} == {
        "ce": ("labelled", (12,)),
        "kl": (None, (12,)),
    }
