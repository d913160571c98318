import copy

import pytest
import torch

from limbeck import CE, SGD, Run
from limbeck.data.text import Bytes, Tokens
from limbeck.errors import SettingError
from limbeck.models.gpt import GPT
from limbeck.procedures.cut import cut, cut_vocabulary, importance
from tests.conformance import differences, seeded, trained

HEADS, WIDTH, DEPTH = 4, 16, 2
DATA = Tokens.packed(["the cat sat on the mat. " * 20], Bytes(), 16)


def gpt(tied: bool = True) -> GPT:
    return GPT(Bytes.vocab_size, width=WIDTH, depth=DEPTH, heads=HEADS, tied=tied)


def logits(model: GPT) -> torch.Tensor:
    with torch.no_grad():
        return model(DATA.x["input_ids"]).logits


@pytest.mark.parametrize("tied", [True, False])
def test_with_all_heads_it_is_the_model_in_another_place(tied: bool) -> None:
    model = seeded(0, gpt, tied)
    before = copy.deepcopy(model.state_dict())
    student = cut(model, DATA, heads=HEADS)
    torch.testing.assert_close(logits(student), logits(model))
    assert differences(student.state_dict(), before) == []
    trained(Run(student=student, data=DATA, method=CE(), epochs=1, batch_size=4, optimizer=SGD(0.1), accelerator="cpu"))
    assert differences(model.state_dict(), before) == []
    assert (student.lm_head.weight is student.embed.weight) == tied


def test_parts_that_do_nothing_are_cut() -> None:
    """Of heads and neurons of half the layer nothing goes out, and half of the width is never written or read."""
    model = seeded(0, gpt)
    idle_heads, idle = [(1, 3), (0, 2)], torch.tensor([0, 3, 4, 5, 9, 12, 13, 15])
    live = torch.tensor([i for i in range(WIDTH) if i not in idle])
    with torch.no_grad():
        model.embed.weight[:, idle] = 0
        for block, heads in zip(model.blocks, idle_heads, strict=True):
            block.attention.out.weight[idle] = 0
            for head in heads:
                block.attention.out.weight[:, 4 * head : 4 * head + 4] = 0
            block.mlp[2].weight[idle] = 0
            block.mlp[2].weight[:, ::2] = 0
            block.mlp[2].bias[idle] = 0
    found = importance(model, DATA)
    assert not found.heads[0, [1, 3]].any()
    assert not found.neurons[:, ::2].any()
    assert not found.hidden[idle].any()
    assert found.hidden[live].all()
    student = cut(model, DATA, heads=2)
    torch.testing.assert_close(student.embed.weight, model.embed.weight[:, live])
    torch.testing.assert_close(
        student.blocks[0].attention.out.weight,
        model.blocks[0].attention.out.weight[live][:, [*range(4), *range(8, 12)]],
    )
    scale = (WIDTH / len(live)) ** 0.5  # of an RMS over half as many numbers
    for norm in [student.norm, *(each for block in student.blocks for each in (block.norm1, block.norm2))]:
        norm.weight.data *= scale
    torch.testing.assert_close(logits(student), logits(model), rtol=1e-3, atol=1e-4)


def test_importance_is_the_slope_of_the_loss() -> None:
    model = seeded(0, gpt).double()
    few = Tokens({"input_ids": DATA.x["input_ids"][:4]}, DATA.y[:4], Bytes())

    def loss(scale: float) -> float:
        scaled = copy.deepcopy(model)
        scaled.blocks[0].attention.out.weight.data[:, 4:8] *= scale
        found = scaled(few.x["input_ids"]).logits[:, :-1].flatten(0, 1)
        return float(torch.nn.functional.cross_entropy(found, few.y[:, 1:].flatten()).detach())

    slopes = []
    for head in (1, 2):
        scaled = copy.deepcopy(model)
        weight = scaled.blocks[0].attention.out.weight
        found = scaled(few.x["input_ids"]).logits[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(found, few.y[:, 1:].flatten()).backward()
        at = slice(4 * head, 4 * head + 4)
        slopes.append(float((weight.grad[:, at] * weight[:, at]).sum().abs().detach()))
    assert slopes[0] == pytest.approx(abs(loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5, rel=1e-4)
    heads = importance(model, few).heads[0]
    assert float(heads[1] / heads[2]) == pytest.approx(slopes[0] / slopes[1], rel=1e-6)
    torch.testing.assert_close(heads.norm(), torch.tensor(1.0).double())


def test_some_heads_are_kept() -> None:
    with pytest.raises(SettingError, match="heads=5"):
        cut(gpt(), DATA, heads=5)


def test_a_smaller_vocabulary_says_the_same_of_its_own_tokens() -> None:
    model = seeded(0, gpt)
    before, ids = copy.deepcopy(model.state_dict()), DATA.x["input_ids"]
    student = cut_vocabulary(model, ids, other=5)
    torch.testing.assert_close(logits(student), logits(model))
    assert sum(p.numel() for p in student.embed.parameters()) == (len(ids.unique()) + 1) * WIDTH
    strange = torch.tensor([[int(ids[0, 0]), 200, 3]])
    assert not (ids == 200).any()
    with torch.no_grad():
        said = student(strange).embedding
        torch.testing.assert_close(said, model(strange.clone().index_fill_(1, torch.tensor([1, 2]), 5)).embedding)
    trained(Run(student=student, data=DATA, method=CE(), epochs=1, batch_size=4, optimizer=SGD(0.1), accelerator="cpu"))
    assert not torch.equal(student.embed.weight, cut_vocabulary(model, ids, other=5).embed.weight)
    assert differences(model.state_dict(), before) == []
    with pytest.raises(SettingError, match="0 to 256; got 5 to 300"):
        cut_vocabulary(model, torch.tensor([7, 300]), other=5)


def test_a_smaller_vocabulary_of_a_transformers_model_keeps_its_padding() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=16)  # fmt: skip
    model = transformers.BertModel(config).eval()
    ids = torch.tensor([[3, 9, 4, 0]])
    student = cut_vocabulary(model, ids[:, :3], other=1).eval()
    torch.testing.assert_close(student(ids).last_hidden_state, model(ids).last_hidden_state)
    student(ids).last_hidden_state[..., 0].sum().backward()
    slope = student.get_input_embeddings().embedding.weight.grad
    assert slope.any(1).tolist() == [False, False, True, True, True]  # padding, the unknown, the text's
