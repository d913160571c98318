"""Methods against each other: right intervals, one result however often it is killed, nothing done twice."""

from __future__ import annotations

import json
import random
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limbeck.compare import Comparison, begin, best_epoch, collect, complete, result_of, table, work
from limbeck.errors import SettingError
from limbeck.experiment import ALONE, Experiment
from tests.test_cli import command, environment

BASE = Experiment(data="digits", teacher="cnn", student="mlp", examples=300, epochs=4, teacher_epochs=2, batch_size=32)
OPTIONS = ["--teacher=cnn", "--student=mlp", "--examples=300", "--epochs=4", "--teacher-epochs=2", "--batch-size=32"]
TIMED = {"seconds", "memory", "time", "latency_ms", "latency_ms_iqr", "throughput"}


def scored(found: dict[str, Any]) -> Any:
    """Without what is another number each time."""
    return [[{k: v for k, v in row.items() if k not in TIMED} for row in found[part]] for part in ("runs", "table")]


# ---- the table ------------------------------------------------------------------------------------------------------


def runs(effect: float, seeds: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Two arms whose seeds share most of their luck."""
    luck, own = generator.normal(0.7, 0.05, seeds), generator.normal(0, 0.01, (2, seeds))
    common = {"nll": 1.0, "ece": 0.1, "seconds": 1.0, "memory": None}
    return [
        {"arm": arm, "seed": seed, "accuracy": luck[seed] + shift + own[i, seed], **common}
        for i, (arm, shift) in enumerate({"kd": 0.0, "other": effect}.items())
        for seed in range(seeds)
    ]


@pytest.mark.parametrize("seeds", [3, 5])
def test_paired_intervals_hold_the_true_effect_19_times_of_20(seeds: int) -> None:
    generator, effect, covered, narrow = np.random.default_rng(0), 0.01, 0, 0
    for _ in range(2000):
        rows = {row["arm"]: row for row in table(runs(effect, seeds, generator), baseline="kd")}
        _, low, high = rows["other"]["difference"]
        covered += low <= effect <= high
        narrow += high - low < rows["other"]["accuracy"][2] - rows["other"]["accuracy"][1]
    assert 0.93 < covered / 2000 < 0.97
    assert narrow > 1800  # pairing takes out what the seeds share


def test_a_table_of_what_is_there() -> None:
    found = runs(0.1, 3, np.random.default_rng(0))[:-1]  # the last seed of the second arm has not ended
    first, second = table(found, baseline="kd", kd=["kd"])
    assert (first["arm"], first["rank"], second["rank"]) == ("other", 1, 2)
    assert second["difference"] is None
    expected = np.mean([found[3 + seed]["accuracy"] - found[seed]["accuracy"] for seed in range(2)])
    assert first["difference"][0] == pytest.approx(expected)
    assert (first["time"], first["memory"], first["agreement"]) == (1.0, None, None)


def test_one_seed_has_no_interval() -> None:
    assert table(runs(0.0, 1, np.random.default_rng(0)), baseline="kd")[0]["accuracy"][1:] == [None, None]


def test_the_first_of_equal_epochs_is_the_best() -> None:
    assert best_epoch([{"epoch": e, "accuracy": a} for e, a in ((1, 0.2), (2, 0.5), (3, 0.5), (4, 0.4))]) == 2


# ---- what is compared -----------------------------------------------------------------------------------------------


def test_arms_of_methods_and_students() -> None:
    comparison = Comparison(replace(BASE, student="mlp,cnn"), ("kd(tau=2.0)", "sinkd", "dml"))
    arms = comparison.arms()
    assert list(arms)[:4] == [f"{ALONE}, mlp", f"{ALONE}, cnn", "kd(tau=2.0), mlp", "kd(tau=2.0), cnn"]
    assert arms["sinkd, mlp"].method == complete("sinkd") == "sinkd(kd=0.9, ot=0.8)"
    assert arms["dml, cnn"].student == "cnn,cnn"
    assert comparison.baseline == f"{ALONE}, mlp"
    assert len({arm.folder for arm in arms.values()}) == len(arms)


def test_best_val_holds_examples_out() -> None:
    assert Comparison(BASE, ("kd",), select="best-val").base.validation == 0.1
    with pytest.raises(SettingError, match="best-val"):
        Comparison(BASE, ("kd",), select="best-test")
    with pytest.raises(SettingError, match="did you mean 'kd'"):
        Comparison(BASE, ("kd",), baseline="kdd")


def test_mistakes_leave_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with pytest.raises(SettingError, match="learns from a teacher"):
        begin(Comparison(replace(BASE, teacher=None), ("kd",)), folder)
    assert not folder.exists()


def test_a_folder_takes_more_methods_but_no_other_budget(tmp_path: Path) -> None:
    begin(Comparison(BASE, ("kd",)), tmp_path / "c")
    begin(Comparison(BASE, ("kd", "dist"), seeds=5), tmp_path / "c")
    assert Comparison.read(tmp_path / "c") == Comparison(BASE, ("kd", "dist"), seeds=5)
    with pytest.raises(SettingError, match="other validation, epochs, select"):
        begin(Comparison(replace(BASE, epochs=9, validation=0.1), ("kd",), select="best-val"), tmp_path / "c")


# ---- running it -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("compare") / "whole"
    begin(Comparison(BASE, ("kd", "dist"), seeds=2), folder)
    work(folder)
    return collect(folder)


def test_the_table_is_of_the_runs(undisturbed: dict[str, Any]) -> None:
    assert len(undisturbed["runs"]) == 6
    for row in undisturbed["table"]:
        own = [run["accuracy"] for run in undisturbed["runs"] if run["arm"] == row["arm"]]
        assert row["accuracy"][0] == pytest.approx(np.mean(own))
    times = {row["arm"]: row["time"] for row in undisturbed["table"]}
    assert times["kd"] == 1.0
    assert undisturbed["teacher"]["accuracy"] > 0.2


def test_killed_at_any_moment_it_goes_on_to_the_same_table(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """A real process and its workers; results that are there stay untouched."""
    generator, folder = random.Random(0), tmp_path / "c"
    words = command("compare", "--methods=kd,dist", "--seeds=2", "--workers=2", f"--out={folder}", *OPTIONS)
    finished: dict[Path, float] = {}
    for _ in range(2):
        process = subprocess.Popen(words, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        goal = len(finished) + 1
        while process.poll() is None and len(list(folder.glob("runs/*/result.json"))) < goal:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.5))
        process.kill()
        process.communicate()
        time.sleep(1.0)  # workers notice within a step
        for path, moment in finished.items():
            assert path.stat().st_mtime == moment
        finished = {path: path.stat().st_mtime for path in folder.glob("runs/*/result.json")}
    done = subprocess.run(words, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert scored(json.loads((folder / "compare.json").read_text())) == scored(undisturbed)


def test_two_workers_share_the_jobs(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    begin(Comparison(replace(BASE, epochs=2), ("kd",), seeds=2), folder)
    words = command("compare", "--join", str(folder))
    workers = [subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
    for arm, seed in Comparison.read(folder).jobs():
        place = result_of(folder, arm, seed).parent
        assert len((place / "metrics.jsonl").read_text().splitlines()) == 2
        assert not (place / "last.ckpt").exists()


def test_the_best_epoch_is_judged(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    comparison = Comparison(replace(BASE, epochs=6, optimizer="SGD(lr=0.5)"), ("kd",), seeds=1, select="best-val")
    begin(comparison, folder)
    work(folder)
    for run in collect(folder)["runs"]:
        arm = comparison.arms()[run["arm"]]
        rows = [json.loads(line) for line in (result_of(folder, arm, 0).parent / "metrics.jsonl").open()]
        assert run["epoch"] == best_epoch(rows)
