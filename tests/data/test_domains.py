import gzip
import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.data import UNLABELLED
from limbeck.data.domains import dc_pdd, domain_shares, min_k, zip_fit
from limbeck.data.select import prune
from limbeck.errors import DataError, SettingError, ShapeError
from tests.strategies import few, tensors

CODE = ["def add(a, b):\n    return a + b\n", "for name in names:\n    print(name)\n"]
PROSE = ["the cat sat on the mat and looked at the dog", "a small animal that is kept in the house"]


def test_zip_fit_by_its_formula() -> None:
    a, b = "abc" * 20, "the cat sat"
    size = lambda text: len(gzip.compress(text.encode(), 9))  # noqa: E731
    expected = 1 - (size(a + b) - min(size(a), size(b))) / max(size(a), size(b))
    torch.testing.assert_close(zip_fit([a], [b]), torch.tensor([[expected]]).double())


def test_zip_fit_finds_texts_of_the_targets_kind() -> None:
    target = ["def sub(a, b):\n    return a - b\n", "for line in lines:\n    print(line)\n"]
    score = zip_fit([*PROSE, *CODE], target).mean(1)
    assert prune(score, 0.5).tolist() == [2, 3]
    assert zip_fit(CODE, CODE).argmax(1).tolist() == [0, 1]  # nothing is nearer than itself


def test_zip_fit_says_what_it_cannot_use() -> None:
    with pytest.raises(SettingError, match="level=0"):
        zip_fit(CODE, PROSE, level=0)
    with pytest.raises(DataError, match="0 targets"):
        zip_fit(CODE, [])


def test_domain_shares_by_hand() -> None:
    """Ratios of perplexities 1 and 1 + log 3: exp of them is 1 : 3."""
    student = torch.tensor([0.0, math.log(1 + math.log(3))]).double()
    start = domain_shares(student, torch.zeros(2).double())
    torch.testing.assert_close(start, torch.tensor([0.25, 0.75]).double())
    later = domain_shares(student, torch.zeros(2).double(), start)  # 1 : 9, half of it, and a quarter each
    torch.testing.assert_close(later, torch.tensor([0.05 + 0.25, 0.45 + 0.25]).double())


@few
@given(tensors(3, numbers=st.floats(0, 12)), tensors(3, numbers=st.floats(0, 12)), st.floats(0, 1))
def test_domain_shares_stay_shares(student: Tensor, teacher: Tensor, alpha: float) -> None:
    shares = None
    for _ in range(3):
        shares = domain_shares(student, teacher, shares, alpha=alpha)
        torch.testing.assert_close(shares.sum(), torch.tensor(1.0).double())
    assert (shares >= (1 - alpha) / 3 - 1e-12).all()
    behind = student - teacher
    assert shares[behind.argmax()] >= shares.max() - 1e-9


def test_domain_shares_say_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"\(3,\)"):
        domain_shares(torch.zeros(2), torch.zeros(3))
    with pytest.raises(SettingError, match="alpha"):
        domain_shares(torch.zeros(2), torch.zeros(2), torch.ones(2) / 2, alpha=2)


COUNTS = torch.tensor([7, 0, 1])  # f = 8/11, 1/11, 2/11


def test_dc_pdd_by_hand() -> None:
    log_p = torch.tensor([[0.5, 0.9, 0.25, 0.5]]).log()
    ids = torch.tensor([[1, 1, 2, UNLABELLED]])
    expected = (0.5 * math.log(11) + 0.25 * math.log(11 / 2)) / 2  # the second 1 counts nothing
    torch.testing.assert_close(dc_pdd(log_p, ids, COUNTS, clip=10.0), torch.tensor([expected]))
    torch.testing.assert_close(dc_pdd(log_p, ids, COUNTS, clip=0.5), torch.tensor([(0.5 + 0.25 * math.log(5.5)) / 2]))


@few
@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 3))
def test_dc_pdd_of_padded_texts_is_that_of_the_texts(ids: list[int], padding: int) -> None:
    log_p = -torch.rand(len(ids) + padding, generator=torch.Generator().manual_seed(0))
    padded = torch.tensor([*ids, *[UNLABELLED] * padding])
    for score in (lambda p, i: dc_pdd(p, i, COUNTS, clip=1.0), min_k):
        torch.testing.assert_close(
            score(log_p[None], padded[None]), score(log_p[None, : len(ids)], torch.tensor([ids]))
        )
        assert not score(log_p[None], torch.full((1, len(log_p)), UNLABELLED)).isfinite().any()


def test_min_k_is_the_mean_of_the_lowest() -> None:
    log_p = torch.tensor([[-1.0, -5.0, -2.0, -3.0, -9.0]])
    assert min_k(log_p, torch.tensor([[0, 1, 2, 0, UNLABELLED]]), share=0.5).tolist() == [-4.0]
    assert min_k(log_p, torch.tensor([[0, 1, 2, 0, 1]]), share=1.0).tolist() == [-4.0]
    assert min_k(log_p, torch.tensor([[0, 1, 2, 0, 1]]), share=0.01).tolist() == [-9.0]


def test_scores_say_what_they_cannot_use() -> None:
    with pytest.raises(DataError, match="vocabulary of 3"):
        dc_pdd(torch.zeros(1, 1), torch.tensor([[3]]), COUNTS)
    with pytest.raises(SettingError, match="clip"):
        dc_pdd(torch.zeros(1, 1), torch.tensor([[0]]), COUNTS, clip=0)
    with pytest.raises(SettingError, match="share"):
        min_k(torch.zeros(1, 1), torch.tensor([[0]]), share=0)
