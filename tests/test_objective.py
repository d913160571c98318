"""Objectives as values: algebra, printing, terms, stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import CE, KL, SGD, Hint, Objective, Ramp, Run, Stages, Step, TeacherConfidence, Term, Weighted, registry
from limbeck.data import Batch, Data
from limbeck.errors import SettingError, ShapeError, SignalError
from limbeck.objective import Scaled, Sum, as_terms
from limbeck.schedules import Clock
from limbeck.step import Merged

NAN = float("nan")


class Scale(nn.Module):
    """Its logits are its inputs, times 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


@dataclass(frozen=True)
class Column(Objective):
    """One of the student's logits, so that its values are those of the data."""

    i: int = 0
    name: str = "column"
    where: str | None = None

    def loss(self, step: Step, state: Any) -> Mapping[str, Term]:
        return {self.name: Term(step.student("x").logits[:, self.i], self.where)}


X = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])


def run_of(method: Objective, *, y: Tensor | None = None, epochs: int = 4, **data: Any) -> Run:
    run = Run(
        student=Scale(),
        data=Data(X, y, classes=2, **data),
        method=method,
        epochs=epochs,
        batch_size=4,
        accelerator="cpu",
    )
    run.setup()
    return run


def step_of(run: Run, *, epoch: int = 0, clock: Clock = Clock(0, 10, 0, 4)) -> Step:  # noqa: B008
    step = Step(run, next(run.train_data.batches([torch.arange(4)])), clock, epoch)
    step.counts = run.count([step])
    return step


def terms(method: Objective, **settings: Any) -> dict[str, list[float]]:
    run = run_of(method)
    named = as_terms(run.method.loss(step_of(run, **settings), run.bundle.state))
    return {name: term.value.tolist() for name, term in named.items()}


a, b, c = Column(0), Column(1), Column(1, "other")
ONES, TENS = X.t().tolist()


# ---- + and * --------------------------------------------------------------------------------------------------------


def test_sums_are_flat() -> None:
    assert (a + b) + (c + a) == Sum((a, b, c, a))
    assert a + (b + c) == (a + b) + c
    assert hash(a + b) == hash(Sum((a, b)))
    assert a + b != b + a
    assert (2.0 * (a + b) + c).parts == (2.0 * (a + b), c)  # a weight keeps its sum together


def test_weights_multiply() -> None:
    assert 2.0 * (3.0 * a) == 6.0 * a == a * 6.0
    ramp = Ramp(0.0, 1.0)
    assert 2.0 * (ramp * a) == Scaled(2.0, Scaled(ramp, a))
    assert terms(2.0 * (ramp * a), clock=Clock(5, 10, 0, 4)) == {"column": ONES}


@pytest.mark.parametrize("wrong", [lambda: a + 1, lambda: 1 + a, lambda: "2" * a, lambda: a * b, lambda: a * None])
def test_what_cannot_be_added_or_multiplied(wrong: Any) -> None:
    with pytest.raises(TypeError):
        wrong()


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0.1 * CE() + 0.9 * KL(4.0), "0.1 * CE() + 0.9 * KL(tau=4.0)"),
        (2.0 * (CE() + KL()), "2.0 * (CE() + KL(tau=1.0))"),
        (-1 * CE() + KL(), "-1 * CE() + KL(tau=1.0)"),
        (CE() + 2 * (KL() + 3 * CE()), "CE() + 2 * (KL(tau=1.0) + 3 * CE())"),
        (Ramp(0.0, 1.0) * (2.0 * CE()), "Ramp(start=0.0, end=1.0, by='step') * (2.0 * CE())"),
        (Weighted(CE() + KL(), TeacherConfidence()), "Weighted(objective=CE() + KL(tau=1.0), by=TeacherConfidence())"),
        (
            Stages(((Hint(("a.b", "c")), 2), (CE(), None))),
            "Stages(stages=((Hint(layer=('a.b', 'c')), 2), (CE(), None)))",
        ),
    ],
)
def test_prints_as_the_code_that_makes_it(value: Objective, code: str) -> None:
    assert repr(value) == code
    assert registry.read(code) == value
    assert eval(code, dict(registry.vocabulary())) == value
    assert len({value, registry.read(code)}) == 1


def test_what_parts_read_and_couple_is_of_the_whole() -> None:
    @dataclass(frozen=True)
    class Coupled(Column):
        couples = True

    whole = CE() + 2.0 * Weighted(Hint(("a", "b")) + Hint("c"), TeacherConfidence())
    assert whole.reads == {("student", "a"), ("teacher", "b"), ("student", "c"), ("teacher", "c")}
    assert not whole.couples_examples
    assert (whole + 0.5 * Coupled()).couples_examples
    assert Stages(((a, 1), (Coupled(), None))).couples_examples


def test_objective_without_a_loss_says_so() -> None:
    class Empty(Objective):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no loss"):
        run_of(Empty())


# ---- terms ----------------------------------------------------------------------------------------------------------


def test_terms_merge_by_name() -> None:
    assert terms(a + 0.5 * b + c) == {"column": ONES, "column.2": [5.0, 10.0, 15.0, 20.0], "other": TENS}
    assert list(terms(a + a + c + a)) == ["column", "column.2", "other", "column.3"]
    assert list(terms(a + 2.0 * (a + c))) == ["column", "column.2", "other"]


def test_names_that_look_numbered_do_not_collide() -> None:
    assert list(terms(a + Column(1, "column.2") + a)) == ["column", "column.2", "column.3"]


def test_schedule_as_weight() -> None:
    ramp = Ramp(1.0, 3.0) * a
    assert [terms(ramp, clock=Clock(step, 4, 0, 1))["column"][0] for step in range(4)] == [1.0, 1.5, 2.0, 2.5]


def test_weight_multiplies_the_numerator_only() -> None:
    run = run_of(0.5 * Column(0, where="labelled"), y=torch.tensor([0, -1, 1, -1]))
    step = step_of(run)
    (term,) = as_terms(run.method.loss(step, run.bundle.state)).values()
    assert term.part(step).item() == 0.5 * (1 + 3) / 2


@dataclass(frozen=True)
class ByLogit:
    """A weight that looks at the student."""

    def __call__(self, step: Step) -> Tensor:
        return step.student("x").logits[:, 1] / 10


def test_weighted() -> None:
    assert terms(Weighted(a + c, by=ByLogit())) == {"column": [1.0, 4.0, 9.0, 16.0], "other": [10.0, 40.0, 90.0, 160.0]}
    assert terms(Weighted(0.5 * a, by=ByLogit())) == {"column": [0.5, 2.0, 4.5, 8.0]}


def test_weights_have_no_gradient_and_leave_the_students_alone() -> None:
    """The weight asks for the student before the loss does: both get the one output, and only the loss its gradient."""
    run = run_of(Weighted(a, by=ByLogit()))
    step = step_of(run)
    loss, _ = run.bundle(step)
    (gradient,) = torch.autograd.grad(loss, [run.student.weight])
    assert float(gradient) == (1 * 1 + 2 * 2 + 3 * 3 + 4 * 4) / 4


def test_part_is_a_share_of_the_mean_over_the_whole_step() -> None:
    run = run_of(a)
    step = step_of(run)
    step.counts = {None: 8}  # with another micro-batch of 4
    assert float(Term(X[:, 0]).part(step)) == 10 / 8


def test_mask_counts_and_hides() -> None:
    run = run_of(a, y=torch.tensor([0, -1, 1, -1]))
    step = step_of(run)
    values = torch.tensor([1.0, NAN, 5.0, float("inf")], requires_grad=True)
    part = Term(values, where="labelled").part(step)
    part.backward()
    assert part.item() == 3.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_empty_mask_gives_nothing_not_nan() -> None:
    run = run_of(a + Column(0, "none", "labelled"), y=torch.full((4,), -1))
    loss, parts = run.bundle(step_of(run))
    assert parts["none"].item() == 0.0
    assert loss.item() == 2.5
    loss.backward()
    assert float(run.student.weight.grad) == 2.5


def test_mask_of_ones_own_with_a_row_per_token() -> None:
    tokens = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
    run = run_of(a, masks={"completion": tokens})
    step = step_of(run)
    values = torch.arange(12.0).view(4, 3)
    assert Term(values, where="completion").part(step).item() == pytest.approx((0 + 1 + 3 + 9 + 10 + 11) / 6)
    with pytest.raises(ShapeError, match=r"\(4,\) for the mask 'completion' of \(4, 3\)"):
        Term(values[:, 0], where="completion").part(step)


@pytest.mark.parametrize("wrong", [torch.tensor(1.0), torch.ones(3), torch.ones(4, 1)])
def test_term_that_is_no_number_per_example(wrong: Tensor) -> None:
    step = step_of(run_of(a))
    with pytest.raises(ShapeError, match=r"one number per example, or Term\(value, where=\.\.\.\)"):
        Term(wrong).part(step)


def test_mask_that_is_not_there_names_those_that_are() -> None:
    step = step_of(run_of(a, masks={"completion": torch.ones(4, dtype=torch.bool)}))
    with pytest.raises(SignalError, match="no mask 'completions'; did you mean 'completion'"):
        Term(torch.ones(4), where="completions").part(step)


# ---- stages ---------------------------------------------------------------------------------------------------------

THREE = Stages(((a, 2), (b, 3), (c, None)))


def test_stages_have_bounds() -> None:
    assert THREE.bounds(9) == [0, 2, 5, 9]
    assert [THREE.stage(epoch, 9) for epoch in range(9)] == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert [THREE.span(epoch, 9) for epoch in (0, 1, 2, 4, 5, 8)] == [(0, 2), (0, 2), (2, 3), (2, 3), (5, 4), (5, 4)]
    assert Stages(((a, 4), (b, 5))).bounds(9) == [0, 4, 9]


def test_only_the_current_stage_speaks() -> None:
    stages = Stages(((a, 1), (Ramp(0.0, 1.0) * b + c, None)))
    assert terms(stages, epoch=0) == {"column": ONES}
    assert list(terms(stages, epoch=1)) == ["column", "other"]
    assert terms(a + stages, epoch=3)["column.2"] == [0.0] * 4


@pytest.mark.parametrize(
    ("stages", "complaint"),
    [
        ((), "pairs"),
        (((a, None), (b, None)), "only the last may have None"),
        (((a, 0), (b, None)), "at least 1 epoch"),
        (((a, -1),), "at least 1 epoch"),
        (((a, 1), (2.0 * Stages(((b, None),)), None)), "one flat sequence"),
    ],
)
def test_stages_that_cannot_be(stages: Any, complaint: str) -> None:
    with pytest.raises(SettingError, match=complaint):
        Stages(stages)


@pytest.mark.parametrize("epochs", [2, 4, 5])
def test_stages_must_fit_the_run(epochs: int) -> None:
    stages = Stages(((a, 2), (b, 3), (c, None)) if epochs == 5 else ((a, 1), (b, 2)))
    with pytest.raises(SettingError, match=rf"the run has {epochs}: set the run's epochs to fit"):
        run_of(stages, epochs=epochs)


def test_stages_in_step_may_be_added_and_others_not() -> None:
    assert (THREE + 2.0 * THREE + a).span(3, 9) == (2, 3)
    with pytest.raises(SettingError, match="put the sum inside the Stages"):
        (THREE + Stages(((a, 1), (b, None)))).span(3, 9)


# ---- state ----------------------------------------------------------------------------------------------------------


class Notes(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(start))


@dataclass(frozen=True)
class Counting(Column):
    """Counts what it is asked, in its own state."""

    start: float = 0.0

    def init(self, run: Run) -> nn.Module:
        return Notes(self.start)

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        state.count += 1
        return batch

    def update(self, step: Merged, state: Any) -> None:
        state.count += 100


@pytest.mark.parametrize(
    ("method", "counts"),
    [
        (Counting() + 2.0 * Counting(start=0.5), [404.0, 404.5]),
        (Weighted(Counting(start=0.25), ByLogit()), [404.25]),
        (Stages(((Counting(), 1), (Counting(start=0.5), None))), [101.0, 303.5]),
    ],
)
def test_each_part_has_its_own_state(method: Objective, counts: list[float]) -> None:
    run = run_of(method)
    before = len(counts) * [0.0]
    buffers = [buffer for name, buffer in run.bundle.state.named_buffers()]
    for i, buffer in enumerate(buffers):
        before[i] = float(buffer)
    assert before == [count % 1 for count in counts]  # the dry step left no trace
    run.optimizer = SGD(0.0)
    run.fit()
    assert [float(buffer) for buffer in buffers] == counts


def test_prepare_hands_the_batch_on() -> None:
    @dataclass(frozen=True)
    class Times(Column):
        by: float = 1.0

        def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
            return batch.like(batch.inputs * self.by, batch.y, batch.index, batch.masks)

    run = run_of(Times(by=2.0) + (Times(by=3.0) + a))
    step = step_of(run)
    step.batch = run.method.prepare(step.batch, step, run.bundle.state)
    assert torch.equal(step.view("x"), 6.0 * X)
