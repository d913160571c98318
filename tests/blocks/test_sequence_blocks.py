"""Objectives on texts, with the labels shifted once more by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import limbeck
from limbeck import SGD, UNLABELLED, Data, Objective, Run
from limbeck.blocks.label import DCO
from limbeck.blocks.sequence import (
    EISL,
    EMO,
    REDI,
    CertaintyForcing,
    FlipFlop,
    MaskedKL,
    TokenStates,
    by_place,
    sequences,
)
from limbeck.errors import SettingError, SignalError
from limbeck.losses.contrastive import nt_xent
from limbeck.losses.divergence import masked_kl
from limbeck.losses.feature import nst
from limbeck.losses.logit import cross_entropy, kl
from limbeck.losses.sequence import certainty, eisl, emo
from limbeck.models.gpt import GPT
from tests.blocks.tiny import examples, net, step_of, terms_of, tiny

TOKENS, LENGTH, MASK = 7, 6, 6
EVERY = torch.arange(4)


def speaker(seed: int = 0, width: int = 4) -> GPT:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT(TOKENS, width=width, depth=1, heads=1)
        model.embed.weight.data.mul_(20)  # else it would say nearly nothing
        return model


def texts(**settings: Any) -> Data:
    """Four texts: a prompt of 1 or 2 tokens, then an answer of 4, 2, 3 and 1 tokens, then padding."""
    ids = torch.randint(0, MASK, (4, LENGTH), generator=torch.Generator().manual_seed(3))
    y = torch.full_like(ids, UNLABELLED)
    for row, (start, end) in enumerate([(1, 5), (2, 4), (1, 4), (2, 3)]):
        y[row, start:end] = ids[row, start:end]
    return Data({"input_ids": ids}, y, classes=TOKENS, **settings)


def run_of(method: Objective, **settings: Any) -> Run:
    optimizer = SGD(0.1, momentum=0.0, weight_decay=0.0)
    return tiny(method, **{"student": speaker(), "data": texts(), "optimizer": optimizer, **settings})


def shifted(data: Data, model: GPT, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(4, LENGTH - 1, TOKENS) predictions, each beside the label of the token that it predicts."""
    ids = inputs.get("input_ids", data.x["input_ids"])
    return model(ids).logits[:, :-1], data.y[:, 1:]


# --- rows and sequences -------------------------------------------------------------------------------------------


def test_rows_become_sequences() -> None:
    run = run_of(EMO())
    step = step_of(run, EVERY)
    y = sequences(step, step.y, fill=UNLABELLED)
    assert y.tolist() == [
        [*labels[labels != UNLABELLED].tolist(), *[UNLABELLED] * (labels[1:] == UNLABELLED).sum()][:4]
        for labels in run.train_data.y
    ]
    order = by_place(step, lambda rows: rows.double())
    assert order.tolist() == list(range(step.rows))


def test_labels_of_examples_are_sequences_of_one() -> None:
    step = step_of(tiny(EMO()), torch.arange(12))
    assert sequences(step, step.y, fill=UNLABELLED).tolist() == step.y.unsqueeze(1).tolist()


# --- tokens -------------------------------------------------------------------------------------------------------


def test_emo_takes_the_embeddings_of_the_last_layer() -> None:
    run = run_of(EMO("emo2"))
    logits, y = shifted(run.train_data, run.students[0].module)
    want = emo(logits, y, run.students[0].module.embed.weight, variant="emo2")[y != UNLABELLED]
    torch.testing.assert_close(terms_of(run, step_of(run, EVERY))["emo"].value, want)

    model, data = net(), examples()
    run = tiny(EMO(limit=0.5), student=model, data=data)
    want = emo(model(data.x), data.y, model.fc.weight, limit=0.5)
    torch.testing.assert_close(terms_of(run, step_of(run, torch.arange(12)))["emo"].value, want)


def test_siu_leaves_out_what_is_to_be_forgotten() -> None:
    changed = torch.zeros(4, LENGTH, dtype=torch.bool)
    changed[0, 1] = True
    data = texts(masks={"same": ~changed})
    method = limbeck.siu(forget=(2, 5), where="same")
    run = run_of(method, teacher=speaker(1), data=data)
    step = step_of(run, EVERY)
    terms = terms_of(run, step)
    student, y = shifted(data, run.students[0].module)
    teacher, _ = shifted(data, speaker(1))
    kept = torch.tensor([True, True, False, True, True, False, True])
    want = 0.75 * masked_kl(student, teacher, kept)
    torch.testing.assert_close(terms["masked_kl"].value, want[y != UNLABELLED])
    counted = (y != UNLABELLED) & ~changed[:, 1:]
    assert counted.sum() == 9
    torch.testing.assert_close(terms["masked_kl"].part(step), want[counted].mean())
    with pytest.raises(SettingError, match=r"0\.\.6.*\(7,\)"):
        run_of(MaskedKL((7,)), teacher=speaker(1))


def test_certainty_forcing_masks_a_block_in_halves() -> None:
    run = run_of(CertaintyForcing(MASK, beta=3.0, block=2))
    step = step_of(run, EVERY)
    step.batch = run.method.prepare(step.batch, step, run.bundle.state)
    step.forget()
    step.counts = run.count([step])
    terms, data = terms_of(run, step), run.train_data
    ids, answer = data.x["input_ids"], data.y != UNLABELLED
    hidden = {name: step.batch.masks[name] for name in ("first", "second")}
    assert not (hidden["first"] & hidden["second"]).any()
    assert (hidden["first"] | hidden["second"]).sum() >= 4
    for name, mask in hidden.items():
        seen = step.view(name)["input_ids"]
        assert (seen[mask] == MASK).all()
        assert torch.equal(seen[~answer], ids[~answer])
        assert ((seen == ids) | (seen == MASK)).all()
        logits, y = shifted(data, run.students[0].module, input_ids=seen)
        y = y.masked_fill(~mask[:, 1:], UNLABELLED)
        ce = cross_entropy(logits, y)
        want = {"ce": ce, "entropy": 3 * certainty(logits.flatten(0, 1), y.flatten()).view_as(ce)}
        learnt = mask.sum()
        for kind, value in want.items():
            # certainty's scale is by the labelled rows it is given, of which there are as many here
            torch.testing.assert_close(terms[f"{kind}/{name}"].part(step), value.sum() / learnt.clamp(min=1))
    with pytest.raises(SettingError, match="input_ids"):
        tiny(CertaintyForcing(MASK))


# --- sequences ----------------------------------------------------------------------------------------------------


def test_eisl_of_whole_sequences() -> None:
    run = run_of(EISL((2, 1), gumbel=False))
    step = step_of(run, EVERY)
    term = terms_of(run, step)["eisl"]
    want = eisl(*shifted(run.train_data, run.students[0].module), ngrams=(2, 1))
    torch.testing.assert_close(term.value, want)
    torch.testing.assert_close(term.part(step), want.mean())


def test_eisl_draws_the_same_noise_however_a_batch_is_split() -> None:
    run = run_of(EISL((2,)))
    whole = terms_of(run, step_of(run, EVERY))["eisl"].value
    parts = [terms_of(run, step_of(run, part))["eisl"].value for part in EVERY.split(1)]
    torch.testing.assert_close(torch.cat(parts), whole)
    plain = terms_of(run_of(EISL((2,), gumbel=False)), step_of(run, EVERY))["eisl"].value
    differs = (plain - whole).abs() > 1e-6
    assert differs.tolist() == [True, False, True, False]  # two and one token have one place only
    run.steps_done += 1
    assert not torch.allclose(terms_of(run, step_of(run, EVERY))["eisl"].value, whole)


def test_dco_is_of_whole_answers() -> None:
    run = run_of(DCO(4.0))
    logits, y = shifted(run.train_data, run.students[0].module)
    p = logits.softmax(-1).gather(-1, y.clamp(min=0)[..., None])[..., 0]
    p = torch.where(y == UNLABELLED, 1.0, p).prod(1)
    step = step_of(run, EVERY)
    term = terms_of(run, step)["dco"]
    torch.testing.assert_close(term.value, -(1 - (1 - p) ** 4).log(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(term.part(step), term.value.mean())


def test_redi_by_hand() -> None:
    right = torch.tensor([True, False, True, False])
    run = run_of(REDI(alpha=0.5), data=texts(masks={"right": right, "wrong": ~right}))
    step = step_of(run, EVERY)
    logits, y = shifted(run.train_data, run.students[0].module)
    u = -(cross_entropy(logits, y).sum(1) / torch.tensor([4, 2, 3, 1]))
    parts = {name: term.part(step) for name, term in terms_of(run, step).items()}
    torch.testing.assert_close(parts, {"right": -u[right].mean(), "wrong": 0.5 * u[~right].mean()})
    with pytest.raises(SignalError, match="right"):
        run_of(REDI())


def test_flip_flop_of_three_views() -> None:
    data = examples(
        n=12,
        views={name: lambda x, draw, by=by: x + by * (draw(str(by), 4) - 0.5) for name, by in (("a", 1), ("b", 2))},
    )
    method = FlipFlop(("x", "a", "b"), tau=0.5, top_k=2, low=0.1, high=0.5, temperature=2.0, beta=2.0, ce=3.0)
    model = net()
    with torch.no_grad():
        model.fc.weight.mul_(5)
    run = tiny(method, student=model, data=data)
    step = step_of(run, torch.arange(12))
    terms = terms_of(run, step)
    said = torch.stack([model(step.view(name)) for name in method.views])  # (views, rows, classes)
    kinds = set()
    for row, logits in enumerate(said.unbind(1)):
        picks, p = logits.argmax(1), logits.log_softmax(1)
        choice = picks.mode().values
        votes = (picks == choice).sum().item()
        margin = p[:, choice] - p.scatter(1, choice.expand(3, 1), -torch.inf).amax(1)
        want = dict.fromkeys(terms, torch.tensor(0.0))
        panel: list[int] = []
        if votes >= 2:
            want["consensus"] = -3 * p[:, choice].mean()
        if votes == 3:
            sure = margin.median() >= 0.5
            panel = [0, 1, 2] if sure else margin.topk(2).indices.tolist()
            mixture = p[panel].exp().mean(0).log()
            both = [(kl(p[i], mixture) + kl(mixture, p[i])) / 2 for i in panel]
            want["jeffreys"] = 2 * torch.stack(both).mean()
        if len(panel) == 2:
            (left,) = {0, 1, 2} - set(panel)
            weight = 0.1 + 0.4 * ((p[panel, choice].mean() - p[left, choice]) / 2).sigmoid()
            want["kl"] = weight * kl(p[left], mixture)
        kinds.add((votes, len(panel)))
        for name, value in want.items():
            torch.testing.assert_close(terms[name].value[row], value, msg=f"{name} of {row}")
    assert {(3, 3), (3, 2), (2, 0)} <= kinds


# --- states of tokens ---------------------------------------------------------------------------------------------


def test_token_states_by_hand() -> None:
    method = TokenStates("blocks.0", nst=2.0, contrast=3.0, tau=0.7)
    run = run_of(method, teacher=speaker(1, width=6))
    step = step_of(run, EVERY)
    terms, y = terms_of(run, step), run.train_data.y[:, 1:]
    states = [player.whole("x")["blocks.0"][:, :-1] for player in (step.student, step.teacher)]
    ours, theirs = (F.normalize(each, dim=-1) for each in (run.bundle.state(states[0]), states[1]))
    each = [nst(s[k].T[None], t[k].T[None]) for s, t, k in zip(ours, theirs, y != UNLABELLED, strict=True)]
    torch.testing.assert_close(terms["nst"].value, 2 * torch.cat(each))
    # the first tokens of all answers lie side by side, then the second ones, ...
    answers = [(s[k], t[k]) for s, t, k in zip(ours, theirs, y != UNLABELLED, strict=True)]
    want = torch.full((4, 4), torch.nan)
    for place in range(4):
        there = [row for row, (s, _) in enumerate(answers) if len(s) > place]
        want[there, place] = nt_xent(
            *(torch.stack([answers[row][side][place] for row in there]) for side in (0, 1)), tau=0.7
        )
    torch.testing.assert_close(terms["contrast"].value, 3 * want[~want.isnan()])
    assert method.couples_examples
    assert not TokenStates("blocks.0", contrast=0.0).couples_examples
    assert list(terms_of(run_of(TokenStates("blocks.0", contrast=0.0), teacher=speaker(1)), step)) == ["nst"]


def test_vidlankd_trains_its_head() -> None:
    run = run_of(limbeck.vidlankd(layer="blocks.0"), teacher=speaker(1, width=6), epochs=30, batch_size=4)
    run.fit()
    assert run.history[-1]["loss"] < run.history[0]["loss"] - 0.2
