"""What an objective can see of a micro-batch, and what `update` sees of the whole step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import CE, KL, SGD, UNLABELLED, CommitteeKL, Data, Objective, PseudoLabel, Run, Step
from limbeck.data import Batch
from limbeck.errors import SettingError, SignalError
from limbeck.schedules import Clock, Ramp
from limbeck.step import Merged, concatenate

N = 6


class Counted(nn.Module):
    """A linear layer that counts its forwards and their rows."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)))
        self.rows: list[int] = []

    def forward(self, x: Any) -> Tensor:
        x = x["image"] if isinstance(x, dict) else x
        self.rows.append(len(x))
        return x @ self.weight.T


def double(x: Tensor, draw: Any) -> Tensor:
    return 2 * x


X = torch.randn(N, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, -1, -1, 0])


def run_of(method: Objective, **fields: Any) -> Run:
    data = Data(X, Y, views={"strong": double, "third": double}, classes=3)
    given = {"student": Counted(), "teacher": Counted(1), "data": data, "epochs": 1, "batch_size": N}
    run = Run(method=method, accelerator="cpu", **{**given, **fields})
    run.setup()
    for model in [run.student, run.teacher]:
        if isinstance(model, Counted):
            model.rows.clear()
    return run


def steps_of(run: Run, *sizes: int) -> list[Step]:
    ids = list(torch.tensor([4, 1, 5, 0, 3, 2]).split(sizes or N))
    steps = [Step(run, batch, Clock(0, 10, 0, 1), 0) for batch in run.train_data.batches(ids)]
    counts = run.count(steps)
    for step in steps:
        step.counts = counts
    return steps


# ---- models ---------------------------------------------------------------------------------------------------------


def test_each_model_runs_once_per_view() -> None:
    run = run_of(CE() + KL(2.0) + 0.5 * KL(1.0))
    (step,) = steps_of(run)
    run.bundle(step)
    assert run.student.rows == [N]
    assert run.teacher.rows == [N]
    assert step.student("x") is step.student()
    step.teacher("strong")
    step.teacher("strong")
    assert run.student.rows == [N]
    assert run.teacher.rows == [N, N]
    assert torch.equal(step.teacher("strong").logits, 2 * step.teacher("x").logits)


def test_joined_views_are_one_forward_and_keep_their_rows() -> None:
    run = run_of(CE())
    (step,) = steps_of(run)
    plain, strong = step.student.join("x", "strong")
    assert run.student.rows == [2 * N]
    torch.testing.assert_close(plain.logits, step.view("x") @ run.student.weight.T)
    torch.testing.assert_close(strong.logits, 2 * plain.logits)
    assert step.student("strong") is strong
    assert step.student.join("strong", "x") == [strong, plain]
    assert step.student.join("x") == [plain]
    assert run.student.rows == [2 * N]


@pytest.mark.parametrize("before", [["x"], ["strong"], ["x", "strong"]])
def test_views_that_ran_alone_cannot_be_joined(before: list[str]) -> None:
    (step,) = steps_of(run_of(CE()))
    for view in before:
        step.student(view)
    with pytest.raises(SettingError, match=r"student has run on \[.*\] alone already.*joins views first in the sum"):
        step.student.join("x", "strong")
    step.student.join("third")  # but with nobody


def test_order_of_a_sum_with_a_join_is_answered_before_training() -> None:
    with pytest.raises(SettingError, match="put the objective that joins views first in the sum"):
        run_of(KL() + PseudoLabel())
    run = run_of(PseudoLabel() + KL())
    run.bundle(steps_of(run)[0])
    assert run.student.rows == [2 * N]


def test_inputs_are_joined_in_their_form() -> None:
    a, b = torch.zeros(2, 3), torch.ones(1, 3)
    joined = concatenate([{"image": a, "pair": (a, a)}, {"image": b, "pair": (b, b)}])
    assert torch.equal(joined["image"], torch.cat([a, b]))
    assert torch.equal(joined["pair"][1], torch.cat([a, b]))


def test_one_teacher_is_asked_for() -> None:
    with pytest.raises(SettingError, match=r"no teacher: give Run\(teacher=\.\.\.\)"):
        run_of(KL(), teacher=None)
    with pytest.raises(SettingError, match=r"the run has 2 teachers: use a method for several, or Committee"):
        run_of(KL(), teacher=[Counted(1), Counted(2)])
    run = run_of(CommitteeKL(), teacher=[Counted(1), Counted(2)])
    (step,) = steps_of(run)
    assert len(step.teachers) == 2
    assert not torch.equal(step.teachers[0]("x").logits, step.teachers[1]("x").logits)


def test_what_is_missing_is_named() -> None:
    (step,) = steps_of(run_of(CE()))
    with pytest.raises(SignalError, match=r"no view 'strng'; did you mean 'strong'\? Add one: Data\(x, y, views="):
        step.student("strng")
    with pytest.raises(SignalError, match=r"needs labels and the data has none: pass y"):
        run_of(CE(), data=X)


def test_schedules_and_generators() -> None:
    run = run_of(CE())
    (step,) = steps_of(run)
    step.clock = Clock(3, 4, 0, 1)
    assert step.at(Ramp(0.0, 8.0)) == 6.0
    assert step.at(0.25) == 0.25
    assert step.rng is run.rng
    assert step.local_rng is run.local_rng
    assert torch.rand(1, generator=step.rng) != torch.rand(1, generator=step.local_rng)


# ---- draws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(2, 4), (1, 2, 3), (1,) * 6])
def test_uniform_does_not_depend_on_the_split(sizes: tuple[int, ...]) -> None:
    run = run_of(CE())
    (whole,) = steps_of(run)
    wanted = whole.uniform("noise", 5)
    assert torch.equal(torch.cat([step.uniform("noise", 5) for step in steps_of(run, *sizes)]), wanted)
    assert torch.equal(whole.uniform("noise", 3), wanted[:, :3])


def test_uniform_differs_by_stream_step_seed_and_example() -> None:
    run = run_of(CE())
    (step,) = steps_of(run)
    draws = [step.uniform("noise", 4), step.uniform("other", 4)]
    run.steps_done = 1
    draws.append(step.uniform("noise", 4))
    run.steps_done, run.seed = 0, 1
    draws.append(step.uniform("noise", 4))
    assert torch.cat(draws).unique().numel() == 4 * N * 4


# ---- prepare and update ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keeping(Objective):
    """Keeps what it saw, and shows what `update` got."""

    seen: list[Merged] = field(default_factory=list, hash=False)

    def loss(self, step: Step, state: Any) -> Mapping[str, Tensor]:
        logits = step.student("x").logits
        step.keep(ids=step.index, logits=logits)
        return {"size": logits.square().mean(1)}

    def update(self, step: Merged, state: Any) -> None:
        self.seen.append(step)


@pytest.mark.parametrize("micro_batch", [None, 4, 2])
def test_update_sees_the_whole_step_in_order(micro_batch: int | None) -> None:
    method = Keeping()
    run = run_of(method, micro_batch=micro_batch, optimizer=SGD(0.0), epochs=2)
    wanted = [run.plan(epoch)[0] for epoch in (0, 1)]
    run.fit()
    assert run.student.rows == {None: [6, 6], 4: [3, 3, 3, 3], 2: [2, 2, 2, 2, 2, 2]}[micro_batch]
    for epoch, merged in enumerate(method.seen):
        assert torch.equal(merged.index, wanted[epoch])
        assert torch.equal(merged.kept("ids"), wanted[epoch])
        assert torch.equal(merged.y, Y[wanted[epoch]])
        assert not merged.kept("logits").requires_grad
        torch.testing.assert_close(merged.kept("logits"), X[wanted[epoch]] @ run.student.weight.T)
        assert (merged.epoch, merged.at(Ramp(0.0, 1.0))) == (epoch, epoch / 2)


def test_update_comes_after_the_optimiser() -> None:
    @dataclass(frozen=True)
    class Following(Keeping):
        def update(self, step: Merged, state: Any) -> None:
            now = step.run.student(X[step.index])
            assert not torch.allclose(now, step.kept("logits"))
            assert not now.requires_grad
            self.seen.append(step)

    method = Following()
    run_of(method, optimizer=SGD(0.1)).fit()
    assert len(method.seen) == 1


@dataclass(frozen=True)
class Looking(Objective):
    """Asks both models in `prepare`, then hands on a batch of zeros and ones."""

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        assert not step.student("x").logits.requires_grad
        step.teacher("x")
        return batch.like(torch.ones_like(batch.inputs), batch.y, batch.index, batch.masks)

    def loss(self, step: Step, state: Any) -> Mapping[str, Tensor]:
        ones = torch.ones(step.rows, 4)
        torch.testing.assert_close(step.student("x").logits, ones @ step.run.student.weight.T)
        torch.testing.assert_close(step.teacher("x").logits, ones @ step.run.teacher.weight.T)
        return {"distance": (step.student("x").logits - step.teacher("x").logits).square().mean(1)}


def test_models_see_the_batch_that_was_prepared_and_learn_from_it() -> None:
    run = run_of(Looking(), optimizer=SGD(0.1))
    before = run.student.weight.detach().clone()
    run.fit()
    assert not torch.equal(run.student.weight, before)


def test_an_example_that_comes_again_in_an_epoch_has_a_new_view() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Look(CE):
        def loss(self, step: Step, state: Any) -> Any:
            if len(step.index) == 4:  # not the dry step
                seen.append((step.index, step.view("noisy").flatten()))
            return super().loss(step, state)

    y = torch.full((12,), UNLABELLED)
    y[:2] = torch.arange(2)  # two labelled examples, one of which is in every batch
    data = Data(torch.zeros(12, 1), y, views={"noisy": lambda x, draw: x + draw("noise", 1)}, classes=2)
    run = Run(student=nn.Linear(1, 2), data=data, method=Look(), epochs=2, batch_size=2, unlabelled=1)
    run.fit()
    views = [float(noisy[index == 0][0]) for index, noisy in seen if (index == 0).any()]
    assert len(views) == len(set(views)) > 4
