import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.data import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.logit import cross_entropy, kl
from limbeck.losses.sequence import (
    Vote,
    answers,
    certainty,
    eisl,
    emo,
    mixture_jeffreys,
    mixture_kl,
    redi,
    sequence_nll,
    vote,
)
from tests.strategies import few, losses, normal, tensors

CASES = Path(__file__).parents[1] / "parity" / "cases"


def case(name: str) -> dict:
    return json.loads((CASES / f"{name}.json").read_text())


def double(numbers: list) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), at, retain_graph=True)[0]


# --- earth mover's distance ---------------------------------------------------------------------------------------


def cost(z: Tensor, y: Tensor, embeddings: Tensor) -> Tensor:
    """sum_c q_c (1 - cos(E_c, E_y)), by way of all pairs."""
    pairs = F.cosine_similarity(embeddings[:, None], embeddings[None], dim=-1)
    return (z.softmax(-1) * (1 - pairs[y])).sum(-1)


def emo_case() -> tuple[Tensor, Tensor, Tensor]:
    return normal(6, 5).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0]), normal(5, 3, seed=1)


def test_emo1_has_the_value_of_the_cross_entropy_and_half_of_its_gradient_is_that_of_the_distance() -> None:
    z, y, e = emo_case()
    value, ce, distance = emo(z, y, e), cross_entropy(z, y), cost(z, y, e)
    torch.testing.assert_close(value, ce, rtol=1e-8, atol=0)
    shown = distance + z.softmax(-1)[torch.arange(6), y]  # the authors' value
    ratio = (ce / shown).detach()
    torch.testing.assert_close(gradient(value, z), gradient(ratio * distance + ce, z) / 2, rtol=1e-7, atol=1e-12)


def test_emo1_with_a_limit() -> None:
    z, y, e = emo_case()
    want = gradient(0.25 * cost(z, y, e) + cross_entropy(z, y), z) / 2
    torch.testing.assert_close(gradient(emo(z, y, e, limit=0.25), z), want, rtol=1e-7, atol=1e-12)


def test_emo2_has_the_distance_twice_and_its_gradient_whole() -> None:
    z, y, e = emo_case()
    value, ce, distance = emo(z, y, e, variant="emo2"), cross_entropy(z, y), cost(z, y, e)
    shown = distance + z.softmax(-1)[torch.arange(6), y]
    torch.testing.assert_close(value, 2 * shown, rtol=1e-8, atol=0)
    want = gradient(distance + (shown / ce).detach() * ce, z)
    torch.testing.assert_close(gradient(value, z), want, rtol=1e-7, atol=1e-12)


def test_emo_by_hand() -> None:
    # half on the label, half on a token at right angles: the distance is 1/2, shown as 1
    z, y, e = torch.zeros(1, 2), torch.tensor([0]), torch.eye(2)
    assert emo(z, y, 7 * e, variant="emo2").item() == pytest.approx(2.0)
    # all tokens alike: moving costs nothing
    assert emo(z, y, torch.ones(2, 2), variant="emo2").item() == pytest.approx(1.0)


def test_emo_of_soft_or_unknown_variants_and_the_embeddings_gradient() -> None:
    z, y, e = emo_case()
    e.requires_grad_()
    assert torch.autograd.grad(emo(z, y, e).sum(), e, allow_unused=True) == (None,)
    with pytest.raises(SettingError, match="emo3"):
        emo(z, y, e, variant="emo3")


# --- certainty ----------------------------------------------------------------------------------------------------


def test_certainty_by_hand() -> None:
    z = double([[math.log(3), 0.0], [0.0, math.log(3)], [math.log(3), 0.0], [9.0, 0.0]])
    y = torch.tensor([0, 0, UNLABELLED, UNLABELLED])
    p = torch.tensor([0.9, 0.1], dtype=torch.float64)  # 3:1 squared
    entropy = -(p * p.log()).sum().item()
    torch.testing.assert_close(certainty(z, y), double([2 * entropy, 0, 0, 0]))  # one right of two labelled
    assert not certainty(z, torch.tensor([1, 0, 1, 1])).any()
    with pytest.raises(SettingError, match="tau=0"):
        certainty(z, y, tau=0)


def test_certainty_in_a_padded_vocabulary() -> None:
    z, y = normal(3, 4), normal(3, 4).argmax(1)
    padded = F.pad(z, (0, 2), value=-math.inf).requires_grad_()
    value = certainty(padded, y)
    torch.testing.assert_close(value, certainty(z, y))
    assert gradient(value, padded).isfinite().all()


# --- n-grams at any place -----------------------------------------------------------------------------------------


def eisl_by_loops(log_p: list, y: list, orders: list[int]) -> float:
    scores = []
    for n in orders:
        starts = range(len(y) - n + 1)
        each = []
        for j in starts:
            match = [sum(log_p[i + d][y[j + d]] for d in range(n)) / n for i in starts]
            weights = [math.exp(m) for m in match]
            each.append(sum(m * w for m, w in zip(match, weights, strict=True)) / sum(weights))
        scores.append(sum(each) / len(each))
    return -sum(scores) / len(scores)


@few
@given(tensors(2, 5, 3), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_eisl_by_loops(z: Tensor, ngrams: list[int]) -> None:
    y = torch.tensor([[0, 2, 1, 1, 0], [2, 2, 0, 1, 2]])
    want = [eisl_by_loops(p, row, ngrams) for p, row in zip(z.log_softmax(-1).tolist(), y.tolist(), strict=True)]
    torch.testing.assert_close(eisl(z, y, ngrams=ngrams), double(want), rtol=1e-9, atol=1e-12)


def test_orders_from_the_whole_sequence_and_those_that_do_not_fit() -> None:
    z, y = normal(2, 4, 3), torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])
    assert torch.equal(eisl(z, y, ngrams=(0, -1)), eisl(z, y, ngrams=(4, 3)))
    assert torch.equal(eisl(z, y, ngrams=(2, 5, -4)), eisl(z, y, ngrams=(2,)))
    assert torch.equal(eisl(z, y, ngrams=(7,)), eisl(z, y, ngrams=(4,)))
    whole = cross_entropy(z, y).mean(1)
    torch.testing.assert_close(eisl(z, y, ngrams=(0,)), whole)  # one n-gram, one place
    for wrong in ({"ngrams": ()}, {"tau": 0.0}):
        with pytest.raises(SettingError):
            eisl(z, y, **wrong)


def test_the_case_and_its_part() -> None:
    known = case("eisl")
    z, y = double(known["inputs"]["student"]), torch.tensor(known["inputs"]["target"])
    noise = [double(each) for each in known["inputs"]["gumbel_noise"]]
    value = eisl(z, y, ngrams=known["params"]["ngrams"], noise=noise).mean()
    assert value.item() == pytest.approx(known["parts"]["ngram_loss"], rel=1e-6)
    # equal noise at all places is none
    flat = [torch.full_like(each, 3.0) for each in noise]
    torch.testing.assert_close(eisl(z, y, ngrams=(2, 3), noise=flat), eisl(z, y, ngrams=(2, 3)))


def test_a_target_moved_by_one_is_nearly_as_good() -> None:
    said = torch.tensor([0, 1, 2, 3, 4, 5])
    z = 9 * F.one_hot(said)[None].double()
    moved = said.roll(1)[None]
    assert eisl(z, moved).item() < 0.5 * cross_entropy(z, moved).mean().item()
    other = torch.tensor([[5, 3, 1, 0, 2, 4]])
    assert eisl(z, moved).item() < 0.5 * eisl(z, other).item()


def padded(z: Tensor, y: Tensor, junk: int) -> tuple[Tensor, Tensor]:
    """The same sequences after a prompt of one token, and with padding behind."""
    front, back = (10 * normal(len(z), n, z.shape[-1], seed=junk) for n in (1, 2))
    return torch.cat([front, z.detach(), back], 1), F.pad(y, (1, 2), value=UNLABELLED)


@pytest.mark.parametrize("loss", [eisl, sequence_nll], ids=["eisl", "nll"])
def test_prompt_and_padding_are_nothing_to_the_bit(loss) -> None:
    z, y = normal(3, 6, 4), torch.randint(4, (3, 6), generator=torch.Generator().manual_seed(0))
    y[1, 4:] = UNLABELLED
    y[2] = UNLABELLED
    found = []
    for junk in (1, 2):
        inputs, labels = padded(z, y, junk)
        inputs.requires_grad_()
        value = loss(inputs, labels)
        found.append((value, gradient(value, inputs)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][0], loss(z, y))
    assert not found[0][1][:, [0, -2, -1]].any()
    assert found[0][0][2] == 0
    assert not found[0][1][2].any()
    short = loss(z[1:2, :4], y[1:2, :4])
    torch.testing.assert_close(found[0][0][1:2], short)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_leave_eisl_finite(dtype: torch.dtype) -> None:
    z = (1e4 * normal(2, 5, 3)).to(dtype).requires_grad_()
    value = losses.eisl(z, torch.tensor([[0, 1, 2, 0, 1], [2, 1, UNLABELLED, UNLABELLED, UNLABELLED]]))
    assert value.dtype == torch.float32
    assert (value <= 20).all()
    assert gradient(value, z).isfinite().all()


def test_gradients_are_finite_differences() -> None:
    y = torch.tensor([[0, 1, 2, UNLABELLED], [2, 2, UNLABELLED, UNLABELLED]])
    z = normal(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: eisl(z, y), z)
    ways = normal(2, 3, 2, 4).requires_grad_()
    mask = torch.tensor([[[1, 1], [1, 0], [1, 1]], [[1, 1], [0, 0], [1, 1]]]).bool()
    assert torch.autograd.gradcheck(lambda z: mixture_jeffreys(z, mask), ways)
    log_p, right = (-5 * normal(4).abs()).requires_grad_(), torch.tensor([True, False, True, False])
    lengths = torch.tensor([3, 4, 0, 2])
    assert torch.autograd.gradcheck(lambda log_p: redi(log_p, lengths, right, gamma=0.5), log_p)


# --- right and wrong answers --------------------------------------------------------------------------------------


def test_redi_by_hand() -> None:
    log_p, length = double([-6.0, -6.0, -8.0, -8.0]), torch.tensor([3, 0, 2, 4])
    right = torch.tensor([True, True, False, False])
    torch.testing.assert_close(redi(log_p, length, right), double([2, 6, -0.8 * 4, -0.8 * 2]))
    assert not redi(log_p, length, right, alpha=0.0)[2:].any()
    weighed = redi(log_p, length, right, gamma=0.5, c=0.0, alpha=1.0)
    torch.testing.assert_close(weighed, double([0, 0, -4 * math.exp(-2), -2 * math.exp(-1)]))


# --- one question in several ways ---------------------------------------------------------------------------------

SETTINGS = {"tau": 1.0, "top_k": 2, "low": 0.1, "high": 0.5, "temperature": 2.0}


def ballot(*margins: float) -> Tensor:
    """One question, two answers: scores in favour of answer 1 by these margins."""
    return torch.stack([torch.zeros(len(margins)), double(list(margins))], -1)[None].double()


def panel_of(found: Vote) -> tuple[list[int], list[int]]:
    return found.panel[0].nonzero().flatten().tolist(), found.students[0].nonzero().flatten().tolist()


def test_vote_without_a_majority() -> None:
    found = vote(ballot(3, 3, -1, -1), **SETTINGS)
    assert not found.agreed
    assert panel_of(found) == ([], [])
    assert found.weight.item() == 0


def test_vote_of_all_and_sure() -> None:
    found = vote(ballot(0.5, 1.5, 2, 0.6), **SETTINGS)  # median 1.05
    assert found.agreed
    assert found.choice.item() == 1
    assert panel_of(found) == ([0, 1, 2, 3], [])
    assert found.weight.item() == 0


def test_vote_of_all_but_unsure() -> None:
    assert panel_of(vote(ballot(0.5, 1.4, 2, 0.5), **SETTINGS)) == ([1, 2], [0, 3])  # median 0.95
    assert panel_of(vote(ballot(0.5, 1.4, 2, 0.5), **SETTINGS | {"top_k": 9})) == ([0, 1, 2], [3])  # first of equals


def test_vote_of_most() -> None:
    found = vote(ballot(1, 5, -1, 3, 4), **SETTINGS)
    assert panel_of(found) == ([1, 4], [0, 2, 3])
    gap = 4.5 - 1.0  # of (5 + 4) / 2 over (1 - 1 + 3) / 3
    assert found.weight.item() == pytest.approx(0.1 + 0.4 / (1 + math.exp(-gap / 2)))
    assert panel_of(vote(ballot(5, -1, 3), **SETTINGS)) == ([], [])  # a panel of one is none
    assert vote(ballot(5, -1, 3), **SETTINGS).agreed


def test_vote_of_the_case() -> None:
    known = case("f2c")
    names = {"low": "weight_min", "high": "weight_max", "temperature": "weight_temp"}
    settings = {name: known["params"][names.get(name, name)] for name in SETTINGS}
    found = vote(double(known["inputs"]["label_ll"])[None], **settings)
    controls = known["controls"]
    assert found.choice.item() == controls["consensus"]
    assert panel_of(found)[0] == sorted(controls["teachers"])
    assert found.weight.item() == pytest.approx(controls["weight"])


def test_parts_of_the_case() -> None:
    known = case("f2c")
    y = torch.tensor(known["inputs"]["labels"])[None]
    logits, y = answers(double(known["inputs"]["student"])[None], y.masked_fill(y == -100, UNLABELLED))
    panel = torch.zeros(1, 5, 1, dtype=torch.bool)
    panel[0, known["controls"]["teachers"]] = True
    seen = y != UNLABELLED
    parts = {
        "cce": sequence_nll(logits, y).mean(1),
        "jsd": mixture_jeffreys(logits, panel & seen),
        "kl": mixture_kl(logits, panel & seen, ~panel & seen),
    }
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(known["parts"])


def test_answers_lie_side_by_side() -> None:
    y = torch.tensor([[UNLABELLED, 3, 4, UNLABELLED], [5, 6, 7, UNLABELLED]])
    z = torch.arange(8.0).view(2, 4, 1)
    moved, labels = answers(z, y)
    assert labels.tolist() == [[3, 4, -1, -1], [5, 6, 7, -1]]
    assert moved.squeeze(-1).tolist() == [[1, 2, 0, 3], [4, 5, 6, 7]]


@few
@given(tensors(2, 1, 3, 4), st.integers(1, 4))
def test_ways_that_agree_have_nothing_to_learn(z: Tensor, ways: int) -> None:
    z = z.repeat(1, ways, 1, 1).requires_grad_()
    everyone = torch.ones(z.shape[:-1], dtype=torch.bool)
    for value in (mixture_jeffreys(z, everyone), mixture_kl(z, everyone, everyone)):
        torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-12, rtol=0)
        torch.testing.assert_close(gradient(value, z), torch.zeros_like(z), atol=1e-12, rtol=0)


def test_mixtures_by_loops() -> None:
    z, mask = normal(1, 3, 2, 4), torch.tensor([[[1, 1], [1, 0], [0, 1]]]).bool()
    p = z.softmax(-1)[0]
    means = [(p[0, 0] + p[1, 0]) / 2, (p[0, 1] + p[2, 1]) / 2]
    within = [(0, 0), (1, 0), (0, 1), (2, 1)]
    each = [(kl(p[k, t].log(), means[t].log()) + kl(means[t].log(), p[k, t].log())) / 2 for k, t in within]
    torch.testing.assert_close(mixture_jeffreys(z, mask)[0], torch.stack(each).mean())
    panel, students = mask.clone(), torch.zeros_like(mask)
    panel[0, :, 1] = False  # the panel has no second token: it teaches nothing there
    students[0, 2, 1] = True
    torch.testing.assert_close(mixture_kl(z, panel, students), double([0.0]))
    students[0, 2, 0] = True
    torch.testing.assert_close(mixture_kl(z, panel, students)[0], kl(p[2, 0].log(), means[0].log()))


def test_only_students_learn_from_the_panel_and_masks_change_nothing() -> None:
    z = normal(2, 3, 2, 4).requires_grad_()
    panel = torch.tensor([[[1, 1], [1, 1], [0, 0]], [[0, 0], [0, 0], [0, 0]]]).bool()
    students = torch.tensor([[[0, 0], [0, 0], [1, 0]], [[0, 0], [0, 0], [0, 0]]]).bool()
    value = mixture_kl(z, panel, students)
    moved = gradient(value, z)
    assert value[1] == 0
    assert moved[0, 2, 0].abs().min() > 0
    assert moved.count_nonzero() == 4
    other = z.detach().clone()
    other[0, 2, 1], other[1] = 99.0, -99.0
    assert torch.equal(mixture_kl(other, panel, students), value.detach())
    assert torch.equal(mixture_jeffreys(other, panel), mixture_jeffreys(z, panel).detach())
    assert gradient(mixture_jeffreys(z, panel), z).isfinite().all()


def test_longer_answers_at_the_same_rate_have_the_same_nll() -> None:
    z = normal(1, 1, 5).expand(4, 8, 5)
    y = torch.full((4, 8), UNLABELLED)
    for row, length in enumerate((1, 2, 5, 8)):
        y[row, :length] = 3
    values = sequence_nll(z, y).tolist()
    assert all(a == pytest.approx(b) for a, b in pairwise(values))
