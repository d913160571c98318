import pytest
import torch

from limbeck import SGD, Run, registry
from limbeck.data import UNLABELLED, Data
from limbeck.data.select import prune, random_scores
from limbeck.errors import SettingError
from limbeck.procedures.select import pruned, ssld
from tests.pipelines import digits, net


def test_pruned_run_is_the_run_on_those_examples() -> None:
    data, _ = digits(256)
    ids = prune(random_scores(256, seed=0), 0.25, y=data.y)
    run = Run(student=net(1), teacher=net(2), data=data, method=registry.make("kd_data_pruning", alpha=1.0), epochs=2)
    part = pruned(run, ids)
    assert len(part.data) == len(ids)
    assert torch.equal(part.data.x, data.x[ids])
    assert part.epochs == 2
    assert pruned(run, ids, same_steps=True).epochs == 4  # 2 steps of 128 rows became 1
    part.fit()
    assert part.steps_done == 2


def test_teacher_of_all_examples_helps_and_its_error_falls_with_their_number() -> None:
    """The paper's theory in ridge regression: the student's expected error with a teacher is below that without, and
    falls with what the teacher saw. Its bias alone is above that without one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, generator=generator, dtype=torch.float64)
    true = torch.nn.functional.normalize(torch.randn(20, generator=generator, dtype=torch.float64), dim=0)

    def fit(x):
        return torch.linalg.solve(x.T @ x + 5.0 * torch.eye(20).double(), x.T)

    def error(alpha, seen):
        target = (1 - alpha) * torch.eye(12, seen).double() + alpha * x[:12] @ fit(x[:seen])
        estimate = fit(x[:12]) @ target
        bias = (estimate @ x[:seen] @ true - true).square().sum()
        return bias, bias + estimate.square().sum()

    for alpha in (0.25, 0.5, 1.0):
        errors = [error(alpha, seen)[1] for seen in (12, 20, 40, 60)]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] < error(0.0, 12)[1]
        assert error(alpha, 60)[0] > error(0.0, 12)[0]


def pool_of(data: Data) -> Data:
    """The images themselves, and noise."""
    noise = torch.randint(0, 256, data.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Data(torch.cat([data.x, noise]), masks={"valid": torch.arange(2 * len(data)) != 3})


def test_ssld_chooses_distils_and_tunes() -> None:
    data, test = digits(256)
    teacher, student = net(2, "cnn"), net(1)
    Run(student=teacher, data=data, method=registry.make("CE()"), epochs=10).fit()
    few = Data(data.x[:64], data.y[:64] if data.y is not None else None, classes=10)
    run = Run(student=student, teacher=teacher, data=few, test=test, method=registry.make("ssld"), epochs=3)
    large, tune = ssld(run, pool_of(data), per_class=15, epochs=1, optimizer=SGD(0.001, weight_decay=0.0))
    chosen = len(large.data) - 64
    assert 0 < chosen <= 150
    assert large.data.y[64:].unique().tolist() == [UNLABELLED]
    noise = sum(not any(torch.equal(x, other) for other in data.x) for x in large.data.x[64:])
    assert noise < 0.1 * chosen  # as the entry claims: what is not of the classes is left out
    assert not any(torch.equal(x, data.x[3]) for x in large.data.x[64:])  # it is not valid
    assert [len(large.history), len(tune.history)] == [3, 1]
    assert tune.students[0] is large.students[0]
    assert large.students[0].module is student
    assert tune.optimizer.lr == 0.001


def test_ssld_needs_one_teacher() -> None:
    data, _ = digits(64)
    run = Run(student=net(1), teacher=[net(2), net(3)], data=data, method=registry.make("ssld"))
    with pytest.raises(SettingError, match="one teacher"):
        ssld(run, data, per_class=1, epochs=1, optimizer=SGD(0.01))
