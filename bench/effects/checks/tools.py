"""Systems that are functions: choosing texts, telling texts seen before, fitting laws, saving memory."""

from __future__ import annotations

import ast
import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bench.effects.core import Arms, check
from bench.effects.toys import digits, fit, layers, percent
from bench.linear import measured
from limbeck import CE, KL, SGD, AdamW, Cosine
from limbeck.data.domains import dc_pdd, min_k, zip_fit
from limbeck.data.select import subset
from limbeck.data.text import BPE, Tokens, python_source
from limbeck.models.gpt import GPT

# --- ZIP-FIT: functions of one package among those of others ---------------------------------------------------------

PACKAGES = ("asyncio", "email", "idlelib", "multiprocessing", "tkinter", "unittest")


@cache
def functions(package: str) -> list[str]:
    """The source of all its functions of 300 to 900 characters."""
    found = []
    for file in sorted((Path(sysconfig.get_path("stdlib")) / package).glob("*.py")):
        source = file.read_text(encoding="utf-8")
        nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
        texts = (ast.get_source_segment(source, node) or "" for node in nodes)
        found += [text for text in texts if 300 <= len(text) <= 900]
    return found


def dsir(pool: list[str], target: list[str]) -> np.ndarray:
    """Log-ratio of hashed words and pairs of words between the target and the pool, per word (Xie et al. 2023)."""
    hashed = HashingVectorizer(n_features=10_000, ngram_range=(1, 2), norm=None, alternate_sign=False)
    ours, theirs = hashed.transform(pool), hashed.transform(target)
    ratio = np.log(theirs.sum(0) + 1) - np.log(theirs.sum() + 1e4) - np.log(ours.sum(0) + 1) + np.log(ours.sum() + 1e4)
    return np.asarray(ours @ ratio.T).squeeze(1) / np.asarray(ours.sum(1)).squeeze(1)


@check(
    "zip_fit",
    baseline="DSIR: hashed words and pairs of words",
    claim="finds the functions of the task's package better",
    figure="area under ROC in percent",
    settings={
        "pool": "40 functions (300 to 900 characters) of one package of the standard library, 160 of five others",
        "task": "20 other functions of the package",
        "packages": ", ".join(PACKAGES),
        "of": "the mean over the packages",
    },
)
def of_the_package(seed: int) -> Arms:
    rng = np.random.default_rng(seed)
    shuffled = {name: list(rng.permutation(functions(name))) for name in PACKAGES}
    areas: dict[str, list[float]] = {"method": [], "baseline": []}
    for package in PACKAGES:
        others = [text for name in PACKAGES if name != package for text in shuffled[name][:32]]
        pool, task = shuffled[package][20:60] + others, shuffled[package][:20]
        right = [1] * 40 + [0] * len(others)
        areas["method"].append(100 * roc_auc_score(right, zip_fit(pool, task).mean(1)))
        areas["baseline"].append(100 * roc_auc_score(right, dsir(pool, task)))
    return {arm: float(np.mean(found)) for arm, found in areas.items()}


# --- DC-PDD: texts that a model has learnt by heart ------------------------------------------------------------------


@cache
def pieces() -> tuple[BPE, Tensor]:
    """The standard library's source in blocks of 64 tokens, shuffled."""
    texts = python_source()[0]
    tokens = BPE.train(texts[::4], 1500)
    ids = Tokens.packed(texts, tokens, 64).x["input_ids"]
    return tokens, ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]


@check(
    "dc_pdd",
    baseline="min_k(share=0.2)",
    claim="tells better which texts a model was trained on, once it knows them by heart",
    figure="area under ROC in percent",
    settings={
        "texts": "blocks of 64 tokens (BPE, 1,500) of Python's standard library: 400 for training, 400 others",
        "counts": "of 2,200 other blocks",
        "model": "GPT of 1 block of 96, 16 epochs, AdamW(Cosine(0.003)), batch_size=32",
    },
)
def by_heart(seed: int) -> Arms:
    tokens, ids = pieces()
    ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))[:3000]]
    counts = torch.bincount(ids[800:].flatten(), minlength=tokens.vocab_size)
    torch.manual_seed(seed)
    model = GPT(tokens.vocab_size, width=96, depth=1, heads=4)
    data = Tokens({"input_ids": ids[:400]}, ids[:400], tokens)
    fit(model, CE(), data, epochs=16, seed=seed, batch_size=32, optimizer=AdamW(Cosine(0.003)))
    with torch.no_grad():
        said = model.eval()(ids[:800]).logits[:, :-1].log_softmax(-1)
    told = said.gather(-1, ids[:800, 1:, None]).squeeze(-1)
    seen = [1] * 400 + [0] * 400
    scores = {
        "method": dc_pdd(told, ids[:800, 1:], counts),
        "baseline": min_k(told, ids[:800, 1:]),
        "mean log-probability": told.mean(1),
    }
    return {name: 100 * float(roc_auc_score(seen, score)) for name, score in scores.items()}


# --- the law of capacity gap ------------------------------------------------------------------------------------------

STUDENTS, RATIOS = (3, 4, 6), (1.0, 2.5, 6.0, 16.0, 40.0)


@check(
    "capacity_gap_law",
    baseline="a teacher 40 times as large",
    claim="a teacher 2.5 times as large as the student is the better one",
    settings={
        "data": "digits, 16 per class for the student, all labels for the teachers",
        "models": f"MLPs with one hidden layer; students of {', '.join(map(str, STUDENTS))} units",
        "teachers": f"{', '.join(map(str, RATIOS))} times as many units",
        "method": "0.5 CE + 0.5 KL(1.0)",
        "budget": "teachers 30 epochs, students 60 of batches of 16, SGD(Cosine(0.05))",
        "of": "the mean over the students",
    },
)
def two_and_a_half(seed: int) -> Arms:
    train, test = digits()
    assert train.y is not None
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    few = torch.cat([order[train.y[order] == digit][:16] for digit in range(10)])
    found: dict[str, list[float]] = {}
    for units in STUDENTS:
        for ratio in RATIOS:
            name = {2.5: "method", 40.0: "baseline"}.get(ratio, f"{ratio:g} times as large")
            own = layers(64, round(ratio * units), 10, seed=1_000_000 + seed)
            teacher = fit(own, CE(), train, epochs=30, seed=1_000_000 + seed)
            student, data = layers(64, units, 10, seed=seed), subset(train, few)
            run = fit(student, 0.5 * CE() + 0.5 * KL(1.0), data, epochs=60, seed=seed, batch_size=16,
                      optimizer=SGD(Cosine(0.05)), teacher=teacher.students[0])  # fmt: skip
            found.setdefault(name, []).append(percent(run, test))
    return {name: float(np.mean(each)) for name, each in found.items()}


# --- CCE -------------------------------------------------------------------------------------------------------------


@check(
    "cce",
    baseline="all logits at once",
    claim="a step takes less memory",
    figure="MiB above the inputs",
    better=-1,
    settings={
        "step": "cross-entropy of 1,024 rows and 32,000 classes, width 256, float32, forward and backward",
        "seeds": "repetitions",
    },
)
def memory(seed: int) -> Arms:
    both = {
        "method": measured("ce tiles", "small", "float32", 1),
        "baseline": measured("ce dense", "small", "float32", 1),
    }
    arms = {}
    for arm, found in both.items():
        assert found is not None
        arms |= {arm: found["bytes"] / 2**20, f"{arm}: seconds": found["seconds"]}
    return arms
