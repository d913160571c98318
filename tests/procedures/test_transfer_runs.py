"""Stages on other data, thinned students, sparse tuning, cycles of encoders, adapters that agree."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import CE, SGD, AdamW, Data, Run, registry
from limbeck.blocks.transfer import HiddenMSE
from limbeck.data.text import Bytes, Tokens
from limbeck.errors import SettingError
from limbeck.generate import Draw
from limbeck.models.encoders import BiEncoder
from limbeck.models.gpt import GPT
from limbeck.procedures import lorid
from limbeck.procedures.sparse import sparse_tuned
from limbeck.procedures.staged import staged
from limbeck.procedures.start import thinned
from limbeck.procedures.trans_encoder import both_orders, trans_encoder
from tests.conformance import differences

PAIRS = [("1+1=", "2"), ("12+30=", "42"), ("a", "abcabc"), ("b", "xyz")]


def gpt(seed: int = 0, width: int = 8, depth: int = 2) -> GPT:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT(257, width=width, depth=depth, heads=2)


def run_of(**fields: Any) -> Run:
    given: dict[str, Any] = {
        "student": gpt(), "teacher": gpt(1, 12, 4), "data": Tokens.pairs(PAIRS, Bytes(), 12), "method": CE(),
        "epochs": 2, "batch_size": 4, "optimizer": SGD(0.05), "accelerator": "cpu",
    }  # fmt: skip
    return Run(**given | fields)


# ---- stages ---------------------------------------------------------------------------------------------------------


def test_what_is_learnt_goes_on_in_the_next_stage(tmp_path: Path) -> None:
    latent = HiddenMSE(((".hidden.2", ".hidden.4"),))
    other = Tokens.pairs([("x", "yz"), ("uv", "w")], Bytes(), 12)
    run = run_of(optimizer=SGD(0.0, weight_decay=0.0), folder=tmp_path)
    stages = [
        {"method": latent, "data": other, "optimizer": SGD(0.1)},
        {"method": CE() + latent, "teacher": gpt(2, 12, 4)},
    ]
    first, second = staged(run, stages)
    assert first.students[0].module is second.students[0].module
    assert torch.equal(first.bundle.state[0].weight, second.bundle.state[1][0].weight)
    fresh = run_of(method=CE() + latent)
    fresh.setup()
    assert not torch.equal(fresh.bundle.state[1][0].weight, second.bundle.state[1][0].weight)
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}


def test_ernie_tiny_in_four_stages() -> None:
    latent = registry.make("ernie_tiny", depths=(2, 4), task=False)
    task = registry.make("ernie_tiny", depths=(2, 4))
    general, tuned = Tokens.pairs([("x", "yz"), ("uv", "w")], Bytes(), 12), gpt(2, 12, 4)
    runs = staged(run_of(teacher=tuned), [
        {"method": latent, "data": general, "teacher": gpt(1, 12, 4)},
        {"method": latent, "data": general},
        {"method": latent},
        {"method": task},
    ])  # fmt: skip
    assert [run.teachers[0].net.module is tuned for run in runs] == [False, True, True, True]
    assert {"soft", "ce"} < runs[-1].history[-1]["terms"].keys()
    with pytest.raises(SettingError, match="stage 1 has"):
        staged(run_of(), [{"objective": CE()}])


def test_thinned_keeps_the_last_of_each_group() -> None:
    teacher = gpt(0, depth=6)
    student = thinned(teacher, 3, layers="blocks")
    assert len(student.blocks) == 2
    for block, like in zip(student.blocks, (teacher.blocks[2], teacher.blocks[5]), strict=True):
        assert differences(block.state_dict(), like.state_dict()) == []
    assert len(teacher.blocks) == 6
    with pytest.raises(SettingError, match="every=4"):
        thinned(teacher, 4, layers="blocks")


def test_sparse_tuning_changes_what_changed_most() -> None:
    start, whole, sparse = gpt(), gpt(), gpt()
    optimizer = AdamW(0.01)
    run_of(student=whole, optimizer=optimizer).fit()
    sparse_tuned(run_of(student=sparse, optimizer=optimizer), 0.1)
    change = torch.cat([(a - b).abs().flatten() for a, b in zip(whole.parameters(), start.parameters(), strict=True)])
    tuned = torch.cat([(a != b).flatten() for a, b in zip(sparse.parameters(), start.parameters(), strict=True)])
    k = round(0.1 * len(change))
    assert 0.9 * k < tuned.sum() <= k
    assert change[tuned].min() >= change.sort(descending=True).values[k - 1]
    (sparse(torch.zeros(1, 2, dtype=torch.long)).logits.sum()).backward()
    assert sum(int((p.grad != 0).sum()) for p in sparse.parameters() if p.grad is not None) > 2 * k  # no hook is left


# ---- encoders -------------------------------------------------------------------------------------------------------


class Both(nn.Module):
    """A cross-encoder of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Bilinear(3, 3, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.map(a, b)


def encoders(seed: int) -> tuple[Run, Run]:
    torch.manual_seed(0)
    data = Data({"a": torch.randn(32, 3), "b": torch.randn(32, 3)})
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"data": data, "method": CE(), "batch_size": 8, "accelerator": "cpu"}
    bi = Run(student=BiEncoder(nn.Linear(3, 5)), epochs=40, optimizer=AdamW(0.02), **settings)
    return bi, Run(student=Both(), epochs=40, optimizer=AdamW(0.02), **settings)


def score(model: Any, data: Data) -> Tensor:
    return model(data.x).logits.detach().flatten()


def test_each_kind_learns_the_others_scores() -> None:
    bi, cross = encoders(1)
    before = [{name: each.clone() for name, each in run.student.state_dict().items()} for run in (bi, cross)]  # type: ignore[union-attr]
    cycles = trans_encoder(bi, cross, cycles=2)
    assert len(cycles) == 2
    for (found, again), teacher in zip(cycles, (bi.student, cycles[0].bi[0].student), strict=True):
        cosine = score(found[0].teachers[0].net, bi.data)
        assert torch.equal(cosine, teacher(**bi.data.x).detach().flatten())  # type: ignore[operator]
        said, own = score(found[0].students[0], bi.data).sigmoid(), score(again[0].students[0], bi.data)
        start = {"cross": score(cross_net(cross), bi.data).sigmoid(), "bi": score(cross_net(bi), bi.data)}
        assert (said - cosine.clamp(0, 1)).square().mean() < (start["cross"] - cosine.clamp(0, 1)).square().mean()
        assert (own - said).square().mean() < (start["bi"] - said).square().mean()
    assert differences(before, [run.student.state_dict() for run in (bi, cross)]) == []  # type: ignore[union-attr]


def cross_net(run: Run) -> Any:
    from limbeck.signals import as_net

    return as_net(run.student)  # type: ignore[arg-type]


def test_mutual_runs_learn_the_mean_and_pairs_turn_round() -> None:
    (bi, cross), (other, second) = encoders(1), encoders(2)
    found = trans_encoder([bi, other], [cross, second], cycles=1)[0]
    assert [len(run.teachers) for run in (*found.cross, *found.bi)] == [2, 2, 2, 2]
    turned = both_orders(bi.data)
    assert torch.equal(turned.x["a"][32:], bi.data.x["b"])
    assert len(found.cross[0].train_data) == 64
    assert len(found.bi[0].train_data) == 32
    with pytest.raises(SettingError, match="one cross-encoder"):
        trans_encoder([bi, other], cross)


# ---- adapters -------------------------------------------------------------------------------------------------------


def test_one_adapter_trains_and_the_rest_stays() -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install limbeck[lora]")
    model = lorid.with_adapters(gpt(), ["qkv"], r=2, alpha=4)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    lorid.tuned(run_of(student=model, teacher=None, epochs=3, optimizer=AdamW(0.05)), "knowledge")
    changed = differences(before, model.state_dict())
    assert changed
    assert all("lora_" in path and "knowledge" in path for path in changed)
    ids = torch.zeros(1, 3, dtype=torch.long)
    said = {}
    for name in lorid.NAMES:
        lorid.use(model, name)
        said[name] = model.eval()(ids).logits
    assert torch.equal(said["intuitive"], gpt().eval()(ids).logits)
    assert not torch.equal(said["knowledge"], said["deep"])
    with pytest.raises(SettingError, match="no adapter 'deeper'"):
        lorid.use(model, "deeper")


def test_answers_of_different_tries_may_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "intuitive": iter([["1", "7"], ["2", "8"], ["9"]]),
        "knowledge": iter([["k", "l"], ["m", "n"], ["o"]]),
        "deep": iter([["3", "?"], ["1", "?"], ["?"]]),
    }
    active, prompts = [""], []

    def written(model: Any, asked: Any, tokenizer: Any, **settings: Any) -> list[str]:
        prompts.append((active[0], list(asked)))
        return next(said[active[0]])

    monkeypatch.setattr(lorid, "use", lambda model, name: active.__setitem__(0, name))
    monkeypatch.setattr(lorid, "written", written)
    found = lorid.agree(gpt(), ["p", "q"], Bytes(), lambda text: text if text.isdigit() else None, new=1, tries=3)
    assert found == ["1", None]
    assert ("deep", ["pk", "ql"]) in prompts
    assert prompts[-1] == ("deep", ["qo"])  # the first question is closed


def test_top_p_keeps_the_fewest_tokens() -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(4000, 4)
    for top_p, kept in ((0.5, {1}), (0.6, {1, 3}), (0.81, {0, 1, 3}), (1.0, {0, 1, 2, 3})):
        draw = Draw(torch.rand(4000, 1, generator=torch.Generator().manual_seed(0)), 1.0, top_p)
        assert set(draw(logits, 0).tolist()) == kept


def test_pre_training_then_distillation_of_one_body() -> None:
    torch.manual_seed(0)
    body = gpt()
    classifier = Classifier(body)
    texts = torch.randint(256, (16, 6))
    y = torch.arange(16) % 3
    method = registry.make("pre_trained_distillation")
    language, distilled = staged(run_of(epochs=6, optimizer=AdamW(0.01)), [
        {"student": body, "data": Tokens({"input_ids": texts}, texts, Bytes()), "method": CE()},
        {"student": classifier, "teacher": Classifier(gpt(1)), "data": Data({"input_ids": texts}, y), "method": method},
    ])  # fmt: skip
    assert language.students[0].module is body
    assert distilled.students[0].module.body is body
    assert distilled.history[-1]["loss"] < distilled.history[0]["loss"]
    assert method == registry.read("SoftCE()")


class Classifier(nn.Module):
    def __init__(self, body: GPT) -> None:
        super().__init__()
        self.body, self.fc = body, nn.Linear(8, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.fc(self.body(input_ids).embedding[:, -1])
