"""Language models: what is predicted, what is not, and texts that the student writes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import CE, JSD, KL, SGD, TAID, AdamW, Data, Output, ReverseKL, Run, SkewKL, TotalVariation, blocks, tiles
from limbeck.blocks.language import Among, OffPolicy, OnPolicy, RewardedKL
from limbeck.data import UNLABELLED, given
from limbeck.data.select import subset
from limbeck.data.text import Bytes, Tokens
from limbeck.errors import DataError, SettingError, ShapeError
from limbeck.generate import fill, generate
from limbeck.language import distinct, scores
from limbeck.models.gpt import GPT
from limbeck.records import Cached, Record
from limbeck.records.cached import Coded
from limbeck.registry import make
from limbeck.schedules import Clock
from limbeck.signals import as_net
from limbeck.step import Player, Step
from tests.conformance import close, differences, double, ending

PAIRS = [("1+1=", "2"), ("12+30=", "42"), ("a", "abcabc"), ("", "xyz"), ("2+2=", "4"), ("b", "bc")]
TEXT = "the quick brown fox jumps over the lazy dog. " * 8


def gpt(seed: int = 0, vocab_size: int = 257, **settings: Any) -> GPT:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT(vocab_size, **{"width": 16, "depth": 2, "heads": 2, **settings})
        return model.apply(lambda module: scaled(module, 5.0))  # far from uniform answers


def scaled(module: nn.Module, factor: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        module.weight.data.mul_(factor)


def pairs() -> Tokens:
    return Tokens.pairs(PAIRS, Bytes(), 16)


def run(method: Any = None, **fields: Any) -> Run:
    given: dict[str, Any] = {
        "student": gpt(), "teacher": gpt(1, width=24), "data": pairs(), "method": method or CE() + KL(2.0),
        "epochs": 2, "batch_size": 3, "optimizer": AdamW(0.01), "accelerator": "cpu",
    }  # fmt: skip
    return Run(**given | fields)


def trained(**fields: Any) -> Run:
    trained = run(**fields)
    trained.fit()
    return trained


# ---- what a row is --------------------------------------------------------------------------------------------------


class Parrot(nn.Module):
    """Predicts that each token is followed by itself plus one; the margin is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.margin = nn.Parameter(torch.tensor(3.0))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.margin * nn.functional.one_hot((input_ids + 1) % 257, 257).float()


def test_each_token_is_predicted_from_those_before_it() -> None:
    x = torch.arange(20).view(2, 10)
    row = run(CE(), student=Parrot(), teacher=None, data=Tokens({"input_ids": x}, x, Bytes()), batch_size=2, epochs=1,
              optimizer=SGD(0.0)).fit()[-1]  # fmt: skip
    right = -torch.tensor([3.0, *[0.0] * 256]).log_softmax(0)[0]
    assert row["terms"]["ce"] == pytest.approx(float(right))


def test_rows_are_the_completions_tokens() -> None:
    batch = next(pairs().batches([torch.tensor([1, 3])]))
    end = Bytes.end
    assert batch.row_labels is not None
    assert batch.row_labels.tolist() == [*b"42", end, *b"xyz", end]
    assert batch.row_index.tolist() == [16 + 6, 16 + 7, 16 + 8, 48 + 1, 48 + 2, 48 + 3, 48 + 4]
    student = Player(batch, "student", run().student)  # type: ignore[arg-type]
    ids = batch.inputs["input_ids"]
    whole = gpt()(ids).logits
    assert torch.equal(Player(batch, "s", lambda x, view, index: Output({".logits": gpt()(**x).logits}))("x").logits,
                       torch.cat([whole[0, 5:8], whole[1, 0:4]]))  # fmt: skip
    assert student.batch.mask("sequences").tolist() == [True, True]


@pytest.mark.parametrize("method", [CE() + KL(2.0), JSD(0.3), TAID(), ReverseKL() + CE()])
def test_what_stands_in_the_padding_changes_nothing_to_the_bit(method: Any) -> None:
    plain, other = pairs(), pairs()
    ids = other.x["input_ids"]
    for row, y in zip(ids, plain.y, strict=True):  # type: ignore[arg-type]
        last = int((y != UNLABELLED).nonzero().max())
        row[last + 1 :] = torch.randint(256, row[last + 1 :].shape, generator=torch.Generator().manual_seed(last))
    assert not torch.equal(plain.x["input_ids"], ids)
    a, b = trained(data=plain, method=method), trained(data=other, method=method)
    assert not differences(ending(a), ending(b))


def test_a_prompt_is_seen_and_not_predicted() -> None:
    first = next(pairs().batches([torch.arange(6)]))
    other = next(Tokens.pairs([("9" + p[1:], c) for p, c in PAIRS], Bytes(), 16).batches([torch.arange(6)]))
    assert torch.equal(first.row_labels, other.row_labels)  # type: ignore[arg-type]
    a = Player(first, "s", lambda x, view, index: gpt()(**x))("x").logits
    b = Player(other, "s", lambda x, view, index: gpt()(**x))("x").logits
    assert not torch.allclose(a[:3], b[:3])


@pytest.mark.parametrize("micro", [1, 2])
def test_split_batches_give_the_same_step(micro: int) -> None:
    plain = {"epochs": 1, "optimizer": SGD(0.1)}  # Adam makes a step of the least rounding error
    whole, split = trained(**plain), trained(**plain, micro_batch=micro)
    for a, b in zip(whole.bundle.state_dict().values(), split.bundle.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert split.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-4)


DIVERGENCES = [KL(2.0), ReverseKL(), JSD(0.3), SkewKL(0.1), SkewKL(0.1, reverse=True), TotalVariation()]


@pytest.mark.parametrize("method", DIVERGENCES, ids=repr)
@pytest.mark.parametrize("large", [False, True])
def test_equal_models_give_nothing_also_with_a_padded_head(
    method: Any, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "LARGE", 0 if large else 1 << 60)
    teacher, student = gpt(vocab_size=300), gpt()
    student.load_state_dict({k: v[:257] if len(v) == 300 else v for k, v in teacher.state_dict().items()})
    row = run(method, student=student, teacher=teacher, epochs=1, optimizer=SGD(0.0)).fit()[-1]
    assert row["loss"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", [*DIVERGENCES, CE(), TAID()], ids=repr)
def test_large_logits_are_never_made(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = trained(method=method, epochs=1)
    monkeypatch.setattr(tiles, "LARGE", 0)
    tiled = run(method, epochs=1)
    tiled.setup()
    monkeypatch.setattr("limbeck.signals.Head.__call__", None)  # whoever makes all of them, fails
    monkeypatch.setattr("limbeck.losses.linear.Linear.__call__", lambda self, rows: nn.functional.linear(
        self.hidden[rows], self.head.weight))  # fmt: skip
    tiled.fit()
    for a, b in zip(dense.bundle.state_dict().values(), tiled.bundle.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_vocabulary_that_is_larger_than_the_head_is_told() -> None:
    with pytest.raises(ShapeError, match="build it for the tokenizer's vocabulary"):
        run(student=gpt(vocab_size=200)).setup()
    with pytest.raises(ShapeError, match="the vocabulary has 257 tokens and the model 200 logits"):
        run(student=Short()).setup()


class Short(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Embedding(257, 8), nn.Linear(8, 200))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.body(input_ids)


def test_labels_of_tokens_for_a_model_of_whole_sequences() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = gpt()

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.body(input_ids).logits.mean(1)

    with pytest.raises(ShapeError, match="no signal has a row for each"):
        run(student=Mean()).setup()


def test_a_record_of_the_teacher_teaches_the_same_to_the_bit(tmp_path: Path) -> None:
    teacher = gpt(1, vocab_size=300, width=24)
    Record.capture(tmp_path, teacher, pairs())
    a, b = trained(teacher=teacher), trained(teacher=Cached(tmp_path))
    assert not differences(ending(a), ending(b))


@pytest.mark.parametrize("encoding", ["fp16", "head=fp32", "topk=4", "sampled=6"])
def test_a_large_record_is_decoded_a_few_rows_at_a_time(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Record.capture(tmp_path, gpt(1, vocab_size=300, width=24), pairs(), signals={".logits": encoding})
    dense = trained(teacher=Cached(tmp_path), method=KL(2.0))
    seen: list[int] = []
    decode = Coded.__call__

    def counted(coded: Coded, rows: slice) -> Tensor:
        logits = decode(coded, rows)
        seen.append(len(logits))
        return logits

    monkeypatch.setattr(tiles, "LARGE", 0)
    monkeypatch.setattr("limbeck.losses.linear.GROUP", 16)
    monkeypatch.setattr("limbeck.losses.linear.CACHE", 0)
    tiled = run(teacher=Cached(tmp_path), method=KL(2.0))
    tiled.setup()  # looks at all logits of two texts
    monkeypatch.setattr(Coded, "__call__", counted)
    tiled.fit()
    assert max(seen) == 4
    for name, weight in tiled.bundle.state_dict().items():
        torch.testing.assert_close(weight, dense.bundle.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_a_memory_of_tokens_wants_texts_of_one_length() -> None:
    tokens = pairs()
    items = [{"input_ids": ids, "labels": y} for ids, y in zip(tokens.x["input_ids"], given(tokens.y), strict=True)]
    with pytest.raises(SettingError, match="a row is a token of texts of any length: give data in memory"):
        run(make("ps_kd"), data=Data(items, classes=257)).setup()
    assert tokens.num_rows == given(tokens.y).numel()
    assert subset(tokens, torch.arange(2)).num_rows == 2 * 16


# ---- texts that the student writes ----------------------------------------------------------------------------------


OWN_TEXTS = [
    OnPolicy(JSD(0.5), rate=0.5),
    OnPolicy(RewardedKL(teacher=0.2), rate=1.0, teacher=0.2),
    OffPolicy(SkewKL(0.1), rate=1.0, replay=4),
    OffPolicy(SkewKL(0.1), rate=0.3, rise=0.4, slack=0.0, replay=4),
]


@pytest.mark.parametrize("method", OWN_TEXTS, ids=repr)
def test_interrupted_writing_goes_on_to_the_bit(method: Any, tmp_path: Path) -> None:
    settings = {"epochs": 3, "test": Tokens.packed([TEXT], Bytes(), 32)}
    whole = trained(method=method, **settings)
    first = run(method, **settings)
    first.setup()
    with pytest.raises(KeyboardInterrupt):
        stop_after(first, 1)
    first.save(tmp_path / "part.ckpt")
    second = run(method, **settings, student=gpt(5))
    second.load(tmp_path / "part.ckpt")
    second.fit()
    assert not differences(ending(whole), ending(second))


def stop_after(run: Run, epochs: int) -> None:
    class Stop:
        def step(self, run: Run) -> None: ...

        def epoch(self, run: Run, row: Any) -> None:
            if row["epoch"] == epochs:
                raise KeyboardInterrupt

    run.watcher = Stop()
    run.fit()


@pytest.mark.parametrize("method", OWN_TEXTS, ids=repr)
def test_split_batches_write_the_same_texts(method: Any) -> None:
    with double():
        settings = {"epochs": 3, "optimizer": SGD(0.1), "test": Tokens.packed([TEXT], Bytes(), 32)}
        close(*(trained(method=method, **settings, **micro).bundle.state_dict() for micro in ({}, {"micro_batch": 1})))


class Seen(JSD):
    """What was learnt from, of each step: ids, labels, and whether they are the data's."""

    def loss(self, step: Any, state: Any) -> Any:
        batch = step.batch
        SEEN.append((batch.inputs["input_ids"].clone(), batch.y.clone(), batch.recorded))
        return super().loss(step, state)


SEEN: list[tuple[Tensor, Tensor, bool]] = []


def test_own_texts_are_kept_and_used_again() -> None:
    SEEN.clear()
    run_ = run(OffPolicy(Seen(0.5), rate=1.0, replay=5), epochs=20)
    run_.setup()
    SEEN.clear()  # the dry step's
    run_.fit()
    assert not any(recorded for _, _, recorded in SEEN)
    kept, anew = list[Tensor](), []
    for ids, y, _ in SEEN:
        texts = list(torch.cat([ids, y], 1))
        again = [any(torch.equal(text, old) for old in kept[-5:]) for text in texts]
        anew.append(not all(again))
        kept += texts if anew[-1] else []
    steps = torch.tensor(anew).float()
    assert steps[:2].tolist() == [1, 1]  # until there are five
    assert float(steps[2:12].mean()) > float(steps[-10:].mean())
    assert not steps[-1]
    state = run_.bundle.state[1]
    assert int(state.count) == 3 * int(steps.sum())
    for text in torch.cat([state.ids, state.y], 1):
        assert any(torch.equal(text, old) for old in kept[-5:])


def test_the_share_of_own_texts_rises_with_the_validation_loss() -> None:
    method = OffPolicy(JSD(0.5), rate=0.0, rise=0.4, slack=0.1, replay=0)
    test = Tokens.packed([TEXT], Bytes(), 32)
    run_ = run(method, test=test, epochs=9)
    run_.setup()
    texts = run_.bundle.state[1]
    assert float(texts.nll) == pytest.approx(scores(run_.students[0], test)["nll"])

    def share(*changes: float, first: int = 0) -> float:
        run_.history = [{"nll": float(texts.nll) + change} for change in changes]
        step = Step(run_, next(run_.train_data.batches([torch.arange(2)])), Clock(0, 1, 0, 1), len(changes))
        return method.share(step, texts)

    assert share() == share(0.05) == share(-1.0, 0.05) == 0
    assert share(0.2) == share(0.2, 0.25) == share(0.2, 0.0) == 0.4
    assert share(0.2, 0.0, 0.31, 0.5) == 1.0  # at most
    with pytest.raises(SettingError, match=r"Run\(test=\.\.\.\)"):
        run(method).setup()
    with pytest.raises(SettingError, match="or replay=0"):
        run(OffPolicy(CE()), student=nn.Linear(3, 2), teacher=None,
            data=Data(torch.randn(8, 3), torch.arange(8) % 2)).setup()  # fmt: skip
    with pytest.raises(SettingError, match="replay=0 with keep"):
        OffPolicy(JSD(0.5), keep="corpus")


def test_a_reward_by_hand() -> None:
    batch = next(pairs().batches([torch.tensor([1, 3, 5])]))
    nets = gpt().double().eval(), gpt(1, width=24).double().eval()
    rows = [Player(batch, "s", lambda x, view, index, net=net: net(**x))("x").logits for net in nets]

    class Given:
        student = teacher = None
        y = batch.row_labels

    given = Given()
    given.batch = batch
    given.student, given.teacher = (lambda view, r=r: Output({".logits": r}) for r in rows)
    found = RewardedKL(clip=0.5, teacher=0.2).loss(given, None)
    log_q, log_p = (r.log_softmax(-1) for r in rows)
    texts = batch.positions.sum(1).tolist()
    at = 0
    for length in texts:
        own = range(at, at + length)
        gain = {i: log_p[i, given.y[i]] - log_q[i, given.y[i]] for i in own}
        for i in own:
            q, p = log_q[i].exp(), log_p[i].exp()
            w = q[given.y[i]] / (0.8 * q[given.y[i]] + 0.2 * p[given.y[i]])
            later = [gain[j].item() for j in own if j > i]
            r = max(-0.5, min(0.5, sum(later) / len(later))) if later else 0.0
            divergence = (q * (log_q[i] - log_p[i])).sum()
            assert found["reverse_kl"][i].item() == pytest.approx((w * divergence).item())
            assert found["reward"][i].item() == pytest.approx((-w * r * log_q[i, given.y[i]]).item())
        at += length


def test_a_corpus_stays_as_it_is_and_learns_its_tokens() -> None:
    data = pairs()
    corpus = torch.tensor([False, True, False, True, True, False])
    data = Tokens(data.x, data.y, Bytes(), masks={"corpus": corpus})  # type: ignore[arg-type]
    method = make("minillm", corpus=0.5)
    run_ = run(method, data=data, batch_size=6)
    run_.setup()
    batch = next(run_.train_data.batches([torch.arange(6)]))
    (step,) = run_.prepare([batch], Clock(0, 1, 0, 1))
    ids, y = step.batch.inputs["input_ids"], step.batch.y
    assert torch.equal(ids[corpus], data.x["input_ids"][corpus])
    assert torch.equal(y[corpus], data.y[corpus])  # type: ignore[index]
    assert not any(torch.equal(*rows) for rows in zip(ids[~corpus], data.x["input_ids"][~corpus], strict=True))
    terms = run_.bundle(step)[1]
    rows = [gpt()(x[None]).logits[0, :-1][y[1:] != UNLABELLED] for x, y in zip(ids[corpus], y[corpus], strict=True)]
    labels = y[corpus][:, 1:][y[corpus][:, 1:] != UNLABELLED]
    assert terms["ce"].item() == pytest.approx(0.5 * nn.functional.cross_entropy(torch.cat(rows), labels).item())
    assert int(step.counts["given"]) == len(labels)
    assert int(step.counts["own"]) == step.rows - len(labels)
    with pytest.raises(SettingError, match="mask of its own"):
        run(Among(Among(CE(), "own"), "given"), data=data).setup()


def test_the_student_writes_completions_and_keeps_prompts() -> None:
    seen = []

    class Look(JSD):
        def loss(self, step: Any, state: Any) -> Any:
            seen.append((step.batch.inputs["input_ids"].clone(), step.batch.y.clone(), step.batch.index))
            return super().loss(step, state)

    data = pairs()
    run(OnPolicy(Look(0.5), rate=1.0), data=data, epochs=1).fit()
    for ids, y, index in seen:
        for row, labels, i in zip(ids, y, index.tolist(), strict=True):
            prompt = int((data.y[i] != UNLABELLED).int().argmax())  # type: ignore[index]
            assert torch.equal(row[:prompt], data.x["input_ids"][i, :prompt])
            where = (labels != UNLABELLED).nonzero().flatten()
            assert where.tolist() == list(range(prompt, prompt + len(where)))
            assert torch.equal(row[where], labels[where])
            assert len(where) == 16 - prompt or int(row[where[-1]]) == Bytes.end


def test_rate_0_is_the_data_and_settings_are_checked() -> None:
    a, b = trained(method=JSD(0.5)), trained(method=OnPolicy(JSD(0.5), rate=0.0))
    assert a.history[-1]["loss"] == b.history[-1]["loss"]
    with pytest.raises(SettingError, match=r"rate in \[0, 1\]"):
        OnPolicy(JSD(0.5), rate=2.0)
    with pytest.raises(SettingError, match="give data of tokens"):
        run(OnPolicy(CE(), rate=1.0), student=nn.Linear(3, 2), teacher=None,
            data=Data(torch.randn(8, 3), torch.arange(8) % 2)).setup()  # fmt: skip


def test_a_text_s_reward_is_what_its_later_tokens_gain() -> None:
    class Place:
        batch = next(pairs().batches([torch.tensor([1, 3])]))

    gains = torch.tensor([1.0, 2.0, 4.0, 1.0, 1.0, 3.0, 5.0])
    later = blocks.language.rewards(gains, Place())  # type: ignore[arg-type]
    torch.testing.assert_close(later, torch.tensor([3.0, 4.0, 0.0, 3.0, 4.0, 5.0, 0.0]))


# ---- generation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_cache_gives_what_the_whole_text_gives(softcap: float | None) -> None:
    model = gpt(softcap=softcap).eval()
    prompts, lengths = torch.randint(257, (4, 5)), torch.tensor([5, 1, 3, 4])
    ids, ends = generate(model, prompts, lengths, new=6, temperature=0.0)
    assert (ends - lengths).tolist() == [6] * 4
    for row, length, end in zip(ids, lengths, ends, strict=True):
        text = row[:length]
        for _ in range(6):
            text = torch.cat([text, model(text[None]).logits[0, -1:].argmax(-1)])
        assert torch.equal(row[:end], text)
        assert not row[end:].any()


def test_both_sides_are_seen_but_padding_and_nothing_is_generated() -> None:
    model, ids = gpt(causal=False).eval(), torch.randint(1, 257, (2, 5))
    first = model(ids).logits[:, 0]
    assert not torch.allclose(first, model(ids.clone().index_fill_(1, torch.tensor([4]), 0)).logits[:, 0])
    padded = torch.nn.functional.pad(ids, (0, 3), value=7)
    told = {"attention_mask": (torch.arange(8) < 5).long().expand(2, 8)}
    for asked in (False, True):
        model.config.output_attentions = asked
        torch.testing.assert_close(model(padded, **told).logits[:, 0], first)
    with pytest.raises(SettingError, match="causal=True"):
        generate(model, ids, torch.tensor([5, 5]), new=1)


def test_sampling_follows_the_probabilities_at_its_temperature() -> None:
    model = gpt(vocab_size=5).eval()
    prompt = torch.tensor([[1, 2, 3]]).expand(20_000, 3)
    for temperature in (0.5, 2.0):
        ids, _ = generate(model, prompt, torch.full((20_000,), 3), new=1, temperature=temperature,
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
        found = ids[:, 3].bincount(minlength=5) / 20_000
        wanted = (model(prompt[:1]).logits[0, -1] / temperature).softmax(-1)
        torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=0.02)


def hugging(seed: int) -> Any:
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = transformers.GPT2Config(vocab_size=9, n_positions=16, n_embd=8, n_layer=1, n_head=2)
        return transformers.GPT2LMHeadModel(config).apply(lambda module: scaled(module, 3.0)).eval()


@pytest.mark.parametrize("own", [lambda: gpt(vocab_size=9), lambda: hugging(0)], ids=["ours", "theirs"])
@pytest.mark.parametrize("other", [lambda: gpt(1, vocab_size=9), lambda: hugging(1)], ids=["ours", "theirs"])
def test_a_mixture_of_two_models_says_what_both_say(own: Any, other: Any) -> None:
    own, other = own().eval(), other().eval()
    prompts, lengths = torch.randint(7, (40, 5)), torch.tensor([5, 1, 3, 4]).repeat(10)
    draws = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"new": 6, "vocabulary": 7, "draws": draws}
    ids, ends = generate(own, prompts, lengths, other=other, share=0.3, **settings)
    assert (ends - lengths).tolist() == [6] * 40
    for row, length, u in zip(ids, lengths.tolist(), draws, strict=True):
        for i in range(6):
            text = row[None, : length + i]
            p, q = (model(text).logits[0, -1, :7].double().softmax(-1) for model in (own, other))
            assert int(row[length + i]) == int(((0.7 * p + 0.3 * q).cumsum(-1) <= u[i]).sum())
    alone = generate(own, prompts, lengths, **settings)[0]
    assert torch.equal(generate(own, prompts, lengths, other=own, share=1.0, **settings)[0], alone)
    assert not torch.equal(ids, alone)
    with pytest.raises(SettingError, match=r"a share in \[0, 1\]"):
        generate(own, prompts, lengths, share=0.3, **settings)


def test_texts_end_at_their_end_and_only_with_tokens_that_there_are() -> None:
    check_ends(gpt(vocab_size=9).eval(), rows=64)


def check_ends(model: Any, rows: int) -> None:
    """A text of a model of 9 tokens, of which 5 may be written, ends with the first 3, and nothing stands behind."""
    prompts, lengths = torch.randint(5, (rows, 2)), torch.full((rows,), 2)
    ids, ends = generate(
        model, prompts, lengths, new=20, end=3, vocabulary=5, generator=torch.Generator().manual_seed(1)
    )
    assert int(ids.max()) < 5
    for row, end in zip(ids, ends.tolist(), strict=True):
        assert (row[2:end] == 3).nonzero().flatten().tolist() in ([end - 3], [])
        assert end == 22 or int(row[end - 1]) == 3
        assert not row[end:].any()


class Copying(nn.Module):
    """Says at the place before each token what `answers` has there; surer the closer it is to a known one."""

    def __init__(self, answers: Tensor, scale: float) -> None:
        super().__init__()
        self.answers, self.scale = answers, nn.Parameter(torch.tensor(scale))
        self.seen: list[Tensor] = []

    def forward(self, input_ids: Tensor) -> Tensor:
        self.seen.append(input_ids)
        known = input_ids != 9
        near = torch.stack([known[:, max(i - 1, 0) : i + 2].any(1) for i in range(known.shape[1])], 1)
        margin = torch.where(near, self.scale, 0.5)[..., None]
        said = margin * torch.nn.functional.one_hot(self.answers, 10)
        return (said + 20 * torch.nn.functional.one_hot(torch.full_like(input_ids, 9), 10)).roll(-1, 1)


def test_masked_tokens_are_filled_in_where_they_are_sure_block_by_block() -> None:
    answers = torch.arange(8).expand(2, 8)
    prompts = answers.clone()
    prompts[0, 2:], prompts[1, 5:7] = 9, 9
    for scale, block, steps in ((9.0, 32, [6, 1]), (0.6, 32, [6, 2]), (9.0, 3, [6, 1])):
        model = Copying(answers, scale)
        ids, found = fill(model, prompts, mask_token=9, block=block)
        assert torch.equal(ids, answers)
        assert found.tolist() == steps
    all_at_once, found = fill(Copying(answers, 9.0), prompts, mask_token=9, sure=100.0)
    assert torch.equal(all_at_once, answers)
    assert found.tolist() == [1, 1]
    assert fill(Copying(answers, 9.0), prompts, mask_token=9, block=4, sure=100.0)[1].tolist() == [2, 1]
    assert fill(Copying(answers, 9.0), prompts, mask_token=9, sure=0.0)[1].max() == 6
    with pytest.raises(SettingError, match="first token"):
        fill(model, torch.full((1, 3), 9), mask_token=9)


# ---- judging --------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    x = torch.tensor([[65, 66, 67, 68], [65, 66, 66, 256]])
    parrot = as_net(Parrot())
    found = scores(parrot, Tokens({"input_ids": x}, x, Bytes()), parrot, batch_size=1)
    right, wrong = (-torch.tensor([3.0, *[0.0] * 256]).log_softmax(0)[:2]).double().tolist()
    nll = (4 * right + 2 * wrong) / 6
    assert found["nll"] == pytest.approx(nll)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["bits_per_byte"] == pytest.approx(nll * 6 / 5 / torch.tensor(2.0).log().item())  # the end has no byte
    assert (found["agreement"], found["kl"]) == (1, pytest.approx(0))
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == pytest.approx(2 / 4)


def test_a_run_judges_its_student() -> None:
    test = Tokens.packed([TEXT], Bytes(), 32)
    row = trained(data=Tokens.packed([TEXT], Bytes(), 16), test=test, epochs=1).history[-1]
    assert {"bits_per_byte", "perplexity", "agreement", "kl"} <= row.keys()


def test_text_that_fills_no_block_and_prompts_without_room() -> None:
    with pytest.raises(DataError, match="4 tokens do not fill a block of 16"):
        Tokens.packed(["abc"], Bytes(), 16)
    with pytest.raises(DataError, match="1 of 2 prompts leave no room"):
        Tokens.pairs([("a", "b"), ("too long a prompt", "b")], Bytes(), 16)
