"""The command line as a person uses it: real processes, real files."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

SMALL = ["--data=digits", "--teacher=cnn", "--student=mlp", "--epochs=2", "--teacher-epochs=2", "--examples=300"]


def limbeck(*words: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*words), cwd=cwd, capture_output=True, text=True, env=environment(), timeout=300)
    assert not check or done.returncode == 0, done.stderr[-2000:]
    return done


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "limbeck", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def metrics(folder: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    limbeck("distill", *SMALL, "--method=kd", "--method.tau=2", "--out=first", cwd=folder)
    return folder


def test_help_does_not_import_torch(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['limbeck', '--help']\nfrom limbeck.cli import app\n"
    code += "try: app()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("demo", "distill", "methods"))


def test_import_is_cheap_beside_torch() -> None:
    code = "import sys, torch; before = set(sys.modules); import limbeck; limbeck.Run; limbeck.kd()\n"
    code += "slow = {'lightning_fabric', 'torchmetrics', 'sklearn', 'matplotlib', 'transformers', 'kornia'}\n"
    code += "assert not slow & (set(sys.modules) - before), slow & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_leaves_its_files(distilled: Path) -> None:
    folder = distilled / "first"
    expected = {"run.yaml", "metrics.jsonl", "last.ckpt", "result.json", "report.html", "student.safetensors"}
    assert expected <= {path.name for path in folder.iterdir()}
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    assert settings["settings"] == {"tau": 2}
    result = json.loads((folder / "result.json").read_text())
    assert list(result["models"]) == ["teacher", "student alone", "student distilled"]
    assert result["method"] == "0.1 * CE() + 0.9 * KL(tau=2)"
    last = metrics(folder)[-1]
    assert last["accuracy"] == pytest.approx(result["models"]["student distilled"]["accuracy"])
    assert not list(folder.rglob("*.partial"))
    for name in ("student.safetensors", "alone.safetensors", "teacher.safetensors"):
        assert result["sha256"][name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert len({path.stat().st_mode for path in folder.iterdir() if path.is_file()}) == 1, "modes by the umask"


def test_run_yaml_given_back_gives_the_same_numbers(distilled: Path) -> None:
    limbeck("distill", "--config=first/run.yaml", "--out=again", cwd=distilled)
    assert metrics(distilled / "again") == metrics(distilled / "first")
    first, again = (load_file(distilled / name / "student.safetensors") for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_options_override_the_file(distilled: Path) -> None:
    limbeck("distill", "--config=first/run.yaml", "--method=supervised", "--seed=3", "--out=other", cwd=distilled)
    settings = yaml.safe_load((distilled / "other/run.yaml").read_text())
    assert (settings["method"], settings["settings"], settings["seed"]) == ("supervised", {}, 3)
    assert settings["examples"] == 300


def test_a_folder_is_not_overwritten_or_mixed(distilled: Path) -> None:
    before = (distilled / "first/result.json").read_text()
    refused = limbeck("distill", *SMALL, "--method=kd", "--out=first", cwd=distilled, check=False)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    mixed = limbeck("distill", "--resume", "--out=first", "--seed=9", cwd=distilled, check=False)
    assert mixed.returncode == 2
    assert "seed" in mixed.stderr
    assert (distilled / "first/result.json").read_text() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["distill", "--method=kdd"], "'kd'"),
        (["distill", "--method=kd", "--method.tauu=3"], "'tau'"),
        (["distill", "--method=fitnet"], "--method.layer=layer2"),
        (["distill", "--student=resnt8"], "resnet8"),
        (["distill", "--data=digit"], "'digits'"),
        (["distill", "--batch_sice=3"], "'batch_size'"),
        (["distill", "--method=kd", "--method.tau=-1"], "tau=-1"),
        (["distill", "--teacher=none", "--method=kd"], "--teacher"),
        (["distill", "stray"], "--name=value"),
        (["methods", "fitnett"], "'fitnet'"),
        (["methods", "--family=logits"], "'logit'"),
    ],
)
def test_mistakes_are_answered(words: list[str], said: str, tmp_path: Path) -> None:
    small = [f"--{name}=1" for name in ("epochs", "teacher-epochs")] + ["--examples=50"] if "distill" in words else []
    done = limbeck(*words, *small, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_methods_lists_and_shows(tmp_path: Path) -> None:
    listed = limbeck("methods", cwd=tmp_path).stdout
    assert "fitnet" in listed
    assert "ps_kd" in listed
    unlabelled = limbeck("methods", "--needs=unlabelled", cwd=tmp_path).stdout
    assert "fixmatch" in unlabelled
    assert "fitnet" not in unlabelled
    assert "arXiv:1412.6550" in limbeck("methods", "fitnet", cwd=tmp_path).stdout


def test_several_teachers_and_several_students(tmp_path: Path) -> None:
    limbeck("distill", *SMALL, "--teacher=mlp,cnn", "--method=committee", "--out=c", cwd=tmp_path)
    assert list(json.loads((tmp_path / "c/result.json").read_text())["models"])[:2] == ["teacher 1", "teacher 2"]
    limbeck("distill", *SMALL, "--teacher=none", "--student=mlp,mlp", "--method=dml", "--out=d", cwd=tmp_path)
    assert "student distilled" in json.loads((tmp_path / "d/result.json").read_text())["models"]


def test_ctrl_c_leaves_a_run_that_resumes_to_the_bit(distilled: Path) -> None:
    words = ["--config=first/run.yaml", "--epochs=40"]
    limbeck("distill", *words, "--out=whole", cwd=distilled)
    process = subprocess.Popen(command("distill", *words, "--out=broken"), cwd=distilled, env=environment(), stderr=-1)
    rows = distilled / "broken/metrics.jsonl"
    for _ in range(600):
        if rows.exists() and rows.read_text().count("\n") >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, said
    assert "resume" in said
    assert len(metrics(distilled / "broken")) < 40
    limbeck("distill", "--out=broken", "--resume", cwd=distilled)
    assert metrics(distilled / "broken") == metrics(distilled / "whole")
    whole, broken = (load_file(distilled / name / "student.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


OWN = """
import torch
from torch import nn
from limbeck.data import Images, load

def net(channels, classes, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))

def data():
    return tuple(Images(part.x[:200], part.y[:200], part.classes) for part in load("digits"))
"""


def test_own_model_and_data_by_module_and_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    words = ["--data=mine:data", "--student=mine:net", "--teacher=cnn", "--epochs=2", "--teacher-epochs=1"]
    limbeck("distill", *words, "--method=kd", "--out=own", cwd=tmp_path)
    weights = load_file(tmp_path / "own/student.safetensors")
    assert set(weights) == {"1.weight", "1.bias"}
    assert "'net'" in limbeck("distill", "--student=mine:nett", cwd=tmp_path, check=False).stderr
    assert "'mime'" in limbeck("distill", "--student=mime:net", cwd=tmp_path, check=False).stderr


def test_a_mistake_leaves_no_folder_behind(tmp_path: Path) -> None:
    refused = limbeck("distill", *SMALL, "--method=kd", "--method.tau=-1", "--out=out", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert not (tmp_path / "out").exists()


# ---- records --------------------------------------------------------------------------------------------------------


def test_record_teaches_and_is_inspected(distilled: Path) -> None:
    teach = ["--teacher=cnn", f"--teacher-weights={distilled / 'first/teacher.safetensors'}", "--examples=300"]
    signals = ["--signals=logits:topk=4,embedding:fp16", "--augment", "--views=x:epochs=2"]
    written = limbeck("record", *teach, *signals, "--out=record", cwd=distilled)
    assert "bytes per example and view; 2 of 2 shards to write" in written.stderr
    again = limbeck("record", *teach, *signals, "--out=record", cwd=distilled)
    assert "0 of 2 shards to write" in again.stderr
    shown = limbeck("record", "inspect", "record", "--verify", cwd=distilled).stdout
    for words in ("TopK(k=4", "random, 2 epochs", "gradient cosine", "limbeck record", "every shard is as it was"):
        assert words in shown
    student = ["--student=mlp", "--examples=300", "--augment=true", "--method=kd", "--teacher-record=record"]
    limbeck("distill", *student, "--epochs=2", "--out=from-record", cwd=distilled)
    assert yaml.safe_load((distilled / "from-record/run.yaml").read_text())["teacher_record"] == "record"
    longer = limbeck("distill", *student, "--epochs=3", "--out=longer", cwd=distilled, check=False)
    assert longer.returncode == 2
    assert "--views x:epochs=3" in longer.stderr
    assert not (distilled / "longer").exists()
    shard = next((distilled / "record").glob("*.shard"))
    os.truncate(shard, 9)
    broken = limbeck("record", "inspect", "record", "--verify", cwd=distilled, check=False)
    assert broken.returncode == 2
    assert shard.name in broken.stderr
    limbeck("record", *teach, *signals, "--out=record", cwd=distilled)
    limbeck("record", "inspect", "record", "--verify", cwd=distilled)
    other = limbeck("record", *teach, "--signals=logits:fp32", "--out=record", cwd=distilled, check=False)
    assert "holds another record" in other.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--signals=logits:topq=3"], "'topk'"),
        (["--views=x:30"], "x:epochs=30"),
        (["--part=3"], "0/4"),
        (["--part=0/2"], "--teacher-weights"),
        (["--teacher=cnn,mlp"], "one teacher"),
        (["inspect", "nowhere"], "no teacher record"),
    ],
)
def test_mistakes_with_records_are_answered(words: list[str], said: str, tmp_path: Path) -> None:
    refused = limbeck("record", *words, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert said in refused.stderr.replace("\n", " ")
    assert not list(tmp_path.rglob("*.shard"))
