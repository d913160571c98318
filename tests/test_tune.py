"""Which temperature, which weight, which layers: what is tried first, what is ruled out, what a kill leaves."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from limbeck import registry
from limbeck.errors import SettingError
from limbeck.experiment import Experiment, names_of, prepare
from limbeck.tune import Tuning, by_effect, defaults, recommend, space, tune
from tests.test_cli import command, environment

BASE = Experiment(data="digits", teacher="cnn", student="mlp", examples=300, epochs=3, teacher_epochs=2, batch_size=32)
OPTIONS = ["--teacher=cnn", "--student=mlp", "--examples=300", "--epochs=3", "--teacher-epochs=2", "--batch-size=32"]


def made(base: Experiment = BASE):
    material = prepare(base)
    return material, [material.model(name, seed=0) for name in names_of(base.teacher)]


def test_the_range_of_every_setting_holds_its_default_and_makes_the_method() -> None:
    material, teachers = made(replace(BASE, student="resnet8", teacher="resnet8x2"))
    refused = set()
    for method in registry.every():
        ranges = space(method, material, teachers)
        given = defaults(method.name, ranges)
        for name, of in ranges.items():
            usual = given.get(f"{method.name}.{name}")
            if usual is not None and hasattr(of, "low"):
                assert of.low <= usual <= of.high, (method.name, name)
            for end in ("low", "high"):
                if hasattr(of, end):
                    try:
                        method(**{**method.example, name: getattr(of, end)})
                    except SettingError:
                        refused.add((method.name, name))
    # start and end bound each other, rotations are 1, 2 or 4: such a trial counts as failed, and another is made
    assert refused <= {("taid", "start"), ("taid", "end"), ("sla", "rotations")}


def test_layers_are_those_that_both_models_have() -> None:
    material, teachers = made(replace(BASE, student="resnet8", teacher="resnet8x2"))
    found = space(registry.find("attention_transfer"), material, teachers)["layers"].choices
    assert "layer1,layer2,layer3" in found
    assert all("fc" not in each for each in found)


def test_defaults_are_tried_first_and_the_study_goes_on(tmp_path: Path) -> None:
    found = tune(Tuning(BASE, ("kd", "dist"), trials=3), tmp_path / "t")
    first = {each["method"] for each in found["trials"][:2]}
    assert {"kd(tau=4.0, alpha=0.9)", "dist(beta=1.0, gamma=1.0, tau=1.0)"} == first
    more = tune(Tuning(BASE, ("kd", "dist"), trials=5), tmp_path / "t")
    assert more["trials"][:3] == found["trials"]
    assert len(more["trials"]) == 5
    best = max((each for each in more["trials"] if each["state"] == "complete"), key=lambda each: each["accuracy"])
    assert (more["method"], more["validation_accuracy"]) == (best["method"], best["accuracy"])
    registry.make(more["method"])
    with pytest.raises(SettingError, match="other epochs"):
        tune(Tuning(replace(BASE, epochs=9), ("kd", "dist"), trials=5), tmp_path / "t")


def test_validation_examples_are_not_trained_on() -> None:
    material = prepare(Tuning(BASE, ("kd",)).base)
    assert material.validation is not None
    assert (material.train.num_examples, material.validation.num_examples) == (240, 60)
    seen = {image.numpy().tobytes() for image in material.train.x}
    assert sum(image.numpy().tobytes() in seen for image in material.validation.x) == 0


def trials(study: Path) -> int:
    """How many were begun."""
    if not study.exists():
        return 0
    with closing(sqlite3.connect(study)) as database:
        try:
            return database.execute("select count(*) from trials").fetchone()[0]
        except sqlite3.OperationalError:  # no table yet
            return 0


def test_a_killed_study_repeats_the_trial_that_it_was_at(tmp_path: Path) -> None:
    words = command("tune", "--methods=kd", "--trials=4", "--out=t", *OPTIONS)
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while trials(tmp_path / "t" / "study.db") < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "t" / "best.json").read_text())
    finished = [each for each in found["trials"] if each["state"] in ("complete", "pruned")]
    assert len(finished) == 4
    assert "limbeck compare" in done.stdout


def test_the_recommendation_is_of_the_job() -> None:
    few = " ".join(recommend(*made(replace(BASE, labels=5))))
    assert "50 of them labelled" in few
    assert "let the teacher speak on all" in few
    assert "let the teacher speak" not in " ".join(recommend(*made()))
    assert "dml" in " ".join(recommend(made()[0], []))


def test_methods_without_a_recorded_effect_come_last() -> None:
    known = [m.name for m in registry.every() if m.facts.get("effect", {}).get("figure") == "accuracy"]
    unknown = [m.name for m in registry.every() if "effect" not in m.facts]
    if known and unknown:
        assert by_effect([unknown[0], known[0]]) == [known[0], unknown[0]]
