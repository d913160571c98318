"""Objectives in the training loop of transformers (extra `[text]`).

trainer = DistillationTrainer(student, args, teacher="folder", method=gkd(), train_dataset=texts)
trainer.train()
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from limbeck import checkpoint
from limbeck.data import IGNORED
from limbeck.data.collated import Collated, Numbered, collate
from limbeck.errors import SettingError
from limbeck.objective import Objective
from limbeck.run import Run
from limbeck.schedules import Clock
from limbeck.step import Merged, Player, Step


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """transformers' `Trainer`, whose loss is an objective.

    model, args: the student and `TrainingArguments`; other settings are Trainer's, too.
    teacher: as in `Run`: a model, the folder of one, a record (`Cached`), or several. It is never saved.
    method: an objective, such as gkd() or CE() + KL(2.0). What it trains or remembers is trained by the optimiser and
        stands in the checkpoints; its schedules run over the training, and `Stages` over the epochs.
    train_dataset: map-style. Its `labels` are of examples (b,), or of tokens (b, n), of causal models and of sequence
        to sequence; -100 counts nowhere.

    The loss is the mean over what counts in the whole optimiser step, all micro-batches and ranks (DDP). The loss on
    other data is that in eval mode; a method with a memory of its training examples has none of others.
    Where one model has logits for more tokens than another, as padding, those are left out.
    Raises SettingError for models whose labels stand at the token itself (masked language models, token
    classification), for arguments that change the loss, and for FSDP, DeepSpeed and several GPUs in one process.
    """

    def __init__(
        self, model: Any, args: Any, *, method: Objective, train_dataset: Any, teacher: Any = None, **settings: Any
    ) -> None:
        refuse(model, args, settings)
        super().__init__(model, args, train_dataset=Numbered(train_dataset), **settings)
        self.model_accepts_loss_kwargs = True  # so that nobody divides by the number of micro-batches once more
        collator = self._get_collator_with_removed_columns(self.data_collator)
        self.data = Collated(self.train_dataset, collator, self.processing_class)
        self.run = self.data.run = Run(
            student=model,
            teacher=teacher,
            data=self.data,
            method=method,
            epochs=math.ceil(max(args.num_train_epochs, 1)),
            batch_size=max(2, args.train_batch_size * args.gradient_accumulation_steps * args.world_size),
            seed=args.seed,
            accelerator=args.device.type,
            devices=args.world_size if args.world_size > 1 or args.device.index is None else [args.device.index],
        )
        self.run.assemble()
        self.add_callback(Update(self))

    def _get_collator_with_removed_columns(self, *given: Any, **settings: Any) -> Any:
        return partial(collate, super()._get_collator_with_removed_columns(*given, **settings))

    def create_optimizer(self, *given: Any) -> Any:
        optimizer = super().create_optimizer(*given)
        known = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        own = [p for p in self.run.bundle.state.parameters() if p.requires_grad and p not in known]
        if own:
            optimizer.add_param_group({"params": own, "weight_decay": self.args.weight_decay})
        return optimizer

    def _wrap_model(self, model: Any, training: bool = True, **given: Any) -> Any:
        if training and model is self.model:  # the loss is computed within what is wrapped
            return self.accelerator.prepare_model(self.run.bundle)
        return super()._wrap_model(model, training, **given)

    def clock(self) -> Clock:
        run, total = self.run, self.state.max_steps
        if total == 0:  # not training yet
            return Clock(0, 1, 0, 1)
        length = math.ceil(len(self.callback_handler.train_dataloader) / self.args.gradient_accumulation_steps)
        done = min(self.state.global_step, total - 1)  # after the last step it is as before
        run.steps_done, run.epoch, run.epochs = done, done // length, math.ceil(total / length)
        first, epochs = run.method.span(run.epoch, run.epochs)
        return Clock(done - first * length, min(epochs * length, total - first * length), run.epoch - first, epochs)

    def get_batch_samples(self, *given: Any) -> Any:
        """All micro-batches of an optimiser step: here they are prepared, and counted together."""
        batches, _ = super().get_batch_samples(*given)
        if not batches:  # transformers 4 asks once more at the end of an epoch
            return batches, None
        self.run.bundle.train()
        clock = self.clock()
        if clock.step == 0:  # of a new stage
            self.optimizer.state.clear()
        self.steps = self.run.prepare([self.run.on_device(self.data.batch(inputs)) for inputs in batches], clock)
        warn_of_nothing(self.steps)
        return [{**x, ".step": step} for x, step in zip(batches, self.steps, strict=True)], self.steps[0].counts[None]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
        run, world = self.run, self.args.world_size  # DDP takes the mean
        if ".step" in inputs:  # training; the model is the bundle, maybe wrapped
            loss, _ = model(inputs[".step"])
            inputs.pop(".step").forget()  # its outputs are not held longer than the graph
            return (loss * world).requires_grad_()  # else, nothing counts
        batch = run.on_device(self.data.batch(inputs))
        with torch.no_grad(), run.aside(), self.accelerator.autocast():
            (step,) = run.prepare([batch], self.clock())
            loss, _ = run.bundle.eval()(step)
            student = step.student if step.batch is batch else Player(batch, "student", run.students[0])
            logits = student.whole("x").logits
        if logits.dim() > 2:  # of tokens
            logits = logits[:, : inputs["labels"].shape[1]]
        return (loss * world, {"logits": logits}) if return_outputs else loss * world

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        checkpoint.save_method(self.run, Path(output_dir, f"method_{self.args.process_index}.pt"))

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        if folder is not None:
            checkpoint.load_method(self.run, Path(folder, f"method_{self.args.process_index}.pt"))
        super()._load_optimizer_and_scheduler(folder)


class Update(TrainerCallback):  # type: ignore[misc]
    """After the optimiser and before the checkpoint."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, *given: Any, **settings: Any) -> None:
        run = self.trainer.run
        with torch.no_grad():
            run.method.update(Merged(self.trainer.steps, run.gather), run.bundle.state)


def warn_of_nothing(steps: Sequence[Step]) -> None:
    if not any(step.rows for step in steps):
        at = steps[0].clock.step
        warnings.warn(f"no row of step {at} has a label: all are {IGNORED}, and it teaches nothing", stacklevel=3)


def refuse(model: Any, args: Any, settings: dict[str, Any]) -> None:
    """What would train otherwise than it says."""
    unfit = [n for n in ("deepspeed", "fsdp", "label_smoothing_factor", "torch_compile") if getattr(args, n)]
    if unfit or settings.get("compute_loss_func") or args.n_gpu > 1:
        what = unfit or ["compute_loss_func, or several GPUs but for torchrun"]
        raise SettingError(f"the loss is the method's, by one process for each GPU: leave out {', '.join(what)}")
    if model is None:
        raise SettingError("model_init makes a student for each training, and a run has one: give model=model_init()")
    name = type(model).__name__
    if name.endswith(("ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")):
        raise SettingError(
            f"a {name} answers at the token itself, and labels of tokens are taken for those of the next one: train "
            f"causal models, sequence to sequence, or classifiers of whole examples here"
        )
