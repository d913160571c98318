"""Bi- and cross-encoders, and vectors in place of demonstrations."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import KL, SGD, Run, registry
from limbeck.data import UNLABELLED
from limbeck.data.text import Bytes, Tokens
from limbeck.errors import SettingError
from limbeck.models.encoders import BiEncoder, CrossEncoder, Pooled
from limbeck.models.gpt import GPT
from limbeck.models.mend import Mend, with_context
from tests.conformance import differences

PAD = 0


def gpt(seed: int, width: int = 8) -> GPT:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT(257, width=width, depth=2, heads=2)


def padded(*rows: list[int], length: int) -> Tensor:
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_padding_changes_no_score() -> None:
    torch.manual_seed(0)
    encoder = Pooled(gpt(0), pad=PAD)
    bi, cross = BiEncoder(encoder), CrossEncoder(encoder, 8, pad=PAD, separator=256)
    for model in (bi, cross):
        short, long = ([padded([5, 6, 7], length=n), padded([8, 9], length=n)] for n in (3, 6))
        torch.testing.assert_close(model(*short), model(*long))


def test_a_cross_encoder_reads_both_and_the_separator() -> None:
    seen: list[Tensor] = []

    class Encoder(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            seen.append(ids)
            return torch.zeros(len(ids), 4)

    model = CrossEncoder(Encoder(), 4, pad=PAD, separator=9)
    assert model(padded([1, 2], [3], length=3), padded([4], [5, 6], length=2)).shape == (2, 1)
    assert seen[0].tolist() == [[1, 2, 9, 4, 0, 0], [3, 9, 5, 6, 0, 0]]


def test_equal_texts_have_cosine_1() -> None:
    a = padded([3, 4], [5, 6], length=4)
    score = BiEncoder(Pooled(gpt(0), pad=PAD))(a, torch.stack([a[0], a[0]]))
    assert score[0].item() == pytest.approx(1)
    assert score[1].item() < 1


# ---- contexts -------------------------------------------------------------------------------------------------------


class Parts:
    """A large model, a distiller, and texts whose demonstrations differ in length."""

    def __init__(self) -> None:
        self.model, self.distiller = gpt(0, 12), gpt(1)
        torch.manual_seed(2)
        self.mend = Mend(self.model, self.distiller, vectors=3)
        self.ids, self.context = torch.randint(256, (2, 10)), torch.tensor([4, 7])


def test_rows_are_said_after_vectors_and_query() -> None:
    parts = Parts()
    said = parts.mend(parts.ids, parts.context).logits
    for row, k in enumerate(parts.context.tolist()):
        read = torch.cat([parts.distiller.embed(parts.ids[row, :k]), parts.mend.inputs])
        vectors = parts.mend.map(parts.distiller(inputs_embeds=read[None]).embedding[:, -3:])
        query = parts.model.embed(parts.ids[row : row + 1, k:])
        alone = parts.model(inputs_embeds=torch.cat([vectors, query], 1)).logits
        torch.testing.assert_close(said[row, k - 1 :], alone[0, 2:])  # the last vector foretells the first of the query


def test_only_the_distiller_learns_and_does_so() -> None:
    parts = Parts()
    data = with_context(Tokens({"input_ids": parts.ids}, parts.ids, Bytes()), parts.context)
    assert data.y is not None
    assert (data.y != UNLABELLED).sum(1).tolist() == [6, 3]
    before = {name: each.clone() for name, each in parts.mend.state_dict().items()}
    run = Run(student=parts.mend, teacher=parts.model, data=data, method=registry.make("mend"), epochs=20,
              batch_size=2, optimizer=SGD(0.1), accelerator="cpu")  # fmt: skip
    rows = run.fit()
    assert rows[-1]["terms"]["ce"] < rows[0]["terms"]["ce"]
    changed = {path.strip("/").split(".")[0] for path in differences(before, parts.mend.state_dict())}
    assert changed == {"distiller", "inputs", "map"}
    assert not parts.model.training


def test_answers_alone_are_what_the_labels_teach() -> None:
    parts = Parts()
    data = with_context(Tokens({"input_ids": parts.ids}, parts.ids, Bytes()), parts.context)
    last = torch.zeros_like(parts.ids, dtype=torch.bool)
    last[:, -1] = True
    data.masks["answers"] = last
    settings: dict[str, Any] = {
        "student": parts.mend, "teacher": parts.model, "data": data, "epochs": 1, "batch_size": 2,
        "optimizer": SGD(0.0), "accelerator": "cpu",
    }  # fmt: skip
    terms = Run(method=registry.make("mend", answers="answers"), **settings).fit()[-1]["terms"]
    logits = parts.mend(parts.ids, parts.context).logits[:, -2].detach()
    assert terms["ce"] == pytest.approx(float(nn.functional.cross_entropy(logits, parts.ids[:, -1])), rel=1e-5)
    assert terms["kl"] == pytest.approx(Run(method=KL(), **settings).fit()[-1]["loss"], rel=1e-5)


def test_settings_are_checked() -> None:
    with pytest.raises(SettingError, match="1 vector at least"):
        Mend(gpt(0), gpt(1), vectors=0)
    ids = torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(SettingError, match="1 to 4 of 5 tokens"):
        with_context(Tokens({"input_ids": ids}, ids, Bytes()), torch.tensor([2, 5]))
