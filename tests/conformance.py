"""What every method must keep: one battery, for our own methods and for yours.

    from limbeck.registry import Method
    from tests.conformance import battery

    battery(Method("mine", "own", build, paper="-", needs=frozenset({"teacher"})), folder)

Each check takes a method and raises AssertionError. What a run must bring is built from `method.needs`, its settings
from `method.example`; models and data are as small as can be. The models have no batch statistics where batches are
split, since those couple examples whatever the method.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import SGD, UNLABELLED, Data, Objective, Run, registry
from limbeck.data import given
from limbeck.data.named import Images, digits
from limbeck.data.paired import Paired
from limbeck.models.gpt import GPT
from limbeck.records import Cached, Record
from limbeck.registry import Method

ROWS, BATCH, EPOCHS = 32, 8, 2

#: Settings that are large by default, or would leave tiny models idle; used by every method that has one so named.
SMALL = {"negatives": 16, "dim": 8, "threshold": 0.2}


# ---- what a run is made of ------------------------------------------------------------------------------------------


def block(channels: int, width: int, norm: Callable[[int], nn.Module], drop: float) -> nn.Module:
    conv = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, norm(width), nn.ReLU(), nn.Dropout(drop))


class Small(nn.Module):
    """The layers that methods name in their examples: layer1, layer2, layer3, and fc."""

    def __init__(
        self,
        width: int,
        norm: Callable[[int], nn.Module] = lambda width: nn.GroupNorm(2, width),
        drop: float = 0.0,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.layer1 = block(1, width, norm, drop)
        self.layer2 = block(width, width, norm, drop)
        self.layer3 = block(width, 2 * width, norm, drop)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


TOKENS, LENGTH = 12, 8


class OverTokens(nn.Module):
    """A norm of images on (b, n, width)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mT.unsqueeze(-1)).squeeze(-1).mT


class Speaker(GPT):
    """As Small, for sequences of tokens, with the layers blocks.0 and blocks.1."""

    def __init__(
        self, width: int, norm: Callable[[int], nn.Module] = lambda width: nn.Identity(), drop: float = 0.0
    ) -> None:
        super().__init__(TOKENS, width=width, depth=2, heads=1)
        self.norm = nn.Sequential(self.norm, OverTokens(norm(width)), nn.Dropout(drop))


def model_of(method: Method) -> Callable[..., nn.Module]:
    return Speaker if "sequences" in method.needs else Small


def seeded(seed: int, make: Callable[..., nn.Module], *args: Any, **settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(*args, **settings)


@cache
def first_digits() -> Images:
    return digits()[0]


def images(rows: int) -> tuple[Tensor, Tensor]:
    """Digits in floats of the default type, and their labels."""
    train = first_digits()
    return train.x[:rows].to(torch.get_default_dtype()) / 255, train.y[:rows].clone()


def texts(rows: int) -> tuple[dict[str, Tensor], Tensor]:
    """Sequences that count in steps, by all tokens but the last. Two tokens are the prompt; some end in padding."""
    first, by, short = torch.randint(0, 4, (3, rows, 1), generator=torch.Generator().manual_seed(0))
    place = torch.arange(LENGTH)
    ids = (first + (by + 1) * place) % (TOKENS - 1)
    return {"input_ids": ids}, ids.masked_fill((place < 2) | (place >= LENGTH - short), UNLABELLED)


class Letters:
    """A tokenizer of these tokens, the longest that fits first."""

    def __init__(self, *tokens: str) -> None:
        self.tokens, self.end, self.vocab_size = tokens, len(tokens), len(tokens) + 1

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        while text:
            ids.append(max((i for i, t in enumerate(self.tokens) if text.startswith(t)), key=self.length))
            text = text[self.length(ids[-1]) :]
        return ids

    def length(self, token: int) -> int:
        return len(self.tokens[token])

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.tokens[i] for i in ids if i != self.end)

    def spell(self, token: int) -> bytes:
        return b"" if token == self.end else self.tokens[token].encode()


#: Of the student and of the teacher; as many tokens, so that one model serves for both.
TOKENIZERS = Letters(*"abcdefg", "bc", "ce", "ac", "de"), Letters(*"abcde", "ab", "cd", "abc", "ea", "ca", "eb")


def two_tokenizations(rows: int) -> Paired:
    """The same counting, in letters."""
    ids = texts(rows)[0]["input_ids"] % 5
    words = ["".join("abcde"[i] for i in row) for row in ids.tolist()]
    pairs = [(word[:2], word[2 : len(word) - i % 3]) for i, word in enumerate(words)]
    return Paired.pairs(pairs, TOKENIZERS[0], LENGTH, teacher=TOKENIZERS[1])


def noisy(x: Tensor, draw: Callable[[str, int], Tensor]) -> Tensor:
    return x + 0.3 * (draw("noise", x[0].numel()).view_as(x).to(x) - 0.5)


def examples(method: Method) -> tuple[Any, Tensor]:
    """Some without a label, unless the method needs all labels."""
    if "tokenizers" in method.needs:
        data = two_tokenizations(ROWS)
        return data.x, given(data.y)
    if "sequences" in method.needs:
        return texts(ROWS)
    x, y = images(ROWS)
    if "unlabelled" in method.needs or "labels" not in method.needs:
        y[2::3] = UNLABELLED
    return x, y


def data_of(method: Method, x: Any, y: Tensor, **masks: Tensor) -> Data:
    """All that the method needs beside them; every other answer is wrong where it needs wrong ones."""
    if "wrong" in method.needs:
        wrong = torch.arange(len(y)) % 2 == 1
        masks |= {"right": ~wrong, "wrong": wrong}
    if "tokenizers" in method.needs:
        return Paired(x, y, *TOKENIZERS, masks=masks)
    views = {"strong": noisy} if "strong" in method.needs else {}
    return Data(x, y, views=views, masks=masks, classes=TOKENS if "sequences" in method.needs else 10)


def objective(method: Method, **settings: Any) -> Objective:
    small = {name: number for name, number in SMALL.items() if name in method.signature.parameters}
    return method(**{**method.example, **small, **settings})


def run_of(
    method: Method,
    /,
    *,
    student: Callable[[int], nn.Module] | None = None,
    teacher: Callable[[int], nn.Module] | None = None,
    **fields: Any,
) -> Run:
    """A small run with all that the method needs; equal calls give equal runs."""
    student, teacher = student or model_of(method), teacher or model_of(method)
    teachers = [seeded(9 + i, teacher, 6) for i in range(2)]
    given: dict[str, Any] = {
        "student": [seeded(i, student, 4) for i in range(2 if "students" in method.needs else 1)],
        "data": data_of(method, *examples(method)),
        "method": objective(method),
        "teacher": teachers if "teachers" in method.needs else teachers[0] if "teacher" in method.needs else None,
        "unlabelled": 1.0 if "unlabelled" in method.needs else None,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "accelerator": "cpu",
    }
    return Run(**given | fields)


def trained(run: Run) -> Run:
    run.fit()
    return run


def ending(run: Run) -> dict[str, Any]:
    """All that a run has at its end, but the time it took."""
    history = [{name: number for name, number in row.items() if name != "seconds"} for row in run.history]
    return {
        "bundle": run.bundle.state_dict(),
        "optimizer": run.torch_optimizer.state_dict(),
        "history": history,
        "rng": [run.rng.get_state(), run.local_rng.get_state()],
    }


def differences(first: Any, second: Any, at: str = "") -> list[str]:
    """The paths at which two nested values are not equal to the bit."""
    if isinstance(first, Tensor):
        equal = isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first, second)
        return [] if equal else [at]
    if isinstance(first, Mapping):
        if not isinstance(second, Mapping) or first.keys() != second.keys():
            return [f"{at} (keys)"]
        return [path for key in first for path in differences(first[key], second[key], f"{at}/{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{at} (length)"]
        return [
            path for i, pair in enumerate(zip(first, second, strict=True)) for path in differences(*pair, f"{at}/{i}")
        ]
    return [] if first == second else [f"{at}: {first!r}, {second!r}"]


@contextmanager
def double() -> Iterator[None]:
    """Models, data and state in float64, so that only a wrong sum can make a difference."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def close(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(dict(first), dict(second), rtol=1e-9, atol=1e-11)


# ---- the checks -----------------------------------------------------------------------------------------------------


def check_prints(method: Method) -> None:
    """It prints as the code that makes it, and is a value."""
    m = objective(method)
    assert registry.read(repr(m)) == m
    assert eval(repr(m), dict(registry.vocabulary())) == m
    assert m == objective(method)
    assert hash(m) == hash(objective(method))


def check_trains(method: Method, *, epochs: int = 12, lr: float = 0.02) -> None:
    """The loss of the last epoch is below that of the first of the same stage."""
    run = trained(run_of(method, epochs=epochs, optimizer=SGD(lr)))
    first, _ = run.method.span(epochs - 1, epochs)
    losses = [row["loss"] for row in run.history[first:]]
    start, end = next(filter(None, losses), 0.0), losses[-1]  # from the first epoch on in which an example counted
    assert end < start, f"{start:.4f} at first, {end:.4f} in the last epoch"


def check_accumulates(method: Method) -> None:
    """One forward of 8 rows gives the same weights and the same state as four of 2."""
    with double():
        whole, parts = trained(run_of(method)), trained(run_of(method, micro_batch=2))
    assert parts.num_micros(len(parts.plan(0)[0])) >= 4
    close(whole.bundle.state_dict(), parts.bundle.state_dict())


def check_resumes(method: Method, folder: Path) -> None:
    """From a checkpoint of any step and any epoch's end, the rest is the same to the bit, dropout too."""
    student = partial(model_of(method), drop=0.3)
    saver = Saver(folder)
    wanted = ending(trained(run_of(method, student=student, watcher=saver)))
    assert len(saver.paths) >= 3 * EPOCHS
    for path in saver.paths:
        run = run_of(method, student=partial(seeded, 77, student))  # other weights, which must not matter
        run.setup()
        torch.rand(3)  # nor may what the process drew before
        run.load(path)
        assert differences(ending(trained(run)), wanted) == [], path.name


class Saver:
    """Saves at every step and at every epoch's end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.paths = folder, list[Path]()

    def step(self, run: Run) -> None:
        self.paths.append(run.save(self.folder / f"step{run.steps_done}.ckpt"))

    def epoch(self, run: Run, row: Mapping[str, Any]) -> None:
        self.paths.append(run.save(self.folder / f"epoch{run.epoch}.ckpt"))


def check_teacher(method: Method) -> None:
    """A teacher with batch statistics stays in eval mode, and keeps every parameter and buffer."""
    run = run_of(method, teacher=partial(model_of(method), norm=nn.BatchNorm2d))
    teachers: list[nn.Module] = run.teacher if isinstance(run.teacher, list) else [run.teacher]  # type: ignore[assignment,list-item]
    modes: list[bool] = []
    for teacher in teachers:
        teacher.train()
        for layer in teacher.modules():
            layer.register_forward_pre_hook(lambda layer, args: modes.append(layer.training))
    before = [{name: each.clone() for name, each in teacher.state_dict().items()} for teacher in teachers]
    run.fit()
    assert modes, "the teacher never ran"
    assert not any(modes)
    assert differences([teacher.state_dict() for teacher in teachers], before) == []
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())


def check_all_trains(method: Method, folder: Path, *, idle: Sequence[str] = ()) -> None:
    """All that can be trained is in the optimiser and in the checkpoint, and was trained, but for `idle`."""
    run = run_of(method, optimizer=SGD(0.02, weight_decay=0.0))  # which would change what no loss reaches
    run.setup()
    before = {name: each.clone() for name, each in run.bundle.named_parameters() if each.requires_grad}
    in_optimizer = {id(each) for group in run.torch_optimizer.param_groups for each in group["params"]}
    assert in_optimizer == {id(each) for each in run.bundle.parameters() if each.requires_grad}
    assert not in_optimizer & {id(each) for teacher in run.teachers for each in teacher.parameters()}
    run.fit()
    after = dict(run.bundle.named_parameters())
    assert [name for name in before if torch.equal(before[name], after[name])] == list(idle)
    saved = torch.load(run.save(folder / "all.ckpt"), weights_only=True)["bundle"]
    assert differences(saved, run.bundle.state_dict()) == []
    assert before.keys() <= saved.keys()


def check_masked_rows(method: Method) -> None:
    """Rows that are not valid change nothing to the bit, whatever they hold and wherever they stand in a batch."""
    x, y = examples(method)
    plans = planned(method)

    def among(filling: float, labels: Tensor, in_batches: bool) -> Run:
        """A run whose data ends with four rows of this, none of them valid."""
        run = run_of(method)
        valid = torch.arange(len(y) + 4) < len(y)
        run.data = data_of(method, extended(x, filling), torch.cat([y, labels]), valid=valid)
        run.plan = lambda epoch: [with_garbage(ids) if in_batches else ids for ids in plans[epoch]]  # type: ignore[method-assign]
        return trained(run)

    labels = torch.tensor([99, -7, 3, UNLABELLED]).view(4, *[1] * (y.dim() - 1)).expand(4, *y.shape[1:])
    garbage = among(torch.nan, labels, True)
    zeros = among(0.0, torch.zeros_like(labels), False)
    assert differences(ending(garbage), ending(zeros)) == []
    if splits(method):  # a coupler may look at how many examples there are, say in a bank of all
        without = trained(run_of(method))
        assert differences(garbage.students[0].state_dict(), without.students[0].state_dict()) == []
        assert differences(ending(garbage)["history"], ending(without)["history"]) == []


def extended(x: Any, filling: float) -> Any:
    """Inputs and four rows more, full of a number; for ids, nan is one that no model knows."""
    if isinstance(x, Mapping):
        return {name: extended(part, filling) for name, part in x.items()}
    number = filling if x.is_floating_point() or filling == filling else 10**6
    return torch.cat([x, torch.full((4, *x.shape[1:]), number).to(x)])


def planned(method: Method) -> list[list[Tensor]]:
    run = run_of(method)
    run.setup()
    return [run.plan(epoch) for epoch in range(EPOCHS)]


def with_garbage(ids: Tensor) -> Tensor:
    """Two of the rows behind ROWS before these, and two among them."""
    front, middle = (ROWS + torch.arange(4)).split(2)
    return torch.cat([front, ids[:3], middle, ids[3:]])


def check_padding(method: Method) -> None:
    """What stands behind a sequence changes nothing to the bit."""
    x, y = examples(method)
    padding = (y != UNLABELLED).flip(1).cumsum(1).flip(1) == 0
    ends = []
    for other in (3, 5):
        moved = x | {"input_ids": torch.where(padding, (x["input_ids"] + other) % (TOKENS - 1), x["input_ids"])}
        ends.append(ending(trained(run_of(method, data=data_of(method, moved, y)))))
    assert differences(*ends) == []


def check_repeats(method: Method) -> None:
    """The same seed gives the same run to the bit, another one another."""
    student = partial(model_of(method), drop=0.3)
    first, again, other = (trained(run_of(method, student=student, seed=seed)) for seed in (3, 3, 4))
    assert differences(ending(first), ending(again)) == []
    one, two = (dict(run.students[0].named_parameters()) for run in (first, other))
    assert len(differences(one, two)) == len(one)


def check_precisions(method: Method) -> None:
    """It runs in every precision, with finite numbers."""
    for precision in ("bf16-mixed", "bf16-true", "64-true"):
        run = trained(run_of(method, precision=precision))
        assert all(math.isfinite(row["loss"]) for row in run.history), precision
        assert all(bool(each.isfinite().all()) for each in run.bundle.parameters()), precision


def check_record(method: Method, folder: Path) -> None:
    """From a record of what its teachers say it learns what it learns from them."""
    with double():
        online, stored = run_of(method), run_of(method)
        layers = sorted(name for role, name in online.method.reads if role == "teacher")
        signals, views = dict.fromkeys([".logits", *layers], "fp64"), dict.fromkeys(stored.data.views, EPOCHS)
        teachers = stored.teacher if isinstance(stored.teacher, list) else [stored.teacher]
        for i, teacher in enumerate(teachers):
            Record.capture(folder / str(i), teacher, stored.data, signals=signals, views=views, device="cpu")
        cached: list[Any] = [Cached(folder / str(i)) for i in range(len(teachers))]
        stored.teacher = cached if isinstance(stored.teacher, list) else cached[0]
        close(trained(stored).bundle.state_dict(), trained(online).bundle.state_dict())


# ---- two ranks ------------------------------------------------------------------------------------------------------


def check_ranks(method: Method, folder: Path) -> None:
    """Two processes end with the weights and state of one; `folder` is what `on_two_ranks` left."""
    with double():
        alone = trained(run_of(method)).bundle.state_dict()
    first, second = (torch.load(folder / f"{method.name}.{rank}.pt", weights_only=True) for rank in (0, 1))
    assert differences(first, second) == []
    close(first, alone)


def on_two_ranks(methods: Sequence[Method], folder: Path) -> Path:
    """Train each method in one pair of processes, started as a user's own script would be, and keep what they ended
    with. The methods' functions must be importable."""
    (folder / "methods.pkl").write_bytes(pickle.dumps(list(methods)))
    clean = {
        name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.ranks", str(folder)],
        cwd=Path(__file__).parents[1],
        env={**clean, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def splits(method: Method) -> bool:
    """May its batches be split over micro-batches and ranks?"""
    return not objective(method).couples_examples


def battery(method: Method, folder: Path, *, ranks: Path | None = None) -> None:
    """All checks of one method; `ranks` is what `on_two_ranks` left, if it has trained the method already."""
    check_prints(method)
    check_trains(method)
    check_resumes(method, folder)
    check_all_trains(method, folder)
    check_masked_rows(method)
    check_repeats(method)
    check_precisions(method)
    if "sequences" in method.needs:
        check_padding(method)
    if method.needs & {"teacher", "teachers"}:
        check_teacher(method)
        check_record(method, folder / "records")
    if splits(method):
        check_accumulates(method)
        check_ranks(method, ranks or on_two_ranks([method], folder))
