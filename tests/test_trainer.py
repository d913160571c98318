"""Our objectives in transformers' Trainer: the same numbers, however a step is split, and after a resume."""

import copy
import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck import CE, JSD, KL, SGD, UNLABELLED, Cached, Data, Objective, Ramp, Record, Run, Stages, Step
from limbeck.blocks.language import OnPolicy
from limbeck.errors import CheckpointError, DataError, RecordError, SettingError
from limbeck.objective import Reads
from limbeck.schedules import Clock
from limbeck.step import Merged
from limbeck.teachers import Bank

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")
from limbeck import DistillationTrainer  # noqa: E402

V = 40


def gpt2(seed: int = 0, vocabulary: int = V, width: int = 16) -> Any:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_embd=width, n_layer=2, n_head=2, n_positions=16, initializer_range=0.3,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama(seed: int = 0, vocabulary: int = V, width: int = 16) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def bert(seed: int = 0, width: int = 16, classes: int = 3) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=classes, initializer_range=0.3, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def t5(seed: int = 0, width: int = 16) -> Any:
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=V, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def texts(n: int = 16) -> list[dict[str, Tensor]]:
    """Texts of different lengths, padded by -100 labels, some behind prompts."""
    draw = torch.Generator().manual_seed(7)
    found = []
    for i in range(n):
        ids = torch.randint(1, V, (10,), generator=draw)
        length, prompt = 4 + i % 7, i % 3
        labels = ids.clone()
        labels[:prompt] = labels[length:] = -100
        found.append({"input_ids": ids, "attention_mask": (torch.arange(10) < length).long(), "labels": labels})
    return found


def lines(n: int = 16) -> list[dict[str, Any]]:
    """Classified ones."""
    return [{name: part[name] for name in ("input_ids", "attention_mask")} | {"labels": i % 3} for i, part in
            enumerate(texts(n))]  # fmt: skip


def arguments(folder: Path, **settings: Any) -> Any:
    plain: dict[str, Any] = {
        "per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 0.1, "optim": "sgd",
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "logging_strategy": "epoch", "seed": 3,
    }  # fmt: skip
    return transformers.TrainingArguments(str(folder), **plain | settings)


def trainer(folder: Path, method: Objective, student: Any = None, **settings: Any) -> DistillationTrainer:
    settings = {"teacher": gpt2(1, width=24), "train_dataset": texts(), **settings}
    own = {name: settings.pop(name) for name in ("teacher", "train_dataset", "eval_dataset", "processing_class",
           "compute_metrics", "data_collator") if name in settings}  # fmt: skip
    return DistillationTrainer(student or gpt2(), arguments(folder, **settings), method=method, **own)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@dataclass(frozen=True)
class Width(Objective):
    """A projector on the last hidden states, which is trained; a mean that is remembered."""

    @property
    def reads(self) -> Reads:
        return frozenset({("student", ".embedding"), ("teacher", ".embedding")})

    def init(self, run: Run) -> nn.Module:
        state = nn.Linear(run.shape("student", ".embedding")[-1], run.shape("teacher", ".embedding")[-1])
        state.register_buffer("steps", torch.zeros(()))
        return state

    def loss(self, step: Step, state: Any) -> dict[str, Tensor]:
        student, teacher = step.student("x").embedding, step.teacher("x").embedding
        step.keep(width=student[:, 0])
        return {"width": (state(student) - teacher).square().mean(1)}

    def update(self, step: Merged, state: Any) -> None:
        state.steps += 1 + 0 * step.kept("width").sum()


# ---- equal numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [CE() + KL(2.0), JSD(0.3), CE() + Width()], ids=repr)
def test_a_step_is_that_of_a_run(method: Objective, tmp_path: Path) -> None:
    ours = trainer(tmp_path, method, max_steps=1, per_device_train_batch_size=16)
    start = copy.deepcopy(ours.run.bundle.state.state_dict())
    ours.train()
    x = {name: torch.stack([text[name] for text in texts()]) for name in ("input_ids", "attention_mask")}
    y = torch.stack([text["labels"] for text in texts()])
    data = Data(x, y.where(y >= 0, UNLABELLED), classes=V)
    run = Run(student=gpt2(), teacher=gpt2(1, width=24), data=data, method=method,
              optimizer=SGD(0.1, momentum=0, weight_decay=0), batch_size=16, accelerator="cpu")  # fmt: skip
    run.setup()
    run.bundle.state.load_state_dict(start)
    run.train_step([run.on_device(next(run.train_data.batches([torch.arange(16)])))], Clock(0, 1, 0, 1))
    equal(weights(ours.run.bundle), weights(run.bundle))
    assert any(
        not torch.equal(a, b) for a, b in zip(weights(ours.model).values(), weights(gpt2()).values(), strict=True)
    )


def test_cross_entropy_is_that_of_trainer(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    examples = texts()
    for each in examples:
        each["labels"][0] = -100  # nobody predicts the first, but of some models Trainer counts it
    data = {"train_dataset": examples, "eval_dataset": examples}
    theirs = transformers.Trainer(llama(), arguments(tmp_path, **settings), **data)
    ours = trainer(tmp_path, CE(), llama(), teacher=None, **settings, **data)
    said = [each.train().training_loss for each in (theirs, ours)]
    assert said[0] == pytest.approx(said[1], rel=1e-6)
    equal(weights(ours.model), weights(theirs.model))
    assert ours.evaluate()["eval_loss"] == pytest.approx(theirs.evaluate()["eval_loss"], rel=1e-6)
    predictions = [each.predict(texts()).predictions for each in (theirs, ours)]
    assert predictions[0] == pytest.approx(predictions[1], abs=1e-5)


def test_it_stays_small() -> None:
    code = inspect.getsource(DistillationTrainer).replace(DistillationTrainer.__doc__ or "", "")
    assert len([line for line in code.splitlines() if line.strip()]) < 80


@pytest.mark.parametrize("method", [CE() + KL(2.0), CE() + Width(), OnPolicy(CE() + JSD(0.5), 0.0)], ids=repr)
def test_split_batches_give_the_same_training(method: Objective, tmp_path: Path) -> None:
    whole = trainer(tmp_path, method)
    split = trainer(tmp_path, method, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    losses = [each.train().training_loss for each in (whole, split)]
    equal(weights(whole.run.bundle), weights(split.run.bundle), 1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_classifiers_and_sequence_to_sequence_are_those_of_trainer_too(tmp_path: Path) -> None:
    pairs = [{**text, "labels": text["labels"][:6]} for text in texts()]
    for make, data in ((bert, lines()), (t5, pairs)):
        theirs = transformers.Trainer(make(), arguments(tmp_path), train_dataset=data)
        ours = trainer(tmp_path, CE(), make(), teacher=None, train_dataset=data)
        assert theirs.train().training_loss == pytest.approx(ours.train().training_loss)
        equal(weights(ours.model), weights(theirs.model))
        said, found = (each.predict(data) for each in (theirs, ours))
        logits = said.predictions[0] if isinstance(said.predictions, tuple) else said.predictions
        assert found.predictions == pytest.approx(logits, abs=1e-4)
        assert found.metrics["test_loss"] == pytest.approx(said.metrics["test_loss"], rel=1e-5)


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command, root = [*ranks, "-m", "tests.test_trainer", str(tmp_path)], Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    ours = on_ranks(tmp_path, 1)
    theirs, loss, judged = torch.load(tmp_path / "ranks.pt", weights_only=True)
    equal(weights(ours.run.bundle), theirs)
    assert (loss, judged) == pytest.approx((ours.train_loss, ours.evaluate()["eval_loss"]))


def on_ranks(folder: Path, world: int) -> Any:
    settings: dict[str, Any] = {"per_device_train_batch_size": 8 // world, "eval_dataset": texts()}
    ours = trainer(folder, CE() + Width() + KL(2.0), **settings, ddp_backend="gloo" if world > 1 else None)
    ours.train_loss = ours.train().training_loss
    return ours


# ---- what belongs to the method -------------------------------------------------------------------------------------


def test_what_the_method_has_is_trained_and_told_of_each_step(tmp_path: Path) -> None:
    ours = trainer(tmp_path, CE() + Width(), gradient_accumulation_steps=2, optim="adamw_torch", weight_decay=0.1)
    state = ours.run.bundle.state[1]
    before = weights(state)
    ours.train()
    assert state.steps == ours.state.global_step == 2
    assert all(not torch.equal(weight, before[name]) for name, weight in state.named_parameters())
    assert ours.optimizer.param_groups[-1]["weight_decay"] == 0.1
    ours.train()  # once more, with the optimiser that there is
    assert sum(p.numel() for group in ours.optimizer.param_groups for p in group["params"]) == sum(
        p.numel() for p in ours.run.bundle.parameters()
    )


@pytest.mark.parametrize("method", [CE() + Width(), OnPolicy(CE() + JSD(0.5), 0.5), Ramp(0.0, 1.0) * KL(2.0) + CE()],
                         ids=repr)  # fmt: skip
def test_a_resumed_training_ends_in_the_same_weights(method: Objective, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "save_strategy": "steps", "save_steps": 3, "num_train_epochs": 3, "optim": "adamw_torch", "learning_rate": 0.01,
        "eval_strategy": "steps", "eval_steps": 2, "eval_dataset": texts()[:5],
    }  # fmt: skip
    whole = trainer(tmp_path, method, **settings)
    whole.train()
    again = trainer(tmp_path, method, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 6
    equal(dict(whole.run.bundle.state_dict()), dict(again.run.bundle.state_dict()), 0)
    with pytest.raises(CheckpointError, match="is of the method"):
        trainer(tmp_path, KL(3.0), **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_only_the_student_is_saved_and_it_is_a_teacher_by_its_folder(tmp_path: Path) -> None:
    ours = trainer(tmp_path / "first", CE() + Width())
    teacher = ours.run.teachers[0]
    before = weights(teacher)
    ours.train()
    assert not teacher.training
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.named_parameters())
    ours.save_model(str(tmp_path / "model"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    equal(weights(loaded), weights(ours.model), 0)
    second = trainer(tmp_path / "second", KL(1.0), gpt2(5), teacher=tmp_path / "model", eval_dataset=texts())
    first = trainer(tmp_path / "second", KL(1.0), gpt2(5), teacher=loaded, eval_dataset=texts())
    assert second.evaluate()["eval_loss"] == first.evaluate()["eval_loss"] > 0


def test_padded_vocabularies_are_cut(tmp_path: Path) -> None:
    data = {"train_dataset": texts(), "eval_dataset": texts()}
    plain, padded = gpt2(), gpt2(2, V + 24)
    padded.load_state_dict({**plain.state_dict(), **{name: torch.cat([plain.state_dict()[name], 9 * torch.ones(24, 16)])
                            for name in ("transformer.wte.weight", "lm_head.weight")}})  # fmt: skip
    for student, teacher in ((plain, padded), (padded, plain)):
        student, teacher = copy.deepcopy(student), copy.deepcopy(teacher)
        assert trainer(tmp_path, KL(2.0), student, teacher=teacher, **data).evaluate()["eval_loss"] < 1e-6


# ---- teachers, data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "data"), [(gpt2, texts()), (bert, lines())], ids=["tokens", "classes"])
def test_a_record_is_a_teacher_like_the_model(make: Any, data: list[Any], tmp_path: Path) -> None:
    teacher = make(1)
    model = trainer(tmp_path / "a", CE() + KL(2.0), make(), teacher=teacher, train_dataset=data)
    Record.capture(tmp_path / "record", teacher, model.run.train_data, batch_size=4)
    record = Cached(tmp_path / "record")
    ours = trainer(tmp_path / "b", CE() + KL(2.0), make(), teacher=record, train_dataset=data, eval_dataset=data)
    for each in (ours, model):
        each.train()
    equal(weights(ours.model), weights(model.model))
    with pytest.raises(SettingError, match="a record is of the training examples"):
        ours.evaluate()


def test_a_record_is_of_texts_of_one_length(tmp_path: Path) -> None:
    def longest(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        length = max(int(each["attention_mask"].sum()) for each in examples)
        return {name: torch.stack([each[name][:length] for each in examples]) for name in examples[0]}

    ours = trainer(tmp_path, CE(), train_dataset=texts(), data_collator=longest)
    with pytest.raises(RecordError, match="padding='max_length'"):
        Record.capture(tmp_path / "record", gpt2(1), ours.run.train_data, batch_size=4)


def test_a_bank_remembers_each_example(tmp_path: Path) -> None:
    seen: dict[int, Tensor] = {}

    class Remember(Objective):
        def init(self, run: Run) -> nn.Module:
            return Bank(run.num_examples, 3)

        def loss(self, step: Step, state: Any) -> dict[str, Tensor]:
            logits = step.student("x").logits
            kept = state.read(step.index, default=torch.zeros_like(logits))
            for i, row in zip(step.index.tolist(), kept, strict=True):
                if i in seen:
                    assert torch.equal(row, seen[i])
                seen[i] = logits[step.index == i][0].detach()
            step.keep(now=logits)
            return {"ce": F.cross_entropy(logits, step.y, reduction="none")}

        def update(self, step: Merged, state: Any) -> None:
            state.write(step.index, step.kept("now"))

    ours = trainer(tmp_path, Remember(), bert(), train_dataset=lines(), per_device_train_batch_size=4,
                   gradient_accumulation_steps=2)  # fmt: skip
    seen.clear()  # of the dry step
    ours.train()
    assert sorted(seen) == list(range(16))
    assert ours.run.bundle.state.filled.all()


def test_stages_follow_the_epochs(tmp_path: Path) -> None:
    alone = trainer(tmp_path / "alone", CE(), num_train_epochs=1)
    alone.train()
    staged = trainer(tmp_path, Stages(((CE(), 1), (KL(2.0), None))), save_strategy="epoch")
    staged.train()
    first = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    equal(weights(first), weights(alone.model))
    more = trainer(tmp_path / "more", CE(), num_train_epochs=2)
    more.train()
    assert not torch.allclose(staged.model.lm_head.weight, more.model.lm_head.weight, atol=1e-4)


def test_the_student_goes_on_behind_its_text(tmp_path: Path) -> None:
    left = [{name: part.flip(0) for name, part in text.items()} for text in texts()]
    with pytest.raises(DataError, match="padding_side = 'right'"):
        trainer(tmp_path, OnPolicy(CE(), 1.0), train_dataset=left)


def test_settings_that_would_be_another_loss(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="leave out label_smoothing_factor"):
        trainer(tmp_path, CE(), label_smoothing_factor=0.1)
    with pytest.raises(SettingError, match="this method asks for one teacher"):
        trainer(tmp_path, KL(2.0), teacher=None)
    masked = transformers.BertForMaskedLM(transformers.BertConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))  # fmt: skip
    with pytest.raises(SettingError, match="BertForMaskedLM answers at the token itself"):
        trainer(tmp_path, CE(), masked, teacher=None)
    with pytest.raises(SettingError, match="a run has one"):
        DistillationTrainer(None, arguments(tmp_path), method=CE(), train_dataset=texts(), model_init=gpt2)


def test_steps_that_teach_nothing_are_told(tmp_path: Path) -> None:
    nothing = [{**text, "labels": torch.full((10,), -100)} for text in texts()]
    ours = trainer(tmp_path, CE() + KL(2.0), train_dataset=nothing)
    before = copy.deepcopy(weights(ours.model))
    with pytest.warns(UserWarning, match="no row of step 0 has a label"):
        ours.train()
    equal(weights(ours.model), before)


if __name__ == "__main__":  # as one of two ranks
    FOLDER = Path(sys.argv[1])
    ours = on_ranks(FOLDER, 2)
    judged = ours.evaluate()["eval_loss"]
    if ours.args.process_index == 0:
        torch.save((weights(ours.run.bundle), ours.train_loss, judged), FOLDER / "ranks.pt")
    torch.distributed.barrier()  # an exit with the other rank still there, or with gloo's threads, may abort
    torch.distributed.destroy_process_group()
