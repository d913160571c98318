"""The one training loop: steps, rows, checkpoints, and what may end a run."""

import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from limbeck import CE, KL, SGD, AdamW, Cosine, Data, Hint, MultiStep, Objective, Run, Stages, kd
from limbeck.errors import CheckpointError, DataError, Interrupted, SettingError
from tests.conformance import Saver, Small, close, differences, double, ending, images, seeded, trained

ROWS, BATCH = 32, 8


def build(method: Objective = kd(), *, seed: int = 0, **fields: Any) -> Run:  # noqa: B008
    """A student and a teacher without batch statistics; 4 steps an epoch, 3 epochs."""
    given: dict[str, Any] = {"student": seeded(0, Small, 4), "teacher": seeded(1, Small, 6), "data": images(ROWS)}
    given |= {"epochs": 3, "batch_size": BATCH, "accelerator": "cpu", "seed": seed}
    return Run(method=method, **given | fields)


def weights(run: Run) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in run.students[0].module.state_dict().items()}


class Each:
    """Calls a function after every step, another after every epoch."""

    def __init__(
        self, step: Callable[[Run], Any] = lambda run: None, epoch: Callable[[Run], Any] = lambda run: None
    ) -> None:
        self.at_step, self.at_epoch = step, epoch

    def step(self, run: Run) -> None:
        self.at_step(run)

    def epoch(self, run: Run, row: Mapping[str, Any]) -> None:
        self.at_epoch(run)


# ---- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "twin"),
    [
        (SGD(0.1), partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)),
        (SGD(0.1, 0.5, 0.0, nesterov=True), partial(torch.optim.SGD, lr=0.1, momentum=0.5, nesterov=True)),
        (AdamW(0.01), partial(torch.optim.AdamW, lr=0.01)),
        (
            AdamW(0.01, (0.8, 0.9), 0.1, 1e-6),
            partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1, eps=1e-6),
        ),
    ],
)
@pytest.mark.parametrize("clip", [None, 0.03])
def test_distils_as_a_plain_loop_does(
    optimizer: Any, twin: Callable[..., torch.optim.Optimizer], clip: float | None
) -> None:
    with double():
        run = build(0.1 * CE() + 0.9 * KL(4.0), optimizer=optimizer, clip=clip)
        student, teacher = seeded(0, Small, 4), seeded(1, Small, 6).eval()
        x, y = images(ROWS)
        run.fit()
        plain = twin(student.parameters())
        for epoch in range(3):
            for ids in run.plan(epoch):
                with torch.no_grad():
                    target = (teacher(x[ids]) / 4).softmax(-1)
                logits = student(x[ids])
                soft = F.kl_div((logits / 4).log_softmax(-1), target, reduction="batchmean") * 16
                plain.zero_grad()
                (0.1 * F.cross_entropy(logits, y[ids]) + 0.9 * soft).backward()
                if clip is not None:
                    norm = nn.utils.clip_grad_norm_(student.parameters(), clip)
                    assert norm > clip
                plain.step()
        close(weights(run), student.state_dict())


def test_schedule_of_the_learning_rate_is_seen_in_the_rows_and_used() -> None:
    falling = MultiStep(0.1, at=(1 / 3, 2 / 3), factor=0.5)
    used: list[float] = []
    run = build(
        optimizer=SGD(falling), watcher=Each(lambda run: used.append(run.torch_optimizer.param_groups[0]["lr"]))
    )
    assert [row["lr"] for row in run.fit()] == [0.1, 0.05, 0.025]
    assert used == [0.1] * 4 + [0.05] * 4 + [0.025] * 4
    by_step = build(optimizer=SGD(Cosine(0.1))).fit()
    assert [row["lr"] for row in by_step] == [0.05 * (1 + math.cos(math.pi * step / 12)) for step in (3, 7, 11)]


def test_each_stage_starts_schedules_and_momenta_again() -> None:
    lrs: list[float] = []
    stages = Stages(((CE(), 1), (CE(), None)))
    Each(lambda run: lrs.append(run.torch_optimizer.param_groups[0]["lr"]))
    build(
        stages, optimizer=SGD(Cosine(1e-3)), watcher=Each(lambda r: lrs.append(r.torch_optimizer.param_groups[0]["lr"]))
    ).fit()
    assert lrs[0] == lrs[4] == 1e-3
    assert lrs[4:] == sorted(lrs[4:], reverse=True)

    def forget(run: Run) -> None:
        if run.epoch == 1:
            run.torch_optimizer.state.clear()

    staged, cleared, kept = build(stages), build(CE(), watcher=Each(epoch=forget)), build(CE())
    assert differences(weights(trained(staged)), weights(trained(cleared))) == []
    assert differences(weights(staged), weights(trained(kept))) != []


def test_first_stage_leaves_what_it_does_not_reach() -> None:
    run = build(Stages(((Hint("layer2"), 4), (CE(), 1))), epochs=5)
    run.setup()
    before = weights(run)
    at_change: list[dict[str, Tensor]] = []
    run.watcher = Each(epoch=lambda run: at_change.append(weights(run)))
    history = run.fit()
    assert {path.split("/")[1].split(".")[0] for path in differences(at_change[3], before)} == {"layer1", "layer2"}
    assert history[3]["loss"] < history[0]["loss"]
    assert list(history[0]["terms"]) == ["hint"]
    assert list(history[4]["terms"]) == ["ce"]


def test_too_small_a_last_batch_is_left_out() -> None:
    def sizes(rows: int, **fields: Any) -> list[int]:
        run = build(data=images(rows), **fields)
        run.setup()
        return [len(ids) for ids in run.plan(0)]

    assert sizes(18) == [8, 8, 2]
    assert sizes(17) == [8, 8]
    assert sizes(19, micro_batch=2) == [8, 8]  # 3 rows in two forwards would leave one of them with one
    assert sizes(20, micro_batch=2) == [8, 8, 4]
    assert sizes(5) == [5]


def test_micro_batches_of_masked_rows_only() -> None:
    with double():
        x, y = images(ROWS)
        valid = torch.ones(ROWS).bool()
        valid[4:7] = False
        ids = [torch.arange(8), torch.arange(8, 16)]
        runs = []
        for micro_batch in (None, 2):
            run = build(data=Data(x, y, masks={"valid": valid}), micro_batch=micro_batch, epochs=1)
            run.plan = lambda epoch: ids  # type: ignore[method-assign]
            runs.append(weights(trained(run)))
        assert len(ids[0].split(2)) == 4
        close(*runs)


def test_step_without_a_valid_row_is_no_nan() -> None:
    x, y = images(ROWS)
    run = build(data=Data(x, y, masks={"valid": torch.arange(ROWS) < 8}), epochs=1)
    run.plan = lambda epoch: [torch.arange(8), torch.arange(8, 16)]  # type: ignore[method-assign]
    assert math.isfinite(run.fit()[0]["loss"])
    assert all(each.isfinite().all() for each in weights(run).values())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16), ("64-true", torch.float64)]
)
def test_precision(precision: str, dtype: torch.dtype, tmp_path: Path) -> None:
    def precise(**fields: Any) -> Run:
        return build(CE() + KL(4.0) + Hint("layer2"), test=images(20), **fields)

    run, plain = precise(precision=precision, watcher=Saver(tmp_path)), precise()
    assert run.fit()[0]["loss"] == pytest.approx(plain.fit()[0]["loss"], rel=0.05)
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert run.history[-1]["nll"] == pytest.approx(plain.history[-1]["nll"], rel=0.1)
    assert differences(weights(run), weights(plain)) != []
    assert {each.dtype for each in run.bundle.parameters()} == {dtype}
    resumed = precise(precision=precision)
    resumed.load(tmp_path / "step6.ckpt")
    assert differences(ending(trained(resumed)), ending(run)) == []


def test_hugging_face_models_learn_from_mappings() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    def bert(layers: int) -> nn.Module:
        settings = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=20, num_labels=3, num_hidden_layers=layers, **settings)
        return BertForSequenceClassification(config)

    tokens = torch.randint(0, 20, (24, 5), generator=torch.Generator().manual_seed(0))
    texts = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    method = CE() + KL(2.0) + Hint(("bert.encoder.layer.0", "bert.encoder.layer.1"))
    run = build(
        method,
        student=seeded(0, bert, 1),
        teacher=seeded(1, bert, 2),
        data=(texts, tokens[:, 0] % 3),
        optimizer=AdamW(0.01),
        test=(texts, tokens[:, 0] % 3),
        epochs=10,
    )
    first, *_, last = run.fit()
    assert set(first["terms"]) == {"ce", "kl", "hint"}
    assert last["loss"] < first["loss"]
    assert last["accuracy"] > 0.5


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_rows_hold_the_mean_over_the_steps_of_an_epoch() -> None:
    run = build(2.0 * CE() + KL(2.0), optimizer=SGD(0.0), data=images(28))
    history = run.fit()
    assert [(row["epoch"], row["step"]) for row in history] == [(1, 4), (2, 8), (3, 12)]
    x, y = images(28)
    logits = run.students[0](x).logits.detach()
    means = [F.cross_entropy(logits[ids], y[ids]).item() for ids in run.plan(1)]
    assert len(run.plan(1)[-1]) == 4
    assert history[1]["terms"]["ce"] == pytest.approx(2 * sum(means) / 4, rel=1e-5)
    for row in history:
        assert row["loss"] == sum(row["terms"].values())
        assert set(row) == {"epoch", "step", "loss", "terms", "lr", "seconds"}
        assert row["seconds"] >= 0


def test_rows_judge_the_student_on_test_data() -> None:
    x, y = images(60)
    run = build(test=(x[32:], y[32:]))
    history = run.fit()
    student, teacher = run.students[0].module.eval(), seeded(1, Small, 6).eval()
    logits = student(x[32:])
    assert history[-1]["accuracy"] == pytest.approx((logits.argmax(-1) == y[32:]).float().mean().item())
    assert history[-1]["nll"] == pytest.approx(F.cross_entropy(logits, y[32:]).item(), rel=1e-5)
    agree = (logits.argmax(-1) == teacher(x[32:]).argmax(-1)).float().mean().item()
    assert history[-1]["agreement"] == pytest.approx(agree)
    torch.testing.assert_close(run.predict(run.students[0]), logits.detach())
    assert "agreement" not in build(CE(), teacher=None, test=(x[32:], y[32:])).fit()[-1]


def test_judging_does_not_change_the_run() -> None:
    student = partial(Small, norm=nn.BatchNorm2d, drop=0.3)
    alone, judged = (build(student=seeded(0, student, 4), test=test) for test in (None, images(20)))
    assert differences(weights(trained(judged)), weights(trained(alone))) == []


def test_nothing_to_judge_on() -> None:
    run = build()
    run.setup()
    with pytest.raises(SettingError, match=r"give Run\(test=\(x, y\)\)"):
        run.evaluate()
    with pytest.raises(SettingError, match=r"give Run\(test=\.\.\.\)"):
        run.predict(run.students[0])


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_file_has_the_rows_of_this_run(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    history = build(folder=folder, test=images(20)).fit()
    assert read_rows(folder) == history
    again = build(folder=folder, epochs=2).fit()  # a new run takes the folder over
    assert read_rows(folder) == again


def test_metrics_file_after_a_resume_has_no_row_of_the_lost_end(tmp_path: Path) -> None:
    kept = tmp_path / "kept.ckpt"
    build(folder=tmp_path, watcher=Each(epoch=lambda run: run.save(kept) if run.epoch == 1 else None)).fit()
    assert len(read_rows(tmp_path)) == 3
    kept.rename(tmp_path / "last.ckpt")
    run = build(folder=tmp_path)
    run.load(tmp_path / "last.ckpt")
    assert len(read_rows(tmp_path)) == 1
    history = run.fit()
    assert read_rows(tmp_path) == history
    assert len(history) == 3


def test_loggers_get_the_numbers(tmp_path: Path) -> None:
    from lightning_fabric.loggers import CSVLogger

    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    history = build(loggers=logger).fit()
    header, *lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert {"epoch", "loss", "lr", "terms/ce", "terms/kl"} <= set(header.split(","))
    assert len(lines) == len(history)


def test_watchers_see_every_step_and_every_row() -> None:
    seen: list[Any] = []
    run = build(watcher=Each(lambda run: seen.append(run.steps_done), lambda run: seen.append(("row", run.epoch))))
    run.fit()
    assert seen == [1, 2, 3, 4, ("row", 1), 5, 6, 7, 8, ("row", 2), 9, 10, 11, 12, ("row", 3)]


def test_second_fit_does_nothing() -> None:
    run = build()
    history = list(run.fit())
    before = weights(run)
    assert run.fit() == history
    assert differences(weights(run), before) == []


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_save_every_counts_steps(tmp_path: Path) -> None:
    saved: list[int] = []

    def look(run: Run) -> None:
        path = tmp_path / "last.ckpt"
        saved.append(torch.load(path, weights_only=True)["progress"][2] if path.exists() else 0)

    build(folder=tmp_path, save_every=3, watcher=Each(look)).fit()
    assert saved == [0, 0, 0, 3, 4, 4, 6, 6, 8, 9, 9, 9]  # before each step's own; epochs of 4 are saved as well
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "metrics.jsonl"]


def test_saving_needs_a_place(tmp_path: Path) -> None:
    run = build()
    run.setup()
    with pytest.raises(SettingError, match=r"give save\(path\) or Run\(folder=\.\.\.\)"):
        run.save()
    assert run.save(tmp_path / "new" / "a.ckpt") == tmp_path / "new" / "a.ckpt"


def test_resume_without_a_checkpoint_starts(tmp_path: Path) -> None:
    assert len(build(folder=tmp_path / "none").fit(resume=True)) == 3
    assert len(build().fit(resume=True)) == 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build(optimizer=AdamW(0.01), epochs=1)
    run.fit()
    return run.save(tmp_path_factory.mktemp("saved") / "good.ckpt")


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def rewritten(checkpoint: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    saved = torch.load(checkpoint, weights_only=True)
    saved = change(saved) or saved
    torch.save(saved, folder / "changed.ckpt")
    return folder / "changed.ckpt"


def test_checkpoint_of_another_run_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    same = partial(build, optimizer=AdamW(0.01), epochs=1)
    same().load(checkpoint)

    class Deeper(Small):
        def __init__(self) -> None:
            super().__init__(4)
            self.more = nn.BatchNorm2d(4, affine=False)

    with pytest.raises(CheckpointError, match=r"of the method 0\.1 \* CE.*this run's is CE\(\)"):
        same(CE()).load(checkpoint)
    with pytest.raises(CheckpointError, match=r"size mismatch for students\.0\.module\.layer1"):
        same(student=seeded(0, Small, 6)).load(checkpoint)
    with pytest.raises(CheckpointError, match=r"Missing key.*students\.0\.module\.more"):
        same(student=Deeper()).load(checkpoint)
    with pytest.raises(CheckpointError, match="no checkpoint of this run"):
        same().load(trained(build(optimizer=SGD(0.1), epochs=1)).save(tmp_path / "other.ckpt"))
    twice = rewritten(
        checkpoint, tmp_path, lambda saved: saved.update(streams=[s.repeat(2, 1) for s in saved["streams"]])
    )
    with pytest.raises(CheckpointError, match="of 2 ranks; this run has 1"):
        same().load(twice)


@pytest.mark.parametrize(
    "broken",
    [
        lambda good, folder: good[:0],
        lambda good, folder: good[: len(good) // 2],
        lambda good, folder: good[:-10],
        lambda good, folder: b"hello there",
    ],
    ids=["empty", "half", "short", "text"],
)
def test_broken_file_is_refused(checkpoint: Path, tmp_path: Path, broken: Callable[..., bytes]) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes(broken(checkpoint.read_bytes(), tmp_path))
    with pytest.raises(CheckpointError, match=r"broken\.ckpt is no checkpoint of this run"):
        build(optimizer=AdamW(0.01), epochs=1).load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: [1, 2],
        lambda saved: saved["bundle"],
        lambda saved: saved.pop("streams") and None,
        lambda saved: saved.pop("optimizer") and None,
    ],
    ids=["list", "weights", "without streams", "without optimizer"],
)
def test_file_of_something_else_is_refused(checkpoint: Path, tmp_path: Path, change: Callable[..., Any]) -> None:
    with pytest.raises(CheckpointError, match=r"changed\.ckpt is no checkpoint of this run"):
        build(optimizer=AdamW(0.01), epochs=1).load(rewritten(checkpoint, tmp_path, change))


def test_file_that_runs_code_does_not(checkpoint: Path, tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    path = rewritten(checkpoint, tmp_path, lambda saved: saved.update(history=RunsCode(harm)))
    with pytest.raises(CheckpointError, match="is no checkpoint of this run"):
        build(optimizer=AdamW(0.01), epochs=1).load(path)
    assert not harm.exists()
    torch.load(path, weights_only=False)
    assert harm.exists()  # it would have


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        build().load(tmp_path / "none.ckpt")


class Jittered(Dataset[Any]):
    """Items with a random transform."""

    def __init__(self) -> None:
        self.x, self.y = images(ROWS)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int) -> Any:
        return self.x[i] + 0.1 * torch.rand(1, 8, 8), self.y[i]


def test_resumes_to_the_bit_with_random_transforms_and_workers(tmp_path: Path) -> None:
    def jittered(**fields: Any) -> Run:
        data = Data(Jittered(), workers=1, classes=10)
        return build(student=seeded(0, Small, 4, drop=0.3), data=data, epochs=2, **fields)

    saver = Saver(tmp_path)
    wanted = ending(trained(jittered(watcher=saver)))
    run = jittered()
    run.load(tmp_path / "step2.ckpt")
    assert differences(ending(trained(run)), wanted) == []


# ---- what ends a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 1.0])
def test_loss_that_is_no_number(tmp_path: Path, clip: float | None) -> None:
    def poison(run: Run) -> None:
        if run.steps_done == 6:
            nn.init.constant_(run.students[0].module.fc.bias, float("nan"))

    run = build(folder=tmp_path, clip=clip, watcher=Each(poison))
    with pytest.raises(DataError, match=r"the loss is nan in epoch 2 \(terms: .*ce.*\).*Lower the learning rate"):
        run.fit()
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["progress"] == [1, 0, 4]
    assert all(each.isfinite().all() for each in saved["bundle"].values())
    assert differences(ending(resumed(tmp_path, clip=clip)), ending(trained(build(clip=clip)))) == []


def resumed(folder: Path, **fields: Any) -> Run:
    run = build(folder=folder, **fields)
    run.fit(resume=True)
    return run


@pytest.fixture
def handler() -> Iterator[Any]:
    """The handler of ctrl-C must be as it was."""
    before = signal.getsignal(signal.SIGINT)
    yield before
    assert signal.getsignal(signal.SIGINT) is before


def interrupt_at(step: int, times: int = 1) -> Each:
    def at(run: Run) -> None:
        if run.steps_done == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return Each(at)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 12])
def test_interrupt_finishes_the_step_and_saves(step: int, tmp_path: Path, handler: Any) -> None:
    run = build(folder=tmp_path, watcher=interrupt_at(step))
    with pytest.raises(Interrupted, match=rf"stopped after step {step}; saved as .*last\.ckpt: go on with resume"):
        run.fit()
    assert run.steps_done == step
    assert differences(ending(resumed(tmp_path)), ending(trained(build()))) == []
    assert [row["epoch"] for row in read_rows(tmp_path)] == [1, 2, 3]


def test_interrupt_without_a_folder_says_that_nothing_is_saved(handler: Any) -> None:
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2; no folder, nothing saved"):
        build(watcher=interrupt_at(2)).fit()


def test_second_interrupt_is_at_once(tmp_path: Path, handler: Any) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        build(folder=tmp_path, watcher=interrupt_at(2, times=2)).fit()
    assert not isinstance(caught.value, Interrupted)


def test_runs_in_a_thread() -> None:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(build(epochs=1).fit()))
    thread.start()
    thread.join()
    assert len(done[0]) == 1


def slow(folder: Path) -> None:
    """What the interrupted process runs."""

    def say(run: Run) -> None:
        print(run.steps_done, flush=True)
        time.sleep(0.1)

    build(folder=folder, watcher=Each(say)).fit()


def test_ctrl_c_in_a_process_leaves_a_run_that_resumes_to_the_bit(tmp_path: Path) -> None:
    code = f"from tests.test_run import slow; from pathlib import Path; slow(Path({str(tmp_path)!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "6":
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "limbeck.errors.Interrupted: stopped after step" in errors
    stopped = torch.load(tmp_path / "last.ckpt", weights_only=True)["progress"][2]
    assert 6 <= stopped < 12
    assert differences(ending(resumed(tmp_path)), ending(trained(build()))) == []


# ---- kill -9 --------------------------------------------------------------------------------------------------------

KILLS = 10


def heavy(**fields: Any) -> Run:
    """A checkpoint of 4 MB after every step, so that a killer is likely to meet a write."""
    student = seeded(0, Small, 4)
    student.register_buffer("ballast", torch.zeros(1_000_000))
    return build(student=student, epochs=KILLS + 5, **{"save_every": 1, **fields})


def write_for_ever(folder: Path, hang: bool = False) -> None:
    """With `hang`, the second write never gets from the partial file to its place: a kill then surely meets a write."""
    torch.set_num_threads(1)
    if hang:
        replace, writes = os.replace, itertools.count()
        os.replace = lambda *names: time.sleep(600) if next(writes) else replace(*names)
    heavy(folder=folder).fit(resume=True)


def written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def breathe(process: Any) -> None:
    assert process.is_alive()
    time.sleep(0.0002)


def test_kill_in_the_middle_of_a_write_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """One process after the other goes on from the last checkpoint, until it is killed at a moment of no choice."""
    heavy().setup()  # imports what the processes then have
    rng = random.Random(0)
    last, half = tmp_path / "last.ckpt", tmp_path / "last.ckpt.partial"
    steps = 0
    for kill in range(KILLS):
        half.unlink(missing_ok=True)
        before, hang = written(last), kill % 2 == 1
        process = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path, hang))
        process.start()
        while written(last) == before:  # until it got on by a step
            breathe(process)
        while hang and not half.exists():
            breathe(process)
        time.sleep(rng.uniform(0.0, 0.01))
        process.kill()
        process.join()
        assert half.exists() or not hang
        run = heavy()
        run.load(last)
        assert run.steps_done >= steps
        steps = run.steps_done
    assert steps >= KILLS / 2
    write_for_ever(tmp_path)
    ended = heavy(folder=tmp_path)
    ended.fit(resume=True)
    assert differences(ending(ended), ending(trained(heavy(save_every=None)))) == []
    assert [row["epoch"] for row in read_rows(tmp_path)] == list(range(1, KILLS + 6))
