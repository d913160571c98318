"""Objectives on class distributions, and that every method made of them trains."""

import pytest
import torch

from limbeck import registry
from limbeck.blocks.correlation import DIST
from limbeck.blocks.decoupled import DKD, Enhanced
from limbeck.blocks.divergence import JSD, BalancedPeers, ReverseKL, SkewKL, SmoothCE, TopKL, TotalVariation
from limbeck.blocks.logit import CE, KL
from limbeck.blocks.ranking import PLD
from limbeck.blocks.standard import Standardised
from limbeck.blocks.transport import Sinkhorn
from limbeck.errors import SettingError
from limbeck.losses.correlation import standardise
from limbeck.losses.divergence import balanced_kl, reverse_kl, skew_kl
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective
from limbeck.optim import SGD
from tests.blocks.logit_runs import N, gradients, net, run_of, terms_of

METHODS = [
    *("bd_kd", "dist", "dkd", "first", "jsd", "label_smoothing", "mcmi", "ofa_kd", "pld", "reverse_kl", "sinkd"),
    *("sla", "standardised_kd", "taid", "total_variation"),
]


def built(name: str) -> Objective:
    method = registry.find(name)
    return method(**method.example)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_prints_as_its_code_and_learns(name: str) -> None:
    method = built(name)
    assert registry.read(repr(method)) == method
    needs = registry.find(name).needs
    student = [net("cnn", seed=1), net("cnn", seed=2)] if "students" in needs else net("cnn", seed=1)
    teacher = net("cnn", seed=3) if "teacher" in needs else None
    run = run_of(method, student, teacher, epochs=6, optimizer=SGD(0.02))
    rows = run.fit()
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(p.requires_grad is False for t in run.teachers for p in t.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_only_transport_correlation_and_batch_norm_couple_examples(name: str) -> None:
    assert built(name).couples_examples == (name in ("sinkd", "dist", "ofa_kd"))


@pytest.mark.parametrize(
    "objective",
    [ReverseKL(), SkewKL(), JSD(), TotalVariation(), TopKL(), DIST(), Sinkhorn(), Standardised(KL(2.0))],
    ids=repr,
)
def test_what_needs_no_label_learns_from_all_examples(objective: Objective) -> None:
    _, terms = terms_of(run_of(objective, teacher=net(seed=1)))
    (term,) = terms.values()
    assert term.where is None
    assert (term.value > 0).all()


@pytest.mark.parametrize("objective", [DKD(), PLD(), Enhanced(1.5), SmoothCE()], ids=repr)
def test_what_needs_labels_counts_the_labelled_ones(objective: Objective) -> None:
    step, terms = terms_of(run_of(objective, teacher=net(seed=1)))
    (term,) = terms.values()
    assert term.where == "labelled"
    assert torch.equal(term.value != 0, step.y >= 0)


def test_skew_kl_in_reverse() -> None:
    step, terms = terms_of(run_of(SkewKL(0.3, reverse=True), teacher=net(seed=1)))
    logits, teacher = step.student("x").logits, step.teacher("x").logits
    torch.testing.assert_close(terms["skew_kl"].value, skew_kl(teacher, logits, skew=0.3))


def test_label_smoothing_is_torchs() -> None:
    step, terms = terms_of(run_of(SmoothCE(0.2)))
    expected = torch.nn.functional.cross_entropy(
        step.student("x").logits, step.y, label_smoothing=0.2, ignore_index=-1, reduction="none"
    )
    torch.testing.assert_close(terms["ce"].value, expected)


def test_top_k_takes_no_more_classes_than_there_are() -> None:
    _, terms = terms_of(run_of(TopKL(k=100, normalise="linear", smoothing=0.1), teacher=net(seed=1)))
    assert terms["top_kl"].value.isfinite().all()


# --- standardised -------------------------------------------------------------------------------------------------


def test_standardised_logits_reach_the_objective_and_nobody_else() -> None:
    method = CE() + Standardised(KL(2.0)) + KL(2.0)
    step, terms = terms_of(run_of(method, teacher=net(seed=1)))
    logits, teacher = step.student("x").logits, step.teacher("x").logits
    torch.testing.assert_close(terms["ce"].value, cross_entropy(logits, step.y))
    torch.testing.assert_close(terms["kl"].value, kl(standardise(logits), standardise(teacher), tau=2.0))
    torch.testing.assert_close(terms["kl.2"].value, kl(logits, teacher, tau=2.0))
    assert gradients(terms["kl"].value, step.run.students[0])


def test_standardised_takes_any_objective() -> None:
    """A committee, labels, peers, and one with state and views of its own."""
    for code, students, teachers in (
        ("Standardised(CommitteeKL(tau=2.0))", 1, 2),
        ("Standardised(DKD())", 1, 1),
        ("Standardised(Peers())", 2, 0),
        ("Standardised(JointLabels())", 1, 0),
        ("0.5 * Standardised(TAID())", 1, 1),
    ):
        run = run_of(
            registry.read(code),
            [net(seed=i) for i in range(students)],
            [net(seed=5 + i) for i in range(teachers)] or None,
        )
        assert run.fit()


# --- balanced peers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
def test_balanced_peers(mirrored: bool) -> None:
    run = run_of(BalancedPeers(2.0, 3.0, mirrored), [net(seed=1), net("cnn", seed=2)])
    step, terms = terms_of(run)
    small, large = (student("x").logits for student in step.students)
    torch.testing.assert_close(terms["balanced/0"].value, balanced_kl(small, large, delta=2.0, tau=3.0))
    back = reverse_kl if mirrored else kl
    torch.testing.assert_close(terms["peer/1"].value, back(large, small, tau=3.0))
    for name, term in terms.items():
        for i, student in enumerate(run.students):
            assert gradients(term.value, student) == name.endswith(str(i))


def test_balanced_peers_are_two() -> None:
    with pytest.raises(SettingError, match="has 1 students"):
        run_of(BalancedPeers(2.0, 1.0)).setup()


def test_sinkhorn_of_parts_of_a_batch_is_another_number() -> None:
    """Hence `couples`: unlike a mean over examples, it changes with the batch."""
    step, terms = terms_of(run_of(Sinkhorn(), net("cnn"), net("cnn", seed=1)))
    assert len(terms["sinkhorn"].value) == step.rows == N
