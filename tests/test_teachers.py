"""Where targets come from."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import EMA, KL, Bank, Committee, Data, Frozen, Net, Output, Run
from limbeck.errors import SettingError
from limbeck.teachers import as_teacher

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def model(seed: int = 0, classes: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, classes))


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in module.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


# ---- frozen ---------------------------------------------------------------------------------------------------------


def test_frozen_stays_in_eval_mode_whatever_its_parent_does() -> None:
    network = model()
    teacher = Frozen(network)
    nn.ModuleList([teacher]).train()
    assert not any(layer.training for layer in teacher.modules())
    before = copied(network)
    logits = teacher(X).logits
    assert torch.equal(logits, teacher(X).logits)  # no dropout
    assert torch.equal(logits, network.eval()(X))
    assert equal(before, network.state_dict())
    assert not logits.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_frozen_in_train_mode_has_batch_statistics_and_is_still_the_same() -> None:
    network = model()
    teacher = Frozen(network, training=True)
    nn.ModuleList([teacher]).eval()
    assert all(layer.training for layer in teacher.modules())
    before = copied(network)
    first, second = teacher(X), teacher(X)
    assert not torch.equal(first.logits, second.logits)  # dropout
    teacher.read(["1"])
    normalised = teacher(X)["1"]
    torch.testing.assert_close(normalised.mean(0), torch.zeros(5), atol=1e-6, rtol=0)  # statistics of this batch
    assert equal(before, network.state_dict())


def test_frozen_takes_a_net_with_its_own_inputs() -> None:
    net = Net(model(), inputs=lambda x: x + 1)
    assert torch.equal(Frozen(net)(X).logits, net.module.eval()(X + 1))


# ---- committees -----------------------------------------------------------------------------------------------------


def test_committee_by_hand() -> None:
    members = [model(seed) for seed in range(3)]
    logits = torch.stack([member.eval()(X).detach() for member in members])
    arithmetic = Committee(*members)(X).logits.softmax(-1)
    torch.testing.assert_close(arithmetic, logits.softmax(-1).mean(0))
    geometric = Committee(*members, mean="geometric")(X).logits
    torch.testing.assert_close(geometric, logits.mean(0))
    assert not torch.allclose(arithmetic, geometric.softmax(-1), atol=1e-3)


def test_committee_is_frozen_and_of_one_is_its_member() -> None:
    member = model().train()
    committee = Committee(member).train()
    assert not any(layer.training for frozen in committee.members for layer in frozen.modules())
    torch.testing.assert_close(committee(X).logits.softmax(-1), member(X).softmax(-1).detach())


def test_committee_has_logits_only() -> None:
    with pytest.raises(SettingError, match=r"a committee has logits only, no \['fc'\]: use one teacher"):
        Committee(model(), model()).read(["fc"])
    Committee(model()).read([])


@pytest.mark.parametrize(("count", "mean"), [(0, "arithmetic"), (2, "harmonic")])
def test_committee_that_cannot_be(count: int, mean: str) -> None:
    with pytest.raises(SettingError, match=rf"Committee\(\*models.*got {count}, '{mean}'"):
        Committee(*(model() for _ in range(count)), mean=mean)


# ---- averages -------------------------------------------------------------------------------------------------------


def test_ema_by_hand() -> None:
    student = Net(model())
    average = EMA(student, 0.75)
    wanted = None
    for step in range(4):
        with torch.no_grad():
            for number, parameter in enumerate(student.parameters()):
                parameter.add_(step + number)
        student.train()(X)  # moves the running statistics
        average.follow(student)
        now = copied(student)
        if wanted is None:
            wanted = now
        wanted = {name: 0.75 * wanted[name] + 0.25 * now[name] for name in now}
        ours = average.average.module.state_dict()
        for name in now:
            if now[name].is_floating_point():
                torch.testing.assert_close(ours[name], wanted[name])
    assert not torch.allclose(wanted["module.1.running_mean"], now["module.1.running_mean"])


def test_ema_is_asked_in_eval_mode_without_gradient() -> None:
    student = Net(model())
    average = EMA(student, 0.9)
    nn.ModuleList([average]).train()
    assert not any(layer.training for layer in average.modules())
    logits = average(X).logits
    assert not logits.requires_grad
    assert torch.equal(logits, student.eval()(X).logits)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_ema_follows_from_its_saved_state() -> None:
    student, twin = Net(model()), Net(model(7))
    average, restored = EMA(student, 0.5), EMA(twin, 0.5)
    average.follow(student)
    restored.load_state_dict(average.state_dict())
    other = Net(model(8))
    average.follow(other)
    restored.follow(other)
    assert equal(average.state_dict(), restored.state_dict())
    assert not torch.equal(average(X).logits, other.eval()(X).logits)  # the second follow does not copy


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_ema_decay_that_cannot_be(decay: float) -> None:
    with pytest.raises(SettingError, match=rf"decay is in \[0, 1\); got {decay}"):
        EMA(Net(model()), decay)


# ---- banks ----------------------------------------------------------------------------------------------------------


def test_bank_remembers_what_was_written_last() -> None:
    bank = Bank(5, 2)
    nothing = torch.full((3, 2), -1.0)
    ids = torch.tensor([4, 0, 2])
    assert torch.equal(bank.read(ids, default=nothing), nothing)
    bank.write(torch.tensor([0, 4]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert bank.read(ids, default=nothing).tolist() == [[3.0, 4.0], [1.0, 2.0], [-1.0, -1.0]]
    bank.write(torch.tensor([4]), torch.zeros(1, 2, dtype=torch.float64))
    assert bank.read(ids, default=nothing).tolist() == [[0.0, 0.0], [1.0, 2.0], [-1.0, -1.0]]
    assert bank.filled.tolist() == [True, False, False, False, True]
    assert set(bank.state_dict()) == {"values", "filled"}
    assert not list(bank.parameters())


# ---- teachers of one's own ------------------------------------------------------------------------------------------


class Table:
    """No module: looks its answers up by id, as a record of targets does."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.asked = logits, list[tuple[str, list[int]]]()

    def read(self, names: Iterable[str], *, owner: str = "teacher") -> None:
        assert not list(names)

    def __call__(self, x: Any, view: str, index: Tensor) -> Output:
        self.asked.append((view, index.tolist()))
        return Output({".logits": self.logits[index]})


def test_teacher_that_looks_up() -> None:
    network = model(1).eval()
    table = Table(network(X).detach())
    students = [model(2) for _ in range(2)]
    for student in students:
        student[2].p = 0.0
    data = Data(X, torch.tensor([0, 1, 2, 0, 1, 2]))
    looked_up, asked = (
        Run(student=student, teacher=teacher, data=data, method=KL(2.0), epochs=2, batch_size=6, accelerator="cpu")
        for student, teacher in zip(students, (table, network), strict=True)
    )
    table.asked.clear()
    looked_up.fit()
    asked.fit()
    assert [view for view, _ in table.asked[-2:]] == ["x", "x"]
    assert sorted(table.asked[-1][1]) == list(range(6))
    torch.testing.assert_close(students[0].state_dict(), students[1].state_dict())


def test_what_is_a_teacher() -> None:
    network, committee, table = model(), Committee(model()), Table(X)
    assert isinstance(as_teacher(network), Frozen)
    assert isinstance(as_teacher(Net(network)), Frozen)
    frozen = Frozen(network, training=True)
    assert [as_teacher(each) for each in (frozen, committee, table)] == [frozen, committee, table]
    wanted = r"a teacher is an nn\.Module, the folder of one, or has read\(\) .* got a function"
    with pytest.raises(SettingError, match=wanted):
        as_teacher(lambda x: x)
