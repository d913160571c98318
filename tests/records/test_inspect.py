"""What a record says about itself is what was measured."""

from pathlib import Path

import pytest
import torch

import limbeck
from limbeck import Data
from limbeck.losses.logit import kl
from limbeck.records import Cached, Record
from limbeck.records.inspect import of_logits, summary
from tests.records.small import data, record, run_of, teacher, zipf


def test_error_is_that_of_what_is_read_back(tmp_path: Path) -> None:
    made = record(tmp_path, signals={"logits": "quantised=4/bits=3", "layer2": "bf16"})
    cached, x = Cached(tmp_path), data().x
    cached.read(["layer2"])
    read, model = cached(None, "x", torch.arange(64)), teacher().eval()
    off = kl(read.logits.double(), model(x).double()).mean().item()
    said = made.header["error"]
    assert said[".logits"]["kl"] == pytest.approx(off, rel=0.01)
    assert 0 < off < 0.1
    features = model.layer2(model.layer1(x))  # type: ignore[operator]
    relative = (read["layer2"] - features).norm() / features.norm()
    assert said["layer2"]["relative"] == pytest.approx(relative.item(), rel=0.05)


def test_figures_by_hand() -> None:
    dense = zipf(8, 30)
    assert of_logits(dense, dense + 3) == pytest.approx({"kl": 0, "same_choice": 1, "gradient_cosine": 1}, abs=1e-9)
    flat = of_logits(dense, torch.zeros_like(dense))
    p = dense.softmax(-1)
    assert flat["kl"] == pytest.approx(float((p * (p.log() + torch.tensor(30.0).log())).sum(-1).mean()))
    assert flat["gradient_cosine"] < 0.9


def test_summary(tmp_path: Path) -> None:
    made = record(tmp_path, signals={"logits": "topk=3"}, block=32)
    found = summary(Record.open(tmp_path))
    assert found["row_bytes"] == 12 == found["signals"][".logits"]["bytes"]
    assert found["bytes"] == 64 * 12 == sum(path.stat().st_size for path in tmp_path.glob("*.shard"))
    assert found["shards"] == (2, 2)
    assert found["views"] == {"x": {"epochs": 1, "random": False, "code": None}}
    assert found["command"] == made.header["command"]


def test_tokens_have_a_row_each(tmp_path: Path) -> None:
    """(rows, tokens, classes): encodings work along the last dimension."""

    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = torch.nn.Embedding(20, 6), torch.nn.Linear(6, 20)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.words(x))
            return out

    torch.manual_seed(0)
    model, x = Reader().eval(), torch.randint(20, (9, 5))
    wanted = model(x)
    for encoding, off in (("head", 1e-5), ("topk=20/dtype=fp32", 1e-5), ("quantised=20/bits=12", 2e-2)):
        folder = tmp_path / encoding.replace("/", "-")
        record(folder, model=model, source=Data(x), signals={"logits": encoding})
        read = Cached(folder)(None, "x", torch.tensor([8, 2])).logits
        torch.testing.assert_close(read.log_softmax(-1), wanted[[8, 2]].log_softmax(-1), rtol=0, atol=off)


def test_a_head_is_stored_once_and_teaches(tmp_path: Path) -> None:
    made = record(tmp_path, signals={"logits": "head"})
    assert made.row_bytes == 12 * 4  # the width of the embedding
    torch.testing.assert_close(Cached(tmp_path)(None, "x", torch.arange(5)).logits, teacher()(data().x[:5]))
    run_of(limbeck.kd(tau=4.0, alpha=0.9), Cached(tmp_path), data()).fit()
