"""What is exported answers as the student did, holds nothing else, and is refused when it was touched."""

import json
import os
import pickle
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import limbeck
from limbeck import Net, Normalize, Run
from limbeck.data import load as load_data
from limbeck.deployed import checksum, refuse_pickled
from limbeck.errors import CheckpointError, SettingError
from limbeck.experiment import Experiment, distil
from limbeck.export import bare, export, export_run, load, load_onnx
from limbeck.models import build

X = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ARGUMENTS = {"channels": 1, "classes": 10, "size": 8}


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    words = (sys.executable, "-m", "limbeck.cli", *words)
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment, timeout=300)


def logits_of(path: Path, **inputs: Tensor) -> Tensor:
    """By ONNX Runtime, without any of our code."""
    session = onnxruntime.InferenceSession(str(path))
    [logits] = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(logits)


def warmed(name: str, **arguments: Any) -> nn.Module:
    """A model by name, its batch statistics no longer 0 and 1."""
    torch.manual_seed(0)
    module = build(name, **{**ARGUMENTS, **arguments})
    module.train()(3 * torch.rand(32, 1, 8, 8) - 1)
    return module.eval()


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose method taps layers and trains a bridge, and its export."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"layer": "layer2", "hint_epochs": 1}
    e = Experiment(
        teacher="cnn", student="cnn", method="fitnet", settings=settings, epochs=3, teacher_epochs=1, alone=False
    )
    distil(e, folder / "first")
    done = command("export", "first", "--int8", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "said.txt").write_text(done.stdout)
    return folder / "first"


def independent(run: Path) -> Callable[[Tensor], Tensor]:
    """The run's student, put together without the export."""
    train, _ = load_data("digits")
    pixels = train.x.float() / 255
    module = build("cnn", **ARGUMENTS).eval()
    module.load_state_dict(load_file(run / "student.safetensors"))
    return lambda x: module((x - pixels.mean()) / pixels.std()).detach()


def test_all_forms_score_as_the_student_on_all_test_examples(exported: Path) -> None:
    _, test = load_data("digits")
    x = test.x.float() / 255
    truth = independent(exported)(x)
    told = list(json.loads((exported / "result.json").read_text())["models"].values())[-1]["accuracy"]
    found = {"torch": load(exported / "export")(x), "onnx": logits_of(exported / "export/student.onnx", x=x)}
    for logits in found.values():
        assert (logits - truth).abs().max() < 1e-4
        assert float((logits.argmax(1) == test.y).double().mean()) == told
    for rows in (1, 7):
        assert (logits_of(exported / "export/student.onnx", x=x[:rows]) - truth[:rows]).abs().max() < 1e-4


def test_what_is_said_of_int8_is_so(exported: Path) -> None:
    _, test = load_data("digits")
    x = test.x.float() / 255
    logits = logits_of(exported / "export/student.int8.onnx", x=x)
    measured = json.loads((exported / "export/config.json").read_text())["measured"]
    row = measured["onnxruntime int8"]
    assert row["accuracy"] == float((logits.argmax(1) == test.y).double().mean())
    assert row["difference"] == pytest.approx(float((logits - independent(exported)(x)).abs().max()), rel=1e-3)
    assert row["difference"] > measured["onnxruntime"]["difference"]
    assert row["bytes"] < measured["onnxruntime"]["bytes"] / 2
    said = (exported.parent / "said.txt").read_text()
    assert all(f"{each['accuracy']:.2%}" in said for each in measured.values())


def test_only_the_student_is_in_it(exported: Path) -> None:
    student = build("cnn", **ARGUMENTS)
    assert load_file(exported / "export/student.safetensors").keys() == student.state_dict().keys()
    stored = sum(np.prod(each.dims) for each in onnx.load(exported / "export/student.onnx").graph.initializer)
    parameters = sum(each.numel() for each in student.parameters())
    assert parameters * 0.98 < stored < parameters * 1.02  # batch norms may be folded, constants be added
    files = {"README.md", "config.json", "student.int8.onnx", "student.onnx", "student.safetensors"}
    assert {each.name for each in (exported / "export").iterdir()} == files


def test_the_file_tells_no_path_of_this_machine(exported: Path) -> None:
    content = b"".join(each.read_bytes() for each in (exported / "export").iterdir())
    for path in (Path(limbeck.__file__).parent, Path(torch.__file__).parent, exported.parent):
        assert str(path).encode() not in content


def test_its_readme_runs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported / "export")
    with_torch, with_onnx = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    first: dict[str, Any] = {"x": X}
    second: dict[str, Any] = {"x": X.numpy()}
    exec(with_torch, first)
    exec(with_onnx, second)
    assert np.abs(first["logits"].detach().numpy() - second["logits"]).max() < 1e-4


def test_it_is_not_overwritten(exported: Path) -> None:
    before = checksum(exported / "export/config.json")
    refused = command("export", "first", "--out=first/export", cwd=exported.parent)
    assert refused.returncode == 2
    assert "--out" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert checksum(exported / "export/config.json") == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"formats": ["onx"]}, "'onnx'"),
        ({"formats": ["hf"]}, "transformers"),
        ({"formats": ["safetensors"], "int8": True}, "onnx"),
    ],
)
def test_mistakes_are_answered(settings: dict[str, Any], said: str, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=said):
        export_run(exported, tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_answered(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="limbeck export runs/demo"):
        export_run(tmp_path, tmp_path / "out")
    with pytest.raises(CheckpointError, match="pickled"):
        export_run(exported / "last.ckpt", tmp_path / "out")


# Files that are not what was exported ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small export to be spoilt."""
    export(warmed("mlp"), tmp_path / "out", test=X, formats=["safetensors"], builder="mlp", arguments=ARGUMENTS)
    return tmp_path / "out"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "sprung")


def vouch(folder: Path, name: str) -> None:
    """As somebody would who may write config.json too."""
    config = json.loads((folder / "config.json").read_text())
    config["files"][name] = {"sha256": checksum(folder / name)}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_changed_byte_is_refused(place: int, folder: Path) -> None:
    content = bytearray((folder / "student.safetensors").read_bytes())
    content[place] ^= 1
    (folder / "student.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"student\.safetensors"):
        load(folder)


def test_a_changed_onnx_file_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("config.json", "student.onnx"):
        (tmp_path / name).write_bytes((exported / "export" / name).read_bytes())
    assert torch.equal(
        load_onnx(tmp_path)(X), logits_of(tmp_path / "student.onnx", x=X)
    )  # the others need not be there
    with open(tmp_path / "student.onnx", "ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match=r"student\.onnx.*SHA-256"):
        load_onnx(tmp_path)


@pytest.mark.parametrize("protocol", [None, 2, 4, 5])
def test_a_pickled_file_is_refused_and_not_opened(protocol: int | None, folder: Path) -> None:
    mark, weights = folder / "mark", folder / "student.safetensors"
    if protocol is None:
        torch.save({"trap": Trap(mark)}, weights)
    else:
        weights.write_bytes(pickle.dumps(Trap(mark), protocol=protocol))
    vouch(folder, "student.safetensors")
    with pytest.raises(CheckpointError, match=r"pickled.*safetensors\.torch"):
        load(folder)
    (folder / "student.pt").write_bytes(weights.read_bytes())
    vouch(folder, "student.pt")
    for path in (folder, folder / "student.pt"):
        with pytest.raises(CheckpointError, match="pickled"):
            load(path)
    assert not mark.exists()


def test_a_run_with_pickled_or_other_weights_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("run.yaml", "result.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    torch.save({}, tmp_path / "student.safetensors")
    with pytest.raises(CheckpointError, match="pickled"):
        export_run(tmp_path, tmp_path / "out")
    weights = {name: tensor.flip(0) for name, tensor in load_file(exported / "student.safetensors").items()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "student.safetensors")
    with pytest.raises(CheckpointError, match=r"student\.safetensors.*SHA-256.*result\.json"):
        export_run(tmp_path, tmp_path / "out")
    result = json.loads((tmp_path / "result.json").read_text())
    del result["sha256"]  # as before it was kept
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(CheckpointError, match=r"result\.json says"):
        export_run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [0x280, 0x480])
def test_safetensors_that_begin_as_pickles_do_are_not_taken_for_them(length: int, tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"m": ""})
    padding = length - int.from_bytes(path.read_bytes()[:8], "little")
    save_file({"a": torch.zeros(1)}, path, metadata={"m": "x" * padding})
    assert path.read_bytes()[:2] == length.to_bytes(2, "little")
    refuse_pickled(path)


def test_code_is_not_imported_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine_to_export.py").write_text(
        "from torch import nn\nopen('mark', 'a').close()\nnet = lambda: nn.Linear(64, 3)\n"
    )
    module = nn.Linear(64, 3)
    export(module, "out", example=torch.rand(1, 64), formats=["safetensors"], builder="mine_to_export:net")
    Path("mark").unlink()
    sys.modules.pop("mine_to_export")
    with pytest.raises(CheckpointError, match=r"mine_to_export:net.*trust=True"):
        load("out")
    assert not Path("mark").exists()
    x = torch.rand(5, 64)
    for student in (load("out", builder=lambda: nn.Linear(64, 3)), load("out", trust=True)):
        assert torch.equal(student(x), module(x))


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"files": {"../a": {"sha256": ""}}}', '{"files": 3}'])
def test_a_spoilt_config_is_refused(config: str, folder: Path) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)


def test_a_builder_that_takes_other_arguments_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="'channels': 1"):
        load(folder, builder=lambda: nn.Linear(64, 10))


def test_only_names_inside_the_folder_count(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["files"]["../a"] = {"sha256": ""}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"\.\./a"):
        load(folder)


# From Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet8", "vit", "mixer"])
def test_other_architectures(name: str, tmp_path: Path) -> None:
    module = warmed(name)
    net = Net(module, inputs=Normalize([0.3], [0.2]))
    measured = export(net, tmp_path / "out", test=X, builder=name, arguments=ARGUMENTS)
    truth = module((X - 0.3) / 0.2)
    assert torch.equal(load(tmp_path / "out")(X), truth)
    for rows in (1, 5, 40):
        assert (logits_of(tmp_path / "out/student.onnx", x=X[:rows]) - truth[:rows]).abs().max() < 1e-4
    assert measured["torch"]["difference"] == 0
    assert set(measured) == {"torch", "onnxruntime"}


def test_a_trained_student_keeps_its_hooks_and_the_export_has_none(tmp_path: Path) -> None:
    run = Run(
        student=warmed("cnn"),
        teacher=warmed("cnn"),
        data=(X, torch.arange(40) % 10),
        method=limbeck.find("attention_transfer")(**limbeck.find("attention_transfer").example),
        epochs=1,
    )
    run.fit()
    hooked = sum(len(layer._forward_hooks) for layer in run.students[0].module.modules())
    export(run.students[0], tmp_path / "out", test=X, formats=["safetensors"], builder="cnn", arguments=ARGUMENTS)
    student = load(tmp_path / "out")
    assert hooked > 0
    assert hooked == sum(len(layer._forward_hooks) for layer in run.students[0].module.modules())
    for net in (student, bare(run.students[0])):
        assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())
    assert not any(layer.training for layer in student.modules())
    assert torch.equal(student(X), run.predict(run.students[0], limbeck.Data(X)))


@pytest.mark.parametrize(
    ("method", "settings"), [("dho", {}), ("lelp", {"subclasses": 3, "beta": 1.0, "tau": 2.0})], ids=["dho", "lelp"]
)
def test_a_head_that_a_method_gave_comes_along(method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    e = Experiment(
        teacher="mlp", student="mlp", method=method, settings=settings, examples=300, epochs=1, teacher_epochs=1,
        alone=False, unlabelled=1 if method == "dho" else None, labels=5 if method == "dho" else None,
    )  # fmt: skip
    result = distil(e, tmp_path / "run")
    measured = export_run(tmp_path / "run", tmp_path / "out", formats=["safetensors"])
    assert measured["torch"]["difference"] == 0
    assert measured["torch"]["accuracy"] == list(result["models"].values())[-1]["accuracy"]
    names = load_file(tmp_path / "out/student.safetensors")
    assert any(".ce." in name or ".linear." in name for name in names)


class Pair(nn.Module):
    """Of two inputs and a dropout, with one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"logits": self.a(x) + nn.functional.dropout(self.b(y), training=self.training)}


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    module = Pair().train()
    x, y = torch.rand(9, 4), torch.rand(9, 4)
    export(module, tmp_path / "out", example=(x, y), builder=Pair)
    assert module.training
    truth = module.eval()(x, y)["logits"]
    assert torch.equal(load(tmp_path / "out", builder=Pair)(x, y), truth)
    assert (logits_of(tmp_path / "out/student.onnx", x0=x, x1=y) - truth).abs().max() < 1e-4
    assert (load_onnx(tmp_path / "out")(x, y) - truth).abs().max() < 1e-4


def test_a_builder_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="differ"):
        export(
            nn.Sequential(nn.Linear(4, 4), nn.ReLU()), tmp_path / "out", example=torch.randn(30, 4),
            formats=["safetensors"], builder=lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


class Choosy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_onnx_cannot_hold_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--format safetensors"):
        export(Choosy(), tmp_path / "out", example=torch.rand(3, 4))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.onnx.find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(SettingError, match=r"onnxruntime: pip install 'limbeck\[export\]'"):
        export(warmed("mlp"), tmp_path / "out", test=X)
    export(warmed("mlp"), tmp_path / "out", test=X, formats=["safetensors"])  # which does without


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path(str(Path(__file__).parent.parent / "docs/src/export.py"))
    assert torch.equal(made["logits"], made["student"].eval()(made["x"]))
    assert (made["same"] - made["logits"]).abs().max() < 1e-4


# transformers ---------------------------------------------------------------------------------------------------------


def test_a_transformers_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    module = transformers.BertForSequenceClassification(config).eval()
    net = Net(module)
    net.read([".hidden"])  # as methods do that compare hidden states
    ids = torch.randint(50, (20, 12), generator=torch.Generator().manual_seed(0))
    x = {"input_ids": ids, "attention_mask": (torch.arange(12) < 4 + ids[:, :1] % 9).long()}
    truth = module(**x).logits
    measured = export(net, tmp_path / "out", test=(x, ids[:, 0] % 3), int8=True)

    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out/hf")
    assert torch.equal(again(**x).logits, truth)
    assert not again.config.output_hidden_states
    assert module.config.output_hidden_states
    assert torch.equal(load(tmp_path / "out")(**x), truth)
    assert [each.suffix for each in (tmp_path / "out/hf").iterdir() if "model" in each.name] == [".safetensors"]

    short = {name: tensor[:7, :9] for name, tensor in x.items()}
    for inputs in (x, short):
        found = logits_of(tmp_path / "out/student.onnx", **inputs)
        assert (found - module(**inputs).logits).abs().max() < 1e-4
    assert measured["transformers"]["accuracy"] == measured["onnxruntime"]["accuracy"]
    assert measured["onnxruntime int8"]["bytes"] < measured["onnxruntime"]["bytes"]

    with open(tmp_path / "out/hf/model.safetensors", "ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match=r"hf/model\.safetensors"):
        load(tmp_path / "out")
