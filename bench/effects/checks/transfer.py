"""Methods of the family transfer, on sentences that are images (`words.py`); LoRID reorders digits."""

from __future__ import annotations

import copy
import random
from collections import Counter
from functools import cache
from itertools import permutations, product

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from bench.effects.core import FRESH, Arms, check
from bench.effects.toys import fit, percent
from bench.effects.words import (
    LEARNING,
    SEPARATOR,
    WORDS,
    Reader,
    both_languages,
    gpt,
    held_out,
    images,
    labelled,
    learnt,
    pre_trained,
    sentences,
    some,
    tuned,
)
from limbeck import CE, KL, AdamW, Cosine, Data, Run, registry
from limbeck.data.text import Characters, Tokens
from limbeck.models.encoders import BiEncoder, CrossEncoder, Pooled
from limbeck.models.gpt import GPT
from limbeck.models.mend import Mend
from limbeck.procedures import lorid as adapters
from limbeck.procedures.staged import staged
from limbeck.procedures.start import thinned
from limbeck.procedures.trans_encoder import trans_encoder as cycles_of

STUDENT = {"accelerator": "cpu", **LEARNING}


@check(
    "pre_trained_distillation",
    baseline="distillation alone",
    claim="pre-training the student helps it, beside distillation on few examples, by a point",
    margin=1.0,
    settings={
        **WORDS,
        "transfer set": "300 images without labels",
        "method": "10 epochs of next words of all images, then 20 of the method",
        "baseline": "the 20 epochs of the method, from random weights",
    },
)
def pre_trained_distillation(seed: int) -> Arms:
    ids, _ = some(300, seed)
    body = learnt(gpt(32, 2, seed), CE(), sentences(images()[0]), epochs=10, seed=seed)
    method = registry.make("pre_trained_distillation")
    arms = {}
    for arm, start in (("method", body), ("baseline", gpt(32, 2, seed))):
        run = fit(Reader(start, seed), method, labelled(ids), epochs=20, seed=seed, teacher=tuned(), **LEARNING)
        arms[arm] = percent(run, held_out())
    return arms


@check(
    "ernie_tiny",
    baseline="the first and the last stage, as many steps",
    claim="the fine-tuned teacher on general data, and latent distillation on the task's, help by half a point",
    margin=0.5,
    settings={
        **WORDS,
        "general data": "600 images without labels",
        "task's data": "200 images with labels",
        "method": "2 epochs, 2 epochs, 5 epochs, 15 epochs",
        "baseline": "4 epochs of the first stage, 20 of the last",
    },
)
def ernie_tiny(seed: int) -> Arms:
    ids, y = some(200, seed)
    latent = registry.make("ernie_tiny", depths=(2, 4), task=False)
    task = registry.make("ernie_tiny", depths=(2, 4))
    general, own, before = labelled(some(600, seed)[0]), labelled(ids, y), pre_trained()
    arms = {
        "method": [
            {"method": latent, "data": general, "teacher": before, "epochs": 2},
            {"method": latent, "data": general, "epochs": 2},
            {"method": latent, "epochs": 5},
            {"method": task, "epochs": 15},
        ],
        "baseline": [
            {"method": latent, "data": general, "teacher": before, "epochs": 4},
            {"method": task, "epochs": 20},
        ],
    }
    found = {}
    for arm, stages in arms.items():
        student = Reader(gpt(32, 2, seed), seed)
        run = Run(student=student, teacher=tuned(), data=own, method=task, seed=seed, **STUDENT)
        found[arm] = percent(staged(run, stages)[-1], held_out())
    return found


@check(
    "bistil",
    baseline="the second phase alone, as many steps",
    claim="distilling on unlabelled texts of both languages first helps in the language without labels, by a point",
    margin=1.0,
    seeds=FRESH,
    settings={
        **WORDS,
        "languages": "images as they are, and moved by a pixel, which the second phase does not see",
        "teacher": "as elsewhere, then 6 epochs of all labels of both languages",
        "student": "every second of its blocks",
        "method": "2 epochs of both languages, then 20 of 200 images of the first",
        "baseline": "42 epochs of the 200",
        "sparse tuning": "none",
    },
)
def bistil(seed: int) -> Arms:
    # The first setting, whose teacher had 19 % in the second language, gave -0.9 (-2.8 to +1.0) on seeds 0 to 4.
    teacher, (ids, _) = tuned(both=True), some(200, seed)
    task = registry.make("bistil", depths=(2, 4))
    latent = registry.make("bistil", depths=(2, 4), task=False)
    arms = {
        "method": [
            {"method": latent, "data": labelled(both_languages()), "teacher": pre_trained(), "epochs": 2},
            {"epochs": 20},
        ],
        "baseline": [{"epochs": 42}],
    }
    found = {"teacher": share(teacher, held_out(1))}
    for arm, stages in arms.items():
        student = Reader(thinned(pre_trained(), 2, layers="blocks"), seed)
        run = Run(student=student, teacher=teacher, data=labelled(ids), method=task, seed=seed, **STUDENT)
        last = staged(run, stages)[-1]
        found[arm] = percent(last, held_out(1))
        found[f"{arm}: in the first language"] = percent(last, held_out())
    return found


@torch.no_grad()
def share(model: nn.Module, data: Data) -> float:
    """Accuracy in percent."""
    return 100 * float((model.eval()(**data.x).logits.argmax(-1) == data.y).float().mean())


@check(
    "mend",
    baseline="learnt vectors that are the same for all demonstrations",
    claim="two vectors carry what the demonstrations tell: fewer nats per word of what follows",
    figure="nats per word",
    better=-1,
    seeds=FRESH,
    settings={
        **WORDS,
        "model": "the teacher before its labels, frozen",
        "distiller": "GPT of 1 block of 32, 2 vectors",
        "demonstrations": "the first 10 words of an image",
        "query": "the other 6",
        "method": "3 epochs of KL alone, then 12 of all, of 500 images",
        "baseline": "the same without seeing the demonstrations",
    },
)
def mend(seed: int) -> Arms:
    # With 5 epochs instead of 12 seeds 0 to 4 gave -0.013 (-0.036 to +0.011), undecided; 12 were taken after that.
    first = 11
    model, (ids, _), (held, _) = pre_trained(), some(500, seed), images(True)
    y = ids.clone()
    y[:, :first] = -1
    arms = {}
    for arm in ("method", "baseline"):
        torch.manual_seed(seed)
        student: nn.Module = Mend(model, gpt(32, 1, seed), vectors=2)
        if arm == "baseline":
            student = Blind(student, first)
        run = Run(
            student=student, teacher=model, data=context(ids, y, first), method=KL(), epochs=3, seed=seed, **STUDENT
        )
        staged(run, [{}, {"method": registry.make("mend"), "epochs": 12}])
        arms[arm] = nats(student, held, first)
    arms["all demonstrations"] = nats(model, held, first)
    arms["none"] = nats(model, torch.cat([held[:, :1], held[:, first:]], 1), 1)
    return arms


class Blind(nn.Module):
    """Its demonstrations are all the same."""

    def __init__(self, mend: nn.Module, first: int) -> None:
        super().__init__()
        self.mend, self.first = mend, first

    def forward(self, input_ids: Tensor, context: Tensor) -> object:
        ids = input_ids.clone()
        ids[:, : self.first] = SEPARATOR
        return self.mend(ids, context)


def context(ids: Tensor, y: Tensor, first: int) -> Data:
    return Data({"input_ids": ids, "context": torch.full((len(ids),), first)}, y, classes=SEPARATOR + 1)


@torch.no_grad()
def nats(model: nn.Module, ids: Tensor, first: int) -> float:
    """Of the words from number `first` on."""
    told = {"context": torch.full((len(ids),), first)}
    logits = model.eval()(input_ids=ids, **told).logits[:, first - 1 : -1]
    return float(nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, first:].flatten()))


@check(
    "trans_encoder",
    baseline="the bi-encoder at the start",
    claim="without labels the bi-encoder tells pairs of a kind better after the cycles, by a point",
    figure="area under ROC in percent",
    margin=1.0,
    settings={
        **WORDS,
        "pairs": "400 of images, half of them of the same digit, which nobody is told; 1,000 of test images",
        "both encoders": "mean states of a GPT of 2 blocks of 32, 5 epochs of next words",
        "cycles": "1: 2 epochs of the cross-encoder, 6 of the bi-encoder",
        "optimizer": "AdamW(Cosine(0.001))",
    },
)
def trans_encoder(seed: int) -> Arms:
    body = learnt(gpt(32, 2, seed), CE(), sentences(images()[0]), epochs=5, seed=seed)
    torch.manual_seed(seed)
    pad = SEPARATOR + 1  # no sentence needs it
    bi = BiEncoder(Pooled(copy.deepcopy(body), pad=pad))
    cross = CrossEncoder(Pooled(copy.deepcopy(body), pad=pad), 32, pad=pad, separator=SEPARATOR)
    x, _ = pairs(*some(1437, seed), 400, seed)
    shared = {"data": Data(x), "method": CE(), "seed": seed, "accelerator": "cpu", "batch_size": 64}
    slow = AdamW(Cosine(0.001))
    found = cycles_of(
        Run(student=bi, epochs=6, optimizer=slow, **shared),
        Run(student=cross, epochs=2, optimizer=slow, **shared),
        cycles=1,
    )
    held, same = pairs(*images(True), 1000, 0)
    return {
        "method": auc(found[-1].bi[0].students[0].module, held, same),
        "baseline": auc(bi, held, same),
        "cross-encoder": auc(found[-1].cross[0].students[0].module, held, same),
    }


def pairs(ids: Tensor, y: Tensor, n: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """n pairs, every other one of the same digit, and which these are."""
    rng = torch.Generator().manual_seed(seed)
    a = torch.randint(len(ids), (n,), generator=rng)
    same = torch.arange(n) % 2 == 0
    alike = (y[a][:, None] == y) == same[:, None]
    b = torch.multinomial(alike.float(), 1, generator=rng).flatten()
    return {"a": ids[a], "b": ids[b]}, same


@torch.no_grad()
def auc(model: nn.Module, x: dict[str, Tensor], same: Tensor) -> float:
    return 100 * float(roc_auc_score(same, model.eval()(**x).flatten()))


# --- rules for the order of digits --------------------------------------------------------------------------------

#: Each letter is a rule.
RULES = dict(zip("abcdef", permutations((1, 2, 3)), strict=True))
CHARACTERS = Characters("0123456789=;k" + "".join(RULES))


@cache
def questions() -> list[tuple[str, str, str]]:
    """(question, knowledge, reasoning): a rule and three digits, which of them the rule puts where, and what it gives,
    first one digit and then all."""
    rules = ((rule, "".join(digits)) for rule in RULES for digits in product("0123456789", repeat=3))
    found = []
    for rule, digits in random.Random(0).sample(list(rules), 800):
        order = RULES[rule]
        moved = "".join(digits[place - 1] for place in order)
        found.append((f"{rule}{digits}=", f"k{''.join(map(str, order))};", f"{moved[0]};{moved}"))
    return found


def told(pairs: list[tuple[str, str]]) -> Tokens:
    return Tokens.pairs(pairs, CHARACTERS, 16)


@check(
    "lorid",
    baseline="the intuitive reasoner, greedy",
    claim="answers on which the two reasoners agree are right more often",
    seeds=FRESH,
    settings={
        "data": "600 times a letter and three digits, which it says how to reorder, 200 more to test",
        "knowledge": "the order that the letter stands for",
        "model": "GPT of 2 blocks of 48, 40 epochs of all texts, then r = 8 in all attention, 10 epochs",
        "sampling": "20 tries at temperature 1 (the authors: 1.5), top_p = 0.9",
        "optimizer": "AdamW(Cosine(0.004)), batches of 64",
    },
)
def lorid(seed: int) -> Arms:
    # Sums of which the models had 8 to 16 % right gave -3.2 (-6.0 to -0.4) on seeds 0 to 4. Four digits to be sorted,
    # with the smallest as knowledge, gave -20.4 (-24.2 to -16.6): on seed 20 the intuitive reasoner had 60 % right
    # greedily and 29 % sampled, and the deep one 65 % and 27 %. Tuned on seed 20 to have knowledge that helps.
    train, held = questions()[200:], questions()[:200]
    data = {
        "intuitive": told([(q, r) for q, _, r in train]),
        "knowledge": told([(q, k) for q, k, _ in train]),
        "deep": told([(q + k, r) for q, k, r in train]),
    }
    torch.manual_seed(seed)
    model = GPT(CHARACTERS.vocab_size, width=48, depth=2, heads=4)
    everything = told([pair for q, k, r in train for pair in ((q, r), (q, k), (q + k, r))])
    learnt(model, CE(), everything, epochs=40, seed=seed)
    torch.manual_seed(seed)
    adapters.with_adapters(model, ["qkv", "out"], r=8, alpha=16)
    for name, texts in data.items():
        adapters.tuned(Run(student=model, data=texts, method=CE(), epochs=10, seed=seed, **STUDENT), name)
    asked, right = [q for q, _, _ in held], [answer(r) for _, _, r in held]
    rng = torch.Generator().manual_seed(seed)
    agreed = adapters.agree(model, asked, CHARACTERS, answer, new=8, temperature=1.0, generator=rng)
    adapters.use(model, "intuitive")
    greedy = adapters.written(model, asked, CHARACTERS, new=8, temperature=0.0)
    votes = [Counter[str | None]() for _ in asked]
    for _ in range(20):
        said = adapters.written(model, asked, CHARACTERS, new=8, temperature=1.0, top_p=0.9, generator=rng)
        for vote, text in zip(votes, said, strict=True):
            vote[answer(text)] += 1

    def score(found: list[str | None]) -> float:
        return 100 * sum(a == b for a, b in zip(found, right, strict=True)) / len(right)

    return {
        "method": score(agreed),
        "baseline": score([answer(text) for text in greedy]),
        "most frequent of 20": score([vote.most_common(1)[0][0] for vote in votes]),
        "unresolved": 100 * agreed.count(None) / len(agreed),
    }


def answer(reasoning: str) -> str | None:
    last = reasoning.rpartition(";")[2]
    return last if last.isdigit() else None
