"""What is wrong is said before any training: what came, what was there, what to type."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from limbeck import CE, KL, AttentionTransfer, Committee, Data, Hint, Net, Objective, Run, Stages, Step, Term, registry
from limbeck.errors import CheckpointError, DataError, LimbeckError, SettingError, ShapeError, SignalError
from limbeck.losses import mse
from limbeck.registry import Method
from tests.conformance import Small, images, model_of, objective, run_of, seeded

X, Y = images(24)
ALL = registry.every()


def run(method: Objective = CE(), **fields: Any) -> Run:  # noqa: B008
    given = {
        "student": seeded(0, Small, 4),
        "teacher": seeded(9, Small, 6),
        "data": Data(X, Y, classes=10),
        "epochs": 2,
    }
    return Run(method=method, accelerator="cpu", **{**given, **fields})


def refused(kind: type[LimbeckError], *parts: str, run: Run) -> None:
    """Setting up raises this error, and its message has these parts in this order."""
    with pytest.raises(kind, match="(?s)" + ".*".join(map(re.escape, parts))):
        run.setup()


@dataclass(frozen=True)
class Saying(Objective):
    """Its loss is what it is told."""

    say: Callable[[Step], Any] = field(hash=False)

    def loss(self, step: Step, state: Any) -> Mapping[str, Any]:
        return self.say(step)  # type: ignore[no-any-return]


class Listed(Dataset[Any]):
    """Items that are there already."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def changed(x: Tensor, place: Any, value: float) -> Tensor:
    x = x.clone()
    x[place] = value
    return x


# ---- layers and widths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "owner"), [("layer9", "student"), (("layer1", "layr2"), "teacher")])
def test_missing_layer(layers: Any, owner: str) -> None:
    name = layers if isinstance(layers, str) else layers[1]
    refused(SignalError, f"the {owner} (Small) has no layer {name!r}; did you mean", "'layer", run=run(Hint(layers)))


def test_widths_without_a_bridge() -> None:
    @dataclass(frozen=True)
    class Bare(Hint):
        def init(self, run: Run) -> nn.Module:
            return nn.Module()

        def loss(self, step: Step, state: Any) -> Mapping[str, Tensor]:
            return {"bare": mse(step.student("x")["layer1"], step.teacher("x")["layer1"])}

    refused(
        ShapeError,
        "features: the student gives (2, 4, 4, 4), the teacher (2, 6, 4, 4)",
        "Hint(layer)",
        run=run(Bare("layer1")),
    )


def test_features_that_no_bridge_joins() -> None:
    refused(
        ShapeError, "(2, 4, 4, 4) to (2, 12)", "tap maps, tokens or vectors", run=run(Hint(("layer1", ".embedding")))
    )
    refused(
        ShapeError,
        "layer 'fc' gives (2, 10) and (2, 10)",
        "tap a convolutional layer, or use Hint(layer)",
        run=run(AttentionTransfer(("fc",))),
    )


def test_student_and_teacher_of_different_classes() -> None:
    teacher = seeded(9, Small, 6, classes=12)
    wanted = ["logits: the student gives (2, 10), the teacher (2, 12)", "same classes", "rebuild the head"]
    refused(ShapeError, *wanted, run=run(KL(), teacher=teacher))


def test_student_with_too_few_classes() -> None:
    student = seeded(0, Small, 4, classes=7)
    refused(
        ShapeError, "the data has 10 classes and the student gives 7 logits: build it with 10", run=run(student=student)
    )
    run(student=seeded(0, Small, 4, classes=12)).setup()  # too many are no harm


def test_model_that_cannot_take_the_input() -> None:
    wanted = "cannot take this input (a float32 tensor (2, 3, 8, 8))"
    colour = X.expand(-1, 3, -1, -1)
    refused(
        ShapeError, f"the student (Small) {wanted}", "Net(model, forward=", run=run(teacher=None, data=Data(colour, Y))
    )
    grey = Net(seeded(0, Small, 4), inputs=lambda x: x.mean(1, keepdim=True))
    refused(
        ShapeError, f"the teacher (Small) {wanted}", "Net(model, forward=", run=run(student=grey, data=Data(colour, Y))
    )
    named = Data({"pixels": X}, Y)
    refused(
        ShapeError,
        "(a mapping of pixels: a float32 tensor (2, 1, 8, 8))",
        "forward=",
        run=run(teacher=None, data=named),
    )


# ---- labels and inputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "row"), [(10, 20), (99, 0), (-2, 23)])
def test_labels_out_of_range(label: int, row: int) -> None:
    y = changed(Y, row, label)
    wanted = ["labels run from 0 to 9, with -1 for none", f"got [{label}] (1 of 24", "Is the number of classes right?"]
    refused(DataError, *wanted, run=run(data=Data(X, y, classes=10)))


def test_labels_of_items_out_of_range() -> None:
    items = [(X[i], int(Y[i])) for i in range(8)]
    wanted = ["labels run from 0 to 9", "got [10] (1 of 2", "Is the number of classes right?"]
    refused(DataError, *wanted, run=run(data=Listed((X[0], 10), *items)))
    late = run(data=Listed(*items, (X[0], 10)), batch_size=3)  # which the first two do not show
    late.setup()
    with pytest.raises(DataError, match=r"labels run from 0 to 9.*got \[10\] \(1 of 3"):
        late.fit()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite(value: float) -> None:
    x = changed(changed(X, (20, 0, 3, 4), value), (7, 0, 0, 0), value)
    wanted = ["inputs hold nan or infinite values, in 2 examples (the first: [7, 20]): mend or drop them"]
    refused(DataError, *wanted, run=run(data=(x, Y)))
    refused(DataError, "the inputs['image'] hold nan", "[7, 20]", "mend", run=run(data=({"image": x}, Y)))
    refused(DataError, "in 1 examples (the first: [1])", run=run(data=Listed((X[0], 0), (x[7], 0))))
    valid = torch.ones(24, dtype=torch.bool)
    valid[[7, 20]] = False
    run(data=Data(x, Y, masks={"valid": valid})).setup()
    valid[20] = True
    refused(DataError, "in 1 examples (the first: [20])", run=run(data=Data(x, Y, masks={"valid": valid})))


def test_model_that_is_not_finite() -> None:
    broken = seeded(0, Small, 4)
    nn.init.constant_(broken.fc.bias, float("nan"))
    refused(DataError, "the logits of the student hold nan", run=run(student=broken))
    refused(DataError, "the logits of the teacher hold nan", run=run(teacher=broken))


def test_empty_data_set() -> None:
    refused(DataError, "the data set is empty: no example to train on", run=run(data=(X[:0], Y[:0])))
    refused(DataError, "the data set is empty", run=run(data=Listed()))


def test_missing_view() -> None:
    m = registry.find("fixmatch")
    wanted = ["no view 'strong'; there is: 'x'", "Data(x, y, views={'strong': strong()})"]
    refused(SignalError, *wanted, run=run_of(m, data=Data(X, Y, classes=10)))
    near = Data(X, Y, views={"strng": lambda x, draw: x}, classes=10)
    refused(SignalError, "no view 'strong'; did you mean 'strng'?", run=run_of(m, data=near))


#: Labels of tokens say what a row is: without them no method of sequences is asked at all.
@pytest.mark.parametrize(
    "m", [m for m in ALL if "labels" in m.needs and "sequences" not in m.needs], ids=lambda m: m.name
)
def test_missing_labels(m: Method) -> None:
    given = run_of(m)
    given.data = Data(X, views=given.data.views, classes=10)
    refused(SignalError, "needs labels and the data has none: pass y", run=given)


# ---- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [m for m in ALL if m.needs & {"teacher", "teachers"}], ids=lambda m: m.name)
def test_missing_teacher(m: Method) -> None:
    given = run_of(m)
    given.teacher = None
    refused(SettingError, "teacher", "the run has ", "Run(teacher=", run=given)


#: They average several teachers.
AVERAGING = {"meal_v2", "pre_trained_distillation", "random_teachers", "trans_encoder"}


@pytest.mark.parametrize(
    "m", [m for m in ALL if "teacher" in m.needs and m.name not in AVERAGING], ids=lambda m: m.name
)
def test_several_teachers_for_one(m: Method) -> None:
    given = run_of(m)
    given.teacher = [seeded(i, model_of(m), 6) for i in range(2)]
    refused(SettingError, "asks for one teacher and the run has 2 teachers", "Committee(*models)", run=given)


def test_one_teacher_for_several_and_one_student_for_two() -> None:
    committee, dml = (objective(registry.find(name)) for name in ("committee", "dml"))
    refused(SettingError, "two teachers or more; the run has 1: Run(teacher=[a, b])", run=run(committee))
    refused(SettingError, "two students or more: Run(student=[a, b])", run=run(dml))


def test_layers_of_a_committee() -> None:
    committee = Committee(seeded(1, Small, 4), seeded(2, Small, 4))
    wanted = ["a committee has logits only, no ['layer2']: use one teacher"]
    refused(SettingError, *wanted, run=run(Hint("layer2"), teacher=committee))


def test_models_that_are_none() -> None:
    refused(SettingError, "a model is an nn.Module; got a function", run=run(student=lambda x: x))
    refused(
        SettingError, "a teacher is an nn.Module, the folder of one, or has read()", "got a int", run=run(teacher=[3])
    )
    refused(CheckpointError, "resnet holds no transformers model", "save_pretrained", run=run(teacher=["resnet"]))


def test_student_without_anything_to_train() -> None:
    frozen = seeded(0, Small, 4).requires_grad_(False)
    refused(SettingError, "no parameter of the student has requires_grad", run=run(student=frozen))
    both = seeded(0, Small, 4)
    refused(SettingError, "copy.deepcopy(teacher)", run=run(KL(), student=both, teacher=both))


# ---- methods of one's own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("say", "kind", "parts"),
    [
        (
            lambda step: {"a": step.student().logits.mean()},
            ShapeError,
            ["a term of () for a batch of 2", "Term(value, where="],
        ),
        (lambda step: {"a": step.student().logits}, ShapeError, ["a term of (2, 10) for a batch of 2 examples"]),
        (
            lambda step: {"a": Term(step.student().logits, where="labelled")},
            ShapeError,
            ["a term of (2, 10) for the mask 'labelled' of (2,)"],
        ),
        (
            lambda step: {"a": Term(step.student().logits[:, 0], where="labeled")},
            SignalError,
            ["no mask 'labeled'; did you mean 'labelled'"],
        ),
        (lambda step: {"a": step.student()["layer1"]}, SignalError, ["no signal 'layer1'", "objective's `reads`"]),
        (lambda step: {}, SettingError, ["has no term to learn from"]),
    ],
)
def test_losses_that_cannot_be(say: Callable[[Step], Any], kind: type[LimbeckError], parts: list[str]) -> None:
    refused(kind, *parts, run=run(Saying(say)))


def test_later_stages_speak_now() -> None:
    wrong = Saying(lambda step: {"a": step.student().logits.mean()})
    refused(ShapeError, "a term of ()", run=run(Stages(((CE(), 1), (wrong, None)))))
    refused(SignalError, "no layer 'layer9'", run=run(Stages(((CE(), 1), (Hint("layer9"), None)))))
    refused(
        SettingError, "the stages take 2 + the rest epochs, the run has 2", run=run(Stages(((CE(), 2), (CE(), None))))
    )


def test_shape_that_nobody_reads() -> None:
    @dataclass(frozen=True)
    class Asking(CE):
        def init(self, run: Run) -> nn.Module:
            return nn.Linear(*run.shape("student", "layer1"))

    refused(SignalError, "the student gives no tensor 'layer1'; there is: '.logits'", "`reads`", run=run(Asking()))


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"epochs": 0}, ["epochs is a whole number of at least 1; got 0"]),
        ({"epochs": 2.5}, ["epochs is a whole number", "got 2.5"]),
        ({"batch_size": 1}, ["batch_size is a whole number of at least 2; got 1"]),
        ({"micro_batch": 0}, ["micro_batch", "at least 1; got 0"]),
        ({"save_every": 0}, ["save_every", "at least 1; got 0"]),
        ({"seed": -1}, ["seed", "at least 0; got -1"]),
        ({"unlabelled": 0.0}, ["unlabelled is a positive ratio; got 0.0"]),
        ({"method": "kd"}, ["method is an objective such as kd(tau=4.0); got 'kd': call it, or make(name)"]),
        ({"method": registry.find("kd").build}, ["method is an objective", "got <function kd", "call it"]),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], parts: list[str]) -> None:
    refused(SettingError, *parts, run=run(**settings))


# ---- no trace -------------------------------------------------------------------------------------------------------


#: They give the student another head.
GRAFTING = {"dho", "lelp"}


@pytest.mark.parametrize("m", [m for m in ALL if m.name not in GRAFTING], ids=lambda m: m.name)
def test_setting_up_leaves_no_trace_in_the_models(m: Method) -> None:
    model = partial(model_of(m), norm=nn.BatchNorm2d)
    given = run_of(m, student=partial(model, drop=0.5), teacher=model)
    students = given.student if isinstance(given.student, list) else [given.student]
    before = [{name: each.clone() for name, each in student.state_dict().items()} for student in students]
    given.setup()
    after = [student.state_dict() for student in students]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    fresh = torch.Generator().manual_seed(given.seed)
    assert torch.equal(given.rng.get_state(), fresh.get_state())
    assert not any(bool(buffer.any()) for name, buffer in given.bundle.state.named_buffers() if "filled" in name)
