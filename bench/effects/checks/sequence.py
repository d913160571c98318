"""Methods on texts: of tokens, of whole sequences, and of a model's own answers."""

from __future__ import annotations

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.effects.core import Arms, check, objective, score
from bench.effects.text import (
    TEXT,
    characters,
    figure,
    held_out as held_out_text,
    logits as said_of_text,
    teacher as reader,
)
from bench.effects.toys import clothes, draw, fashion, fit, held_out, net
from limbeck import CE, UNLABELLED, AdamW, Data, Run, Stages
from limbeck.data.views import Draw
from limbeck.generate import fill
from limbeck.models.gpt import GPT
from limbeck.objective import Objective

ADAM = AdamW(0.003, weight_decay=0.0)

# --- EMO: the next character --------------------------------------------------------------------------------------


@cache
def far_off(method: str, seed: int) -> float:
    """How far what the student says is from the true character, by the cosine of the teacher's last layer, in %."""
    characters = F.normalize(reader().students[0].module[-1].weight.detach())
    p, y = said_of_text(method, seed).softmax(1), held_out_text().y
    return 100 * float((1 - (p @ characters * characters[y]).sum(1)).mean())


@check(
    "emo",
    baseline="supervised",
    claim="what it says is nearer to the truth, token by token",
    figure="expected cosine distance to the true character in %, by another model's last layer",
    better=-1,
    settings=TEXT,
)
def emo(seed: int) -> Arms:
    arms = {"method": "emo", "baseline": "supervised", "emo2": "emo(variant='emo2')"}
    return {
        **{arm: far_off(method, seed) for arm, method in arms.items()},
        **{f"{arm}: accuracy": figure("accuracy", method, seed) for arm, method in arms.items()},
        **{f"{arm}: nll": figure("nll", method, seed) for arm, method in arms.items()},
    }


# --- EISL: sequences reversed, most of whose targets are rotated ---------------------------------------------------

ROTATED = {
    "data": "3,200 sequences of 8 of 10 tokens, to be reversed and raised by 3; 3 of 4 targets rotated by 1 to 3",
    "student": "bidirectional GRU of 64",
    "epochs": "10 of cross-entropy, 14 of the method",
    "batch_size": 64,
    "optimizer": repr(ADAM),
}


class AtOnce(nn.Module):
    """All tokens at once: (b, n) -> (b, n, 10)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(11, 32), nn.Linear(128, 10)
        self.gru = nn.GRU(32, 64, batch_first=True, bidirectional=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.gru(self.embed(input_ids))[0])
        return out


def reversals(n: int, seed: int, *, rotated: float) -> Data:
    """A target stands one place behind its prediction, as all labels of tokens do."""
    g = torch.Generator().manual_seed(seed)
    source = torch.randint(0, 10, (n, 8), generator=g)
    target = (source.flip(1) + 3) % 10
    by = torch.randint(1, 4, (n, 1), generator=g) * (torch.rand(n, 1, generator=g) < rotated)
    target = target.gather(1, (torch.arange(8) - by) % 8)
    return Data({"input_ids": F.pad(source, (0, 1), value=10)}, F.pad(target, (1, 0), value=UNLABELLED), classes=10)


def bigram_recall(method: Objective, seed: int) -> float:
    """The share of the clean targets' bigrams that the student says anywhere, in %."""
    clean = reversals(1000, 10**6, rotated=0.0)
    run = fit(AtOnce(seed), method, reversals(3200, seed, rotated=0.75), epochs=24, seed=seed, optimizer=ADAM)
    with torch.no_grad():
        said = run.students[0].eval()(clean.x).logits[:, :-1].argmax(-1)
    pairs, wanted = (10 * ids[:, :-1] + ids[:, 1:] for ids in (said, clean.y[:, 1:]))
    return 100 * float((wanted[:, :, None] == pairs[:, None]).any(-1).float().mean())


@check(
    "eisl",
    baseline="supervised",
    claim="withstands targets that are shifted, by 5 points of bigram recall",
    figure="recall of the clean targets' bigrams in %",
    margin=5.0,
    settings={**ROTATED, "ngrams": [2, 3], "ce": 0.3},
)
def eisl(seed: int) -> Arms:
    arms = {"method": "eisl(ce=0.3, ngrams=(2, 3))", "baseline": "CE()", "without ce": "EISL((2, 3))"}
    return {arm: bigram_recall(Stages(((CE(), 10), (objective(m), None))), seed) for arm, m in arms.items()}


# --- F2C: seven ways of looking at clothes -------------------------------------------------------------------------

F2C = {"tau": 1.5, "top_k": 3, "low": 0.05, "high": 0.35, "temperature": 2.0, "beta": 0.2}
WAYS = {
    "data": "4,000 clothes of 14 x 14 without labels; views: as they are, two shifts, blur, noise, gamma, smaller",
    "student": "cnn, 6 epochs of 3,000 other clothes",
    "steps": 125,
    "batch_size": 32,
    "optimizer": "AdamW(2e-05, weight_decay=0.0)",
}


def noisier(x: Tensor, draw_: Draw) -> Tensor:
    return x + 0.3 * (draw_("noise", x[0].numel()).view_as(x) - 0.5)


def smaller(x: Tensor, draw_: Draw) -> Tensor:
    return F.interpolate(F.pad(x, [2] * 4), size=x.shape[2:], mode="bilinear", antialias=True)


VIEWS = {
    "left": lambda x, draw_: x.roll(-2, 3),
    "down": lambda x, draw_: x.roll(2, 2),
    "blurred": lambda x, draw_: F.avg_pool2d(x, 3, 1, 1),
    "noisier": noisier,
    "dark": lambda x, draw_: x**1.7,
    "smaller": smaller,
}


def over_views(run: Run) -> tuple[float, float]:
    """The mean accuracy over the views on the test set, and how often two views agree, in %."""
    test = held_out()
    said = []
    with torch.no_grad():
        for name in ("x", *VIEWS):
            batch = next(test.with_views(**VIEWS).batches([torch.arange(len(test))], seed=0))
            said.append(run.students[0].eval()(batch.view(name)).logits.argmax(1))
    votes = torch.stack(said)
    agree = (votes[:, None] == votes[None]).float().mean(2)
    k = len(votes)
    return 100 * float((votes == test.y).float().mean()), 100 * float((agree.sum() - k) / (k * (k - 1)))


@check(
    "f2c",
    baseline="the student before",
    claim="agreement between ways of asking rises, and accuracy with it",
    figure="mean accuracy over the views",
    settings={**WAYS, **F2C},
)
def f2c(seed: int) -> Arms:
    before = fit(net("cnn", seed), CE(), clothes(draw(3000, seed)), epochs=6, seed=seed)
    data = Data(clothes(draw(4000, seed, first=6000, of=20_000)).x, views=VIEWS, classes=10)
    arms = {"baseline": over_views(before)}
    for arm, settings in {"method": F2C, "consensus alone": {**F2C, "low": 0.0, "high": 0.0, "beta": 0.0}}.items():
        made = objective(f"f2c(views={('x', *VIEWS)}, {', '.join(f'{k}={v}' for k, v in settings.items())})")
        student = copy.deepcopy(before.students[0])
        slow = AdamW(2e-5, weight_decay=0.0)
        arms[arm] = over_views(fit(student, made, data, epochs=1, seed=seed, batch_size=32, optimizer=slow))
    return {
        **{arm: accuracy for arm, (accuracy, _) in arms.items()},
        **{f"{arm}: agreement": agreement for arm, (_, agreement) in arms.items()},
    }


# --- SIU: one image to be forgotten --------------------------------------------------------------------------------

FORGET = {
    "data": "one pair of trousers, now called a dress, and 8 other clothes without labels, 14 x 14",
    "student": "cnn, 6 epochs of 3,000 clothes; the teacher is its copy",
    "steps": 15,
    "optimizer": "AdamW(0.001, weight_decay=0.0)",
}


@check(
    "siu",
    baseline="the new label alone",
    claim="forgets a class from one image and keeps the others, by 15 points over the new label alone",
    figure="accuracy on the other classes",
    margin=15.0,
    settings=FORGET,
)
def siu(seed: int) -> Arms:
    before = fit(net("cnn", seed), CE(), clothes(draw(3000, seed)), epochs=6, seed=seed)
    others = [c for c in range(10) if c != 1]
    ids = torch.cat([draw(1, seed, classes=[1]), draw(8, seed + 1, classes=others)])
    y = torch.tensor([3] + 8 * [UNLABELLED])
    same = y == UNLABELLED
    data = Data(fashion()[0].x[ids], y, masks={"same": same}, classes=10)
    test = held_out()
    arms = {}
    for arm, method in {
        "method": "siu(forget=(1,), where='same')",
        "baseline": "0.9 * CE()",
        "no class masked": "siu(forget=(), where='same')",
    }.items():
        student = copy.deepcopy(before.students[0])
        fields = {"teacher": copy.deepcopy(before.students[0]), "optimizer": AdamW(0.001, weight_decay=0.0)}
        run = fit(student, objective(method), data, epochs=15, seed=seed, batch_size=9, **fields)
        right = run.predict(run.students[0], test).argmax(1) == test.y
        arms[arm] = 100 * float(right[test.y != 1].float().mean())
        arms[f"{arm}: forgotten class"] = 100 * float(right[test.y == 1].float().mean())
    return arms


# --- REDI: sums written out, right and with a slip -----------------------------------------------------------------

SUMS = {
    "data": "sums of two numbers of 3 digits with their carries; 3,200 right answers and as many with one wrong token",
    "student": "GPT of width 64, depth 2, 40 epochs of 3,200 right answers",
    "steps": 100,
    "batch_size": "64 right, 64 wrong",
    "optimizer": "AdamW(1e-05, weight_decay=0.0)",
}
PLUS, EQUALS = 10, 11


def sums(n: int, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """(n, 14) ids a + b = s c s c s c, lowest digit first, and which of them are the answer."""
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, 10, (2, n, 3), generator=g)
    ids, carry = [*a.T, torch.full((n,), PLUS), *b.T, torch.full((n,), EQUALS)], torch.zeros(n, dtype=torch.long)
    for digit in range(3):
        total = a[:, digit] + b[:, digit] + carry
        carry = total // 10
        ids += [total % 10, carry]
    return torch.stack(ids, 1), torch.arange(14) >= 8, g


def right_sums(model: nn.Module) -> float:
    """Whole answers that are right, in %: greedily, so each token after the right ones before it."""
    ids, answer, _ = sums(2000, 10**6)
    with torch.no_grad():
        said = model.eval()(ids).logits[:, :-1].argmax(-1)
    return 100 * float((said == ids[:, 1:])[:, answer[1:]].all(1).float().mean())


@check(
    "redi",
    baseline="the right answers alone",
    claim="wrong answers, with less weight, teach more than the right ones alone",
    figure="right answers in %",
    settings=SUMS,
)
def redi(seed: int) -> Arms:
    ids, answer, g = sums(3200, seed)
    y = ids.masked_fill(~answer, UNLABELLED)
    torch.manual_seed(seed)
    student = GPT(12, width=64, depth=2, heads=4)
    before = fit(student, CE(), Data({"input_ids": ids}, y, classes=12), epochs=40, seed=seed, optimizer=ADAM)
    slip = torch.arange(14) == torch.randint(8, 14, (3200, 1), generator=g)
    wrong = torch.where(slip, (ids + torch.randint(1, 10, ids.shape, generator=g)) % 10, ids)
    both = torch.cat([ids, wrong])
    right = torch.arange(len(both)) < 3200
    masks = {"right": right, "wrong": ~right}
    data = Data({"input_ids": both}, both.masked_fill(~answer, UNLABELLED), masks=masks, classes=12)
    arms = {"before": right_sums(before.students[0])}
    for arm, alpha in {"method": 0.8, "baseline": 0.0, "alpha 0.5": 0.5, "alpha 1": 1.0}.items():
        fields = {"batch_size": 128, "optimizer": AdamW(1e-5, weight_decay=0.0)}
        student = copy.deepcopy(before.students[0])
        run = fit(student, objective(f"redi(alpha={alpha})"), data, epochs=2, seed=seed, **fields)
        arms[arm] = right_sums(run.students[0])
    return arms


# --- NoiseFiT: a little text, read often ---------------------------------------------------------------------------

LITTLE = {
    "data": "200 stretches of 32 characters of Python's standard library; 1,000 of other files to test",
    "student": "GPT of width 48, depth 2",
    "epochs": 30,
    "batch_size": 32,
    "optimizer": "AdamW(0.002, weight_decay=0.0)",
    "std": 0.3,
}


def stretches(n: int, seed: int, *, test: bool = False) -> Data:
    text = characters()[test].unfold(0, 33, 1)
    ids = text[torch.randperm(len(text), generator=torch.Generator().manual_seed(seed))[:n]]
    return Data({"input_ids": ids}, ids.index_fill(1, torch.tensor([0]), UNLABELLED), classes=100)


@check(
    "noisefit",
    baseline="supervised",
    claim="better calibrated",
    figure="ECE of the next character in %",
    better=-1,
    settings=LITTLE,
)
def noisefit(seed: int) -> Arms:
    test = stretches(1000, 0, test=True)
    arms: dict[str, float] = {}
    for arm, method in {
        "method": "noisefit(layers=('blocks.0', 'blocks.1'), std=0.3)",
        "baseline": "CE()",
    }.items():
        torch.manual_seed(seed)
        student, adam = GPT(100, width=48, depth=2, heads=4), AdamW(0.002, weight_decay=0.0)
        run = fit(student, objective(method), stretches(200, seed), epochs=30, seed=seed, batch_size=32, optimizer=adam)
        with torch.no_grad():
            said = run.students[0].eval()(test.x).logits[:, :-1].flatten(0, 1)
        for name, suffix in (("ece", ""), ("accuracy", ": accuracy"), ("nll", ": nll")):
            arms[arm + suffix] = score(said, test.y[:, 1:].flatten(), name)
    return arms


# --- VidLanKD: words that have been seen ---------------------------------------------------------------------------

SEEN = {
    "data": "3,000 sentences, each of two of 150 words among others; a word is a cluster of clothes' images",
    "teacher": "GPT of width 64, 600 steps of cross-entropy and of a hinge against its words' images",
    "student": "GPT of width 32",
    "epochs": 10,
    "batch_size": 64,
    "optimizer": repr(ADAM),
    "probe": "ridge regression of a word's 8 first components of images on its state, 5 folds of the words",
}
WORDS, OTHERS = 150, 10


@cache
def words() -> tuple[Tensor, Tensor]:
    """(WORDS, 8): what they look like, standardised, and (WORDS, 196) unit vectors of their mean images."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    x = (fashion()[0].x[:6000].flatten(1).float() / 255).numpy()
    centres = KMeans(WORDS, n_init=1, random_state=0).fit(x).cluster_centers_
    looks = torch.tensor(PCA(8, random_state=0).fit_transform(centres)).float()
    shown = torch.tensor(centres).float()
    return (looks - looks.mean(0)) / looks.std(0), F.normalize(shown - shown.mean(0))


def sentences(n: int, seed: int) -> Tensor:
    """(n, 6): a word, three others, a word, another. Nothing in them tells what a word looks like."""
    g = torch.Generator().manual_seed(seed)
    said = torch.randint(0, WORDS, (n, 6), generator=g)
    between = WORDS + torch.randint(0, OTHERS, (n, 6), generator=g)
    return torch.where(torch.tensor([True, False, False, False, True, False]), said, between)


def speaker(width: int, seed: int) -> GPT:
    torch.manual_seed(seed)
    return GPT(WORDS + OTHERS, width=width, depth=2, heads=4)


@cache
def seeing() -> GPT:
    """A teacher of language whose states at a word are near its image."""
    teacher, (_, shown), g = speaker(64, 10**6), words(), torch.Generator().manual_seed(0)
    eye, kept = nn.Linear(64, shown.shape[1]), {}
    teacher.blocks[1].register_forward_hook(lambda layer, args, output: kept.update(state=output))
    adam = torch.optim.Adam([*teacher.parameters(), *eye.parameters()], lr=0.003)
    text = sentences(3000, 10**6)
    for _ in range(600):
        ids = text[torch.randint(0, len(text), (64,), generator=g)]
        said = teacher(ids).logits
        seen = F.normalize(eye(kept["state"][:, [0, 4]]), dim=-1)
        right, other = (shown[each] for each in (ids[:, [0, 4]], ids.roll(1, 0)[:, [0, 4]]))
        hinge = (1 - (seen * right).sum(-1) + (seen * other).sum(-1)).relu().mean()
        loss = F.cross_entropy(said[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) + hinge
        adam.zero_grad()
        loss.backward()
        adam.step()
    teacher.blocks[1]._forward_hooks.clear()
    return teacher


def looks_known(model: GPT) -> float:
    """R2 of the probe in %, mean over the components."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict

    states: list[Tensor] = []
    handle = model.blocks[1].register_forward_hook(lambda layer, args, output: states.append(output[:, 0]))
    with torch.no_grad():
        model.eval()(torch.arange(WORDS)[:, None])
    handle.remove()
    looks = words()[0].numpy()
    found = cross_val_predict(RidgeCV([0.1, 1.0, 10.0, 100.0]), states[0].numpy(), looks, cv=5)
    return 100 * float(1 - ((found - looks) ** 2).mean() / looks.var(0).mean())


@check(
    "vidlankd",
    baseline="supervised",
    claim="a student of text learns what words look like from a teacher that saw them, by 10 points of R2",
    figure="R2 in % of words' looks from their states",
    margin=10.0,
    settings=SEEN,
)
def vidlankd(seed: int) -> Arms:
    ids = sentences(3000, seed)
    data = Data({"input_ids": ids}, ids.index_fill(1, torch.tensor([0]), UNLABELLED), classes=WORDS + OTHERS)
    arms = {"teacher": looks_known(seeing())}
    for arm, method in {
        "method": "vidlankd(layer='blocks.1')",
        "baseline": "CE()",
        "neurons alone": "vidlankd(layer='blocks.1', contrast=0.0)",
    }.items():
        fields = {"teacher": seeing(), "optimizer": ADAM}
        run = fit(speaker(32, seed), objective(method), data, epochs=10, seed=seed, **fields)
        arms[arm] = looks_known(run.students[0].module)
    return arms


# --- dParallel: digits to be sorted, decoded in parallel -----------------------------------------------------------

SORTED = {
    "data": "3,200 rows of 8 digits, to be sorted; then the student's own answers to them",
    "student": "bidirectional GPT of width 64, depth 2, 6 epochs of masked cross-entropy",
    "epochs": 2,
    "batch_size": 64,
    "optimizer": repr(AdamW(0.001, weight_decay=0.0)),
    "decoder": "all tokens whose entropy is below 0.5, or the surest one",
}
HIDDEN = 10


def decoded(model: nn.Module, ids: Tensor, sure: float = 0.5) -> tuple[Tensor, Tensor]:
    """The answers (n, 16) to the first 8 tokens, and in how many steps (n,)."""
    asked = ids.masked_fill(torch.arange(16) >= 8, HIDDEN)
    return fill(model, asked, mask_token=HIDDEN, block=8, sure=sure)


def to_sort(n: int, seed: int) -> Tensor:
    digits = torch.randint(0, 10, (n, 8), generator=torch.Generator().manual_seed(seed))
    return torch.cat([digits, digits.sort(1).values], 1)


def with_answers(ids: Tensor) -> Data:
    return Data({"input_ids": ids}, ids.masked_fill(torch.arange(16) < 8, UNLABELLED), classes=11)


@check(
    "dparallel",
    baseline="masked cross-entropy on the same answers",
    claim="decodes in fewer steps, as well",
    figure="steps to decode 8 tokens",
    better=-1,
    settings=SORTED,
)
def dparallel(seed: int) -> Arms:
    ids, test = to_sort(3200, seed), to_sort(1000, 10**6)
    plain = objective(f"CertaintyForcing({HIDDEN}, beta=0.0, block=8)")
    torch.manual_seed(seed)
    student = GPT(11, width=64, depth=2, heads=4, causal=False)
    before = fit(student, plain, with_answers(ids), epochs=6, seed=seed, optimizer=ADAM)
    own, _ = decoded(before.students[0], ids, sure=0.0)
    arms: dict[str, float] = {}
    for arm, method in {
        "before": None,
        "method": objective(f"dparallel(mask_token={HIDDEN}, block=8)"),
        "baseline": plain,
    }.items():
        net = copy.deepcopy(before.students[0])
        if method is not None:
            fields = {"optimizer": AdamW(0.001, weight_decay=0.0)}
            net = fit(net, method, with_answers(own), epochs=2, seed=seed, **fields).students[0]
        said, steps = decoded(net, test)
        arms[arm] = float(steps.float().mean())
        arms[f"{arm}: right answers in %"] = 100 * float((said == test).all(1).float().mean())
    return arms
