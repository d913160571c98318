import pytest
import torch

import limbeck
from limbeck.errors import SettingError
from tests.blocks.tiny import assert_same, descend, examples, net, step_of, terms_of, tiny, weights

EVERY = torch.arange(12)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_three_peers_by_hand(tau: float) -> None:
    data, students = examples(unlabelled=(3,)), [net(), net(6, seed=1), net(3, seed=2)]
    run = tiny(limbeck.dml(tau=tau), data=data, student=students)
    terms = terms_of(run, step_of(run, EVERY))
    soft = [(student(data.x) / tau).softmax(1) for student in students]
    for i, own in enumerate(soft):
        others = [p for j, p in enumerate(soft) if j != i]
        expected = tau**2 * sum((p * (p / own).log()).sum(1) for p in others) / 2
        torch.testing.assert_close(terms[f"peers/{i}"].value, expected)
        assert terms[f"ce/{i}"].where == "labelled"
    assert len(terms) == 6


def test_a_peer_is_a_target_without_gradient() -> None:
    students = [net(), net(6, seed=1), net(3, seed=2)]
    run = tiny(limbeck.dml(), student=students)
    for i in range(3):
        terms = terms_of(run, step_of(run, EVERY))
        for name in (f"ce/{i}", f"peers/{i}"):
            for j, student in enumerate(students):
                gradients = torch.autograd.grad(
                    terms[name].value.sum(), student.parameters(), allow_unused=True, retain_graph=True
                )
                reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
                assert reached == [i == j] * 4, name


def test_two_steps_at_once() -> None:
    """Each student learns from what the other said before its own step."""
    data, run_students = examples(), [net(), net(6, seed=1)]
    run = tiny(limbeck.dml(), data=data, student=run_students, batch_size=6)
    run.fit()
    students = [net(), net(6, seed=1)]
    for index in run.plan(0):
        logits = [student(data.x[index]) for student in students]
        soft = [z.detach().softmax(1) for z in logits]
        for own, other, student in [(logits[0], soft[1], students[0]), (logits[1], soft[0], students[1])]:
            hard = -own.log_softmax(1)[torch.arange(6), data.y[index]].mean()
            descend(hard + (other * (other.log() - own.log_softmax(1))).sum(1).mean(), student)
    for ours, theirs in zip(run_students, students, strict=True):
        assert_same(weights(ours), weights(theirs))


def test_one_student_has_no_peer() -> None:
    with pytest.raises(SettingError, match="two students"):
        tiny(limbeck.dml())
