from pathlib import Path

import pytest
import torch

from limbeck import CE, Run, registry
from limbeck.blocks.soft import Brier
from limbeck.errors import SettingError
from limbeck.procedures.chain import chain, generations, takd
from tests.pipelines import digits, net

METHOD = registry.make("takd", tau=2.0, alpha=0.5)


def run_of(**settings) -> Run:
    data, _ = digits(128)
    return Run(**{"student": net(1), "data": data, "method": METHOD, "epochs": 1, **settings})


def test_each_assistant_teaches_the_next() -> None:
    teacher, assistant, student = net(3, "cnn"), net(2), net(1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    runs = takd(run_of(student=student, teacher=teacher), [assistant])
    assert [run.students[0].module for run in runs] == [assistant, student]
    assert runs[0].teachers[0].net.module is teacher
    assert runs[1].teachers[0].net.module is assistant
    assert all(run.method == METHOD for run in runs)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_chain_is_its_runs_by_hand() -> None:
    runs = takd(run_of(teacher=net(3)), [net(2)])
    assistant, student = net(2), net(1)
    run_of(student=assistant, teacher=net(3)).fit()
    run_of(student=student, teacher=assistant).fit()
    for a, b in zip(runs[-1].students[0].parameters(), student.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_assistant_is_plain_distillation() -> None:
    (run,) = takd(run_of(teacher=net(3)), [])
    plain = run_of(teacher=net(3))
    assert run.fit()[0]["loss"] == plain.fit()[0]["loss"]


def test_generations_start_without_a_teacher() -> None:
    runs = generations(run_of(method=registry.make("even_your_teacher", alpha=0.4)), [net(2), net(3)], first=Brier())
    assert [len(run.teachers) for run in runs] == [0, 1, 1]
    assert runs[0].method == Brier()
    assert runs[2].teachers[0].net is runs[1].students[0]


def test_a_chain_resumes(tmp_path: Path) -> None:
    done = takd(run_of(teacher=net(3), folder=tmp_path), [net(2)])
    again = takd(run_of(teacher=net(3), folder=tmp_path), [net(2)], resume=True)
    assert again[-1].steps_done == done[-1].steps_done
    assert (tmp_path / "1" / "last.ckpt").exists()
    assert (tmp_path / "2" / "last.ckpt").exists()
    for a, b in zip(done[-1].students[0].parameters(), again[-1].students[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_cannot_be_chained_says_so() -> None:
    with pytest.raises(SettingError, match="teacher"):
        takd(run_of(), [net(2)])
    with pytest.raises(SettingError, match="without a teacher"):
        generations(run_of(teacher=net(3)), [], first=CE())
    assert chain(run_of(), []) == []
