import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import CE, KL, SGD, Objective, Run
from limbeck.align import NONE, biases, pieces
from limbeck.blocks.alignment import ALM, ULD, ChunkStates, MinED, last_of, new_word
from limbeck.blocks.language import OnPolicy
from limbeck.data import UNLABELLED
from limbeck.data.paired import Paired
from limbeck.data.text import BPE, Bytes, Tokens
from limbeck.errors import SettingError
from limbeck.losses.alignment import chunk_divergence, uld
from limbeck.models.gpt import GPT
from limbeck.schedules import Clock
from limbeck.step import Step
from tests.conformance import Saver, close, differences, double, ending, seeded, trained

TEXTS = ["the cat sat on the mat\n", "the cats and 字 the mats\n", "def cat(the):\n    return the\n", "a cat"] * 3
LENGTH = 24
UNBIASED = ALM(merge=0.01, ends="unbiased")
STATES = CE() + ChunkStates(project=True)
OBJECTIVES = (
    ALM(), ALM(merge=0.1), UNBIASED, ALM(compare="abs", tau=1.0), ULD(), MinED(), CE() + 0.5 * ALM() + MinED(), STATES
)  # fmt: skip

each = pytest.mark.parametrize("method", OBJECTIVES, ids=repr)


@cache
def bpe() -> BPE:
    return BPE.train(TEXTS, 280)


class Drop(GPT):
    def forward(self, input_ids: Tensor, **rest: Any) -> Any:
        output = super().forward(input_ids, **rest)
        output.signals[".embedding"] = nn.functional.dropout(output.signals[".embedding"], 0.3, self.training)
        return output


def gpt(vocabulary: int, kind: type[GPT] = GPT) -> GPT:
    return kind(vocabulary, width=16, depth=1, heads=2)


def run_of(method: Objective, **fields: Any) -> Run:
    given: dict[str, Any] = {
        "student": seeded(0, gpt, Bytes.vocab_size),
        "teacher": seeded(1, gpt, bpe().vocab_size + 8),  # a padded head
        "data": Paired.packed(TEXTS, Bytes(), LENGTH, teacher=bpe()),
        "method": method,
        "epochs": 2,
        "batch_size": 6,
        "optimizer": SGD(0.1),
        "accelerator": "cpu",
    }
    return Run(**given | fields)


def value(run: Run, ids: Tensor | None = None) -> tuple[dict[str, float], Step]:
    """The terms of the loss on some blocks, as the loop takes them, and the step."""
    run.setup()
    ids = torch.arange(len(run.train_data)) if ids is None else ids
    (step,) = run.prepare([next(run.train_data.batches([ids]))], Clock(0, 1, 0, 1))
    with torch.no_grad():
        return {name: float(part) for name, part in run.bundle(step)[1].items()}, step


def log_p(net: nn.Module, ids: Tensor, vocabulary: int) -> Tensor:
    """Of each token but the first, (b, n - 1)."""
    logits = net(ids).logits[..., :vocabulary]
    return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


def slow_alm(run: Run, merge: float | None = None, bias: dict[tuple[int, int], float] | None = None) -> float:
    """Text by text, chunk by chunk."""
    data, total, count = run.train_data, 0.0, 0
    networks = (run.students[0].module, run.teachers[0].net.module)
    tokenizers = (data.tokenizer, data.teacher_tokenizer)
    with torch.no_grad():
        for row in range(len(data)):
            sums: list[dict[int, Tensor]] = []
            tokens: list[dict[int, int]] = []
            starts: list[dict[int, Tensor]] = []
            for net, tokenizer, ids, chunk in zip(
                networks,
                tokenizers,
                (data.x["input_ids"], data.x["teacher.input_ids"]),
                (data.x["chunk"], data.x["teacher.chunk"]),
                strict=True,
            ):
                logits = net(ids[row : row + 1]).logits[0, :, : tokenizer.vocab_size].log_softmax(-1)
                words = torch.tensor([new_word(piece) for piece in pieces(tokenizer)])
                sums.append({})
                starts.append({})
                tokens.append({})
                for i, k in enumerate(chunk[row].tolist()):
                    if k != NONE:
                        sums[-1][k] = sums[-1].get(k, 0.0) + logits[i - 1, ids[row, i]]
                        starts[-1][k] = logits[i, words].exp().sum().log()
                        tokens[-1][k] = int(ids[row, i])
            assert sums[0].keys() == sums[1].keys()
            groups, open_ = [], []
            for k in sorted(sums[0]):
                open_.append(k)
                if bias is not None:
                    may_end = bias[tokens[0][k], tokens[1][k]] <= merge
                else:
                    may_end = merge is None or starts[1][k].exp() > merge
                if may_end or k == max(sums[0]):
                    groups.append(open_)
                    open_ = []
            count += len(sums[0]) if bias is None else len(groups)
            for group in groups:
                sides = [
                    sum(own[k] for k in group) + (0 if merge is None else start[group[-1]])
                    for own, start in zip(sums, starts, strict=True)
                ]
                total += float(chunk_divergence(sides[0][None], sides[1][None]))
    return total / count


@pytest.mark.parametrize("merge", [None, 0.1, 0.3])
def test_alm_is_the_mean_over_the_chunks_of_all_texts(merge: float | None) -> None:
    with double():
        run = run_of(ALM(merge=merge))
        found, step = value(run)
        assert found["alm"] == pytest.approx(slow_alm(run, merge), rel=1e-9)
    assert int(step.counts["chunks"]) == int(run.train_data.masks["chunks"].sum()) > 20


def test_unbiased_alm_is_the_mean_over_the_merged_chunks() -> None:
    with double():
        run = run_of(UNBIASED)
        found, step = value(run)
        data, own, its = run.train_data, bpe(), Bytes()
        ends = [data.x[name][last_of(data.x[chunk])] for name, chunk in
                (("input_ids", "chunk"), ("teacher.input_ids", "teacher.chunk"))]  # fmt: skip
        pairs = sorted(set(zip(*(each.tolist() for each in ends), strict=True)))
        shares = [
            y[y >= 0].bincount(minlength=tokenizer.vocab_size) / (y >= 0).sum()
            for y, tokenizer in ((data.y, its), (data.x["teacher.y"], own))
        ]
        bias = dict(zip(pairs, biases(pairs, (its, own), [each.tolist() for each in shares]), strict=True))
        assert found["alm"] == pytest.approx(slow_alm(run, 0.01, bias), rel=1e-9)
    assert 5 < int(step.counts["merged"]) < int(step.counts["chunks"])


@pytest.mark.parametrize("scale", ["channel", "all"])
def test_states_at_the_ends_of_chunks(scale: Any) -> None:
    run = run_of(ChunkStates(scale=scale))
    found, _ = value(run)
    data, places = run.train_data, []
    networks = (run.students[0].module, run.teachers[0].net.module)
    for net, name, chunk in zip(networks, ("input_ids", "teacher.input_ids"), ("chunk", "teacher.chunk"), strict=True):
        states = net.eval()(data.x[name]).embedding
        found_here = {}
        for row, own in enumerate(data.x[chunk].tolist()):
            found_here |= {(row, k): states[row, i] for i, k in enumerate(own) if k != NONE}  # the last one stays
        places.append(torch.stack([found_here[key] for key in sorted(found_here)]).detach())
    ours, theirs = places
    size = theirs.square().mean(0) if scale == "channel" else theirs.square().mean()
    assert found["chunk_states"] == pytest.approx(float(((ours - theirs).square() / size).mean()), rel=1e-5)


def test_uld_is_the_mean_over_the_tokens_that_both_have() -> None:
    run = run_of(ULD())
    found, _ = value(run)
    data, sizes, total, count = run.train_data, (Bytes.vocab_size, bpe().vocab_size), 0.0, 0
    for row in range(len(data)):
        ids = [data.x[name][row, : int((y[row] >= 0).sum())] for name, y in
               (("input_ids", data.y), ("teacher.input_ids", data.x["teacher.y"]))]  # fmt: skip
        least = min(len(ids[0]), len(ids[1])) - 1
        nets = run.students[0].module, run.teachers[0].net.module
        rows = [
            net.eval()(each[None]).logits[0, :least, :size] for net, each, size in zip(nets, ids, sizes, strict=True)
        ]
        total, count = total + uld(*rows).sum().item(), count + least
    assert found["uld"] == pytest.approx(total / count, rel=1e-5)


def test_equal_models_of_one_tokenizer_have_nothing_to_learn() -> None:
    model = seeded(0, gpt, bpe().vocab_size)
    data = Paired.packed(TEXTS, bpe(), LENGTH, teacher=bpe())
    for method in (ALM(), ALM(merge=0.1), UNBIASED, ULD(), MinED(), ChunkStates()):
        found, _ = value(run_of(method, student=model, teacher=copy.deepcopy(model), data=data))
        assert next(iter(found.values())) == pytest.approx(0.0, abs=1e-7), method


def test_with_one_tokenizer_mined_is_kl_and_uld_is_of_the_same_tokens() -> None:
    models = {"student": seeded(0, gpt, bpe().vocab_size), "teacher": seeded(1, gpt, bpe().vocab_size)}
    both = Paired.packed(TEXTS, bpe(), LENGTH, teacher=bpe())
    plain = Tokens(both.x, both.y, bpe(), views=both.views)
    wanted, step = value(run_of(KL(2.0), data=plain, **models))
    assert value(run_of(MinED(2.0), data=both, **models))[0]["mined"] == pytest.approx(wanted["kl"])
    rows = uld(step.student("x").logits, step.teacher("x").logits)
    assert value(run_of(ULD(), data=both, **models))[0]["uld"] == pytest.approx(float(rows.mean()))


def test_mined_learns_labels_where_tokens_do_not_match() -> None:
    run = run_of(MinED())
    run.data.x["teacher.chunk"][:] = NONE
    run.data.x["chunk"][:] = NONE
    assert value(run)[0]["mined"] == pytest.approx(value(run_of(CE()))[0]["ce"])


@each
def test_trains_and_prints(method: Objective) -> None:
    run = trained(run_of(method, epochs=8))
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    names = {"ALM": ALM, "ULD": ULD, "MinED": MinED, "CE": CE, "ChunkStates": ChunkStates}
    assert eval(repr(method), names) == method


@pytest.mark.parametrize("method", [each for each in OBJECTIVES if not each.couples_examples], ids=repr)
def test_micro_batches_change_nothing(method: Objective) -> None:
    with double():
        whole, parts = trained(run_of(method)), trained(run_of(method, micro_batch=2))
    close(whole.bundle.state_dict(), parts.bundle.state_dict())


@each
def test_resumes_to_the_bit(method: Objective, tmp_path: Path) -> None:
    saver, student = Saver(tmp_path), seeded(0, gpt, Bytes.vocab_size, Drop)
    wanted = ending(trained(run_of(method, student=copy.deepcopy(student), watcher=saver)))
    for path in saver.paths:
        run = run_of(method, student=seeded(7, gpt, Bytes.vocab_size, Drop))
        run.setup()
        run.load(path)
        assert differences(ending(trained(run)), wanted) == [], path.name


@each
def test_the_teacher_stays_as_it_is(method: Objective) -> None:
    run = run_of(method)
    before = copy.deepcopy(run.teacher.state_dict())
    trained(run)
    assert differences(run.teacher.state_dict(), before) == []
    assert all(parameter.grad is None for parameter in run.teacher.parameters())


@each
def test_rows_that_are_not_valid_change_nothing(method: Objective) -> None:
    def among(token: int) -> Run:
        run = run_of(method)
        x = {name: torch.cat([part, torch.full_like(part[:2], token)]) for name, part in run.data.x.items()}
        for chunk in ("chunk", "teacher.chunk"):
            x[chunk][-2:] = run.data.x[chunk][:2]
        y = torch.cat([run.data.y, torch.full_like(run.data.y[:2], token)])
        valid = torch.arange(len(y)) < len(y) - 2
        run.data = Paired(x, y, Bytes(), bpe(), masks={"valid": valid})
        return trained(run)

    assert differences(ending(among(3)), ending(among(99_999))) == []


@each
def test_padding_changes_nothing_to_the_bit(method: Objective) -> None:
    def padded(with_: int) -> Run:
        run = run_of(method)
        x = run.data.x
        x["input_ids"][run.data.y == UNLABELLED] = with_
        x["teacher.input_ids"][x["teacher.y"] == UNLABELLED] = with_
        assert (run.data.y == UNLABELLED).any()
        assert (x["teacher.y"] == UNLABELLED).any()
        return trained(run)

    assert differences(ending(padded(0)), ending(padded(99))) == []


@each
def test_completions_whose_tokens_are_cut(method: Objective) -> None:
    pairs = [("the cat", " sat on the mat\n"), ("the", "m"), ("cat", "s and 字 the mats, the cats, the cats")]
    found, _ = value(run_of(method, data=Paired.pairs(pairs, Bytes(), LENGTH, teacher=bpe())))
    assert all(part > 0 for part in found.values())


def test_the_student_is_judged_alone() -> None:
    for test in (Tokens.packed(TEXTS, Bytes(), LENGTH), Paired.packed(TEXTS, Bytes(), LENGTH, teacher=bpe())):
        row = trained(run_of(ALM(), test=test)).history[-1]
        assert row["bits_per_byte"] > 0
        assert "agreement" not in row


def test_what_is_missing_is_said() -> None:
    for method in (ALM(), UNBIASED, ULD(), ChunkStates()):
        with pytest.raises(SettingError, match="take one tokenizer"):
            run_of(OnPolicy(method, rate=1.0)).fit()
    with pytest.raises(SettingError, match="project=True"):
        run_of(ChunkStates(), teacher=GPT(bpe().vocab_size, width=24, depth=1, heads=2)).setup()
    with pytest.raises(SettingError, match="merge in"):
        ALM(merge=1.5)
    plain = Tokens.packed(TEXTS, Bytes(), LENGTH)
    for method in (ALM(), ULD(), MinED()):
        with pytest.raises(SettingError, match=r"Paired\.packed"):
            run_of(method, data=plain, teacher=seeded(1, gpt, Bytes.vocab_size)).setup()
