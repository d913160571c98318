"""distill, check, export and compare on labelled texts of one's own."""

import json
import re
from pathlib import Path

import pytest
import torch

from limbeck.compare import Comparison, begin, collect, work
from limbeck.data import Texts
from limbeck.errors import SettingError, UnknownName
from limbeck.experiment import Experiment, distil, prepare
from limbeck.export import export_run, load
from limbeck.findings import check
from limbeck.report import refresh

OWN = """
import random
from limbeck.data import texts

WORDS = {"sea": "wave salt ship tide gull", "wood": "tree moss deer leaf path", "town": "road tram shop park bell"}

def some(n, seed):
    dice = random.Random(seed)
    kinds = [dice.randrange(3) for _ in range(n)]
    return [(" ".join(dice.choices((list(WORDS.values())[k] + " the a of to in").split(), k=7)), k) for k in kinds]

def data():
    return texts(some(300, 0), some(90, 1), list(WORDS), length=8)

def slices(part):
    return {"short": (part.x > 0).sum(1) < 7, "no salt": part.x.where(part.x != part.words.index("salt"), 1)}
"""


@pytest.fixture
def e(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    name = f"own_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"epochs": 4, "teacher_epochs": 4, "batch_size": 32, "optimizer": "AdamW(0.003)", "accelerator": "cpu"}
    return Experiment(data=f"{name}:data", slices=f"{name}:slices", teacher="textcnnx2", student="textcnn", **settings)


def test_a_distillation_from_start_to_export(e: Experiment, tmp_path: Path) -> None:
    result = distil(e, tmp_path / "run")
    assert result["models"]["teacher"]["accuracy"] > 0.9
    assert result["models"]["student distilled"]["accuracy"] > 0.5
    (first, *_) = result["examples"]["disagreeing"]
    assert len(first["text"].split()) == 7
    assert set(first["text"].split()) <= set(re.findall(r"[a-z]+", OWN))
    assert first["text"] in refresh(tmp_path / "run")[0].read_text()
    assert [each.check for each in check(e, tmp_path / "run")] == [each["check"] for each in result["check"]]
    export_run(tmp_path / "run", tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    source = prepare(e).source
    assert isinstance(source, Texts)
    assert tuple(config["words"]) == source.words
    test = prepare(e).test
    accuracy = (load(tmp_path / "out")(test.x).argmax(1) == test.y).double().mean()
    assert float(accuracy) == pytest.approx(result["models"]["student distilled"]["accuracy"])
    assert config["measured"]["onnxruntime"]["difference"] < 1e-4


def test_a_comparison(e: Experiment, tmp_path: Path) -> None:
    begin(Comparison(e.with_settings(epochs=1, teacher_epochs=1), ("kd",), seeds=1), tmp_path / "c")
    work(tmp_path / "c")
    found = collect(tmp_path / "c")
    assert {row["arm"] for row in found["table"]} == {"kd", "student alone"}
    assert found["table"][0]["flops"] > 0


def test_what_is_for_images_is_refused(e: Experiment, tmp_path: Path) -> None:
    for settings in ({"augment": True}, {"method": "fixmatch"}):
        with pytest.raises(SettingError, match="no augmented view"):
            prepare(e.with_settings(**settings))
    with pytest.raises(UnknownName, match=r"'resnet8' for texts.*textcnn.*vocabulary"):
        distil(e.with_settings(student="resnet8"), tmp_path / "run")
    with pytest.raises(UnknownName, match="'textcnn' for images"):
        distil(e.with_settings(data="digits", student="textcnn", teacher="cnn"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_network_reads_the_words_and_not_their_places(e: Experiment) -> None:
    net = prepare(e).model("textcnn", seed=0).eval()
    x = torch.zeros(1, 12, dtype=torch.int64)
    x[0, 3:6] = torch.tensor([5, 2, 7])
    moved = x.roll(2, 1)
    assert torch.allclose(net(x).logits, net(moved).logits, atol=1e-6)
    assert not torch.allclose(net(x).logits, net(x.where(x != 2, 9)).logits, atol=1e-3)
