"""A run is a value that trains: students, teachers, data, method, optimiser, budget, seed. The only training loop.

    run = Run(student, data=(x, y), teacher=teacher, method=kd(tau=4.0, alpha=0.9), epochs=30)
    run.fit()

Devices, precision, ranks and checkpoint files are Lightning Fabric's. One optimiser step is `train_step`, below.
"""

from __future__ import annotations

import functools
import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from limbeck import checkpoint, checks
from limbeck.checkpoint import finish_step_on_interrupt
from limbeck.data import Batch, Data, as_data, plan
from limbeck.errors import DataError, Interrupted, SettingError, SignalError, nearest
from limbeck.objective import Objective, as_terms
from limbeck.optim import SGD, Optim
from limbeck.schedules import Clock, value
from limbeck.signals import Net, as_net
from limbeck.step import Merged, Step
from limbeck.teachers import Teacher, as_teacher
from limbeck.tiles import join

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Row = dict[str, Any]


class Watcher(Protocol):
    """Somebody who looks on, such as a progress bar."""

    def step(self, run: Run) -> None: ...
    def epoch(self, run: Run, row: Row) -> None: ...


class Bundle(nn.Module):
    """All that trains or is remembered, in one module: Fabric wraps, moves and saves one thing."""

    def __init__(self, method: Objective, students: Sequence[Net], state: nn.Module) -> None:
        super().__init__()
        self.method = method
        self.students = nn.ModuleList(students)
        self.state = state

    def forward(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the loss, and of each of its terms."""
        terms = as_terms(self.method.loss(step, self.state))
        join(term.value for term in terms.values())  # what has waited, to be computed together
        parts = {name: term.part(step) for name, term in terms.items()}
        return sum_of(parts.values()), {name: part.detach() for name, part in parts.items()}


@dataclass(eq=False, kw_only=True)
class Run:
    """See the module's docstring; fields that are not obvious:

    student: a model, or several that teach each other. teacher: None, a model, the folder of a
        transformers model, or several (a committee).
    data, test: Data, `(x, y)` tensors, a Dataset or DataLoader. Batches of data are seeded; see `limbeck.data`.
    batch_size: rows per optimiser step, over all ranks. micro_batch: rows per forward, to save memory; None: all.
        A last batch with fewer than two examples per forward is left out, unless they are texts.
    unlabelled: unlabelled rows per labelled row of a batch; None: all examples alike.
    clip: largest norm of the gradient. precision, devices, accelerator, strategy, loggers: as in Fabric.
    compile: torch.compile the models. channels_last: memory format of images; None: on CUDA.
    folder: where metrics.jsonl and last.ckpt go; None: nowhere. save_every: steps between checkpoints; None: epochs.
    """

    student: nn.Module | Sequence[nn.Module]
    data: Any
    method: Objective
    teacher: nn.Module | Teacher | Path | str | Sequence[nn.Module | Teacher | Path | str] | None = None
    test: Any = None
    epochs: int = 30
    batch_size: int = 128
    micro_batch: int | None = None
    unlabelled: float | None = None
    optimizer: Optim = field(default_factory=lambda: SGD(0.05))
    clip: float | None = None
    seed: int = 0
    precision: Any = "32-true"
    devices: int | str | list[int] = 1
    accelerator: str = "auto"
    strategy: Any = "auto"
    loggers: Any = None
    compile: bool = False
    channels_last: bool | None = None
    folder: Path | str | None = None
    save_every: int | None = None
    watcher: Watcher | None = None

    # ---- setting up -----------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Check everything on two examples, then hand it to Fabric. Called by `fit`; a second call does nothing."""
        if hasattr(self, "module"):
            return
        self.assemble()
        if self.compile:
            for net in [*self.students, *self.teachers]:
                if isinstance(net, nn.Module):  # a record is none
                    net.compile()
        torch.manual_seed(self.seed + 1 + self.fabric.global_rank)  # dropout: other draws on every rank
        parameters = [parameter for parameter in self.bundle.parameters() if parameter.requires_grad]
        self.module, self.torch_optimizer = self.fabric.setup(self.bundle, self.optimizer.build(parameters))
        self.teacher_logits: Tensor | None = None

    def assemble(self) -> None:
        """All that a step needs, checked on two examples; the optimiser is still to come."""
        checks.settings(self)
        self.fabric = fabric = self.launch()
        torch.manual_seed(self.seed)
        self.train_data = as_data(self.data)
        self.test_data = None if self.test is None else as_data(self.test)
        checks.examples(self.train_data)
        students = list(self.student) if isinstance(self.student, Sequence) else [self.student]
        given = [] if self.teacher is None else self.teacher
        teachers = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        self.students: list[Net] = [as_net(student) for student in students]
        self.teachers = [as_teacher(teacher) for teacher in teachers]
        for role, layer in sorted(self.method.reads):
            for net in self.students if role == "student" else self.teachers:
                net.read([layer], owner=role)
        self.memory_format = self.pick_memory_format()
        for module in [*self.students, *(teacher for teacher in self.teachers if isinstance(teacher, nn.Module))]:
            module.to(fabric.device).to(memory_format=self.memory_format)  # type: ignore[call-overload]
            fabric.strategy.precision.convert_module(module)  # only "true" precisions do
        self.rng = torch.Generator().manual_seed(self.seed)
        self.local_rng = torch.Generator().manual_seed(self.seed + 1 + fabric.global_rank)
        self.epoch = self.done = self.steps_done = 0  # done: steps of this epoch
        self.sums: dict[str, Tensor] = {}
        self.history: list[Row] = []
        self.shapes, self.num_classes = checks.probe(self)
        self.bundle = Bundle(self.method, self.students, self.method.init(self)).to(fabric.device)
        fabric.strategy.precision.convert_module(self.bundle)
        checks.dry_step(self)
        if not any(parameter.requires_grad for parameter in self.bundle.parameters()):
            raise SettingError(
                "no parameter of the student has requires_grad: let some train. If the student is the teacher, "
                "which is frozen, pass copy.deepcopy(teacher)"
            )

    def launch(self) -> Fabric:
        from lightning_fabric import Fabric  # slow to import, so only where something is trained
        from lightning_fabric.strategies import DDPStrategy

        strategy = self.strategy
        if strategy in ("ddp", "auto") and self.devices not in (1, "1", "auto", [0]):
            # Buffers: banks are equal on all ranks by construction, and batch norm's are joined once an epoch. Unused
            # parameters: a stage need not reach all of them.
            strategy = DDPStrategy(broadcast_buffers=False, find_unused_parameters=True)
        fabric = Fabric(
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=strategy,
            precision=self.precision,
            loggers=self.loggers,
        )
        fabric.launch()
        return fabric

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is drawn within is drawn again after it."""
        states = self.rng.get_state(), self.local_rng.get_state()
        try:
            yield
        finally:
            self.rng.set_state(states[0])
            self.local_rng.set_state(states[1])

    def pick_memory_format(self) -> torch.memory_format:
        last = self.fabric.device.type == "cuda" if self.channels_last is None else self.channels_last
        return torch.channels_last if last else torch.contiguous_format

    @property
    def num_examples(self) -> int:
        return self.train_data.num_rows

    def shape(self, role: str, signal: str) -> tuple[int, ...]:
        """Shape of a signal of the first "student" or "teacher" for two examples: (2, ...)."""
        if role == "teacher" and not self.teachers:
            raise SettingError("this method asks for a teacher and the run has no teacher: give Run(teacher=...)")
        if (role, signal) not in self.shapes:
            have = nearest(signal, (name for owner, name in self.shapes if owner == role))
            raise SignalError(f"the {role} gives no tensor {signal!r}; {have} Name it in the objective's `reads`.")
        return self.shapes[role, signal]

    # ---- training ---------------------------------------------------------------------------------------------------

    def fit(self, *, resume: bool = False) -> list[Row]:
        """Train to the end; the rows of metrics.jsonl. With `resume`, go on from folder/last.ckpt if it is there."""
        self.setup()
        if resume and self.checkpoint is not None and self.checkpoint.exists():
            self.load(self.checkpoint)
        with finish_step_on_interrupt() as interrupted:
            while self.epoch < self.epochs:
                for _ in self.train_epoch(interrupted):
                    pass
        return self.history

    def train_epoch(self, interrupted: threading.Event, groups: Iterator[list[Batch]] | None = None) -> Iterator[None]:
        """The rest of the current epoch, its row of metrics, its checkpoint; stops after each step for whoever asks.

        groups: the micro-batches of each step that is left, where several runs share them.
        """
        first, length = self.method.span(self.epoch, self.epochs)
        started = time.perf_counter()
        if self.epoch == first and self.done == 0 and first > 0:
            self.torch_optimizer.state.clear()  # a new stage
        ids = self.plan(self.epoch)
        before = (self.epoch - first) * len(ids)
        clock = Clock(before + self.done - 1, length * len(ids), self.epoch - first, length)  # if no step is left
        self.bundle.train()
        for micros in groups or self.micro_batches(ids[self.done :]):
            clock = Clock(before + self.done, length * len(ids), self.epoch - first, length)
            for name, part in self.train_step(micros, clock).items():
                self.sums[name] = self.sums[name] + part if name in self.sums else part
            self.done += 1
            self.steps_done += 1
            if self.watcher is not None:
                self.watcher.step(self)
            if self.on_any_rank(interrupted.is_set()):
                where = f"saved as {self.save()}: go on with resume" if self.checkpoint else "no folder, nothing saved"
                raise Interrupted(f"stopped after step {self.steps_done}; {where}")
            if self.save_every and self.steps_done % self.save_every == 0:
                self.save()
            yield
        self.end_epoch(clock, started)

    def train_step(self, micros: Sequence[Batch], clock: Clock) -> dict[str, Tensor]:
        """One optimiser step on some micro-batches: the whole of it. The value of each term of the loss."""
        fabric = self.fabric
        for group in self.torch_optimizer.param_groups:
            group["lr"] = value(self.optimizer.lr, clock)
        steps = self.prepare(micros, clock)
        sums: dict[str, Tensor] = {}
        for i, step in enumerate(steps):
            with fabric.no_backward_sync(self.module, enabled=i < len(steps) - 1):
                loss, parts = self.module(step)
                if loss.requires_grad:  # nothing to learn where every term is masked
                    fabric.backward(loss * fabric.world_size if fabric.world_size > 1 else loss)  # DDP takes the mean
            for name, part in parts.items():
                sums[name] = sums[name] + part if name in sums else part
        if self.clip is not None:
            fabric.clip_gradients(self.module, self.torch_optimizer, max_norm=self.clip, error_if_nonfinite=False)
        self.torch_optimizer.step()
        self.torch_optimizer.zero_grad()
        with torch.no_grad():
            self.method.update(Merged(steps, self.gather), self.bundle.state)
        return sums

    def prepare(self, micros: Sequence[Batch], clock: Clock) -> list[Step]:
        """The steps of some micro-batches, ready for their losses: prepared by the method, and counted together."""
        steps = [Step(self, batch, clock, self.epoch) for batch in micros]
        with torch.no_grad():
            for step in steps:
                step.batch = self.method.prepare(step.batch, step, self.bundle.state)
                step.forget()
        counts = self.count(steps)
        for step in steps:
            step.counts = counts
        return steps

    def count(self, steps: Sequence[Step]) -> dict[str | None, Tensor | int]:
        """How many rows the whole step has, and each of its masks, over micro-batches and ranks."""
        names = sorted({"labelled", "sequences", "unlabelled"}.union(*(step.batch.masks for step in steps)))
        rows = sum(step.rows for step in steps)
        masks = torch.stack([sum_of(step.mask(name).count_nonzero() for step in steps) for name in names])
        if self.fabric.world_size > 1:
            both = torch.cat([masks, masks.new_tensor([rows])])
            both = self.fabric.all_reduce(both, reduce_op="sum")  # type: ignore[assignment]
            masks, rows = both[:-1], int(both[-1])
        return {None: max(rows, 1), **dict(zip(names, masks.clamp(min=1).unbind(), strict=True))}

    def plan(self, epoch: int) -> list[Tensor]:
        """The ids of this epoch's optimiser steps; too small a last batch is left out."""
        ids = plan(self.train_data, self.batch_size, seed=self.seed, epoch=epoch, unlabelled=self.unlabelled)
        least = 1 if self.train_data.of_tokens else 2  # for batch statistics
        if len(ids) > 1 and len(ids[-1]) < least * self.fabric.world_size * self.num_micros(len(ids[-1])):
            ids.pop()
        return ids

    def num_micros(self, rows: int) -> int:
        return 1 if self.micro_batch is None else -(-rows // (self.fabric.world_size * self.micro_batch))

    def micro_batches(self, ids: Sequence[Tensor]) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each optimiser step."""
        world, rank = self.fabric.world_size, self.fabric.global_rank
        groups = [list(step.tensor_split(world)[rank].tensor_split(self.num_micros(len(step)))) for step in ids]
        batches = self.train_data.batches(
            [micro for group in groups for micro in group], seed=self.seed, epoch=self.epoch
        )
        for group in groups:
            micros = [next(batches) for _ in group]
            if self.unlabelled is not None:  # an example may come more than once in an epoch: new views each time
                for batch in micros:
                    batch.epoch = self.steps_done
            yield [self.on_device(batch) for batch in micros]

    def on_device(self, batch: Batch) -> Batch:
        """On the device, in the run's precision, without the rows that are not valid."""
        if not self.train_data.in_memory:  # in-memory labels were all checked at the start
            checks.labels(batch, getattr(self, "num_classes", None))
        return self.moved(batch).valid()

    def moved(self, batch: Batch) -> Batch:
        if self.fabric.strategy.precision.precision.endswith("true"):  # else autocast sees to it
            batch.convert = self.fabric.strategy.precision.convert_input
        return batch if self.fabric.device.type == "cpu" else batch.to(self.fabric.to_device)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks, in their order; ranks may hold different numbers of them."""
        if self.fabric.world_size == 1:
            return rows
        sizes = self.fabric.all_gather(torch.tensor(len(rows), device=rows.device)).tolist()  # type: ignore[union-attr]
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = self.fabric.all_gather(padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    def end_epoch(self, clock: Clock, started: float) -> None:
        for buffer in self.bundle.students.buffers() if self.fabric.world_size > 1 else ():
            buffer.copy_(self.fabric.broadcast(buffer))
        terms = {name: self.mean_over_ranks(total) / self.done for name, total in self.sums.items()}
        row: Row = {
            "epoch": self.epoch + 1,
            "step": self.steps_done,
            "loss": sum(terms.values()),
            "terms": terms,
            "lr": value(self.optimizer.lr, clock),
            "seconds": round(time.perf_counter() - started, 3),
        }
        if not math.isfinite(row["loss"]):
            raise DataError(
                f"the loss is {row['loss']} in epoch {row['epoch']} (terms: {terms}); the last checkpoint is from "
                f"before. Lower the learning rate, set clip=1.0, or look at the inputs"
            )
        if self.test_data is not None:
            row |= self.evaluate()
        self.history.append(row)
        self.epoch, self.done, self.sums = self.epoch + 1, 0, {}
        self.log(row)
        if self.checkpoint is not None:
            self.save()
        if self.watcher is not None:
            self.watcher.epoch(self, row)

    def on_any_rank(self, flag: bool) -> bool:
        """Ranks decide together, lest one goes on alone and waits for ever."""
        if self.fabric.world_size == 1:
            return flag
        return bool(self.fabric.all_reduce(torch.tensor(float(flag), device=self.fabric.device), reduce_op="sum"))

    def mean_over_ranks(self, part: Tensor) -> float:
        return float(self.fabric.all_reduce(part, reduce_op="sum"))  # type: ignore[arg-type]

    # ---- judging ----------------------------------------------------------------------------------------------------

    def predict(self, net: Any, data: Data | None = None) -> Tensor:
        """Logits (n, classes) of a model on the test data, in eval mode, on the CPU."""
        from limbeck.evaluate import predict

        data = data or self.test_data
        if data is None:
            raise SettingError("there is no test data: give Run(test=...)")
        ids = list(torch.arange(data.num_examples).split(512))
        views = (self.moved(batch).view("x") for batch in data.batches(ids))
        return predict(net, views)

    def evaluate(self) -> Row:
        """The first student on the test data: accuracy, nll, ece, and with one teacher agreement and kl; of tokens
        perplexity and bits per byte too."""
        from limbeck.evaluate import fidelity, scores

        data = self.test_data
        if data is None or data.y is None:
            raise SettingError("evaluation needs labelled test data: give Run(test=(x, y))")
        if data.of_tokens:
            return self.evaluate_tokens(data)
        logits = self.predict(self.students[0])
        row: Row = dict(scores(logits, data.y))
        if len(self.teachers) == 1 and isinstance(self.teachers[0], nn.Module):
            if self.teacher_logits is None:
                self.teacher_logits = self.predict(self.teachers[0])
            if self.teacher_logits.shape == logits.shape:
                row |= fidelity(logits, self.teacher_logits)
        return row

    def evaluate_tokens(self, data: Data) -> Row:
        from limbeck.data.text import Tokens
        from limbeck.language import scores

        if not isinstance(data, Tokens):
            raise SettingError("test data with labels of tokens is limbeck.data.text.Tokens, which knows its tokenizer")
        teacher = self.teachers[0] if len(self.teachers) == 1 and isinstance(self.teachers[0], nn.Module) else None
        if "teacher" in self.train_data.speak:  # it reads other tokens, and agrees about none
            teacher = None
        return dict(scores(self.students[0], data, teacher, batch_size=self.batch_size, move=self.moved))

    def log(self, row: Row) -> None:
        numbers = {name: number for name, number in row.items() if isinstance(number, int | float)}
        self.fabric.log_dict(
            numbers | {f"terms/{name}": part for name, part in row["terms"].items()}, step=self.steps_done
        )
        if self.folder is not None and self.fabric.is_global_zero:
            folder = Path(self.folder)
            folder.mkdir(parents=True, exist_ok=True)
            mode = "a" if row["epoch"] > 1 else "w"
            with open(folder / "metrics.jsonl", mode) as file:
                file.write(json.dumps(row) + "\n")

    # ---- saving -----------------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path | None:
        return None if self.folder is None else Path(self.folder) / "last.ckpt"

    def save(self, path: Path | str | None = None) -> Path:
        """Write a checkpoint, whole or not at all; by default folder/last.ckpt."""
        path = path if path is not None else self.checkpoint
        if path is None:
            raise SettingError("where to? give save(path) or Run(folder=...)")
        return checkpoint.save(self, Path(path))

    def load(self, path: Path | str) -> None:
        """Continue from a checkpoint: the same steps to the bit as if nothing had happened."""
        self.setup()
        checkpoint.load(self, path)


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)
