"""`limbeck check`: what it says of labels, teachers and students with something wrong, and that it changes nothing."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from limbeck import UNLABELLED, findings
from limbeck.cli import app
from limbeck.data import Data
from limbeck.diagnose import passed_on
from limbeck.errors import CheckpointError, SettingError
from limbeck.experiment import Experiment, Material, Watch, distil, prepare
from limbeck.findings import Finding, after, balance, before, calibration, check, gap, noise, quality

SMALL = Experiment(
    teacher="cnn", student="mlp", epochs=2, teacher_epochs=3, examples=600, batch_size=32, accelerator="cpu"
)


@pytest.fixture(scope="module")
def material() -> Material:
    return prepare(SMALL)


class Keep(Watch):
    def __init__(self) -> None:
        self.kept: list[Finding] = []

    def found(self, findings: Sequence[Finding]) -> None:
        self.kept += findings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Keep]:
    folder, watch = tmp_path_factory.mktemp("check") / "run", Keep()
    distil(SMALL, folder, watch=watch)
    return folder, watch


# ---- each finding


def relabelled(material: Material, y: torch.Tensor) -> Material:
    train = Data(material.train.x, y, classes=material.classes)
    return Material(**{**vars(material), "train": train})


def test_balance(material: Material) -> None:
    y = material.train.y
    assert y is not None
    assert balance(material).level == "ok"
    nine = balance(relabelled(material, y.where(y != 9, UNLABELLED)))
    assert (nine.level, nine.numbers["empty"]) == ("warning", [9])
    assert "9" in nine.means
    keep = (y != 0) | ((y == 0).cumsum(0) <= 2)
    assert balance(relabelled(material, y.where(keep, UNLABELLED))).level == "warning"


@pytest.mark.parametrize(("student", "teacher", "level"), [("mlp", "resnet8", "ok"), ("resnet8x4", "resnet8", "note")])
def test_gap(material: Material, student: str, teacher: str, level: str) -> None:
    e = SMALL.with_settings(student=student)
    assert gap(Material(**{**vars(material), "experiment": e}), teacher).level == level


@pytest.mark.parametrize(("ratio", "level"), [(2.5, "ok"), (1.0, "warning"), (10.0, "warning")])
def test_gap_where_the_law_holds(material: Material, ratio: float, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"student": {"parameters": 2e8, "flops": 1.0}, "teacher": {"parameters": ratio * 2e8, "flops": 2.0}}
    monkeypatch.setattr(findings, "cost", lambda *_, **__: sizes)
    assert gap(material, "cnn").level == level


def logits_that(y: torch.Tensor, accuracy: float, scale: float = 5.0) -> torch.Tensor:
    wrong = torch.arange(len(y)) >= accuracy * len(y)
    return scale * torch.eye(10)[torch.where(wrong, (y + 1 + torch.arange(len(y)) % 9) % 10, y)]


def test_quality() -> None:
    y = torch.arange(10).repeat(50)
    good = {"accuracy": 0.95}
    assert quality("teacher", logits_that(y, 0.9), y, good).level == "ok"
    assert quality("teacher", logits_that(y, 0.9), y, None).level == "ok"
    assert quality("teacher", logits_that(y, 0.8), y, good).level == "note"
    assert quality("teacher", logits_that(y, 0.05), y, good).level == "warning"
    swapped = quality("teacher", logits_that(y, 0.9)[:, torch.randperm(10)], y, good)
    assert (swapped.level, swapped.numbers["relabelled"]) == ("warning", 0.9)
    assert "order" in swapped.means


@pytest.mark.parametrize(
    ("settings", "level", "said"),
    [
        ({"settings": {"tau": 1.0}}, "warning", "--method.tau="),
        ({"settings": {"tau": 9.0}}, "ok", "tau=9"),  # softer than the fit asks for
        ({"method": "CE() + 0.9 * KL(4.0)"}, "warning", "over-confident"),
    ],
)
def test_calibration(settings: dict[str, object], level: str, said: str) -> None:
    y = torch.arange(10).repeat(50)
    found = calibration("teacher", logits_that(y, 0.7, scale=20.0), y, SMALL.with_settings(**settings))
    assert found.level == level
    assert said in found.means + found.do
    assert 2 < found.numbers["temperature"] < 9


def test_calibration_of_good_and_timid_teachers() -> None:
    y = torch.arange(10).repeat(50)
    scale = torch.tensor(0.9 * 9 / 0.1).log()  # says 0.9 and is right in 0.9 of the cases
    assert calibration("teacher", logits_that(y, 0.9, scale=float(scale)), y, SMALL).level == "ok"
    assert "under" in calibration("teacher", logits_that(y, 0.9, scale=1.0), y, SMALL).means


def test_noise_names_the_examples_to_look_at() -> None:
    y, ids = torch.arange(10).repeat(50), 7 * torch.arange(500)
    wrong = torch.tensor([3, 40, 77])
    given = y.index_copy(0, wrong, (y[wrong] + 1) % 10)
    p = logits_that(y, 1.0).softmax(1)
    assert noise("labels", "a judge", p, y, ids).level == "ok"
    few = noise("labels", "a judge", p, given, ids)
    assert (few.level, set(few.numbers["suspects"])) == ("ok", {21, 280, 539})
    assert few.numbers["rate"] == pytest.approx(3 / 500)
    many = noise("labels", "a judge", p, y.where(torch.arange(500) % 4 > 0, (y + 1) % 10), ids)
    assert (many.level, many.numbers["rate"]) == ("note", pytest.approx(0.25))
    assert many.do.startswith("look at examples ")
    weak = noise("labels", "a judge", logits_that(y, 0.5).softmax(1), y, ids)
    assert "no estimate" in weak.means


def test_what_was_passed_on_in_words() -> None:
    y = torch.arange(10).repeat(50)
    low, zero = y < 5, torch.zeros_like(y)
    teacher = zero.where(low, y)
    for student, level in ((teacher, "warning"), (y, "note")):
        (found,) = findings.passed_on(passed_on(student, teacher, y, y, {"low": low}), "teacher", "abcdefghij", 1)
        assert (found.level, "low as a" in found.figure) == (level, True)
    (fine,) = findings.passed_on(passed_on(y, y, y, y, {"low": low}), "teacher", "abcdefghij", 1)
    assert fine.level == "ok"


# ---- all of them


def test_distil_tells_and_keeps_its_check(finished: tuple[Path, Keep]) -> None:
    folder, watch = finished
    kept = json.loads((folder / "result.json").read_text())["check"]
    assert [each["check"] for each in kept] == [
        "class balance",
        "capacity gap",
        "teacher",
        "teacher's calibration",
        "test labels",
        "training labels",
        "passed on by the teacher",
    ]
    assert json.loads(json.dumps([asdict(each) for each in watch.kept])) == kept


def test_check_of_a_folder_says_what_distil_said(finished: tuple[Path, Keep]) -> None:
    folder, _ = finished
    found = check(Experiment.read(folder / "run.yaml"), folder)
    kept = json.loads((folder / "result.json").read_text())["check"]
    assert json.loads(json.dumps([asdict(each) for each in found])) == kept


def test_changed_weights_are_refused(finished: tuple[Path, Keep], tmp_path: Path) -> None:
    folder, _ = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "alone.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"alone\.safetensors.*SHA-256.*result\.json"):
        check(Experiment.read(tmp_path / "run.yaml"), tmp_path)


def test_the_check_changes_no_weight(
    finished: tuple[Path, Keep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    monkeypatch.setattr(findings, "before", lambda *_: [])
    distil(SMALL, tmp_path)
    for name in ("student", "alone", "teacher"):
        with_check, without = (load_file(path / f"{name}.safetensors") for path in (folder, tmp_path))
        assert all(torch.equal(with_check[key], without[key]) for key in with_check)


def test_without_a_teacher_or_its_weights(material: Material) -> None:
    assert ["not checked" in each.means for each in before(material, [])].count(True) == 1
    assert [each.check for each in check(SMALL.with_settings(teacher=None))] == ["class balance", "training labels"]


def test_without_a_student_alone(material: Material) -> None:
    nets = {"teacher": material.model("mlp", 0), "student distilled": material.model("mlp", 1)}
    logits = {name: torch.zeros(len(material.test), 10) for name in nets}
    (found,) = after(material, nets, logits, "student distilled", lambda net, data: torch.zeros(len(data), 10))
    assert "--alone" in found.do


def test_a_training_set_without_labels_is_no_obstacle(material: Material) -> None:
    none = torch.full((len(material.full),), UNLABELLED)
    bare = relabelled(material, none)
    bare.full = bare.train
    found = before(bare, [material.model("mlp", 0)])
    assert found[0].level == "warning"
    assert "training labels" not in [each.check for each in found]


# ---- slices of one's own


@pytest.fixture
def own_slices(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "docs/src"))
    return "slices:suspects"


def test_slices_are_masks_and_changed_copies(material: Material, own_slices: str) -> None:
    m = Material(**{**vars(material), "experiment": SMALL.with_settings(slices=own_slices)})
    y = m.test.y
    assert y is not None
    corner = m.test.x[:, 0, 0, 0] == 255

    def saying_zero_to_the_patch(net: object, data: Data) -> torch.Tensor:
        assert bool((data.x[..., :2, :2] == 255).all())
        return torch.eye(10)[y if net == "alone" else torch.zeros_like(y)]

    assert not corner.any()
    nets = {"teacher": "teacher", "student alone": "alone", "student": "student"}
    (found,) = after(m, nets, dict.fromkeys(nets, torch.eye(10)[y]), "student", saying_zero_to_the_patch)  # type: ignore[arg-type]
    assert found.level == "warning"
    (row,) = found.numbers["found"]
    assert (row["slice"], row["answer"], row["student"]) == ("white corner", 0, 1.0)


def test_a_slice_of_another_shape_is_answered(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    m = Material(**{**vars(material), "experiment": SMALL.with_settings(slices="any:name")})
    monkeypatch.setattr(findings, "own", lambda _: lambda test: {"odd": test.y[:3]})
    with pytest.raises(SettingError, match="'odd' is"):
        findings.slices(m)


# ---- the command


def test_the_command_prints_a_table(finished: tuple[Path, Keep]) -> None:
    folder, _ = finished
    done = CliRunner().invoke(app, ["check", str(folder)], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert all(each in done.output for each in ("class balance", "calibration", "passed on"))


def test_the_command_takes_distills_options(finished: tuple[Path, Keep]) -> None:
    folder, _ = finished
    words = ["check", "--data", "digits", "--teacher", "cnn", "--student=mlp", "--method.tau=1", "--examples=300"]
    done = CliRunner().invoke(app, [*words, "--teacher-weights", str(folder / "teacher.safetensors")])
    assert done.exit_code == 0, done.output
    assert "calibration" in done.output


def test_the_command_takes_a_folder_and_options(finished: tuple[Path, Keep], own_slices: str) -> None:
    folder, _ = finished
    words = ["check", "--batch-size=8", f"{folder}/", "--slices", own_slices, "--method.tau=1"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert "passed on" in done.output


def test_a_folder_without_a_run_is_answered(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert isinstance(done.exception, SettingError)
    assert "run.yaml" in str(done.exception)
