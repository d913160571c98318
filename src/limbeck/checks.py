"""What is checked before training, and said so that one knows what to type: settings, examples, shapes, a dry step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.data import UNLABELLED, Batch, Data, given
from limbeck.errors import DataError, LimbeckError, SettingError, ShapeError
from limbeck.objective import Objective, as_terms
from limbeck.schedules import Clock
from limbeck.signals import Output
from limbeck.step import Player, Step

if TYPE_CHECKING:
    from limbeck.run import Run


def settings(run: Run) -> None:
    """Numbers that cannot be."""
    if not isinstance(run.method, Objective):
        raise SettingError(f"method is an objective such as kd(tau=4.0); got {run.method!r}: call it, or make(name)")
    least = {"seed": 0, "epochs": 1, "batch_size": 2, "micro_batch": 1, "save_every": 1}
    for name, smallest in least.items():
        number = getattr(run, name)
        if number is not None and (not isinstance(number, int) or number < smallest):
            raise SettingError(f"{name} is a whole number of at least {smallest}; got {number!r}")
    if run.unlabelled is not None and run.unlabelled <= 0:
        raise SettingError(f"unlabelled is a positive ratio; got {run.unlabelled}")
    for epoch in range(run.epochs):
        run.method.span(epoch, run.epochs)  # stages that do not fit say so now


def examples(data: Data) -> None:
    """Labels and inputs of in-memory data, all of them."""
    if data.in_memory:
        finite("inputs", data.x, data.masks.get("valid"))
    if data.y is not None and data.num_classes is not None:
        in_range(data.y, data.num_classes)
    if data.of_tokens:
        tokens(given(data.y), data.x.get("input_ids") if isinstance(data.x, Mapping) else None)


def tokens(y: Tensor, ids: Any) -> None:
    """Labels of tokens (n, length), and the ids that they are of, where those are known."""
    labelled = y[:, 1:] != UNLABELLED
    if not bool(labelled.any()):
        raise DataError(
            f"no token has a label ({UNLABELLED} and -100 are none; the first of a text is predicted from nothing): "
            f"there is nothing to learn. Have prompts and padding eaten up the texts?"
        )
    if isinstance(ids, Tensor) and ids.shape == y.shape:
        ahead = y[:, :-1] != UNLABELLED
        own = torch.equal(y[:, 1:][labelled], ids[:, 1:][labelled])
        if not own and torch.equal(y[:, :-1][ahead], ids[:, 1:][ahead]):
            raise DataError("these labels are of the next tokens: give each token its own, they are shifted here")


def labels(batch: Batch, num_classes: int | None) -> None:
    """Labels of a batch."""
    if batch.y is not None and num_classes is not None:
        in_range(batch.y, num_classes)


def in_range(y: Tensor, num_classes: int) -> None:
    wrong = y[(y != UNLABELLED) & ((y < 0) | (y >= num_classes))]
    if wrong.numel():
        raise DataError(
            f"labels run from 0 to {num_classes - 1}, with {UNLABELLED} for none; got {wrong.unique().tolist()[:5]} "
            f"({wrong.numel()} of {y.numel()} examples). Is the number of classes right?"
        )


def finite(what: str, x: Any, valid: Tensor | None = None) -> None:
    """Of rows that are not `valid`, nothing is asked."""
    if isinstance(x, Mapping):
        for key, part in x.items():
            finite(f"{what}[{key!r}]", part, valid)
    elif isinstance(x, tuple):
        for i, part in enumerate(x):
            finite(f"{what}[{i}]", part, valid)
    elif isinstance(x, Tensor) and x.is_floating_point() and not bool(x.isfinite().all()):
        wrong = ~x.isfinite().reshape(len(x), -1).all(1)
        rows = (wrong if valid is None else wrong & valid).nonzero().flatten().tolist()
        if rows:
            raise DataError(
                f"the {what} hold nan or infinite values, in {len(rows)} examples (the first: {rows[:5]}): "
                f"mend or drop them"
            )


def probe(run: Run) -> tuple[dict[tuple[str, str], tuple[int, ...]], int | None]:
    """Run each model on two examples: the shapes of its signals, and how many classes the student tells apart."""
    batch = run.on_device(run.train_data.example(seed=run.seed))
    finite("inputs", batch.view("x"))
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=cuda_devices(run)):
        nets = [("student", net.eval()) for net in run.students] + [("teacher", net) for net in run.teachers]
        for role, net in reversed(nets):  # the first of several has the last word
            output = answer(role, net, batch)
            shapes |= {(role, name): shape for name, shape in output.shapes.items()}
    student = shapes.get(("student", ".logits"))
    classes = run.train_data.num_classes
    if student is not None and classes is not None and len(student) == 2 and student[1] < classes:
        raise ShapeError(
            f"the data has {classes} classes and the student gives {student[1]} logits: build it with {classes} classes"
        )
    return shapes, student[1] if student is not None and len(student) == 2 else classes


def answer(role: str, net: Any, batch: Batch) -> Output:
    """The output of a model on the batch; an input that it cannot take is described."""
    model = getattr(net, "net", net)
    module = getattr(model, "module", model)
    lacks = lacking(module, batch.of(role).view("x"))  # asked before: afterwards a GPU may not answer
    try:
        output = Player(batch, role, net)("x")
    except (TypeError, RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, LimbeckError):
            raise
        mend = lacks or "Hand it over another way with Net(model, forward=lambda module, x: ...)"
        name, x = type(module).__name__, described(batch.view("x"))
        raise ShapeError(f"the {role} ({name}) cannot take this input ({x}): {error}. {mend}") from error
    if ".logits" in output.shapes:
        finite(f"logits of the {role}", output.logits)
    return output


def lacking(model: Any, x: Any) -> str:
    """What a language model has too little of for these tokens, as its config says."""
    ids, config = x.get("input_ids") if isinstance(x, Mapping) else None, getattr(model, "config", None)
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        return ""
    tokens = getattr(config, "vocab_size", getattr(model, "vocab_size", None))
    places, last = getattr(config, "max_position_embeddings", None), int(ids.max())
    found = []
    if tokens is not None and last >= tokens:
        found.append(f"It has {tokens} tokens, and here is number {last}: build it for the tokenizer's vocabulary")
    if places is not None and ids.shape[1] > places:
        found.append(f"It has {places} places, and here are {ids.shape[1]} tokens: take shorter texts")
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" not in x:
        found.append("Its decoder has nothing to read: give decoder_input_ids among the inputs")
    return ". ".join(found)


def dry_step(run: Run) -> None:
    """Ask the method for its loss on two examples, in every stage, without a trace: a missing view, unequal widths or
    a wrong mask speak now, not after an epoch."""
    batch = run.on_device(run.train_data.example(seed=run.seed))
    labels(batch, run.num_classes)
    firsts = sorted({run.method.span(epoch, run.epochs)[0] for epoch in range(run.epochs)})
    buffers = [(buffer, buffer.clone()) for buffer in run.bundle.buffers()]
    run.bundle.train()
    with torch.no_grad(), run.aside(), torch.random.fork_rng(devices=cuda_devices(run)):
        for first in firsts:
            step = Step(run, batch, Clock(0, 1, 0, 1), first)
            step.batch = run.method.prepare(batch, step, run.bundle.state)
            step.forget()
            step.counts = run.count([step])
            terms = as_terms(run.method.loss(step, run.bundle.state))
            if not terms:
                raise SettingError(f"{run.method!r} has no term to learn from")
            for term in terms.values():
                term.part(step)
    for teacher in run.teachers:
        if hasattr(teacher, "check"):
            teacher.check(run)
    for buffer, before in buffers:
        buffer.copy_(before)


def cuda_devices(run: Run) -> list[int]:
    device = run.fabric.device
    return [device.index or 0] if device.type == "cuda" else []


def described(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"a {str(x.dtype).removeprefix('torch.')} tensor {tuple(x.shape)}"
    if isinstance(x, Mapping):
        return "a mapping of " + ", ".join(f"{key}: {described(part)}" for key, part in x.items())
    return f"a {type(x).__name__}"
