"""Language models distilled on the source of Python's standard library: bits per byte on files that nobody saw.

    python -m bench.language --folder work --seeds 0 1 2 --out bench/results/language.json

A teacher of 3 million parameters and students of half a million, whose first steps are on the labels alone, as language
models are before they are distilled; then each way goes on from there for as many steps. It can be stopped and started
again, and several processes may share the folder's teachers if each has seeds of its own: what is there is kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.step import commit, rounded
from limbeck import CE, JSD, KL, TAID, AdamW, Cosine, Objective, ReverseKL, Run, make
from limbeck.data.paired import Paired
from limbeck.data.select import subset
from limbeck.data.text import BPE, Tokens, python_source
from limbeck.evaluate import interval, paired
from limbeck.experiment import write_whole
from limbeck.generate import generate
from limbeck.language import distinct, scores, speed
from limbeck.models.gpt import GPT
from limbeck.records import Cached, Record

LENGTH, BATCH = 64, 16
FIRST, FURTHER, TEACHING = 300, 200, 1440  # steps: of every student, of every way, of the teacher at its batch size
TEACHER, STUDENT = {"width": 224, "depth": 5, "heads": 7}, {"width": 96, "depth": 4, "heads": 4}
TOKENS, OTHER_TOKENS, PROMPT = 1024, 512, 8

WAYS: dict[str, Callable[[], Objective]] = {
    "student alone": CE,
    "sequence CE": CE,  # on texts of the teacher
    "forward KL": lambda: KL(1.0),
    "reverse KL": lambda: ReverseKL(1.0),
    "JSD": lambda: JSD(0.5),
    "GKD, on-policy": lambda: make("gkd", beta=0.5, rate=0.5, prompt=PROMPT),
    "TAID": lambda: TAID(),
    "DistiLLM": lambda: make("distillm", rate=0.5, prompt=PROMPT),
    "forward KL, record of 16 samples": lambda: KL(1.0),
    "forward KL, record of 50 samples": lambda: KL(1.0),
    "student alone, other tokenizer": CE,
    "ALM, other tokenizer": lambda: make("alm", weight=100.0),
    "ALM unmerged, other tokenizer": lambda: make("alm", weight=100.0, merge=None),
}


@cache
def texts() -> tuple[list[str], list[str]]:
    train, test = python_source()
    return train, ["".join(test)[:120_000]]


@cache
def tokenizer(size: int) -> BPE:
    return BPE.train(texts()[0], size)


@cache
def packed(size: int, part: int) -> Tokens:
    return Tokens.packed(texts()[part], tokenizer(size), LENGTH)


@cache
def aligned() -> Paired:
    return Paired.packed(texts()[0], tokenizer(OTHER_TOKENS), LENGTH, teacher=tokenizer(TOKENS))


def some(data: Tokens, steps: int, seed: int, batch: int = BATCH) -> Tokens:
    """As many blocks as these steps see, each once."""
    ids = torch.randperm(data.num_examples, generator=torch.Generator().manual_seed(seed))[: steps * batch]
    if len(ids) < steps * batch:
        raise SystemExit(f"{data.num_examples} blocks are too few for {steps} steps of {batch}")
    return subset(data, ids)


def trained(model: nn.Module, data: Tokens, method: Objective, seed: int, lr: float, **settings: Any) -> nn.Module:
    settings = {"batch_size": BATCH, "epochs": 1, "clip": 1.0, "accelerator": "cpu", **settings}
    run = Run(student=model, data=data, method=method, seed=seed, optimizer=AdamW(Cosine(lr)), **settings)
    run.fit()
    return model


def seeded(seed: int, size: int, settings: dict[str, int]) -> GPT:
    torch.manual_seed(seed)
    return GPT(size, **settings)


def kept(path: Path, model: GPT, train: Callable[[GPT], object]) -> GPT:
    """The model's weights are read, or made and written."""
    if not path.exists():
        train(model)
        torch.save(model.state_dict(), path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def teacher(folder: Path) -> GPT:
    data = some(packed(TOKENS, 0), TEACHING // 2, 0, 32)
    model = seeded(1000, TOKENS, TEACHER)
    return kept(folder / "teacher.pt", model, lambda each: trained(each, data, CE(), 0, 2e-3, batch_size=32, epochs=2))


def written(folder: Path) -> Tokens:
    """Texts of the teacher after the first tokens of the data's, for sequence-level distillation (Kim & Rush 2016)."""
    path = folder / "written.pt"
    prompts = some(packed(TOKENS, 0), FURTHER, 77)
    if not path.exists():
        chance, model, parts = torch.Generator().manual_seed(0), teacher(folder), []
        for ids in prompts.x["input_ids"].split(200):
            lengths = torch.full((len(ids),), PROMPT)
            parts.append(generate(model, ids[:, :PROMPT], lengths, new=LENGTH - PROMPT, generator=chance)[0])
        torch.save(torch.cat(parts), path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
    ids = torch.load(path, weights_only=True)
    return Tokens({"input_ids": ids}, ids, tokenizer(TOKENS))


def measured(way: str, seed: int, folder: Path) -> dict[str, float]:
    """One student: its scores on the held-out files."""
    size = OTHER_TOKENS if "other tokenizer" in way else TOKENS
    first = some(packed(size, 0), FIRST, 10 + seed)
    student = kept(folder / f"first-{size}-{seed}.pt", seeded(seed, size, STUDENT),
                   lambda each: trained(each, first, CE(), seed, 2e-3))  # fmt: skip
    student = copy.deepcopy(student)
    alone = way.startswith("student alone")
    data = written(folder) if way == "sequence CE" else some(
        aligned() if way.startswith("ALM") else packed(size, 0), FURTHER, 20 + seed)  # fmt: skip
    taught: Any = None if alone or way == "sequence CE" else teacher(folder)
    if "record" in way:
        place = folder / f"record-{seed}"
        shutil.rmtree(place, ignore_errors=True)
        Record.capture(place, taught, data, signals={".logits": f"sampled={way.split()[-2]}"}, seed=seed)
        taught = Cached(place)
    start = time.perf_counter()
    trained(student, data, WAYS[way](), seed, 1e-3, teacher=taught)
    seconds = time.perf_counter() - start
    told = teacher(folder) if size == TOKENS else None
    found = judged(student, size, told)
    return found | {"seconds": seconds}


def judged(model: GPT, size: int, told: GPT | None = None) -> dict[str, float]:
    from limbeck.signals import as_net

    test = packed(size, 1)
    found = scores(as_net(model), test, None if told is None else as_net(told))
    prompts = test.x["input_ids"][:64, :PROMPT]
    lengths = torch.full((64,), PROMPT)
    said = generate(model, prompts, lengths, new=48, generator=torch.Generator().manual_seed(0))[0]
    return found | {"distinct_2": distinct(said[:, PROMPT:].tolist(), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for models and single results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, help="where the JSON of all that the folder has goes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for way in args.ways:
            path = args.folder / f"{way}-{seed}.json"
            if not path.exists():
                found = measured(way, seed, args.folder)
                write_whole(path, json.dumps(found))
                print(seed, way, {name: round(number, 4) for name, number in found.items()}, flush=True)
    if args.out:
        write_whole(args.out, json.dumps(rounded(summary(args.folder)), indent=1) + "\n")


def summary(folder: Path) -> dict[str, Any]:
    rows = []
    for way in WAYS:
        files = sorted(folder.glob(f"{way}-*.json"))
        each = [json.loads(file.read_text()) for file in files]
        if not each:
            continue
        names = each[0].keys()
        row: dict[str, Any] = {"way": way, "seeds": [int(file.stem.rsplit("-", 1)[1]) for file in files]}
        row |= {name: [one[name] for one in each] for name in names}
        row["mean"] = interval(row["bits_per_byte"])
        base = "student alone, other tokenizer" if "other tokenizer" in way else "student alone"
        row["gain"] = None if way == base else over(row, base, folder)
        if "record" in way:
            row["over the running teacher"] = over(row, "forward KL", folder)
        rows.append(row)
    model = teacher(folder)
    return {
        "what": "bits per byte on held-out files of the standard library; gain: paired with the student alone, by seed",
        "commit": commit(),
        "torch": torch.__version__,
        "threads": 1,
        "settings": {
            "tokens": TOKENS, "other tokens": OTHER_TOKENS, "length": LENGTH, "batch": BATCH, "steps before": FIRST,
            "steps": FURTHER, "teacher": {**TEACHER, "steps": TEACHING, "batch": 32}, "student": STUDENT,
            "optimizer": "AdamW(Cosine(0.002)) first, then AdamW(Cosine(0.001))",
        },
        "parameters": {"teacher": count(model), "student": count(seeded(0, TOKENS, STUDENT))},
        "teacher": judged(model, TOKENS) | {"tokens_per_second": speed(model, prompts())},
        "student tokens_per_second": speed(seeded(0, TOKENS, STUDENT), prompts()),
        "methods": {way: repr(method()) for way, method in WAYS.items()},
        "rows": rows,
    }  # fmt: skip


def over(row: dict[str, Any], way: str, folder: Path) -> Any:
    """The difference to another way in bits per byte, paired by seed."""
    others = [json.loads((folder / f"{way}-{seed}.json").read_text())["bits_per_byte"] for seed in row["seeds"]]
    return paired(row["bits_per_byte"], others)


def prompts() -> Tensor:
    ids: Tensor = packed(TOKENS, 1).x["input_ids"][:16, :PROMPT]
    return ids


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
